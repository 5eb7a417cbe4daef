"""Image search: the images nearest to a query vector, in a folder or in the whole cache."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embed import Embedded, stored_images
from clipcls.embeddings.index import search_blocks
from clipcls.models.encoder import Encoder
from clipcls.predictions import Hit

__all__ = ["search_cache", "search_images"]

# As fast as larger ones: `FlatIndex` needs no FAISS for so few. Memory holds several blocks.
_BLOCK = 1_024


def search_images(
    encoder: Encoder, query: NDArray[np.float32], images: Iterable[Embedded], k: int
) -> list[Hit]:
    """The k images nearest to the query, nearest first, of equal ones the first.

    Args:
        encoder: what made the vectors.
        query: unit vector, float32 (dim,).
        images: embedded images, any number; vectors are held a block at a time.
        k: how many.
    """
    paths: list[str] = []

    def blocks() -> Iterator[NDArray[np.float32]]:
        source = iter(images)
        while block := list(itertools.islice(source, _BLOCK)):
            paths.extend(item.path for item in block)
            yield np.stack([item.vector for item in block])

    return _hits(encoder, query, blocks(), paths, k)


def search_cache(
    encoder: Encoder, query: NDArray[np.float32], cache: EmbeddingCache, k: int
) -> list[Hit]:
    """The k stored images nearest to the query whose files are still there.

    Args:
        encoder: its image space is searched.
        query: unit vector, float32 (dim,).
        cache: the cache.
        k: how many.
    """
    wanted = k
    while True:
        paths: list[str] = []

        def blocks(paths: list[str] = paths) -> Iterator[NDArray[np.float32]]:
            for names, vectors in stored_images(encoder, cache, _BLOCK):
                paths.extend(names)
                yield vectors

        found = _hits(encoder, query, blocks(), paths, wanted)
        present = [
            dataclasses.replace(hit, path=path)
            for hit in found
            if (path := next(filter(os.path.exists, cache.copies(hit.path)), None))
        ]
        # Files that are gone are left out, and others take their place.
        if len(present) >= k or len(found) < wanted:
            return [
                dataclasses.replace(hit, rank=rank) for rank, hit in enumerate(present[:k], start=1)
            ]
        wanted *= 4


def _hits(
    encoder: Encoder,
    query: NDArray[np.float32],
    blocks: Iterable[NDArray[np.float32]],
    paths: list[str],
    k: int,
) -> list[Hit]:
    similarities, rows = search_blocks(blocks, query[np.newaxis], k)
    return [
        Hit(
            rank,
            paths[row],
            float(similarity),
            encoder.name,
            encoder.weights[:12],
            encoder.precision,
        )
        for rank, (similarity, row) in enumerate(
            zip(similarities[0], rows[0], strict=True), start=1
        )
    ]
