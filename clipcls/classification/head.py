"""The linear head: unit vectors -> logits, scores and best classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.index import find_nearest
from clipcls.numerics import row_blocks

if TYPE_CHECKING:
    from clipcls.labels.taxonomy import Level

_FEW = 1024  # labels of which the best are found as fast among the logits as by FAISS
_FEW_BEST = 8  # classes that are found one by one
_DIGITS = 9  # of logits that decide which one is higher
# Bound memory, and keep a block's float64 numbers in the processor's cache.
_IMAGES_A_BLOCK, _LOGITS_A_BLOCK = 256, 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """Logits that are linear in an image's unit vector: scale x cosine + bias.

    The labels are words or learnt from images. Everything is float64: in float32 the sixth digit of
    a score depends on the other images.

    Attributes:
        weights: a unit row per label, float64 (n_labels, dim); float32 holds them, or their
            products with scales that differ, exactly.
        scale: the factor of the cosines, float64 (n_labels,).
        bias: added to the product, float64 (n_labels,).
        temperature: the divisor of the classes' logits.
        level: the level whose nodes are the classes, each with the summed scores of its labels;
            None: the labels are the classes.
    """

    weights: NDArray[np.float64]
    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    temperature: float = 1.0
    level: Level | None = None

    @property
    def raw(self) -> LinearHead:
        """The head at temperature 1."""
        return replace(self, temperature=1.0)

    def at(self, level: Level) -> LinearHead:
        """The head of a level: a node's score is the sum of this head's scores of its labels."""
        scale, bias = self.scale / self.temperature, self.bias / self.temperature
        return replace(self, scale=scale, bias=bias, temperature=1.0, level=level)

    def logits(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """The logits of all classes, float32 (n, dim) -> float64 (n, n_classes)."""
        found = np.empty((len(vectors), self._n_classes))
        for rows, logits in self.blocks(vectors):
            found[rows] = logits
        return found

    def blocks(self, vectors: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """The rows of a block of images and their logits, so that memory does not grow."""
        for rows, cosines in self._cosines(vectors):
            yield rows, self._logits(cosines)

    def best(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """The best class of each image, int64 (n,); of equal ones the first."""
        if self.level is not None or len(self.weights) <= _FEW:
            return self.top(vectors, 1)[-1][:, 0]
        rows = self.weights
        if np.ptp(self.scale) or np.ptp(self.bias):  # the order of logits is not that of cosines
            rows = np.column_stack([self.scale[:, None] * rows, self.bias])
            vectors = np.column_stack([vectors, np.ones(len(vectors), np.float32)])
        return find_nearest(rows.astype(np.float32), vectors, 1)[1][:, 0]

    def top(
        self, vectors: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """The k best classes of each image, best first.

        Args:
            vectors: unit rows, float32 (n, dim).
            k: how many classes, at most.

        Returns:
            scores float64, cosines float64 and class numbers int64, (n, k) each. A node has the
            cosine of its nearest label.
        """
        shape = len(vectors), min(k, self._n_classes)
        scores, nearest, classes = np.empty(shape), np.empty(shape), np.empty(shape, np.int64)
        for rows, cosines in self._cosines(vectors):
            logits = self._logits(cosines)
            classes[rows] = find_highest(logits, shape[1])
            found = np.take_along_axis(logits, classes[rows], 1)
            scores[rows] = np.minimum(np.exp(found - log_sum_exp(logits)), 1.0)
            similarities = self.level.best(cosines) if self.level else cosines
            nearest[rows] = np.take_along_axis(similarities, classes[rows], 1)
        return scores, nearest, classes

    @property
    def _n_classes(self) -> int:
        return len(self.level.paths) if self.level else len(self.weights)

    def _cosines(self, vectors: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        step = max(1, min(_IMAGES_A_BLOCK, _LOGITS_A_BLOCK // len(self.weights)))
        exact = np.empty((min(step, len(vectors)), vectors.shape[1]))  # once: new pages cost time
        for rows in row_blocks(len(vectors), step):
            block = exact[: rows.stop - rows.start]
            block[:] = vectors[rows]
            yield rows, block @ self.weights.T

    def _logits(self, cosines: NDArray[np.float64]) -> NDArray[np.float64]:
        logits = cosines * self.scale
        logits += self.bias
        if self.level is not None:
            logits = self.level.log_sums(logits)
        if self.temperature != 1:
            logits /= self.temperature
        return logits


def find_highest(values: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The columns of the k highest values of each row, (n, m) -> int64 (n, k), the highest first.

    Values that differ by rounding alone are equal, and stay in the order of the columns.
    """
    if k > _FEW_BEST:
        return np.argsort(-np.round(values, _DIGITS), axis=1, kind="stable")[:, :k]
    rest, rows = values.copy(), np.arange(len(values))
    found = np.empty((len(values), k), np.int64)
    last, are_close = np.full(len(values), np.inf), np.zeros(len(values), bool)
    for rank in range(min(k + 1, values.shape[1])):
        best = rest.argmax(axis=1)
        highest = rest[rows, best]
        are_close |= last - highest < 10.0**-_DIGITS
        last, rest[rows, best] = highest, -np.inf
        if rank < k:
            found[:, rank] = best
    if are_close.any():
        order = np.argsort(-np.round(values[are_close], _DIGITS), axis=1, kind="stable")
        found[are_close] = order[:, :k]
    return found


def log_sum_exp(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """log sum exp over the last axis, which is kept."""
    highest = logits.max(axis=-1, keepdims=True)
    terms = logits - highest
    return np.asarray(highest + np.log(np.exp(terms, out=terms).sum(axis=-1, keepdims=True)))
