"""How good answers with one label per image are, and their scores: from arrays alone.

`n` is the number of images. `confidence` is the score of each answer, float64 (n,); `correct` says
whether the answer is right, bool (n,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

BINS = 15
_POINTS = 20  # of the risk-coverage curve


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics:
    """How well one label is recognised.

    Attributes:
        label: the label.
        threshold: of several labels per image, the score from which this one is given; else None.
        average_precision: of several labels per image, how well its scores rank the images; NaN if
            no image has the label.
        precision: NaN if the label was never given.
        recall: NaN if no image has the label.
        f1: the harmonic mean of precision and recall.
        support: how many images have the label.
        answers: how many images were given it.
    """

    label: str
    threshold: float | None = None
    average_precision: float | None = None
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
    """Answering only the best-scored images: how many, the lowest score, the share wrong."""

    coverage: float
    score: float
    risk: float


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """A classifier's answers to images whose labels are known.

    Attributes:
        answer: class numbers, int64 (n,).
        truth: class numbers, int64 (n,). Of several right classes: the answer if it is one of
            them, else the first.
        confidence: the softmax score of the answer, float64 (n,).
        top5: whether a right class is among the five best, bool (n,).
        loss: -log of the right classes' summed scores, float64 (n,).
        labels: the classes' names.
    """

    answer: Counts
    truth: Counts
    confidence: Floats
    top5: Flags
    loss: Floats
    labels: tuple[str, ...]

    names = ("accuracy", "top5", "balanced_accuracy", "macro_f1", "ece", "nll")
    """The metrics in the order of `measurer`. Macro means are over classes with images; the
    negative log-likelihood is in nats."""

    compared = ("accuracy", "ece")
    """The metrics that evaluations are compared by."""

    def __len__(self) -> int:
        return len(self.answer)

    @property
    def size(self) -> int:
        """How much one bootstrap draw has to look at."""
        return 8 * len(self)

    @property
    def correct(self) -> Flags:
        """Whether the answer is right, bool (n,)."""
        return np.equal(self.answer, self.truth)

    def take(self, rows: Counts) -> Outcomes:
        """The outcomes of some of the images."""
        names = ("answer", "truth", "confidence", "top5", "loss")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def describe(self, row: int) -> tuple[str, str]:
        """The right label of an image and its answer."""
        return self.labels[self.truth[row]], self.labels[self.answer[row]]

    def metrics(self, draws: int = 1000) -> dict[str, Interval]:
        """The metrics in `names` (`top5` only above 5 classes) with their 95 % intervals.

        Intervals come from the bootstrap, except for counts of images, which have exact ones: the
        bootstrap sees no doubt in 20 right answers out of 20.
        """
        n, measure = len(self), self.measurer()
        found = measure_with_intervals(self.names, measure, n, draws, self.size)
        found["accuracy"], found["top5"] = measure_share(self.correct), measure_share(self.top5)
        if len(self.labels) <= 5:
            del found["top5"]
        return found

    def class_metrics(self) -> tuple[ClassMetrics, ...]:
        """Each class's metrics."""
        counts = (
            np.bincount(classes, minlength=len(self.labels))
            for classes in (self.answer[self.correct], self.answer, self.truth)
        )
        return compute_class_metrics(self.labels, *counts)

    def confused_pairs(self) -> list[tuple[str, str, int]]:
        """(Right label, wrong answer, images) of every pair that occurs, most frequent first."""
        n_classes, wrong = len(self.labels), ~self.correct
        pairs, counts = np.unique(
            self.truth[wrong] * n_classes + self.answer[wrong], return_counts=True
        )
        return [
            (self.labels[pairs[k] // n_classes], self.labels[pairs[k] % n_classes], int(counts[k]))
            for k in np.argsort(-counts, kind="stable")
        ]

    def reliability(self) -> list[Bin]:
        """The reliability curve over bins of equal mass, the highest scores first."""
        return _reliability(self.confidence, self.correct)

    def risk_coverage(self) -> list[RiskPoint]:
        """The risk-coverage curve at 20 coverages up to 1.

        Each point takes all images of its lowest score, so that `--min-score` selects it.
        """
        order = np.argsort(-self.confidence, kind="stable")
        scores, wrong = self.confidence[order], np.cumsum(~self.correct[order])
        found: dict[int, RiskPoint] = {}
        for point in range(1, _POINTS + 1):
            least = scores[-(-point * len(scores) // _POINTS) - 1]
            count = int(np.searchsorted(-scores, -least, side="right"))
            risk = float(wrong[count - 1]) / count
            found[count] = RiskPoint(count / len(scores), float(least), risk)
        return list(found.values())

    def measurer(self) -> Measure:
        """The metrics in `names` of images that count several times or not at all.

        Values that do not depend on the counts are computed once.
        """
        order = np.argsort(-self.confidence, kind="stable")
        gaps = (self.correct - self.confidence)[order]
        starts = _bin_starts(len(order))
        n_classes = len(self.labels)
        pairs, pair = np.unique(self.truth * n_classes + self.answer, return_inverse=True)
        truth, answer = np.divmod(pairs, n_classes)

        def measure(times: Counts) -> Floats:
            total = times.sum()
            images = np.bincount(pair, times, len(pairs))
            support = np.bincount(truth, images, n_classes)
            answers = np.bincount(answer, images, n_classes)
            hits = np.bincount(truth, images * (truth == answer), n_classes)
            present = support > 0
            return np.array(
                [
                    times @ self.correct / total,
                    times @ self.top5 / total,
                    (hits[present] / support[present]).mean(),
                    (2 * hits[present] / (support + answers)[present]).mean(),
                    np.abs(np.add.reduceat(times[order] * gaps, starts)).sum() / total,
                    times @ self.loss / total,
                ]
            )

        return measure


def compute_class_metrics(
    labels: Sequence[str], hits: Counts, answers: Counts, support: Counts, **others: Floats
) -> tuple[ClassMetrics, ...]:
    """Each label's metrics: from how often it was rightly given, given, and right, (n_classes,).

    `others` are further metrics, (n_classes,) each.
    """
    with np.errstate(invalid="ignore"):
        columns = {
            "precision": hits / answers,
            "recall": hits / support,
            "f1": 2 * hits / (answers + support),
            "support": support,
            "answers": answers,
            **others,
        }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return tuple(
        ClassMetrics(label=label, **dict(zip(columns, row, strict=True)))
        for label, row in zip(labels, rows, strict=True)
    )


def calibration_error(confidence: Floats, correct: Flags) -> float:
    """Expected calibration error: |accuracy - mean score| of each bin, weighted by its images.

    Guo et al. 2017 (arXiv 1706.04599), over the bins of `Outcomes.reliability`.
    """
    curve = _reliability(confidence, correct)
    return sum(b.images * abs(b.accuracy - b.confidence) for b in curve) / len(confidence)


def _reliability(confidence: Floats, correct: Flags) -> list[Bin]:
    """Images sorted by score, cut into parts of equal size (to one image).

    Bins of equal width would rest on a handful of images here and there; in these, images of the
    same score may fall into two bins.
    """
    starts, order = _bin_starts(len(confidence)), np.argsort(-confidence, kind="stable")
    counts = np.diff([*starts, len(confidence)])
    scores = np.add.reduceat(confidence[order], starts) / counts
    rates = np.add.reduceat(correct[order].astype(float), starts) / counts
    return [Bin(int(n), float(s), float(a)) for n, s, a in zip(counts, scores, rates, strict=True)]


def _bin_starts(n: int) -> Counts:
    """Where each of the bins of equal mass starts among n images."""
    return np.arange(min(BINS, n)) * n // min(BINS, n)
