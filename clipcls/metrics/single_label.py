"""How good answers and their scores are: the numbers of an evaluation, from arrays alone.

`n` is the number of images throughout. `confidence` is the score of each answer, float64 (n,);
`correct` says whether the answer is right, bool (n,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BINS",
    "Bin",
    "ClassFigures",
    "Interval",
    "Outcomes",
    "RiskPoint",
    "aurc",
    "binomial_bound",
    "bootstrap",
    "calibration_error",
    "class_figures",
    "confused_pairs",
    "figures",
    "reliability",
    "risk_coverage",
    "share",
]

BINS = 15

_MOST_DRAWN = 50_000_000

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a classifier answered on images whose labels are known.

    Attributes:
        answer: class numbers, int64 (n,).
        truth: class numbers, int64 (n,). Where several are right: the answer, if it is one of
            them, else the first of them.
        confidence: the softmax score of the answer, float64 (n,).
        top5: whether a right class is among the five best, bool (n,).
        loss: -log of the scores' sum over the right classes, float64 (n,).
    """

    answer: NDArray[np.int64]
    truth: NDArray[np.int64]
    confidence: Floats
    top5: NDArray[np.bool_]
    loss: Floats

    def __len__(self) -> int:
        return len(self.answer)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the answer is right, bool (n,)."""
        return np.equal(self.answer, self.truth)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class: how many images have it and were answered with it, and what follows.

    `precision` is nan where it never was the answer, `recall` where no image has it.
    """

    precision: float
    recall: float
    f1: float
    support: int
    answers: int


@dataclass(frozen=True, slots=True)
class Bin:
    """A point of the reliability curve: images, their mean score and the share that is right."""

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class RiskPoint:
    """Answering only the images of the best scores: how many, the least score, the share wrong."""

    coverage: float
    score: float
    risk: float


def class_figures(outcomes: Outcomes, n_classes: int) -> list[ClassFigures]:
    """Precision, recall and F1 of every class, by scikit-learn."""
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        outcomes.truth, outcomes.answer, labels=np.arange(n_classes), zero_division=np.nan
    )
    answers = np.bincount(outcomes.answer, minlength=n_classes)
    return [
        ClassFigures(float(p), float(r), float(f), int(s), int(a))
        for p, r, f, s, a in zip(precision, recall, f1, support, answers, strict=True)
    ]


