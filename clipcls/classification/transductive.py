"""Classifies a batch of images as a whole, without labels: each image helps with the others.

Neighbours in a k-nearest-neighbour graph should have the same label (LaplacianShot, Ziko et al.
2020, arXiv 2006.15486; ZLaP, Stojnic et al. 2024, arXiv 2404.04072). The means of the images of a
class are its prototypes, anchored by the words (TransCLIP, Zanella et al. 2024, arXiv 2406.01837).
Both tell images of a batch apart. Which labels occur at all is left to the words, since a batch
cannot tell a text that fits every image from a label that most images have. An answer changes only
on clear evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.index import neighbours
from clipcls.numerics import row_blocks

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# Chosen on development sets, for the gain on whole sets and the losses where few labels occur:
# docs/evidence/refine.md.
_PROTOTYPES = 0.5  # weights of the prototypes
_GRAPH = 1.5  # and of the neighbours, in units of the spread of the words' logits
_LEVEL = 0.5  # share of the mean logits that is given back to the prototypes
_HALF_STRENGTH = 300  # images with which both weights are halved
_NEIGHBOURS = 10  # per image
_MARGIN = 0.4  # least lead over the words' answer, in units of the spread of their logits
_ROUNDS = 3

_KEPT, _LOGITS_A_BLOCK = 32, 4_000_000  # classes per image; both bound memory


@dataclass(frozen=True, slots=True)
class Assignments:
    """The best classes of each image, best first.

    Attributes:
        classes: class numbers, int32 (n, kept).
        scores: their shares, float32 (n, kept), which over all classes sum to 1.
    """

    classes: NDArray[np.int32]
    scores: NDArray[np.float32]

    def matrix(self, n_classes: int) -> csr_matrix:
        """Sparse float32 (n, n_classes)."""
        from scipy.sparse import csr_matrix

        n, kept = self.classes.shape
        starts = np.arange(0, n * kept + 1, kept)
        return csr_matrix((self.scores.ravel(), self.classes.ravel(), starts), (n, n_classes))


def refine(
    vectors: NDArray[np.float32],
    logits: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    n_classes: int,
    *,
    temperature: float = 1.0,
    kept: int = 1,
) -> Assignments:
    """Classifies a batch of images as a whole.

    The class shares z of image i come from rounds of

        z_i = softmax(l_i + n / (n + 300) x (1.5 s x mean z_j + s/2 x g_i + mean l / 4))

    over its neighbours j, where l are the logits of the words and s is their standard deviation
    over images and classes, less the means of both. For the mean m_k of the images, weighted by
    their shares, less the mean of all, g_ik = m_k v_i - m_k^2 / 2, scaled to vary over the classes
    by 1. All images' mean of it is near 0; half of the words' own mean makes up for that.

    The words' answer stays unless the new one leads it by 0.4 s.

    Deterministic. Memory grows with the images as vectors + neighbours + kept classes, not with
    images x classes.

    Args:
        vectors: unit rows, float32 (n, dim), n at least 1.
        logits: the logits of some of the rows, float64 (m, n_classes); affine in the rows.
        n_classes: how many classes there are.
        temperature: the divisor of the last round's logits.
        kept: the least number of classes to keep per image; the rounds keep 32.
    """
    n = len(vectors)
    kept = min(max(kept, _KEPT), n_classes)
    graph = _graph(vectors)
    mean = vectors.mean(axis=0, dtype=np.float64)
    covariance = (vectors.T @ vectors).astype(np.float64) / n - np.outer(mean, mean)
    level = logits(mean[np.newaxis].astype(np.float32))
    strength = n / (n + _HALF_STRENGTH)
    square = 0.0
    shares = _empty(n, kept)
    step = max(1, _LOGITS_A_BLOCK // n_classes)
    for rows in row_blocks(n, step):
        words = logits(vectors[rows])
        _keep(shares, rows, words)
        words -= level
        square += float(((words - words.mean(axis=1, keepdims=True)) ** 2).sum())
    spread = np.sqrt(square / (n * n_classes))
    level *= _LEVEL * _PROTOTYPES * strength
    before, leads = shares.classes[:, 0].copy(), np.empty(n)
    for number in range(_ROUNDS):
        matrix = shares.matrix(n_classes)
        prototypes, constants = _prototypes(matrix, vectors, mean, covariance)
        found = _empty(n, kept)
        for rows in row_blocks(n, step):
            adjustment = _PROTOTYPES * (vectors[rows] @ prototypes.T + constants)
            adjustment += _GRAPH * (graph[rows] @ matrix).toarray()
            refined = logits(vectors[rows]) + level + strength * spread * adjustment
            known = np.take_along_axis(refined, before[rows, np.newaxis], axis=1)
            leads[rows] = refined.max(axis=1) - known[:, 0]
            _keep(found, rows, refined / (temperature if number == _ROUNDS - 1 else 1))
        shares = found
    unproven = np.flatnonzero((shares.classes[:, 0] != before) & (leads < _MARGIN * spread))
    for block in row_blocks(len(unproven), step):
        some = unproven[block]
        _keep(shares, some, logits(vectors[some]) / temperature)
    return shares


def _graph(vectors: NDArray[np.float32]) -> csr_matrix:
    """Symmetrised kNN graph by cosine similarity; rows sum to 1; sparse float32 (n, n)."""
    from scipy.sparse import csr_matrix, diags

    similarities, rows = neighbours(vectors, _NEIGHBOURS)
    n, k = rows.shape
    starts = k * np.arange(n + 1)
    weights = np.maximum(similarities, 1e-6).astype(np.float32)
    graph = csr_matrix((weights.ravel(), rows.ravel(), starts), (n, n))
    graph = graph + graph.T
    sums = np.asarray(graph.sum(axis=1)).ravel()
    return (diags(1 / np.maximum(sums, 1e-12)).astype(np.float32) @ graph).tocsr()


def _prototypes(
    shares: csr_matrix,
    vectors: NDArray[np.float32],
    mean: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prototypes as a linear function of `vectors`: weights (n_classes, dim), constants.

    The root mean square of the logits, less each image's mean, is 1.
    """
    counts = np.asarray(shares.sum(axis=0), np.float64).ravel()
    means = np.asarray(shares.T @ vectors, np.float64) / np.maximum(counts, 1e-9)[:, np.newaxis]
    means -= mean
    constants = -0.5 * (means**2).sum(axis=1)
    contrast, level = means - means.mean(axis=0), constants - constants.mean()
    # The mean square over images and classes; the cross term is zero as images are centred.
    square = np.einsum("kd,de,ke->", contrast, covariance, contrast, optimize=True)
    square = (square + (level**2).sum()) / len(means)
    factor = 1 / max(np.sqrt(max(square, 0)), 1e-12)
    constants -= means @ mean
    return (factor * means).astype(np.float32), (factor * constants).astype(np.float32)


def _empty(n: int, kept: int) -> Assignments:
    return Assignments(np.empty((n, kept), np.int32), np.empty((n, kept), np.float32))


def _keep(shares: Assignments, rows: slice | NDArray[np.intp], logits: NDArray[Any]) -> None:
    """Stores the best classes of some images; of equal ones the first comes first."""
    logits = logits - logits.max(axis=1, keepdims=True)
    scores = np.exp(logits)
    scores /= scores.sum(axis=1, keepdims=True)
    kept = shares.classes.shape[1]
    some = np.sort(np.argpartition(-scores, kept - 1, axis=1)[:, :kept], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    best = np.take_along_axis(some, order, 1)
    shares.classes[rows] = best
    shares.scores[rows] = np.take_along_axis(scores, best, 1)
