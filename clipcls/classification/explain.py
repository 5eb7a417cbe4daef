"""Explains an answer: the label's nearest texts, the runner-up, the nearest stored images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.embed import embed_texts
from clipcls.embeddings.index import find_nearest
from clipcls.embeddings.space import Space
from clipcls.predictions import Explanation, SimilarImage, SimilarText

if TYPE_CHECKING:
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.models.encoder import Encoder
    from clipcls.predictions import Candidate

_TEXTS = 5
_NEAREST = 3
_SOUGHT = 32  # for the nearest: the image itself and deleted files do not count


class Explainer:
    """Explains the answers of one run.

    The vectors of all images in the cache are in memory, 2 KB each at 512 dimensions, twice.

    Args:
        encoder: the encoder of the vectors.
        cache: where stored images and texts are looked up.
        texts: the texts of each label; () if labels were not made of texts.
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
        for paths, vectors in Space(encoder, cache, "image").images() if cache else ():
            self._paths += paths
            blocks.append(vectors)
        self._rows = np.concatenate(blocks) if blocks else None

    def explain(
        self,
        path: str,
        vector: NDArray[np.float32],
        labels: Sequence[int],
        best: Sequence[Candidate],
    ) -> Explanation:
        """Explains one answer.

        Args:
            path: the image, which is not its own neighbour; "" if it has none.
            vector: its unit vector, float32 (dim,).
            labels: numbers of the labels that the answer stands for.
            best: the best labels, best first; the margin needs two.
        """
        texts = [text for label in labels for text in self._texts[label]] if self._texts else []
        runner_up, margin = "", 1.0
        if len(best) > 1:
            runner_up, margin = best[1].label, best[0].score - best[1].score
        return Explanation(
            self._best_texts(vector, dict.fromkeys(texts)),
            runner_up,
            margin,
            self._nearest(path, vector),
        )

    def _best_texts(
        self, vector: NDArray[np.float32], texts: Iterable[str]
    ) -> tuple[SimilarText, ...]:
        if new := [text for text in texts if text not in self._vectors]:
            rows = embed_texts(self._encoder, new, self._cache)
            self._vectors.update(zip(new, rows, strict=True))
        exact = vector.astype(np.float64)
        found = [SimilarText(text, float(self._vectors[text] @ exact)) for text in texts]
        return tuple(sorted(found, key=lambda near: -near.similarity)[:_TEXTS])

    def _nearest(self, path: str, vector: NDArray[np.float32]) -> tuple[SimilarImage, ...]:
        if self._rows is None or self._cache is None:
            return ()
        found: list[SimilarImage] = []
        itself = {os.path.abspath(path), *self._cache.copies(path)} if path else set()
        similarities, rows = find_nearest(self._rows, vector[np.newaxis], _SOUGHT)
        for similarity, row in zip(similarities[0], rows[0], strict=True):
            if self._paths[row] in itself or len(found) == _NEAREST:
                continue
            present = next(filter(os.path.exists, self._cache.copies(self._paths[row])), None)
            if present is not None:
                found.append(SimilarImage(present, float(similarity)))
        return tuple(found)
