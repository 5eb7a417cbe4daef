"""Deterministic k-means clusters of vectors."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

_MOST_CLUSTERED = 20_000  # vectors for k-means; the others join the nearest cluster


def cluster_vectors(vectors: NDArray[np.float32], clusters: int) -> NDArray[np.int64]:
    """The cluster of each vector, int64 (n,), numbered without gaps.

    Args:
        vectors: float32 (n, dim).
        clusters: how many, at most.
    """
    sample = vectors[:: -(-len(vectors) // _MOST_CLUSTERED)]
    centres = k_means(sample, clusters)
    # The nearest centre has the largest x c - |c|^2 / 2.
    nearest = vectors @ centres.T - (centres**2).sum(axis=1) / 2
    return np.asarray(np.unique(nearest.argmax(axis=1), return_inverse=True)[1], np.int64)


def k_means(
    vectors: NDArray[np.float32], clusters: int, weights: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """The centres of clusters, float32 (k, dim), where k is `clusters` or n if that is less.

    Args:
        vectors: float32 (n, dim).
        clusters: how many.
        weights: the vectors' weights, (n,); None: equal ones.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    means = KMeans(min(clusters, len(vectors)), n_init=1, random_state=0, max_iter=100)
    # With three or more threads the order of sums would change from run to run.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than clusters
        means.fit(vectors, sample_weight=weights)
    centres: NDArray[np.float32] = means.cluster_centers_.astype(np.float32)
    return centres
