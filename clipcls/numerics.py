"""Numeric functions that several packages share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROBE = np.sin(np.arange(1.0, 721.0) ** 2).reshape(6, 120)
"""Fixed numbers like cosines: what code makes of them tells one formula from another."""


def logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), exact for small ones too."""
    found: NDArray[np.float64] = np.exp(-np.logaddexp(0, -x))
    return found


def unit_rows(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Each row divided by its L2 norm; a row of zeros stays one. float32 (n, dim) both."""
    rows = np.asarray(rows, np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit


def row_blocks(n: int, size: int) -> Iterator[slice]:
    """The next `size` of `n` rows at a time, and at last the rest."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


_lock = threading.Lock()
_limits: list[Any] = []  # the first one is in force until the last is left


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Have matrix products use one thread each, process-wide: for blocks in several threads.

    Products that share BLAS's own threads wait for each other, and these take time while idle.
    """
    from threadpoolctl import threadpool_limits

    with _lock:
        _limits.append(_limits[0] if _limits else threadpool_limits(1, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            if len(_limits) == 1:
                _limits[0].restore_original_limits()
            _limits.pop()
