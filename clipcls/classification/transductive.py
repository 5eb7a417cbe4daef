"""Classifies a batch of images as a whole, without labels: each image helps with the others.

Part of the batch's mean logit of each class is subtracted, since a text that fits all images says
little about any (distribution normalisation, Zhou et al. 2023, arXiv 2302.11084). Neighbours in a
k-nearest-neighbour graph should have the same label (LaplacianShot, Ziko et al. 2020,
arXiv 2006.15486; ZLaP, Stojnic et al. 2024, arXiv 2404.04072). The means of the images of a class
are its prototypes, anchored by the words (TransCLIP, Zanella et al. 2024, arXiv 2406.01837).
research/refine.md compares the alternatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.index import neighbours

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["FEWEST_LABELS", "LEAST_IMAGES", "MOST_ALIKE", "Assignments", "objection", "refine"]

# Refining costs more than it gains below so many images, if more than this share of the answers is
# one label (likelier a batch of one label than a text that fits all), or if the answers count as
# fewer labels than this share of what as many images of all labels would have (research/refine.md).
LEAST_IMAGES = 40
MOST_ALIKE = 0.9
FEWEST_LABELS = 0.3

# Chosen on development sets (research/refine.py).
_CENTRED = 0.5  # share of the mean logit that is subtracted
_WORDS = 0.7  # weight of the words,
_PROTOTYPES = 1.0  # of the prototypes relative to them,
_GRAPH = 2.0  # and of the neighbours
_NEIGHBOURS = 10  # per image
_ROUNDS = 8

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


def objection(answers: NDArray[np.int64], n_classes: int) -> str | None:
    """Why a batch should not be refined, or None.

    The number of labels is e to the entropy of their shares.

    Args:
        answers: the class number that each image gets on its own, (n,).
        n_classes: how many classes there are.
    """
    n = len(answers)
    if n < LEAST_IMAGES:
        return f"{n:,} image{'s are' if n != 1 else ' is'} too few, {LEAST_IMAGES} are the least"
    shares = np.bincount(answers) / n
    if shares.max() > MOST_ALIKE:
        return f"{shares.max():.0%} of the images get one label"
    shares = shares[shares > 0]
    number = float(np.exp(-shares @ np.log(shares)))
    # The number expected among n images if all labels were equally frequent.
    if number < FEWEST_LABELS * n_classes * (1 - (1 - 1 / n_classes) ** n):
        return f"the images get few of the labels, as if {number:.1f} of {n_classes:,} occurred"
    return None


def refine(
    vectors: NDArray[np.float32],
    logits: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    n_classes: int,
    *,
    kept: int = 1,
) -> Assignments:
    """Classifies a batch of images as a whole.

    The class shares z of image i come from rounds of

        z_i = softmax(words x (l_i - centred x mean l) + prototypes x g_i + graph x mean z_j)

    over its neighbours j, where l are the logits of the words and g_ik = m_k v_i - m_k^2 / 2 for
    the mean m_k of the images, weighted by their shares, less the mean of all; g is scaled to vary
    over the classes as much as the words' logits.

    Deterministic. Memory grows with the images as vectors + neighbours + kept classes, not with
    images x classes.

    Args:
        vectors: unit rows, float32 (n, dim), n at least 2.
        logits: the logits of some of the rows, float64 (m, n_classes); affine in the rows.
        n_classes: how many classes there are.
        kept: the least number of classes to keep per image; the rounds keep 32.
    """
    kept = min(max(kept, _KEPT), n_classes)
    graph = _graph(vectors)
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    shift = _CENTRED * logits(mean[np.newaxis])
    centred = vectors - mean
    centred /= max(float(np.sqrt(np.mean(np.einsum("ij,ij->i", centred, centred)))), 1e-12)
    moments = (centred.T @ centred).astype(np.float64) / len(vectors)
    square = 0.0
    shares = _empty(len(vectors), kept)
    for rows in _blocks(len(vectors), n_classes):
        words = _WORDS * (logits(vectors[rows]) - shift)
        square += float(((words - words.mean(axis=1, keepdims=True)) ** 2).sum())
        _keep(shares, rows, words)
    spread = np.sqrt(square / (len(vectors) * n_classes))
    for _ in range(_ROUNDS):
        matrix = shares.matrix(n_classes)
        prototypes, constants = _prototypes(matrix, centred, moments, _PROTOTYPES * spread)
        found = _empty(len(vectors), kept)
        for rows in _blocks(len(vectors), n_classes):
            total = _WORDS * (logits(vectors[rows]) - shift)
            total += centred[rows] @ prototypes.T + constants
            total += _GRAPH * (graph[rows] @ matrix).toarray()
            _keep(found, rows, total)
        shares = found
    return shares


def _graph(vectors: NDArray[np.float32]) -> csr_matrix:
    """Symmetrised kNN graph by cosine similarity; rows sum to 1; sparse float32 (n, n)."""
    from scipy.sparse import csr_matrix, diags

    similarities, rows = neighbours(vectors, _NEIGHBOURS)
    n, k = rows.shape
    starts = np.arange(0, n * k + 1, k)
    weights = np.maximum(similarities, 1e-6).astype(np.float32)
    graph = csr_matrix((weights.ravel(), rows.ravel(), starts), (n, n))
    graph = graph + graph.T
    sums = np.asarray(graph.sum(axis=1)).ravel()
    return (diags(1 / sums).astype(np.float32) @ graph).tocsr()


def _prototypes(
    shares: csr_matrix, centred: NDArray[np.float32], moments: NDArray[np.float64], spread: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prototypes as a linear function of `centred`: weights (n_classes, dim), constants.

    The root mean square of the logits, less each image's mean, is `spread`.
    """
    counts = np.asarray(shares.sum(axis=0), np.float64).ravel()
    means = np.asarray(shares.T @ centred, np.float64) / np.maximum(counts, 1e-9)[:, np.newaxis]
    constants = -0.5 * (means**2).sum(axis=1)
    contrast, level = means - means.mean(axis=0), constants - constants.mean()
    # The mean square over images and classes; the cross term is zero as `centred` has mean zero.
    square = np.einsum("kd,de,ke->", contrast, moments, contrast, optimize=True)
    square = (square + (level**2).sum()) / len(means)
    factor = spread / max(np.sqrt(square), 1e-12)
    return (factor * means).astype(np.float32), (factor * constants).astype(np.float32)


def _empty(n: int, kept: int) -> Assignments:
    return Assignments(np.empty((n, kept), np.int32), np.empty((n, kept), np.float32))


def _keep(shares: Assignments, rows: slice, logits: NDArray[Any]) -> None:
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


def _blocks(n: int, n_classes: int) -> Iterator[slice]:
    step = max(1, _LOGITS_A_BLOCK // n_classes)
    for start in range(0, n, step):
        yield slice(start, start + step)
