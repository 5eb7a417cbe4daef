"""Unit vectors -> logits, softmax scores and best classes: labels, or a level of their tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.embeddings.index import FlatIndex
    from clipcls.labels.taxonomy import Hierarchy, Level
    from clipcls.models.encoder import Encoder

__all__ = ["LinearScores", "log_sum_exp", "logit_blocks"]

# Classes in one block of the softmax's sum, and logits in one of images: both bound memory.
_CLASSES_A_BLOCK = 16_384
_LOGITS_A_BLOCK = 4_000_000
_IMAGES_A_BLOCK = 1024


class LinearScores:
    """The scores of a fitted classifier whose logits are linear in an image's unit vector.

    A class is a label or, with a level, a node of the labels' hierarchy, whose score is the sum of
    its labels'. What a subclass sets when it is fitted:

    Attributes:
        classes_: the classes' names, str (n_classes,).
        encoder_: whose logit scale and bias turn a cosine similarity into a logit.
        weights_: a row a label, float32 (n_labels, dim).
        index_: finds the nearest of these rows.
        temperature_: what logits are divided by.
        hierarchy_: the labels' `Hierarchy`, or None.
    """

    classes_: NDArray[np.str_]
    encoder_: Encoder
    weights_: NDArray[np.float32]
    index_: FlatIndex
    temperature_: float
    hierarchy_: Hierarchy | None
    _exact_weights: NDArray[np.float64]  # what the logits are computed from
    _level: Level | None  # the one asked for

    @property
    def level_(self) -> Level | None:
        """The level whose nodes are the classes: that asked for, else the lowest; None: no tree."""
        if self._level is None and self.hierarchy_ is not None:
            return self.hierarchy_.levels[-1]
        return self._level

    def logits(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """`decision_function` of unit rows, float32 (n, dim) -> float64 (n, n_classes)."""
        return self._class_logits(vectors, self.temperature_)

    def raw_logits(self, vectors: NDArray[np.float32]) -> Iterator[NDArray[np.float64]]:
        """`logits` at temperature 1, a block of images at a time, float64 (n_i, n_classes)."""
        step = self._images_a_block()
        for start in range(0, len(vectors), step):
            yield self._class_logits(vectors[start : start + step], 1.0)

    def match(
        self, vectors: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """The k best classes of each image vector, best first.

        The k come out of the index; the softmax's denominator is summed over all classes, a block
        of images and classes at a time, so memory does not grow as images x classes. All of it is
        float64: in float32 the sixth digit of a score depends on the images beside it.

        Args:
            vectors: unit rows, float32 (n, dim).
            k: how many classes; no more than there are come back.

        Returns:
            scores float64, similarities float64 and class numbers int64, (n, k) each.
        """
        if self._level is not None:
            return self._match_level(self._level, vectors, k, self.temperature_)
        similarities, rows = self.index_.search(vectors, k)
        scale, bias = self.encoder_.logit_scale, self.encoder_.logit_bias
        logits = (scale * similarities + bias) / self.temperature_
        scores = np.exp(logits - self._log_total(vectors, self.temperature_))
        return np.minimum(scores, 1.0), similarities, rows

    def match_above(
        self, vectors: NDArray[np.float32], k: int
    ) -> Iterator[tuple[slice, Level, NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]:
        """`match` at the levels above the classes, where labels have some and none was asked for.

        Yields:
            for a block of images, level by level from the lowest: which rows, the level, and the
            scores, similarities and node numbers of the k best, 2 at least, (n_i, k) each.
        """
        if self.hierarchy_ is None or self._level is not None:
            return
        step = self._images_a_block()
        for start in range(0, len(vectors), step):
            rows = slice(start, start + step)
            logits = self._logits(vectors[rows], self._exact_weights, 1.0)
            scores = np.exp(logits / self.temperature_ - log_sum_exp(logits / self.temperature_))
            for level in reversed(self.hierarchy_.levels[:-1]):
                yield rows, level, *self._best_nodes(level, level.sums(scores), logits, k)

    def raw_best(
        self, vectors: NDArray[np.float32], similarities: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The best class's score at temperature 1, float64 (n,).

        Args:
            vectors: unit rows, float32 (n, dim).
            similarities: as `match` gives them.
        """
        if self._level is not None:
            raw = self._match_level(self._level, vectors, 1, 1.0)[0]
        else:
            logits = self._best_logits(vectors, similarities)
            raw = np.exp(logits[:, None] - self._log_total(vectors, 1.0))
        return raw[:, 0]

    def _class_logits(
        self, vectors: NDArray[np.float32], temperature: float
    ) -> NDArray[np.float64]:
        """Logits of the classes: of the labels, or of the nodes that `level` asks for."""
        if self._level is None:
            return self._logits(vectors, self._exact_weights, temperature)
        step = self._images_a_block()
        logits = np.empty((len(vectors), len(self.classes_)))
        for start in range(0, len(vectors), step):
            rows = slice(start, start + step)
            of_labels = self._logits(vectors[rows], self._exact_weights, 1.0)
            logits[rows] = self._level.log_sums(of_labels) / temperature
        return logits

    def _match_level(
        self, level: Level, vectors: NDArray[np.float32], k: int, temperature: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """`match` for the nodes of a level; a node's similarity is that of its nearest label."""
        found = []
        step = self._images_a_block()
        for start in range(0, max(len(vectors), 1), step):
            logits = self._logits(vectors[start : start + step], self._exact_weights, 1.0)
            sums = level.log_sums(logits) / temperature
            scores = np.exp(sums - log_sum_exp(sums))
            best = self._best_nodes(level, scores, logits, k)
            found.append(tuple(part[:, :k] for part in best))
        scores, similarities, nodes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return scores, similarities, nodes

    def _best_nodes(
        self, level: Level, scores: NDArray[np.float64], logits: NDArray[np.float64], k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """The k best nodes of a level, 2 at least.

        Args:
            level: the level.
            scores: of its nodes, (n, n_nodes).
            logits: of the labels, (n, n_labels), at temperature 1.
            k: how many.
        """
        nodes = np.argsort(-scores, axis=1, kind="stable")[:, : max(k, 2)]
        nearest = level.best(self._similarities(logits))
        return (
            np.minimum(np.take_along_axis(scores, nodes, 1), 1.0),
            np.take_along_axis(nearest, nodes, 1),
            nodes,
        )

    def _similarities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of images and labels, from their logits at temperature 1, (n, n_labels)."""
        found: NDArray[np.float64] = logits - self.encoder_.logit_bias
        found /= self.encoder_.logit_scale
        return found

    def _best_logits(
        self, vectors: NDArray[np.float32], similarities: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The best class's logit at temperature 1, float64 (n,)."""
        return self.encoder_.logit_scale * similarities[:, 0] + self.encoder_.logit_bias

    def _log_total(self, vectors: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
        """log of the softmax's denominator, over all classes, float64 (n, 1)."""
        total = np.full((len(vectors), 1), -np.inf)
        step = max(1, _LOGITS_A_BLOCK // min(len(self.weights_), _CLASSES_A_BLOCK))
        for first in range(0, len(vectors), step):
            rows = slice(first, first + step)
            for start in range(0, len(self.weights_), _CLASSES_A_BLOCK):
                weights = self._exact_weights[start : start + _CLASSES_A_BLOCK]
                logits = self._logits(vectors[rows], weights, temperature)
                total[rows] = np.logaddexp(total[rows], log_sum_exp(logits))
        return total

    def _logits(
        self, vectors: NDArray[np.float32], weights: NDArray[np.float64], temperature: float
    ) -> NDArray[np.float64]:
        logits: NDArray[np.float64] = vectors.astype(np.float64) @ weights.T
        logits *= self.encoder_.logit_scale
        logits += self.encoder_.logit_bias
        if temperature != 1:
            logits /= temperature
        return logits

    def _images_a_block(self) -> int:
        return max(1, _LOGITS_A_BLOCK // len(self.weights_))


def log_sum_exp(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """log sum exp over the last axis, which is kept."""
    highest = logits.max(axis=-1, keepdims=True)
    total: NDArray[np.float64] = highest + np.log(
        np.exp(logits - highest).sum(axis=-1, keepdims=True)
    )
    return total


def logit_blocks(
    classifier: ZeroShotClassifier, vectors: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Logits of many images without images x classes of memory: rows, float64 (rows, classes)."""
    step = max(1, min(_IMAGES_A_BLOCK, _LOGITS_A_BLOCK // len(classifier.classes_)))
    for start in range(0, len(vectors), step):
        rows = slice(start, min(start + step, len(vectors)))
        yield rows, classifier.logits(vectors[rows])