def confused_pairs(outcomes: Outcomes, n_classes: int) -> list[tuple[int, int, int]]:
    """(right class, wrong answer, images) of every pair that occurs, the most frequent first."""
    wrong = ~outcomes.correct
    pairs, counts = np.unique(
        outcomes.truth[wrong] * n_classes + outcomes.answer[wrong], return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    return [
        (int(pair) // n_classes, int(pair) % n_classes, int(count))
        for pair, count in zip(pairs[order], counts[order], strict=True)
    ]


def reliability(confidence: Floats, correct: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """The reliability curve over bins of equal mass, the highest scores first.

    The images are sorted by score and cut into `bins` parts of equal size (to one image), so that
    no bin rests on a handful of images as those of equal width do; images of the same score may
    be in two bins.
    """
    starts, order = _bin_starts(len(confidence), bins), np.argsort(-confidence, kind="stable")
    counts = np.diff([*starts, len(confidence)])
    scores = np.add.reduceat(confidence[order], starts) / counts
    rates = np.add.reduceat(correct[order].astype(float), starts) / counts
    return [Bin(int(n), float(s), float(a)) for n, s, a in zip(counts, scores, rates, strict=True)]


def calibration_error(confidence: Floats, correct: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error: |accuracy - mean score| of each bin, weighted by its images.

    Guo et al. 2017 (arXiv 1706.04599), over the bins of `reliability`.
    """
    curve = reliability(confidence, correct, bins)
    return sum(b.images * abs(b.accuracy - b.confidence) for b in curve) / len(confidence)


def aurc(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Area under the risk-coverage curve: the mean over k of the error among the k best scores.

    Geifman et al. 2019 (arXiv 1805.08206); less is better. Images of the same score count as in
    the mean over their orders.
    """
    _, errors = _errors_by_score(confidence, correct)
    return float(np.mean(np.cumsum(errors) / np.arange(1, len(errors) + 1)))


def risk_coverage(
    confidence: Floats, correct: NDArray[np.bool_], points: int = 20
) -> list[RiskPoint]:
    """The risk-coverage curve at `points` coverages up to 1.

    Each point takes all images of its least score, so that it can be had by `--min-score`.
    """
    order, errors = _errors_by_score(confidence, correct)
    scores, total = confidence[order], np.cumsum(errors)
    found: dict[int, RiskPoint] = {}
    for point in range(1, points + 1):
        least = scores[-(-point * len(scores) // points) - 1]
        count = int(np.searchsorted(-scores, -least, side="right"))
        found[count] = RiskPoint(count / len(scores), float(least), float(total[count - 1]) / count)
    return list(found.values())


def figures(outcomes: Outcomes, n_classes: int, draws: int = 1000) -> dict[str, Interval]:
    """The figures of a whole evaluation, each with its 95 % interval.

    The intervals are by the bootstrap; those of the two that are counts of images are exact
    (Clopper and Pearson 1934), since the bootstrap of 20 right answers out of 20 knows no doubt.

    Returns:
        `accuracy`; `top5` where there are more than 5 classes; `balanced_accuracy` and `macro_f1`,
        both means over the classes that have images; `ece`; `nll`, the mean loss in nats; `aurc`.
    """
    measure = _measurer(outcomes, n_classes)
    values = measure(np.ones(len(outcomes), np.int64))
    low, high = bootstrap(measure, len(outcomes), draws)
    high[_SHARES] = np.minimum(high[_SHARES], 1)
    found = {
        name: Interval(float(v), float(a), float(b))
        for name, v, a, b in zip(_NAMES, values, low, high, strict=True)
    }
    found["accuracy"], found["top5"] = share(outcomes.correct), share(outcomes.top5)
    if n_classes <= 5:
        del found["top5"]
    return found


def share(hits: NDArray[np.bool_]) -> Interval:
    """The share of images that are hits, with its exact 95 % interval (Clopper and Pearson 1934).

    Args:
        hits: bool (n,).
    """
    n, k = len(hits), int(hits.sum())
    return Interval(k / n, 1 - binomial_bound(n - k, n, 0.025), binomial_bound(k, n, 0.025))


def bootstrap(
    measure: Callable[[NDArray[np.int64]], Floats], n: int, draws: int = 1000, seed: int = 0
) -> tuple[Floats, Floats]:
    """95 % intervals over images drawn with replacement (Efron 1979), seeded.

    Percentiles, moved by the bootstrap's estimate of the bias: drawn images look less calibrated
    than the real ones, and without that the interval of a small ECE would lie above it.

    Args:
        measure: from how often each image was drawn, int64 (n,), to figures, float64 (m,), none
            of which can be below 0.
        n: the number of images.
        draws: how many times n images are drawn; fewer, but at least 200, where n is so large
            that they would take more than seconds.

    Returns:
        the lower and the upper ends, float64 (m,) each.
    """
    rng = np.random.default_rng(seed)
    draws = min(draws, max(200, _MOST_DRAWN // n))
    rows = np.array(
        [
            measure(np.bincount(rng.integers(n, size=n, dtype=np.int32), minlength=n))
            for _ in range(draws)
        ]
    )
    bias = rows.mean(axis=0) - measure(np.ones(n, np.int64))
    low, high = np.maximum(np.quantile(rows, [0.025, 0.975], axis=0) - bias, 0)
    return low, high


def binomial_bound(hits: int, n: int, alpha: float) -> float:
    """The rate that is exceeded with probability `alpha` at most, given `hits` out of n.

    Clopper and Pearson 1934: exact whatever n is.
    """
    from scipy.special import betaincinv

    return 1.0 if hits >= n else float(betaincinv(hits + 1, n - hits, 1 - alpha))


_NAMES = ("accuracy", "top5", "balanced_accuracy", "macro_f1", "ece", "nll", "aurc")
_SHARES = [number for number, name in enumerate(_NAMES) if name != "nll"]  # 1 at most


def _measurer(outcomes: Outcomes, n_classes: int) -> Callable[[NDArray[np.int64]], Floats]:
    """`_NAMES` of images that count several times or not at all.

    Everything that the counts do not change is done once; images are taken in the order of their
    scores, the highest first, from the start.
    """
    order, errors = _errors_by_score(outcomes.confidence, outcomes.correct)
    right = outcomes.correct[order].astype(float)
    top5, loss = outcomes.top5[order].astype(float), outcomes.loss[order]
    gaps = right - outcomes.confidence[order]
    starts = _bin_starts(len(order), BINS)
    pairs, pair = np.unique(
        (outcomes.truth * n_classes + outcomes.answer)[order], return_inverse=True
    )
    truth, answer = np.divmod(pairs, n_classes)

    def measure(times: NDArray[np.int64]) -> Floats:
        weights = times[order].astype(float)
        total = weights.sum()
        images = np.bincount(pair, weights, len(pairs))
        support = np.bincount(truth, images, n_classes)
        answers = np.bincount(answer, images, n_classes)
        hits = np.bincount(truth, images * (truth == answer), n_classes)
        present = support > 0
        recall = hits[present] / support[present]
        f1 = 2 * hits[present] / (support + answers)[present]
        gap = np.abs(np.add.reduceat(weights * gaps, starts)).sum() / total
        # The copies of an image stand one behind the other: the risk in the middle of them.
        behind = (weights - 1) / 2
        risk = np.cumsum(weights * errors) - behind * errors
        risk /= np.cumsum(weights) - behind
        return np.array(
            [
                weights @ right / total,
                weights @ top5 / total,
                recall.mean(),
                f1.mean(),
                gap,
                weights @ loss / total,
                weights @ risk / total,
            ]
        )

    return measure


def _bin_starts(n: int, bins: int) -> NDArray[np.int64]:
    """Where each of the bins of equal mass starts among n images."""
    return np.arange(min(bins, n)) * n // min(bins, n)


def _errors_by_score(
    confidence: Floats, correct: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Floats]:
    """The order of falling score and, in it, each image's error; that of equal ones is shared."""
    order = np.argsort(-confidence, kind="stable")
    wrong = 1.0 - correct[order]
    _, starts, counts = np.unique(-confidence[order], return_index=True, return_counts=True)
    return order, np.repeat(np.add.reduceat(wrong, starts) / counts, counts)
