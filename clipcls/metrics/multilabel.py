"""How good several labels per image are: the numbers, from arrays alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress

import numpy as np

from clipcls.metrics.intervals import (
    Counts,
    Flags,
    Floats,
    Interval,
    Measure,
    measure_with_intervals,
)

__all__ = ["LabelMetrics", "MultiLabelOutcomes", "f1_scores"]

_MOST_PAIRS = 400_000_000


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """One label: how well its scores rank images, and how right it is where it is given.

    `average_precision` and `recall` are nan where no image has the label, `precision` where it is
    given to none.
    """

    average_precision: float
    precision: float
    recall: float
    f1: float
    support: int
    answers: int


@dataclass(frozen=True, slots=True, eq=False)
class MultiLabelOutcomes:
    """Every image and label: the score, whether it was given, whether it is right.

    Attributes:
        scores: float64 (n, n_classes).
        given: which labels each image was given, bool (n, n_classes).
        truth: which labels each image has, bool (n, n_classes).
    """

    scores: Floats
    given: Flags
    truth: Flags

    names = compared = ("map_macro", "map_micro", "f1_macro", "f1_micro")
    """`map_macro` is the mean over labels of the average precision (as scikit-learn's, without
    interpolation), `map_micro` that of all pairs of an image and a label in one ranking; the macro
    means are over the labels that images have."""

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def correct(self) -> Flags:
        """Whether an image is given its labels without a mistake, bool (n,)."""
        return np.asarray(np.equal(self.given, self.truth).all(axis=1))

    @property
    def confidence(self) -> Floats:
        """The highest score of each image, float64 (n,)."""
        return np.asarray(self.scores.max(axis=1))

    def take(self, rows: Counts, columns: Counts) -> MultiLabelOutcomes:
        """The outcomes of some of the images and labels."""
        at = np.ix_(rows, columns)
        return MultiLabelOutcomes(self.scores[at], self.given[at], self.truth[at])

    def describe(self, row: int, labels: tuple[str, ...]) -> tuple[str, str]:
        """The right labels of an image and those it was given, as text."""
        right, given = (
            ", ".join(compress(labels, which[row])) or "none" for which in (self.truth, self.given)
        )
        return right, given

    def limit_draws(self, draws: int) -> int:
        """As many bootstrap draws as take seconds: `draws`, or fewer, but at least 200."""
        return min(draws, max(200, _MOST_PAIRS // self.truth.size))

    def metrics(self, draws: int = 1000) -> dict[str, Interval]:
        """The metrics named in `names`, each with its 95 % bootstrap interval."""
        found = measure_with_intervals(self.measurer(), len(self), self.limit_draws(draws))
        return {
            name: Interval(one.value, one.low, min(one.high, 1.0))
            for name, one in zip(self.names, found, strict=True)
        }

    def class_metrics(self) -> tuple[LabelMetrics, ...]:
        """Each label's metrics, by scikit-learn."""
        from sklearn.metrics import average_precision_score, precision_recall_fscore_support

        # One column more, since scikit-learn takes a single one for two classes.
        nothing = np.zeros((len(self), 1), bool)
        precision, recall, f1, support = precision_recall_fscore_support(
            np.hstack([self.truth, nothing]),
            np.hstack([self.given, nothing]),
            average=None,
            zero_division=np.nan,
        )
        return tuple(
            LabelMetrics(
                float(average_precision_score(truth, self.scores[:, k])) if support[k] else np.nan,
                float(precision[k]),
                float(recall[k]),
                float(f1[k]),
                int(support[k]),
                int(self.given[:, k].sum()),
            )
            for k, truth in enumerate(self.truth.T)
        )

    def measurer(self) -> Measure:
        """The metrics named in `names` of images that count several times or not at all."""
        f1 = _f1_measurer(self.given, self.truth)
        ranked = _average_precision(self.scores, self.truth)
        pooled = _average_precision(self.scores.reshape(-1, 1), self.truth.reshape(-1, 1))
        n_classes = self.truth.shape[1]

        def measure(times: Counts) -> Floats:
            weights = times.astype(float)
            each = ranked(weights)
            return np.array(
                [
                    np.nanmean(each) if not np.isnan(each).all() else 0.0,
                    np.nan_to_num(pooled(np.repeat(weights, n_classes))[0]),
                    *f1(weights),
                ]
            )

        return measure


def f1_scores(given: Flags, truth: Flags) -> tuple[float, float]:
    """F1, macro (over the labels that images have) and micro; 0 where there is nothing."""
    return _f1_measurer(given, truth)(np.ones(len(truth)))


def _f1_measurer(given: Flags, truth: Flags) -> Callable[[Floats], tuple[float, float]]:
    hits, answers, right = (m.astype(float) for m in (given & truth, given, truth))

    def measure(weights: Floats) -> tuple[float, float]:
        both, mine, support = weights @ hits, weights @ answers, weights @ right
        present = support > 0
        if not present.any():
            return 0.0, 0.0
        macro = (2 * both[present] / (mine + support)[present]).mean()
        return float(macro), float(2 * both.sum() / (mine + support).sum())

    return measure


def _average_precision(scores: Floats, truth: Flags) -> Callable[[Floats], Floats]:
    """Average precision of each column for images that count several times or not at all.

    What the counts do not change is done once. An image of the same score as others is ranked with
    the last of them, as scikit-learn does.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    falling = np.take_along_axis(scores, order, 0)
    right = np.take_along_axis(truth, order, 0).astype(float)
    numbers = np.arange(len(scores))[:, None]
    last = np.append(falling[1:] != falling[:-1], np.ones((1, scores.shape[1]), bool), axis=0)
    ends = np.where(last, numbers, len(scores))
    ends = np.minimum.accumulate(ends[::-1], axis=0)[::-1]

    def measure(weights: Floats) -> Floats:
        counts = weights[order]
        hits = counts * right
        above = np.take_along_axis(np.cumsum(counts, axis=0), ends, 0)
        found = np.take_along_axis(np.cumsum(hits, axis=0), ends, 0)
        total = hits.sum(axis=0)
        with np.errstate(invalid="ignore"):
            area: Floats = (hits * found / np.maximum(above, 1e-300)).sum(axis=0) / total
        return area

    return measure
