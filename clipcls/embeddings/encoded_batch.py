"""Logs each batch that `embed_images` encodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clipcls.data.inputs import NamedImage, name_images
from clipcls.embeddings.embedded import find_known, gather
from clipcls.embeddings.space import Space
from clipcls.models.encoder import Encoder


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """The attribute `batch` of a log record: images that were encoded, in how many seconds."""

    encoder: Encoder
    images: int
    seconds: float
    space: Space | None

    def count_unknown(self, images: Iterable[Any]) -> int:
        """How many images (None: its vector is given) the cache does not know by their name.

        A URL that no listing found counts as unknown, since asking takes a request.
        """
        given = (image for image in images if image is not None)
        named = (item for item in name_images(given) if isinstance(item, NamedImage))
        found = (item for block in gather(named) for item in find_known(block, self.space))
        return sum(isinstance(item, NamedImage) for item in found)
