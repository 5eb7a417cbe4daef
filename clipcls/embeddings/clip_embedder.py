"""`ClipEmbedder`, which embeds images in a scikit-learn pipeline."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from clipcls.data.inputs import OnError
from clipcls.embeddings.cache import EmbeddingCache, open_cache
from clipcls.embeddings.embed import embed_array
from clipcls.errors import not_fitted
from clipcls.models.backend import Backend
from clipcls.models.encoder import Encoder, open_encoder

if TYPE_CHECKING:
    from clipcls.data.inputs import Images


class ClipEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns images into a model's unit vectors; learns nothing.

        make_pipeline(ClipEmbedder("base"), LogisticRegression()).fit(paths, labels)

    Args:
        model, checkpoint, backend, cache: as for `ZeroShotClassifier`; with a cache each image is
            embedded only once.

    Attributes:
        encoder_: the `Encoder` in use.
        cache_: the `EmbeddingCache` in use, or None.

    >>> ClipEmbedder("mini", cache=False).fit_transform(["examples/photos/chelsea.jpg"]).shape
    (1, 896)
    """

    def __init__(
        self,
        model: str | Encoder = "auto",
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        backend: Backend | None = None,
        cache: bool | str | os.PathLike[str] | EmbeddingCache = True,
    ) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.backend = backend
        self.cache = cache

    def fit(self, X: object = None, y: object = None) -> ClipEmbedder:
        """Opens the model and the cache; learns nothing.

        Raises:
            ModelError, CacheError: a parameter is invalid.
        """
        self.cache_ = open_cache(self.cache)
        self.encoder_: Encoder = open_encoder(self.model, self.checkpoint, self.backend)
        return self

    def transform(self, X: Images, *, on_error: OnError = "raise") -> NDArray[np.float32]:
        """Embeds one image or many (see `clipcls.data.inputs`).

        Args:
            on_error: as for `ZeroShotClassifier.decision_function`.

        Returns:
            float32 (n, dim), unit rows.

        Raises:
            ImageError: an image cannot be read.
            TypeError: X is neither an image nor an iterable of them.
            ValueError: no image could be embedded, which leaves `dim` unknown.
        """
        if not self.__sklearn_is_fitted__():
            raise not_fitted(self)
        vectors = embed_array(
            self.encoder_, X, self.cache_, backend=self.backend, on_error=on_error
        )
        if not vectors.size:
            raise ValueError("X holds no images that can be read")
        return vectors

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "encoder_")
