"""Logs each batch that `embed_images` encodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clipcls.data.inputs import NamedImage, name_images
from clipcls.data.sources import Source, needs_request
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
        named = name_images(image for image in images if image is not None)
        return sum(isinstance(item, NamedImage) and not self._knows(item) for item in named)

    def _knows(self, image: NamedImage) -> bool:
        source = image.source
        if self.space is None or not isinstance(source, Source) or needs_request(source):
            return False
        return self.space.get_file(image.name, source.stamp()) is not None
