"""How good answers with one label per image are, and their scores: from arrays alone.

`n` is the number of images throughout. `confidence` is the score of each answer, float64 (n,);
`correct` says whether the answer is right, bool (n,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipcls.metrics.intervals import (
    Counts,
    Flags,
    Floats,
    Interval,
    Measure,
    measure_share,
    measure_with_intervals,
)

__all__ = ["BINS", "Bin", "ClassMetrics", "Outcomes", "RiskPoint", "calibration_error"]

BINS = 15

_MOST_DRAWN = 50_000_000


@dataclass(frozen=True, slots=True)
class ClassMetrics:
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


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What a classifier answered on images whose labels are known.

    Attributes:
        answer: class numbers, int64 (n,).
        truth: class numbers, int64 (n,). Where several are right: the answer, if it is one of
            them, else the first of them.
        confidence: the softmax score of the answer, float64 (n,).
        top5: whether a right class is among the five best, bool (n,).
        loss: -log of the scores' sum over the right classes, float64 (n,).
        n_classes: how many classes there are.
    """

    answer: Counts
    truth: Counts
    confidence: Floats
    top5: Flags
    loss: Floats
    n_classes: int

    names = ("accuracy", "top5", "balanced_accuracy", "macro_f1", "ece", "nll", "aurc")
    """The metrics in the order of `measurer`; the macro means are over classes with images, the
    loss is in nats, AURC is the mean over k of the error among the k best scores (Geifman et al.
    2019, arXiv 1805.08206); images of the same score count as in the mean over their orders."""

    compared = ("accuracy", "ece")
    """Those that evaluations are compared by."""

    def __len__(self) -> int:
        return len(self.answer)

    @property
    def correct(self) -> Flags:
        """Whether the answer is right, bool (n,)."""
        return np.equal(self.answer, self.truth)

    def take(self, rows: Counts) -> Outcomes:
        """The outcomes of some of the images."""
        return Outcomes(
            self.answer[rows],
            self.truth[rows],
            self.confidence[rows],
            self.top5[rows],
            self.loss[rows],
            self.n_classes,
        )

    def describe(self, row: int, labels: tuple[str, ...]) -> tuple[str, str]:
        """The right label of an image and its answer."""
        return labels[self.truth[row]], labels[self.answer[row]]

    def limit_draws(self, draws: int) -> int:
        """As many bootstrap draws as take seconds: `draws`, or fewer, but at least 200."""
        return min(draws, max(200, _MOST_DRAWN // len(self)))

    def metrics(self, draws: int = 1000) -> dict[str, Interval]:
        """The metrics named in `names`, without `top5` up to 5 classes, with 95 % intervals.

        The intervals are by the bootstrap; those of counts of images are exact, since the
        bootstrap of 20 right answers out of 20 knows no doubt.
        """
        found = measure_with_intervals(self.measurer(), len(self), self.limit_draws(draws))
        named = {
            name: one if name == "nll" else Interval(one.value, one.low, min(one.high, 1.0))
            for name, one in zip(self.names, found, strict=True)
        }
        named["accuracy"], named["top5"] = measure_share(self.correct), measure_share(self.top5)
        if self.n_classes <= 5:
            del named["top5"]
        return named

    def class_metrics(self) -> tuple[ClassMetrics, ...]:
        """Precision, recall and F1 of every class, by scikit-learn."""
        from sklearn.metrics import precision_recall_fscore_support

        columns = precision_recall_fscore_support(
            self.truth, self.answer, labels=np.arange(self.n_classes), zero_division=np.nan
        )
        answers = np.bincount(self.answer, minlength=self.n_classes)
        return tuple(
            ClassMetrics(float(p), float(r), float(f), int(s), int(a))
            for p, r, f, s, a in zip(*columns, answers, strict=True)
        )

    def confused_pairs(self) -> list[tuple[int, int, int]]:
        """(right class, wrong answer, images) of every pair that occurs, most frequent first."""
        wrong = ~self.correct
        pairs = self.truth[wrong] * self.n_classes + self.answer[wrong]
        found, counts = np.unique(pairs, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [
            (*divmod(int(pair), self.n_classes), int(count))
            for pair, count in zip(found[order], counts[order], strict=True)
        ]

    def reliability(self) -> list[Bin]:
        """The reliability curve over bins of equal mass, the highest scores first."""
        return _reliability(self.confidence, self.correct)

    def risk_coverage(self, points: int = 20) -> list[RiskPoint]:
        """The risk-coverage curve at `points` coverages up to 1.

        Each point takes all images of its least score, so that `--min-score` selects it.
        """
        order, errors = _errors_by_score(self.confidence, self.correct)
        scores, total = self.confidence[order], np.cumsum(errors)
        found: dict[int, RiskPoint] = {}
        for point in range(1, points + 1):
            least = scores[-(-point * len(scores) // points) - 1]
            count = int(np.searchsorted(-scores, -least, side="right"))
            risk = float(total[count - 1]) / count
            found[count] = RiskPoint(count / len(scores), float(least), risk)
        return list(found.values())

    def measurer(self) -> Measure:
        """The metrics named in `names` of images that count several times or not at all.

        Everything that the counts do not change is done once; images are taken in the order of
        their scores, the highest first, from the start.
        """
        order, errors = _errors_by_score(self.confidence, self.correct)
        right = self.correct[order].astype(float)
        top5, loss = self.top5[order].astype(float), self.loss[order]
        gaps = right - self.confidence[order]
        starts = _bin_starts(len(order))
        n_classes = self.n_classes
        pairs, pair = np.unique((self.truth * n_classes + self.answer)[order], return_inverse=True)
        truth, answer = np.divmod(pairs, n_classes)

        def measure(times: Counts) -> Floats:
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


def calibration_error(confidence: Floats, correct: Flags) -> float:
    """Expected calibration error: |accuracy - mean score| of each bin, weighted by its images.

    Guo et al. 2017 (arXiv 1706.04599), over the bins of `Outcomes.reliability`.
    """
    curve = _reliability(confidence, correct)
    return sum(b.images * abs(b.accuracy - b.confidence) for b in curve) / len(confidence)


def _reliability(confidence: Floats, correct: Flags) -> list[Bin]:
    """Images sorted by score, cut into parts of equal size (to one image).

    So no bin rests on a handful of images as bins of equal width do; images of the same score may
    be in two bins.
    """
    starts, order = _bin_starts(len(confidence)), np.argsort(-confidence, kind="stable")
    counts = np.diff([*starts, len(confidence)])
    scores = np.add.reduceat(confidence[order], starts) / counts
    rates = np.add.reduceat(correct[order].astype(float), starts) / counts
    return [Bin(int(n), float(s), float(a)) for n, s, a in zip(counts, scores, rates, strict=True)]


def _bin_starts(n: int) -> Counts:
    """Where each of the bins of equal mass starts among n images."""
    return np.arange(min(BINS, n)) * n // min(BINS, n)


def _errors_by_score(confidence: Floats, correct: Flags) -> tuple[Counts, Floats]:
    """The order of falling score and, in it, each image's error; that of equal ones is shared."""
    order = np.argsort(-confidence, kind="stable")
    wrong = 1.0 - correct[order]
    _, starts, counts = np.unique(-confidence[order], return_index=True, return_counts=True)
    return order, np.repeat(np.add.reduceat(wrong, starts) / counts, counts)
