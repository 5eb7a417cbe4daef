"""Image search: the images nearest to a query vector, in a folder or in the whole cache."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from clipcls.data.sources import find_file
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embedded import Embedded
from clipcls.embeddings.index import search_blocks
from clipcls.embeddings.space import Space
from clipcls.embeddings.vector_index import VectorIndex
from clipcls.models.encoder import Encoder
from clipcls.predictions import Hit

# As fast as larger ones: `find_nearest` needs no FAISS for so few. Memory holds several blocks.
_BLOCK = 1_024


def search_images(
    encoder: Encoder, query: NDArray[np.float32], images: Iterable[Embedded], k: int
) -> list[Hit]:
    """The k images nearest to a unit vector float32 (dim,); ties in the order of the images.

    Memory holds a block of vectors at a time, and all paths.
    """

    def blocks() -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        source = iter(images)
        while block := list(itertools.islice(source, _BLOCK)):
            yield [item.path for item in block], np.stack([item.vector for item in block])

    return _search(encoder, query, blocks(), k)


def search_cache(
    encoder: Encoder, query: NDArray[np.float32], cache: EmbeddingCache, k: int
) -> list[Hit]:
    """The k stored images nearest to a unit vector float32 (dim,) whose files still exist.

    Images behind URLs are taken as existing.
    """
    wanted, space = k, Space(encoder, cache, "image")
    while True:
        found = _search(encoder, query, space.images(_BLOCK), wanted)
        existing = [
            (hit, path)
            for hit in found
            if (path := next(filter(_may_exist, cache.copies(hit.path)), None))
        ]
        # Others take the place of missing files.
        if len(existing) >= k or len(found) < wanted:
            return [
                dataclasses.replace(hit, rank=rank, path=path)
                for rank, (hit, path) in enumerate(existing[:k], start=1)
            ]
        wanted *= 4


def _may_exist(name: str) -> bool:
    """Whether an image exists; one that only a request could find counts as existing."""
    file = find_file(name)
    return not file or os.path.exists(file)


def search_indexes(
    encoder: Encoder, query: NDArray[np.float32], indexes: Iterable[VectorIndex], k: int
) -> list[Hit]:
    """The k images nearest to a unit vector float32 (dim,), as far as the indexes find them.

    Raises:
        InputError: an index holds another model's vectors, or is damaged.
    """
    found: list[tuple[float, str]] = []
    for index in indexes:
        index.info.vectors.check(encoder, str(index.path))
        found += zip(*index.search(query, k), strict=True)
    found.sort(key=lambda hit: -hit[0])  # equal ones stay in the order of the indexes
    return _rank(encoder, *zip(*found[:k], strict=True))


def _search(
    encoder: Encoder,
    query: NDArray[np.float32],
    blocks: Iterable[tuple[list[str], NDArray[np.float32]]],
    k: int,
) -> list[Hit]:
    paths: list[str] = []

    def vectors() -> Iterator[NDArray[np.float32]]:
        for names, block in blocks:
            paths.extend(names)
            yield block

    similarities, rows = search_blocks(vectors(), query[np.newaxis], k)
    return _rank(encoder, similarities[0], [paths[row] for row in rows[0]])


def _rank(encoder: Encoder, similarities: Iterable[float], paths: Iterable[str]) -> list[Hit]:
    model = encoder.name, encoder.weights[:12], encoder.precision, encoder.licence
    return [
        Hit(rank, path, float(similarity), *model)
        for rank, (similarity, path) in enumerate(zip(similarities, paths, strict=True), start=1)
    ]
