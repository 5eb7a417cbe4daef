"""Nearest vectors by inner product, in memory; `inverted_lists` has those on disk."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Up to this many rows NumPy is as fast as FAISS, whose import takes longer than the search.
_FEW = 1_024

# The products that NumPy computes at a time; bounds memory.
_PRODUCTS_PER_BLOCK = 4_000_000

# FAISS's float32 products differ in the last bit with the number of queries (it has a kernel for
# few and one for many), so a row that belongs among the k may come out just behind them.
_SPARE = 4

# Above this many rows the neighbours are searched in the nearest cells only, since exact search
# grows with the square. The queries at a time bound memory.
_EXACT_UP_TO = 20_000
_CELLS_SEARCHED = 16
_QUERIES_PER_BLOCK = 4_096


def find_nearest(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k nearest rows of each query by inner product, nearest first; ties in their order.

    The products of the nearest rows are computed again in float64, a query at a time, so neither
    the order nor the similarities depend on the rest of the batch.

    Args:
        vectors: float32 (n, dim). For unit rows inner products are cosine similarities.
        queries: float32 (m, dim).
        k: how many; at most n.

    Returns:
        similarities float64 (m, k) and row numbers int64 (m, k).
    """
    k = min(k, len(vectors))
    rows = _find_candidates(vectors, queries, min(k + _SPARE, len(vectors)))
    similarities = np.empty(rows.shape)
    for number, query in enumerate(queries.astype(np.float64)):
        similarities[number] = vectors[rows[number]].astype(np.float64) @ query
    similarities, rows = _by_similarity_then_row(similarities, rows)
    return similarities[:, :k], rows[:, :k]


def _find_candidates(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """The k nearest rows by float32 products, int64 (m, k), in any order."""
    found: NDArray[np.int64]
    if len(vectors) > _FEW:
        import faiss

        found = faiss.knn(queries, vectors, k, faiss.METRIC_INNER_PRODUCT)[1]
        return found
    found = np.empty((len(queries), k), np.int64)
    step = max(1, _PRODUCTS_PER_BLOCK // len(vectors))
    for start in range(0, len(queries), step):
        products = queries[start : start + step] @ vectors.T
        rows = np.argpartition(products, len(vectors) - k, axis=1)[:, len(vectors) - k :]
        # Of more equal rows than k the first ones, as FAISS returns them.
        least = np.take_along_axis(products, rows, 1).min(axis=1, keepdims=True)
        for number in np.flatnonzero((products >= least).sum(axis=1) > k):
            rows[number] = np.argsort(-products[number], kind="stable")[:k]
        found[start : start + step] = rows
    return found


def search_blocks(
    blocks: Iterable[NDArray[np.float32]], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """`find_nearest` over more rows than fit into memory.

    Args:
        blocks: float32 (n_i, dim) each; rows are numbered across blocks.
        queries: float32 (m, dim).
        k: how many.

    Returns:
        similarities float64 (m, k) and row numbers int64 (m, k); k is at most the number of rows.
    """
    similarities = np.empty((len(queries), 0))
    rows = np.empty((len(queries), 0), np.int64)
    start = 0
    for block in blocks:
        found, at = find_nearest(block, queries, k)
        similarities = np.hstack([similarities, found])
        rows = np.hstack([rows, at + start])
        similarities, rows = _by_similarity_then_row(similarities, rows)
        similarities, rows = similarities[:, :k], rows[:, :k]
        start += len(block)
    return similarities, rows


def neighbours(
    vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The k nearest other rows of each row, nearest first.

    Exact up to 20,000 rows; above that, FAISS's `IndexIVFFlat`, with its fixed seed, misses some.

    Args:
        vectors: float32 (n, dim).
        k: how many; at most the number of other rows.

    Returns:
        similarities float32 (n, k) and row numbers int32 (n, k).
    """
    n = len(vectors)
    k = min(k, n - 1)
    exact = functools.partial(find_nearest, vectors)
    search = exact if n <= _EXACT_UP_TO else _Cells(vectors).search
    similarities, rows = np.empty((n, k), np.float32), np.empty((n, k), np.int32)
    for start in range(0, n, _QUERIES_PER_BLOCK):
        block = slice(start, min(start + _QUERIES_PER_BLOCK, n))
        found, at = search(vectors[block], k + 1)
        # A row is not its own neighbour; if k others equal it, it may not be among them.
        itself = at == np.arange(n)[block, np.newaxis]
        itself[~itself.any(axis=1), -1] = True
        similarities[block] = found[~itself].reshape(len(found), k)
        rows[block] = at[~itself].reshape(len(at), k)
    return similarities, rows


class _Cells:
    """FAISS's `IndexIVFFlat`, for many rows."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        import faiss

        vectors = np.ascontiguousarray(vectors, np.float32)
        cells = int(4 * np.sqrt(len(vectors)))
        kind, metric = f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT
        index: Any = faiss.index_factory(vectors.shape[1], kind, metric)
        self._index = index
        self._index.cp.min_points_per_centroid = 1  # with fewer than 39 it warns on stderr
        self._index.train(vectors[:: max(1, len(vectors) // (40 * cells))])
        self._index.add(vectors)

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        queries = np.ascontiguousarray(queries)
        self._index.nprobe = _CELLS_SEARCHED
        similarities, rows = self._index.search(queries, k)
        # If many rows are equal, most cells are empty, and FAISS fills up with -1.
        short = (rows < 0).any(axis=1)
        if short.any():
            self._index.nprobe = self._index.nlist
            similarities[short], rows[short] = self._index.search(queries[short], k)
        return similarities, rows


def _by_similarity_then_row(
    similarities: NDArray[np.float64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    order = np.lexsort((rows, -similarities), axis=1)
    return np.take_along_axis(similarities, order, 1), np.take_along_axis(rows, order, 1)
