"""How good several labels per image are: from arrays alone."""

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
from clipcls.metrics.single_label import ClassMetrics, compute_class_metrics


@dataclass(frozen=True, slots=True, eq=False)
class MultiLabelOutcomes:
    """Every image and label: the score, whether it was given, whether it is right.

    Attributes:
        scores: float64 (n, n_classes).
        given: which labels each image was given, bool (n, n_classes).
        truth: which labels each image has, bool (n, n_classes).
        labels: the labels' names.
    """

    scores: Floats
    given: Flags
    truth: Flags
    labels: tuple[str, ...]

    names = compared = ("map_macro", "map_micro", "f1_macro", "f1_micro")
    """`map_macro` is the mean over labels of the average precision (as scikit-learn's, without
    interpolation), `map_micro` that of all pairs of an image and a label in one ranking. Macro
    means are over labels that images have."""

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def size(self) -> int:
        """How much one bootstrap draw has to look at."""
        return self.truth.size

    @property
    def correct(self) -> Flags:
        """Whether an image is given exactly its labels, bool (n,)."""
        return np.asarray(np.equal(self.given, self.truth).all(axis=1))

    @property
    def confidence(self) -> Floats:
        """The highest score of each image, float64 (n,)."""
        return np.asarray(self.scores.max(axis=1))

    def take(self, rows: Counts, columns: Counts) -> MultiLabelOutcomes:
        """The outcomes of some of the images and labels."""
        at = np.ix_(rows, columns)
        labels = tuple(self.labels[column] for column in columns)
        return MultiLabelOutcomes(self.scores[at], self.given[at], self.truth[at], labels)

    def describe(self, row: int) -> tuple[str, str]:
        """The right labels of an image and those it was given, as text."""
        right, given = (
            ", ".join(compress(self.labels, which[row])) or "none"
            for which in (self.truth, self.given)
        )
        return right, given

    def wrong(self, most: int) -> list[tuple[int, int]]:
        """Image and label of the highest-scored labels that were wrongly given."""
        return _find_lowest(self.given & ~self.truth, -self.scores, most)

    def missed(self, most: int) -> list[tuple[int, int]]:
        """Image and label of the lowest-scored right labels that were not given."""
        return _find_lowest(self.truth & ~self.given, self.scores, most)

    def metrics(self, draws: int = 1000) -> dict[str, Interval]:
        """The metrics in `names`, each with its 95 % bootstrap interval."""
        return measure_with_intervals(self.names, self.measurer(), len(self), draws, self.size)

    def class_metrics(self, thresholds: Floats) -> tuple[ClassMetrics, ...]:
        """Each label's metrics; `thresholds` are the scores from which labels are given."""
        counts = (m.sum(axis=0) for m in (self.given & self.truth, self.given, self.truth))
        precision = _average_precision(self.scores, self.truth)(np.ones(len(self)))
        return compute_class_metrics(
            self.labels, *counts, average_precision=precision, threshold=thresholds
        )

    def measurer(self) -> Measure:
        """The metrics in `names` of images that count several times or not at all."""
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


def _find_lowest(which: Flags, keys: Floats, most: int) -> list[tuple[int, int]]:
    """Rows and columns of the lowest keys among those that are flagged."""
    rows, columns = np.nonzero(which)
    best = np.argsort(keys[rows, columns], kind="stable")[:most]
    return list(zip(rows[best].tolist(), columns[best].tolist(), strict=True))


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

    Values that do not depend on the counts are computed once. Images of equal score share the rank
    of the last of them, as in scikit-learn.
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
