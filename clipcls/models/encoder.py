"""The `Encoder` protocol, which the rest of clipcls uses, and `open_encoder`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipcls.models.backend import Backend

if TYPE_CHECKING:
    from PIL.Image import Image


class Encoder(Protocol):
    """A model as the rest of clipcls uses it; derive from it to get the defaults."""

    @property
    def name(self) -> str:
        """The model's name in records."""

    @property
    def weights(self) -> str:
        """SHA-256 of its weights in hex."""

    @property
    def licence(self) -> str:
        """The licence of its weights; "" if unknown."""
        return ""

    @property
    def precision(self) -> str:
        """The precision it computes in."""

    @property
    def text_space(self) -> str:
        """Names all that decides a text's vector but text and `version`; begins with "text "."""

    @property
    def image_space(self) -> str:
        """Names all that decides an image's vector but file and `version`; begins with "image "."""

    @property
    def version(self) -> str:
        """The version of the code that computes the vectors, which hardly ever changes them.

        A cache is checked when it meets a new version (see `embeddings.space`). "", the default:
        there is nothing to check, because each change of a vector changes its space.
        """
        return ""

    @property
    def batch_size(self) -> int:
        """The best number of images for `encode_images`."""

    @property
    def logit_scale(self) -> float:
        """The factor of cosine similarities before the softmax."""

    @property
    def logit_bias(self) -> float:
        """The number added after scaling (SigLIP), or 0."""

    @property
    def least_side(self) -> int:
        """A JPEG may be decoded at a reduced scale while neither side falls below it; pixels."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How images are resized and normalised, for people to read; by default empty."""
        return {}

    def load_image_tower(self) -> None:
        """Prepares for `encode_images` while images are decoded; by default does nothing."""
        return

    def preprocess(self, image: Image) -> NDArray[Any]:
        """One RGB image -> what `encode_images` takes, an array of one shape and dtype."""

    def encode_images(self, pixels: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Preprocessed images -> unit rows: float32 (n, dim)."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> unit rows: float32 (n, dim)."""

    def describe_cut(self, texts: Sequence[str]) -> list[str]:
        """A warning per text that is too long for the model; by default none."""
        return []


def open_encoder(
    model: str | Encoder,
    checkpoint: str | os.PathLike[str] | None = None,
    backend: Backend | None = None,
    *,
    progress: bool = True,
) -> Encoder:
    """Opens a model by its name, to be loaded on first use; returns an `Encoder` as it is.

    Args:
        model, checkpoint, progress: as for `registry.resolve`.
        backend: how it runs.

    Raises:
        ModelError: the model does not exist, or its weights are unavailable.
    """
    if not isinstance(model, str):
        return model
    from clipcls.models.open_clip_encoder import OpenClipEncoder
    from clipcls.models.registry import resolve

    return OpenClipEncoder(resolve(model, checkpoint, progress=progress), backend)
