"""A classifier and labelled images -> `Evaluation`: how good its answers and its scores are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.labelled import Known, Watch, embed_known, right_columns
from clipcls.classification.scores import logit_blocks
from clipcls.data.dataset import DatasetLike
from clipcls.data.matching import Excluded
from clipcls.metrics.single_label import (
    BINS,
    Bin,
    ClassFigures,
    Interval,
    Outcomes,
    RiskPoint,
    class_figures,
    confused_pairs,
    figures,
    reliability,
    risk_coverage,
    share,
)

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.predictions import Provenance

__all__ = [
    "Evaluation",
    "evaluate",
    "outcomes_of",
    "rounded",
]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a classifier is on labelled images.

    Attributes:
        images: how many images the figures are of.
        several: how many of them have several right labels.
        figures: name -> figure with its 95 % interval, as in `metrics.figures`.
        labels: the classifier's labels.
        classes: each label's figures, in the order of `labels`.
        confused: (right label, wrong answer, images), the most frequent first.
        reliability: the reliability curve, over bins of equal mass.
        risk_coverage: the risk-coverage curve.
        excluded: what no figure counts, and labels that no mean over classes counts.
        made_by: the model and prompts.
        answers: path, right label, answer and score of each image.
        levels: where the labels have a hierarchy, the share of right answers at each of its
            levels, from the root; the last is the accuracy.
        level_names: their names, or ().
        notes: why these figures are likely better than those of new images.
    """

    images: int
    several: int
    figures: dict[str, Interval]
    labels: tuple[str, ...]
    classes: tuple[ClassFigures, ...]
    confused: tuple[tuple[str, str, int], ...]
    reliability: tuple[Bin, ...]
    risk_coverage: tuple[RiskPoint, ...]
    excluded: Excluded
    made_by: Provenance
    answers: tuple[tuple[str, str, str, float], ...]
    levels: tuple[Interval, ...] = ()
    level_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """As in JSON; what is not defined (the precision of what was never answered) is null."""
        return {
            "images": self.images,
            "with_several_labels": self.several,
            "figures": {name: rounded(asdict(figure)) for name, figure in self.figures.items()},
            "interval": 0.95,
            **({"notes": list(self.notes)} if self.notes else {}),
            **self._level_record(),
            "per_class": [
                {"label": label, **rounded(asdict(figure))}
                for label, figure in zip(self.labels, self.classes, strict=True)
            ],
            "confused": [
                {"label": label, "answer": answer, "images": count}
                for label, answer, count in self.confused
            ],
            "reliability": {
                "bins": f"{BINS} of equal mass",
                "curve": [rounded(asdict(b)) for b in self.reliability],
            },
            "risk_coverage": [rounded(asdict(point)) for point in self.risk_coverage],
            **self.excluded.record(),
            **self.made_by.to_dict(),
        }

    def _level_record(self) -> dict[str, Any]:
        if not self.levels:
            return {}
        names = self.level_names or ("",) * len(self.levels)
        return {
            "levels": [
                {"level": number, "name": name, **rounded(asdict(figure))}
                for number, (name, figure) in enumerate(zip(names, self.levels, strict=True), 1)
            ]
        }


def evaluate(
    classifier: ZeroShotClassifier,
    data: DatasetLike,
    *,
    draws: int = 1000,
    watch: Watch | None = None,
) -> Evaluation:
    """Measures a fitted classifier on labelled images.

    An image with several right labels is right if the answer is one of them; in the figures of
    single classes it then counts for that one, and else for its first. Its loss is that of the
    sum of the scores of its labels.

    Args:
        classifier: a fitted `ZeroShotClassifier`.
        data: a folder with a folder per class, a csv file, or pairs (see `make_dataset`).
        draws: how many bootstrap draws the intervals are made of.
        watch: called after each image, with the `ImageError` if it could not be read.

    Raises:
        InputError: there is no labelled image that can be used.
    """
    known = embed_known(classifier, data, watch)
    outcomes = outcomes_of(classifier, known.vectors, known.truth)
    labels = tuple(str(label) for label in classifier.classes_)
    return Evaluation(
        images=len(outcomes),
        several=sum(len(classes) > 1 for classes in known.truth),
        figures=figures(outcomes, len(labels), draws),
        labels=labels,
        classes=tuple(class_figures(outcomes, len(labels))),
        confused=tuple(
            (labels[right], labels[wrong], count)
            for right, wrong, count in confused_pairs(outcomes, len(labels))
        ),
        reliability=tuple(reliability(outcomes.confidence, outcomes.correct)),
        risk_coverage=tuple(risk_coverage(outcomes.confidence, outcomes.correct)),
        excluded=known.excluded,
        made_by=classifier.made_by_,
        answers=tuple(
            (path, labels[right], labels[answer], float(score))
            for path, right, answer, score in zip(
                known.paths, outcomes.truth, outcomes.answer, outcomes.confidence, strict=True
            )
        ),
        levels=_accuracies(classifier, known),
        level_names=classifier.hierarchy_.level_names if classifier.hierarchy_ else (),
        notes=known.notes,
    )


def _accuracies(classifier: ZeroShotClassifier, known: Known) -> tuple[Interval, ...]:
    """The accuracy at each level of the labels' hierarchy, for a classifier whose classes are its
    labels; () for others.
    """
    if classifier.hierarchy_ is None or classifier.level is not None:
        return ()
    levels = classifier.hierarchy_.levels
    hits = np.empty((len(levels), len(known.vectors)), bool)
    for rows, logits in logit_blocks(classifier, known.vectors):
        right = right_columns(known.truth[rows], logits.shape[1]).astype(float)
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        for number, level in enumerate(levels):
            answers = level.sums(scores).argmax(axis=1)
            hits[number, rows] = level.best(right)[np.arange(len(answers)), answers] > 0
    return tuple(map(share, hits))


def outcomes_of(
    classifier: ZeroShotClassifier,
    vectors: NDArray[np.float32],
    truth: Sequence[tuple[int, ...]],
) -> Outcomes:
    """What the classifier answers, beside what is right.

    Args:
        classifier: fitted.
        vectors: float32 (n, dim).
        truth: the right classes of each image.
    """
    n = len(vectors)
    answer, first = np.empty(n, np.int64), np.array([classes[0] for classes in truth], np.int64)
    confidence, loss = np.empty(n), np.empty(n)
    hit, top5 = np.empty(n, bool), np.empty(n, bool)
    for rows, logits in logit_blocks(classifier, vectors):
        right = right_columns(truth[rows], logits.shape[1])
        best = logits.max(axis=1)
        total = best + np.log(np.exp(logits - best[:, None]).sum(axis=1))
        inside = np.where(right, logits, -np.inf)
        best_inside = inside.max(axis=1)
        answer[rows] = logits.argmax(axis=1)
        hit[rows] = right[np.arange(len(logits)), answer[rows]]
        confidence[rows] = np.exp(best - total)
        top5[rows] = (logits > best_inside[:, None]).sum(axis=1) < 5
        log_inside = best_inside + np.log(np.exp(inside - best_inside[:, None]).sum(axis=1))
        loss[rows] = np.maximum(total - log_inside, 0)
    return Outcomes(answer, np.where(hit, answer, first), np.minimum(confidence, 1), top5, loss)


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures as in JSON: six decimals, null for nan."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return None if math.isnan(value) else round(value, 6)
        return value

    return {name: plain(value) for name, value in figures.items()}
