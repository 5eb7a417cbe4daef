"""What the rest of clipcls asks of a model, and how a model is opened by its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipcls.models.backend import Backend

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Encoder", "open_encoder"]


class Encoder(Protocol):
    """What the rest of clipcls asks of a model; a class derived from it has the defaults."""

    @property
    def name(self) -> str:
        """What records call the model."""

    @property
    def weights(self) -> str:
        """SHA-256 of its weights, hex."""

    @property
    def precision(self) -> str:
        """What it computes in; records name it."""

    @property
    def text_space(self) -> str:
        """Names all that decides a text's vector besides the text; begins with "text "."""

    @property
    def image_space(self) -> str:
        """Names all that decides an image's vector besides its bytes; begins with "image "."""

    @property
    def batch_size(self) -> int:
        """How many images `encode_images` is best given at a time."""

    @property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied with before the softmax."""

    @property
    def logit_bias(self) -> float:
        """What is then added (SigLIP), or 0."""

    @property
    def least_side(self) -> int:
        """A JPEG may be decoded at a reduced scale while neither side falls below it; pixels."""

    def load_image_tower(self) -> None:
        """Makes ready for `encode_images`, as often as it is called, while images are decoded.

        By default nothing is done: what has to be loaded, `encode_images` loads.
        """
        return

    def preprocess(self, image: Image) -> NDArray[Any]:
        """One RGB image -> what `encode_images` takes, an array of one shape and dtype."""

    def encode_images(self, pixels: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Preprocessed images -> unit rows: float32 (n, dim)."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> unit rows: float32 (n, dim)."""

    def describe_cut(self, texts: Sequence[str]) -> list[str]:
        """A warning per text that is longer than the model reads; by default none."""
        return []


def open_encoder(
    model: str | Encoder,
    checkpoint: str | os.PathLike[str] | None = None,
    backend: Backend | None = None,
    *,
    progress: bool = True,
) -> Encoder:
    """A model by its name, ready to be loaded when it is first needed; an `Encoder` as it is.

    Args:
        model, checkpoint, progress: as for `registry.resolve`.
        backend: how it runs.

    Raises:
        ModelError: there is no such model, or its weights cannot be had.
    """
    if not isinstance(model, str):
        return model
    from clipcls.models.open_clip_encoder import OpenClipEncoder
    from clipcls.models.registry import resolve

    return OpenClipEncoder(resolve(model, checkpoint, progress=progress), backend)
