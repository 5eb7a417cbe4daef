"""Turns an RGB image into a model's input pixels, exactly as open_clip's validation transform.

It resizes, crops and rounds with Pillow alone, so that torchvision and torch need not be imported.
The rest (division by 255, mean, standard deviation) is left to the encoder, so that an image stays
8-bit on its way there. Method: open_clip's `transform.py`, `image_transform` with `is_train=False`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipcls.data.images import find_whole

_STRIP = 32


@dataclass(frozen=True, slots=True)
class Preprocess:
    """open_clip's `preprocess_cfg` as a function of one image.

    Attributes:
        height, width: of the model's input in pixels.
        mean, std: per channel, of values from 0 to 1; for the encoder.
        resample: Pillow's filter.
        resize_mode: `shortest` (fit the shorter side, crop the rest), `longest` (fit all of it,
            fill the rest) or `squash` (ignore the aspect ratio).
        fill: grey value for `longest`.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: Image.Resampling = Image.Resampling.BICUBIC
    resize_mode: str = "shortest"
    fill: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocess:
        """From the result of `open_clip.get_model_preprocess_cfg`.

        Raises:
            TypeError, ValueError: the mean or standard deviation is not three numbers.
        """
        size = config["size"]
        height, width = size[-2:] if isinstance(size, Sequence) else (size, size)
        mode = config.get("resize_mode") or "shortest"
        # open_clip ignores the interpolation for `shortest` if the input is not square.
        bilinear = config.get("interpolation") == "bilinear" and (
            mode != "shortest" or height == width
        )
        if not len(config["mean"]) == len(config["std"]) == 3 or not all(config["std"]):
            raise ValueError("preprocess_cfg: mean and std must be three numbers each, std above 0")
        return cls(
            height,
            width,
            tuple(config["mean"]),
            tuple(config["std"]),
            Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC,
            mode,
            config.get("fill_color") or 0,
        )

    @property
    def least_side(self) -> int:
        """The least side to which an image may be reduced beforehand, by other means."""
        return 2 * max(self.height, self.width)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB image -> uint8 (height, width, 3).

        An image decoded at a reduced scale is fitted to the same size as the whole image.
        """
        if self.resize_mode == "squash":
            fitted = self._resized(image, (self.width, self.height), find_whole(image)[1])
        else:
            fitted = self._cropped(self._fitted(image))
        return np.asarray(fitted)

    def seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of an image of this width and height that the model sees, in its pixels.

        Returns:
            left, top, right, bottom; beyond the image where the model sees a filled margin.
        """
        if self.resize_mode == "squash":
            return 0, 0, *size
        strip = self._without_ends(size)
        edges = []
        for side, kept, whole, shown in zip(
            size, strip, self._fitted_size(strip), (self.width, self.height), strict=True
        ):
            before = round((whole - shown) / 2) if whole >= shown else -((shown - whole) // 2)
            scale = kept / whole
            start = (side - kept) // 2 + before * scale
            edges.append((start, start + shown * scale))
        (left, right), (top, bottom) = edges
        return left, top, right, bottom

    def _fitted(self, image: Image.Image) -> Image.Image:
        width, height = self._without_ends(image.size)
        if (width, height) != image.size:
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        whole, box = find_whole(image)
        return self._resized(image, self._fitted_size(whole), box)

    def _without_ends(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size of a strip without the ends that would be cropped anyway.

        Enlarging them first might fill the memory. Whole pixels go on both sides, so that the
        middle stays the same.
        """
        short = min(size)
        if self.resize_mode != "shortest" or max(size) <= _STRIP * short:
            return size
        width, height = (
            side if side == short else _STRIP * short + (side - _STRIP * short) % 2 for side in size
        )
        return width, height

    def _fitted_size(self, size: tuple[int, int]) -> tuple[int, int]:
        width, height = size
        if self.resize_mode == "shortest" and self.width == self.height:  # torchvision's Resize
            if width <= height:
                return self.width, int(self.width * height / width)
            return int(self.height * width / height), self.height
        ratios = height / self.height, width / self.width
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _resized(
        self, image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
    ) -> Image.Image:
        return image if image.size == size else image.resize(size, self.resample, box)

    def _cropped(self, image: Image.Image) -> Image.Image:
        """The middle; missing margins are filled."""
        if image.width < self.width or image.height < self.height:
            size = max(image.width, self.width), max(image.height, self.height)
            canvas = Image.new("RGB", size, (self.fill,) * 3)
            canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
            image = canvas
        left = round((image.width - self.width) / 2)
        top = round((image.height - self.height) / 2)
        return image.crop((left, top, left + self.width, top + self.height))
