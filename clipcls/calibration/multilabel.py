"""Scores of several labels per image -> probabilities, and a threshold for each label.

- The probability of label j is the logistic function of `slope` x (log odds of its score) +
  `offsets[j]`: Platt scaling (1999), one slope for all labels and an offset for each, which is held
  to the labels' common one by a normal prior, so that few images of a label are not overrated.
- A label's threshold is the geometric mean of two: the one with the best F1 to be expected over all
  labels together, and the one over its own images (expected under the probabilities, as the plug-in
  rule of Ye et al. 2012, arXiv 1206.4625). The first is best for micro F1 and misses rare labels,
  the second is best for those; research/multi-label.md has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipcls.calibration.base import BaseCalibration
from clipcls.numerics import logistic

__all__ = [
    "DEFAULT_THRESHOLD",
    "MultiLabelCalibration",
    "choose_thresholds",
    "fit_probabilities",
]

_PRIOR = 1.0  # variance of the offsets around their mean
LEAST_SLOPE, _MOST_SLOPE = 1e-3, 20.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MultiLabelCalibration(BaseCalibration):
    """What was learned from images with several labels about a classifier's scores.

    Attributes:
        slope: what log odds are multiplied by.
        offsets: what is then added, one per label.
        thresholds: the probability from which a label is given, one per label.
        positives: how many of the images have each label.
        identity, images, note, metrics, versions, made_from: see `BaseCalibration`; the metrics
            are `nll` (mean over images and labels, in nats), `f1_macro` and `f1_micro`.
    """

    form = "clipcls multi-label calibration 1"
    purpose = "several labels per image; use it with `clipcls tag`"

    slope: float
    offsets: tuple[float, ...]
    thresholds: tuple[float, ...]
    positives: tuple[int, ...]

    def in_order(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Offsets and thresholds in the order of these labels, float64 (n_classes,) each."""
        at = {name: number for number, (name, _) in enumerate(self.identity.labels)}
        order = [at[name] for name in names]
        return np.array(self.offsets)[order], np.array(self.thresholds)[order]

    def summary(self) -> str:
        """One line: the number of thresholds, and the metrics before and after."""
        macro, micro, nll = (self.metrics[name] for name in ("f1_macro", "f1_micro", "nll"))
        return (
            f"{len(self.thresholds):,} thresholds from {self.images:,} images; F1 over labels "
            f"{macro['before']:.1%} before, {macro['after']:.1%} after; all together "
            f"{micro['before']:.1%} before, {micro['after']:.1%} after; negative log-likelihood "
            f"{nll['before']:.3f} before, {nll['after']:.3f} after"
        )

    def find_damage(self) -> str:
        """What is wrong with numbers that come from a file, or ""."""
        count = len(self.identity.labels)
        if not len(self.offsets) == len(self.thresholds) == len(self.positives) == count:
            return "labels are missing"
        if not LEAST_SLOPE <= self.slope <= _MOST_SLOPE:
            return f"`slope` is not between {LEAST_SLOPE:g} and {_MOST_SLOPE:g}"
        return ""


def fit_probabilities(
    odds: Floats, truth: NDArray[np.bool_], counted: NDArray[np.bool_] | None = None
) -> tuple[float, Floats]:
    """Slope and offsets of least negative log-likelihood plus half the squared offsets' distance.

    The loss is convex; Newton's method with halved steps finds its minimum. The Hessian is an
    arrow (each offset meets only the slope and the common offset), so a step costs no more than
    looking at the scores.

    Args:
        odds: log odds of the scores, float64 (n, n_classes).
        truth: which labels are right, bool (n, n_classes).
        counted: which of these are known at all, bool (n, n_classes); None: all.

    Returns:
        the slope, between 0.001 and 20, and the offsets, float64 (n_classes,).
    """
    weight = np.ones_like(odds) if counted is None else counted.astype(float)
    slope, offsets = _least_loss(odds, truth, weight, None)
    if not LEAST_SLOPE <= slope <= _MOST_SLOPE:
        # The loss is convex: with the bound its minimum is on it.
        nearest = float(np.clip(slope, LEAST_SLOPE, _MOST_SLOPE))
        slope, offsets = _least_loss(odds, truth, weight, nearest)
    return slope, offsets


def _least_loss(
    odds: Floats, truth: NDArray[np.bool_], weight: Floats, fixed: float | None
) -> tuple[float, Floats]:
    """`fit_probabilities` without its bounds, or with a fixed slope."""
    total, hits = weight.sum(), (weight * truth).sum()
    rate = np.log((hits + 0.5) / (total - hits + 0.5))
    slope, own = 1.0 if fixed is None else fixed, np.zeros(odds.shape[1])
    common = float(rate - slope * (weight * odds).sum() / total)

    def loss(slope: float, common: float, own: Floats) -> float:
        u = slope * odds + common + own
        terms = np.logaddexp(0, u) - truth * u
        return float((weight * terms).sum() + (own**2).sum() / (2 * _PRIOR))

    now = loss(slope, common, own)
    for _ in range(100):
        p = logistic(slope * odds + common + own)
        error, curve = weight * (p - truth), weight * p * (1 - p)
        curved = curve * odds
        corner = np.array([[(curved * odds).sum(), curved.sum()], [curved.sum(), curve.sum()]])
        sides = np.stack([curved.sum(axis=0), curve.sum(axis=0)])
        diagonal = curve.sum(axis=0) + 1 / _PRIOR
        gradient = np.array([(error * odds).sum(), error.sum()])
        own_gradient = error.sum(axis=0) + own / _PRIOR
        # The 2 x 2 system that is left when the offsets are eliminated (Schur's complement).
        left = corner - (sides / diagonal) @ sides.T + 1e-9 * np.eye(2)
        right = gradient - sides @ (own_gradient / diagonal)
        if fixed is None:
            head = np.linalg.solve(left, right)
        else:
            head = np.array([0, right[1] / left[1, 1]])
        tail = (own_gradient - head @ sides) / diagonal
        size = 1.0
        while size > 1e-6:
            trial = float(slope - size * head[0]), float(common - size * head[1]), own - size * tail
            if (then := loss(*trial)) <= now:
                break
            size /= 2
        else:
            break
        done = now - then <= 1e-10 * max(1.0, now)
        (slope, common, own), now = trial, then
        if done:
            break
    return slope, common + own


def choose_thresholds(probabilities: Floats, counted: NDArray[np.bool_] | None = None) -> Floats:
    """Each label's threshold: the geometric mean of that for all labels and that for its own.

    Args:
        probabilities: float64 (n, n_classes).
        counted: as for `fit_probabilities`.

    Returns:
        float64 (n_classes,), above 0.
    """
    kept = np.ones(probabilities.shape, bool) if counted is None else counted
    together = _best_expected(probabilities[kept])
    own = [_best_expected(p[k]) for p, k in zip(probabilities.T, kept.T, strict=True)]
    thresholds: Floats = np.sqrt(together * np.array(own))
    return thresholds


def _best_expected(probabilities: Floats) -> float:
    """The probability above which answers have the best F1 to be expected."""
    falling = np.sort(probabilities)[::-1]
    hits = np.cumsum(falling)
    return float(falling[np.argmax(2 * hits / (np.arange(1, len(falling) + 1) + hits[-1]))])


DEFAULT_THRESHOLD = 0.08  # see research/multi-label.md, Thresholds
