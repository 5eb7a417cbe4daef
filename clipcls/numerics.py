"""Functions of numbers that several packages compute with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    pass

__all__ = ["log_odds", "logistic"]


def log_odds(log_shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 - p)) of log p."""
    odds: NDArray[np.float64] = log_shares - np.log(-np.expm1(log_shares))
    return odds


def logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), exact for small ones too."""
    found: NDArray[np.float64] = np.exp(-np.logaddexp(0, -x))
    return found
