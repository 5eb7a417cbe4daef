"""`MultiLabelCalibration`: the scores of several labels per image -> probabilities, thresholds.

- The probability of label j is the logistic function of `slope` x (log odds of its score) +
  `offsets[j]`: Platt scaling (1999), with one slope for all labels. A normal prior holds each
  offset to their mean, so that labels with few images are not overrated.
- A label's threshold is the geometric mean of two: the one with the best expected F1 over all
  labels together and the one over its own images (expected under the probabilities, as in
  Ye et al. 2012, arXiv 1206.4625). The first is best for micro F1 but misses rare labels, the
  second is best for those. If they give worse labels than the default threshold in
  cross-validation, the default stays: thresholds are then the probabilities it corresponds to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipcls.calibration.base import BaseCalibration

DEFAULT_THRESHOLD = 0.5  # of uncalibrated scores: `score_odds` sets the levels that it means
_PRIOR = 1.0  # variance of the offsets around their mean
LEAST_SLOPE, _MOST_SLOPE = 1e-3, 20.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MultiLabelCalibration(BaseCalibration):
    """A calibration of a classifier that gives several labels per image.

    Attributes:
        slope: the factor of the log odds.
        offsets: the summand of the log odds, one per label.
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
        """A description of damage to numbers that come from a file, or ""."""
        count = len(self.identity.labels)
        if not len(self.offsets) == len(self.thresholds) == len(self.positives) == count:
            return "labels are missing"
        if not LEAST_SLOPE <= self.slope <= _MOST_SLOPE:
            return f"`slope` is not between {LEAST_SLOPE:g} and {_MOST_SLOPE:g}"
        return ""


def fit_probabilities(odds: Floats, truth: NDArray[np.bool_]) -> tuple[float, Floats]:
    """Slope and offsets of least negative log-likelihood plus penalty, which is convex.

    The penalty is half the sum of the squared distances of the offsets from their mean.

    Args:
        odds: log odds of the scores, float64 (n, n_classes).
        truth: which labels are right, bool (n, n_classes).

    Returns:
        the slope, between 0.001 and 20, and the offsets, float64 (n_classes,).
    """
    from scipy.optimize import minimize

    def loss(x: Floats) -> tuple[float, Floats]:
        u = x[0] * odds + x[1:]
        apart = x[1:] - x[1:].mean()
        softplus = np.logaddexp(0, u)
        error = np.exp(u - softplus) - truth
        value = (softplus - truth * u).sum() + (apart**2).sum() / (2 * _PRIOR)
        return value, np.append((error * odds).sum(), error.sum(axis=0) + apart / _PRIOR)

    n = odds.shape[1]
    found = minimize(
        loss,
        np.append(1.0, np.zeros(n)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(LEAST_SLOPE, _MOST_SLOPE), *[(None, None)] * n],
        options={"maxiter": 1000, "ftol": 1e-12},
    ).x
    return float(found[0]), found[1:]


def choose_thresholds(probabilities: Floats) -> Floats:
    """Each label's threshold: the geometric mean of that for all labels and that for its own.

    Args:
        probabilities: float64 (n, n_classes).

    Returns:
        float64 (n_classes,), above 0.
    """
    own = np.array([_best_expected(column) for column in probabilities.T])
    thresholds: Floats = np.sqrt(_best_expected(probabilities.ravel()) * own)
    return thresholds


def _best_expected(probabilities: Floats) -> float:
    """The threshold of the best expected F1."""
    falling = np.sort(probabilities)[::-1]
    hits = np.cumsum(falling)
    return float(falling[np.argmax(2 * hits / (np.arange(1, len(falling) + 1) + hits[-1]))])
