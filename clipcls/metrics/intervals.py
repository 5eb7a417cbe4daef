"""Intervals and p values: how far a figure from n images may be from that of all images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Counts: TypeAlias = NDArray[np.int64]

_MOST_NUMBERS = 400_000_000  # that all bootstrap draws together look at

Measure: TypeAlias = Callable[[Counts], Floats]
"""How often each image counts, int64 (n,) -> metrics, float64 (m,)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric and its 95 % interval."""

    value: float
    low: float
    high: float


def measure_with_intervals(
    names: Sequence[str], measure: Measure, n: int, draws: int, size: int
) -> dict[str, Interval]:
    """The metrics of n images with their bootstrap intervals; arguments as for `draw_bootstrap`.

    Intervals end at 0 and, but for the log loss, at 1.
    """
    values = measure(np.ones(n, np.int64))
    ends = np.quantile(draw_bootstrap(measure, n, draws, size), [0.025, 0.975], axis=0)
    found = {}
    for name, value, low, high in zip(names, values, *np.maximum(ends, 0), strict=True):
        most = math.inf if name == "nll" else 1.0
        found[name] = Interval(float(value), float(low), min(float(high), most))
    return found


def draw_bootstrap(measure: Measure, n: int, draws: int, size: int) -> Floats:
    """Metrics of images drawn with replacement (Efron 1979), float64 (draws, m); seeded.

    They are shifted by the bootstrap's estimate of the bias: drawn images look less calibrated
    than the real ones, and the interval of a small ECE would otherwise lie above it.

    Args:
        measure: the metrics.
        n: how many images there are.
        draws: how many draws; fewer, but at least 200, where they would take more than seconds.
        size: how many numbers `measure` looks at.
    """
    rng = np.random.default_rng(0)
    rows = np.array(
        [
            measure(np.bincount(rng.integers(n, size=n, dtype=np.int32), minlength=n))
            for _ in range(min(draws, max(200, _MOST_NUMBERS // size)))
        ]
    )
    shifted: Floats = rows - (rows.mean(axis=0) - measure(np.ones(n, np.int64)))
    return shifted


def measure_share(hits: Flags) -> Interval:
    """The share of hits, bool (n,), with its exact 95 % interval (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    found = binomtest(int(hits.sum()), len(hits)).proportion_ci()
    return Interval(float(hits.mean()), float(found.low), float(found.high))


def adjust_p(p: Sequence[float]) -> list[float]:
    """P values that hold for all comparisons together (Holm 1979)."""
    adjusted, least = [1.0] * len(p), 0.0
    for rank, number in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        least = max(least, min(1.0, p[number] * (len(p) - rank)))
        adjusted[number] = least
    return adjusted
