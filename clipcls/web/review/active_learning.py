"""The order in which to ask a person about images (active learning).

- Margin sampling (Scheffer et al. 2001, "Active hidden Markov models for information extraction"):
  images whose best two scores are nearest to each other come first. A batch of these alone asks
  about the same confusion again and again.
- So, with vectors, diverse mini-batches (Zhdanov 2019, arXiv 1901.05954): ten times as many images
  of least margin are clustered by k-means, weighted by doubt, and the image nearest to each centre
  is in the batch.

research/review.md has a comparison.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.clustering import cluster_vectors, k_means

_BATCH = 20  # images
_BATCHES = 10  # chosen ahead; the images after these are ordered by margin
_CANDIDATES = 10  # per image of a batch


def acquisition_order(
    margins: NDArray[np.float64],
    vectors: NDArray[np.float32] | None = None,
    done: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """The order in which to ask about images, the most informative first.

    Args:
        margins: differences between the best two scores, (n,).
        vectors: of the images, float32 (n, dim); a row of zeros is none. None: by margin alone.
        done: images whose label is known, bool (n,): they come last.

    Returns:
        Image numbers, int64 (n,); equal margins keep their order.
    """
    n = len(margins)
    done = np.zeros(n, bool) if done is None else done
    order = np.lexsort((margins, done)).astype(np.int64)
    if vectors is None:
        return order
    left = order[: n - int(done.sum())]
    left = left[vectors[left].any(axis=1)]
    chosen: list[NDArray[np.int64]] = []
    for _ in range(_BATCHES):
        if not len(left):
            break
        first = left[: _CANDIDATES * _BATCH]
        batch = first[diverse_batch(vectors[first], margins[first], _BATCH)]
        chosen.append(batch[np.argsort(margins[batch], kind="stable")])
        left = left[~np.isin(left, batch)]
    found = np.concatenate([*chosen, np.empty(0, np.int64)])
    return np.concatenate([found, order[~np.isin(order, found)]])


def diverse_batch(
    vectors: NDArray[np.float32], margins: NDArray[np.float64], size: int
) -> NDArray[np.int64]:
    """The vector nearest to each centre of a k-means weighted by 1 - margin, int64 (size,).

    Args:
        vectors: of the candidates, float32 (n, dim).
        margins: (n,).
        size: how many; all candidates if there are no more.
    """
    if len(vectors) <= size:
        return np.arange(len(vectors))
    centres = k_means(vectors, size, 1 - margins + 1e-6)
    away = (centres**2).sum(axis=1) / 2 - vectors @ centres.T
    batch = np.empty(size, np.int64)
    for number in range(size):
        batch[number] = away[:, number].argmin()
        away[batch[number]] = np.inf
    return batch


def cluster_images(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Each image's cluster, int64 (n,); -1 for a row of zeros, which is no vector."""
    rows = np.flatnonzero(vectors.any(axis=1))
    clusters = np.full(len(vectors), -1, np.int64)
    # Few enough that a cluster gets one label: the square root of the images, 200 at most.
    clusters[rows] = cluster_vectors(vectors[rows], min(math.ceil(math.sqrt(len(rows))), 200))
    return clusters
