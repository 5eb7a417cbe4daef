"""A fake encoder whose vectors a reader can compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipcls.models.encoder import Encoder

if TYPE_CHECKING:
    pass

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}


class ColourEncoder(Encoder):
    """An image's vector is its mean colour; a text's is the sum of the colours it names."""

    name = "colours"
    weights = "c0" * 32
    precision = "fp32"
    text_space = "text colours"
    image_space = "image colours"
    batch_size = 4
    least_side = 4
    logit_scale = 10.0
    logit_bias = 0.0

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.images = 0

    def preprocess(self, image: Image.Image) -> NDArray[Any]:
        return np.asarray(image.resize((2, 2)), np.float32).transpose(2, 0, 1) / 255

    def encode_images(self, pixels: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        assert len(pixels) <= self.batch_size
        self.images += len(pixels)
        return self._unit(np.array([p.mean(axis=(1, 2)) for p in pixels]).reshape(-1, 3))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        rows = [sum(np.array(c) for n, c in COLOURS.items() if n in text) for text in texts]
        return self._unit(np.array([row if np.any(row) else (1, 1, 1) for row in rows]))

    @staticmethod
    def _unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


class NamesEncoder(ColourEncoder):
    """Of 32 dimensions colours have three; a text without one goes its own, fixed way."""

    weights = "d1" * 32
    text_space = "text colours and names"
    image_space = "image colours and names"

    def encode_images(self, pixels: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        return np.pad(super().encode_images(pixels), ((0, 0), (0, 29)))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.pad(super().encode_texts(texts), ((0, 0), (0, 29)))
        for row, text in zip(rows, texts, strict=True):
            if not any(name in text for name in COLOURS):
                row[:] = np.random.default_rng(list(text.encode())).normal(size=32)
        return self._unit(rows)
