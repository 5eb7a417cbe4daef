"""Finds the vectors in a cache that an encoder would compute again.

A new version of open_clip hardly ever changes a vector, so the version is not part of a vector's
key: an upgrade must not cost hours of encoding. Instead a cache holds the vectors of a probe (two
images, two texts) per version that has written to it, and versions whose probes agree share a
space. The probe belongs to the cache, not to the machine, because machines with other versions may
share a cache.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipcls.embeddings.cache import EmbeddingCache
from clipcls.models.encoder import Encoder
from clipcls.models.towers import LEAST_COSINE, PROBE_TEXTS, draw_noise, least_cosine

logger = logging.getLogger(__name__)

_PROBE = "probe "  # begins the space of a space's probes


class Space:
    """An encoder's vectors of images or texts in a cache.

    A version that the cache has not met is compared with the others, for which the encoder embeds
    the probe; with an empty cache that waits for the first vector to be stored.

    Raises:
        ModelError: the probe cannot be embedded.
    """

    def __init__(
        self, encoder: Encoder, cache: EmbeddingCache, kind: Literal["image", "text"]
    ) -> None:
        self._encoder = encoder
        self._cache = cache
        self._kind = kind
        self._name = encoder.image_space if kind == "image" else encoder.text_space
        self._probe = f"{_PROBE}{self._name}"
        self._version = hashlib.sha256(encoder.version.encode()).digest()
        self._is_new = False
        if encoder.version:
            self._name = _name(self._name, self._find_version())

    def get(self, content: bytes) -> NDArray[np.float32] | None:
        """As `EmbeddingCache.get`."""
        return self._cache.get(self._name, content)

    def get_files(
        self, files: Sequence[tuple[str, bytes]]
    ) -> tuple[list[bytes | None], NDArray[np.float32]]:
        """As `EmbeddingCache.get_files`."""
        return self._cache.get_files(self._name, files)

    def images(self, block: int = 1_024) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """As `EmbeddingCache.images`."""
        return self._cache.images(self._name, block)

    def add(
        self,
        items: Iterable[tuple[bytes, NDArray[np.float32]]],
        files: Iterable[tuple[str, bytes, bytes]] = (),
    ) -> None:
        """As `EmbeddingCache.add`."""
        if self._is_new:
            self._is_new = False
            self._add_probe()
        self._cache.add(self._name, items, files)

    def _find_version(self) -> bytes:
        """The version that the space is named after."""
        known = self._cache.vectors(self._probe)
        if not known:
            self._is_new = True
            return self._version
        is_new = self._version not in known
        if is_new:
            self._add_probe()
            known = self._cache.vectors(self._probe)  # in the order in which all processes see it
        least = LEAST_COSINE.get(self._encoder.precision, LEAST_COSINE["bf16"])
        first = _find_first(known, self._version, least)
        if is_new and known and first == self._version:
            _report_change(self._encoder.name, self._encoder.version)
        return first

    def _add_probe(self) -> None:
        if self._kind == "text":
            rows = self._encoder.encode_texts(PROBE_TEXTS)
        else:  # of another shape than models take, so that it is resized and cropped
            images = map(Image.fromarray, draw_noise(300, 400, (16, 2)))
            pixels = map(self._encoder.preprocess, images)
            rows = np.concatenate([self._encoder.encode_images([each]) for each in pixels])
        self._cache.add(self._probe, [(self._version, rows.ravel())])


def is_probe(space: str) -> bool:
    """Whether a space is that of a space's probes."""
    return space.startswith(_PROBE)


def translate(cache: EmbeddingCache, space: str) -> str:
    """The name in `cache` of another cache's space, whose probes it has."""
    base, _, _ = space.rpartition(" ")
    known = cache.vectors(f"{_PROBE}{base}")
    own = next((version for version in known if _name(base, version) == space), None)
    return space if own is None else _name(base, _find_first(known, own, LEAST_COSINE["fp32"]))


def _name(base: str, version: bytes) -> str:
    return f"{base} {version.hex()[:16]}"


def _find_first(known: Mapping[bytes, NDArray[np.float32]], own: bytes, least: float) -> bytes:
    """The first version whose probe agrees with that of a version."""
    probe = known.get(own, np.empty(0, np.float32)).reshape(2, -1)
    for version, other in known.items():
        if 0 < other.size == probe.size and least_cosine(other.reshape(2, -1), probe) >= least:
            return version
    return own


@functools.cache  # one line for images and texts
def _report_change(model: str, version: str) -> None:
    logger.warning(
        "%s: %s computes other vectors than the version that filled the cache, "
        "so they are computed anew",
        *(model, version),
    )
