"""Intervals and p values: how far a number from n images may be from that of all images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Counts",
    "Flags",
    "Floats",
    "Interval",
    "Measure",
    "adjust_p",
    "binomial_bound",
    "draw_bootstrap",
    "measure_share",
    "measure_with_intervals",
]

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Counts: TypeAlias = NDArray[np.int64]

Measure: TypeAlias = Callable[[Counts], Floats]
"""From how often each image counts, int64 (n,), to metrics, float64 (m,)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric and its 95 % interval."""

    value: float
    low: float
    high: float


def measure_with_intervals(measure: Measure, n: int, draws: int) -> list[Interval]:
    """The metrics of n images, with their intervals by the bootstrap; none can be below 0."""
    values = measure(np.ones(n, np.int64))
    low, high = np.quantile(draw_bootstrap(measure, n, draws), [0.025, 0.975], axis=0)
    ends = zip(values, np.maximum(low, 0), np.maximum(high, 0), strict=True)
    return [Interval(float(v), float(a), float(b)) for v, a, b in ends]


def draw_bootstrap(measure: Measure, n: int, draws: int, seed: int = 0) -> Floats:
    """Metrics of images drawn with replacement (Efron 1979), float64 (draws, m); seeded.

    They are moved by the bootstrap's estimate of the bias: drawn images look less calibrated than
    the real ones, and without that the interval of a small ECE would lie above it.
    """
    rng = np.random.default_rng(seed)
    rows = np.array(
        [
            measure(np.bincount(rng.integers(n, size=n, dtype=np.int32), minlength=n))
            for _ in range(draws)
        ]
    )
    moved: Floats = rows - (rows.mean(axis=0) - measure(np.ones(n, np.int64)))
    return moved


def measure_share(hits: Flags) -> Interval:
    """The share of hits, bool (n,), with its exact 95 % interval (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    found = binomtest(int(hits.sum()), len(hits)).proportion_ci()
    return Interval(float(hits.mean()), float(found.low), float(found.high))


def binomial_bound(hits: int, n: int, alpha: float) -> float:
    """The rate that is exceeded with probability `alpha` at most, given `hits` out of n.

    Clopper and Pearson 1934: exact whatever n is. By scipy.special, since scipy.stats takes a
    second to import and `classify` needs this.
    """
    from scipy.special import betaincinv

    return 1.0 if hits >= n else float(betaincinv(hits + 1, n - hits, 1 - alpha))


def adjust_p(p: Sequence[float]) -> list[float]:
    """P values for all comparisons together (Holm 1979)."""
    adjusted, least = [1.0] * len(p), 0.0
    for rank, number in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        least = max(least, min(1.0, p[number] * (len(p) - rank)))
        adjusted[number] = least
    return adjusted
