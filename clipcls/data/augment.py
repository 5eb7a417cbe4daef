"""Views of an image that show the same thing a little differently, for learning from few images."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageOps

# Counts the ways in which views are made: part of every view's key.
_RECIPE = "view 1"
_LEAST_AREA = 0.5
_ASPECT = 4 / 3
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class View:
    """One view of an image file: a random crop of at least half of it, flipped or not, recoloured.

    The picture depends only on the file's content and `number`.

    Attributes:
        path: the image.
        number: which view, from 1.
    """

    path: str
    number: int

    def key(self, content: bytes) -> bytes:
        """The view's key in the cache; starts with the image's content hash."""
        return content + f"{_RECIPE} {self.number}".encode()

    def render(self, image: Image.Image, content: bytes) -> Image.Image:
        """The view of an RGB image whose content has this hash."""
        dice = random.Random(self.key(content))
        area = dice.uniform(_LEAST_AREA, 1)
        aspect = dice.uniform(1 / _ASPECT, _ASPECT)
        width = min(image.width, max(1, round(image.width * (area * aspect) ** 0.5)))
        height = min(image.height, max(1, round(image.height * (area / aspect) ** 0.5)))
        left = dice.randint(0, image.width - width)
        top = dice.randint(0, image.height - height)
        image = image.crop((left, top, left + width, top + height))
        if dice.random() < 0.5:
            image = ImageOps.mirror(image)
        for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = kind(image).enhance(1 + dice.uniform(-_JITTER, _JITTER))
        return image
