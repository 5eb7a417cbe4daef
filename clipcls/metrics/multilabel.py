"""How good several labels an image are: the numbers, from arrays alone.

`scores` is float64 (n, n_classes), `truth` and `given` bool (n, n_classes): which labels each image
has, and which it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipcls.metrics.single_label import Interval, bootstrap

__all__ = [
    "NAMES",
    "LabelFigures",
    "f1_scores",
    "figures_by_count",
    "label_figures",
    "multilabel_draws",
    "multilabel_figures",
]

NAMES = ("map_macro", "map_micro", "f1_macro", "f1_micro")
_MOST_PAIRS = 400_000_000

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LabelFigures:
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


def label_figures(scores: Floats, given: Flags, truth: Flags) -> list[LabelFigures]:
    """Each label's figures."""
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    # One column more, since scikit-learn takes a single one for two classes.
    nothing = np.zeros((len(truth), 1), bool)
    precision, recall, f1, support = precision_recall_fscore_support(
        np.hstack([truth, nothing]),
        np.hstack([given, nothing]),
        average=None,
        zero_division=np.nan,
    )
    answers = given.sum(axis=0)
    return [
        LabelFigures(
            float(average_precision_score(truth[:, k], scores[:, k])) if support[k] else np.nan,
            float(precision[k]),
            float(recall[k]),
            float(f1[k]),
            int(support[k]),
            int(answers[k]),
        )
        for k in range(truth.shape[1])
    ]


def f1_scores(given: Flags, truth: Flags) -> tuple[float, float]:
    """F1, macro (over the labels that images have) and micro; 0 where there is nothing."""
    measure = _f1_measurer(given, truth)
    macro, micro = measure(np.ones(len(truth)))
    return float(macro), float(micro)


def multilabel_figures(
    scores: Floats, given: Flags, truth: Flags, draws: int = 1000
) -> dict[str, Interval]:
    """The figures of a whole evaluation, each with its 95 % bootstrap interval.

    Returns:
        `map_macro`, the mean over labels of the average precision (as scikit-learn's, without
        interpolation), and `map_micro`, that of all pairs of an image and a label in one ranking;
        `f1_macro` and `f1_micro` of the labels that were given. The means are over the labels that
        images have.
    """
    n = len(truth)
    measure = figures_by_count(scores, given, truth)
    values = measure(np.ones(n, np.int64))
    low, high = bootstrap(measure, n, multilabel_draws(truth, draws))
    return {
        name: Interval(float(v), float(a), float(min(b, 1.0)))
        for name, v, a, b in zip(NAMES, values, low, high, strict=True)
    }


def multilabel_draws(truth: Flags, draws: int) -> int:
    """How many bootstrap draws take seconds: `draws`, or fewer, but at least 200."""
    return min(draws, max(200, _MOST_PAIRS // truth.size))


def figures_by_count(
    scores: Floats, given: Flags, truth: Flags
) -> Callable[[NDArray[np.int64]], Floats]:
    """The figures named in `NAMES`, of images that count as often as is said, int64 (n,)."""
    f1 = _f1_measurer(given, truth)
    ranked = _average_precision(scores, truth)
    pooled = _average_precision(scores.reshape(-1, 1), truth.reshape(-1, 1))
    n_classes = truth.shape[1]

    def measure(times: NDArray[np.int64]) -> Floats:
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
