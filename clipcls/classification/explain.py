"""Why an image got its label: the texts that decided, the runner-up, the nearest stored images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.embed import embed_texts, stored_images
from clipcls.embeddings.index import FlatIndex
from clipcls.predictions import Explanation, SimilarImage, SimilarText

if TYPE_CHECKING:
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.models.encoder import Encoder
    from clipcls.predictions import Candidate

__all__ = ["Explainer"]

_TEXTS = 5
_NEAREST = 3
# Sought for the nearest, as an image itself and files that are gone do not count.
_SOUGHT = 32


class Explainer:
    """Explains answers of one run.

    The vectors of all images that are in the cache are held in memory: 2 KB each at 512 dimensions,
    twice.

    Args:
        encoder: what made the vectors.
        cache: where stored images and texts are looked up.
        texts: of each label; () where labels were not made of texts.
    """

    def __init__(
        self, encoder: Encoder, cache: EmbeddingCache | None, texts: Sequence[Sequence[str]] = ()
    ) -> None:
        self._encoder = encoder
        self._texts = texts
        self._cache = cache
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._paths: list[str] = []
        blocks = []
        if cache:
            for paths, vectors in stored_images(encoder, cache):
                self._paths += paths
                blocks.append(vectors)
        self._index = None
        if blocks:
            rows = np.concatenate(blocks)
            blocks.clear()  # before the index has a copy: twice in memory are enough
            self._index = FlatIndex(rows)

    def explain(
        self,
        path: str,
        vector: NDArray[np.float32],
        labels: Sequence[int],
        best: Sequence[Candidate],
    ) -> Explanation:
        """Explains one answer.

        Args:
            path: the image, which is not its own neighbour; "" where it has none.
            vector: its unit vector, float32 (dim,).
            labels: numbers of the labels that the answer stands for.
            best: the best labels, best first; two tell of the margin.
        """
        texts = [text for label in labels for text in self._texts[label]] if self._texts else []
        return Explanation(
            self._best_texts(vector, texts),
            best[1].label if len(best) > 1 else "",
            best[0].score - best[1].score if len(best) > 1 else 1.0,
            self._nearest(path, vector),
        )

    def _best_texts(
        self, vector: NDArray[np.float32], texts: Sequence[str]
    ) -> tuple[SimilarText, ...]:
        if new := [text for text in dict.fromkeys(texts) if text not in self._vectors]:
            rows = embed_texts(self._encoder, new, self._cache)
            self._vectors.update(zip(new, rows, strict=True))
        exact = vector.astype(np.float64)
        found = [
            SimilarText(text, float(self._vectors[text] @ exact)) for text in dict.fromkeys(texts)
        ]
        return tuple(sorted(found, key=lambda near: -near.similarity)[:_TEXTS])

    def _nearest(self, path: str, vector: NDArray[np.float32]) -> tuple[SimilarImage, ...]:
        found: list[SimilarImage] = []
        if self._index is None or self._cache is None:
            return ()
        itself = {os.path.abspath(path), *self._cache.copies(path)} if path else set()
        similarities, rows = self._index.search(vector[np.newaxis], _SOUGHT)
        for similarity, row in zip(similarities[0], rows[0], strict=True):
            if self._paths[row] in itself:
                continue
            there = next(filter(os.path.exists, self._cache.copies(self._paths[row])), None)
            if there is not None:
                found.append(SimilarImage(there, float(similarity)))
            if len(found) == _NEAREST:
                break
        return tuple(found)
