"""A classifier and labelled images -> an evaluation: how good its answers and its scores are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.labelled import Known, Watch, embed_known, right_columns
from clipcls.classification.multilabel import MultiLabelClassifier
from clipcls.data.dataset import DatasetLike
from clipcls.data.matching import Excluded
from clipcls.errors import not_fitted
from clipcls.metrics.intervals import Flags, Floats, Interval, measure_share
from clipcls.metrics.multilabel import LabelMetrics, MultiLabelOutcomes
from clipcls.metrics.single_label import BINS, ClassMetrics, Outcomes

if TYPE_CHECKING:
    from clipcls.classification.image_classifier import ImageClassifier
    from clipcls.predictions import Provenance

__all__ = [
    "BaseEvaluation",
    "Evaluation",
    "MultiLabelEvaluation",
    "compute_outcomes",
    "evaluate",
    "round_metrics",
]

_TELLING = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseEvaluation:
    """How good a classifier is on labelled images: what one label and several have in common.

    Attributes:
        paths: the images that the metrics are of.
        outcomes: what was answered for each of them, beside what is right; not in the record.
        metrics: name -> metric with its 95 % interval; the names are explained in `outcomes.names`.
        labels: the classifier's labels.
        classes: each label's metrics, in the order of `labels`.
        excluded: what no metric counts, and labels that no mean over classes counts.
        provenance: the model and prompts.
        notes: why these metrics are likely better than those of new images.
    """

    paths: tuple[str, ...]
    outcomes: Outcomes | MultiLabelOutcomes = field(compare=False, repr=False)
    metrics: dict[str, Interval]
    labels: tuple[str, ...]
    classes: tuple[ClassMetrics | LabelMetrics, ...]
    excluded: Excluded
    provenance: Provenance
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """How many images the metrics are of."""
        return len(self.paths)

    def to_dict(self) -> dict[str, Any]:
        """As in JSON; what is not defined (the precision of what was never given) is null."""
        return {
            "images": self.images,
            "metrics": {name: round_metrics(asdict(one)) for name, one in self.metrics.items()},
            "interval": 0.95,
            **({"notes": list(self.notes)} if self.notes else {}),
            "per_class": [
                {"label": label, **one, **round_metrics(asdict(metrics))}
                for label, one, metrics in zip(
                    self.labels, self._label_details(), self.classes, strict=True
                )
            ],
            **self._details(),
            **self.excluded.record(),
            **self.provenance.to_dict(),
        }

    def _details(self) -> dict[str, Any]:
        """What the record says of this kind of evaluation alone."""
        return {}

    def _label_details(self) -> Sequence[dict[str, Any]]:
        """The same of each label."""
        return [{}] * len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(BaseEvaluation):
    """How good a classifier with one label per image is on labelled images.

    Attributes:
        several: how many of the images have several right labels.
        levels: where the labels have a hierarchy, the share of right answers at each of its
            levels, from the root; the last is the accuracy.
        level_names: their names, or ().
    """

    outcomes: Outcomes = field(compare=False, repr=False)
    classes: tuple[ClassMetrics, ...]
    several: int = 0
    levels: tuple[Interval, ...] = ()
    level_names: tuple[str, ...] = ()

    @property
    def confused(self) -> tuple[tuple[str, str, int], ...]:
        """(Right label, wrong answer, images), the most frequent first."""
        return tuple(
            (self.labels[right], self.labels[wrong], count)
            for right, wrong, count in self.outcomes.confused_pairs()
        )

    def _details(self) -> dict[str, Any]:
        names = self.level_names or ("",) * len(self.levels)
        levels = [
            {"level": number, "name": name, **round_metrics(asdict(share))}
            for number, (name, share) in enumerate(zip(names, self.levels, strict=True), 1)
        ]
        return {
            "with_several_labels": self.several,
            **({"levels": levels} if levels else {}),
            "confused": [
                {"label": label, "answer": answer, "images": count}
                for label, answer, count in self.confused
            ],
            "reliability": {
                "bins": f"{BINS} of equal mass",
                "curve": [round_metrics(asdict(b)) for b in self.outcomes.reliability()],
            },
            "risk_coverage": [round_metrics(asdict(p)) for p in self.outcomes.risk_coverage()],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiLabelEvaluation(BaseEvaluation):
    """How good a classifier with several labels per image is on labelled images.

    Attributes:
        thresholds: the score from which each label is given.
    """

    outcomes: MultiLabelOutcomes = field(compare=False, repr=False)
    classes: tuple[LabelMetrics, ...]
    thresholds: tuple[float, ...]

    @property
    def wrong(self) -> tuple[tuple[str, str, float], ...]:
        """Path, label and score of the labels wrongly given with the highest scores."""
        return self._telling(self.outcomes.given & ~self.outcomes.truth, -self.outcomes.scores)

    @property
    def missed(self) -> tuple[tuple[str, str, float], ...]:
        """The same of the right labels with the lowest scores that were not given."""
        return self._telling(self.outcomes.truth & ~self.outcomes.given, self.outcomes.scores)

    def _telling(self, which: Flags, keys: Floats) -> tuple[tuple[str, str, float], ...]:
        rows, columns = np.nonzero(which)
        best = np.argsort(keys[rows, columns], kind="stable")[:_TELLING]
        return tuple(
            (self.paths[row], self.labels[column], float(self.outcomes.scores[row, column]))
            for row, column in zip(rows[best], columns[best], strict=True)
        )

    def _details(self) -> dict[str, Any]:
        right, given = (
            float(which.sum(axis=1).mean()) for which in (self.outcomes.truth, self.outcomes.given)
        )
        return {
            "labels_per_image": round_metrics({"right": right, "given": given}),
            "unknown": int((~self.outcomes.given.any(axis=1)).sum()),
        }

    def _label_details(self) -> Sequence[dict[str, Any]]:
        return [{"threshold": round(threshold, 6)} for threshold in self.thresholds]


@overload
def evaluate(
    classifier: ImageClassifier,
    data: DatasetLike,
    *,
    draws: int = ...,
    watch: Watch | None = ...,
) -> Evaluation: ...


@overload
def evaluate(
    classifier: MultiLabelClassifier,
    data: DatasetLike,
    *,
    draws: int = ...,
    watch: Watch | None = ...,
) -> MultiLabelEvaluation: ...


def evaluate(
    classifier: ImageClassifier | MultiLabelClassifier,
    data: DatasetLike,
    *,
    draws: int = 1000,
    watch: Watch | None = None,
) -> Evaluation | MultiLabelEvaluation:
    """Measures a fitted classifier on labelled images.

    With one label per image, an image with several right labels is right if the answer is one of
    them; in the metrics of single classes it then counts for that one, and else for its first. Its
    loss is that of the sum of the scores of its labels. With several labels per image, a label that
    an image is not said to have counts as one it does not have.

    Args:
        classifier: fitted.
        data: a folder with a folder per class, a csv file, or pairs (see `make_dataset`); for
            several labels per image an image may have no label.
        draws: how many bootstrap draws the intervals are made of; fewer, but at least 200, where
            they would take more than seconds.
        watch: called after each image, with the `ImageError` if it could not be read.

    Raises:
        InputError: there is no labelled image that can be used.
        NotFittedError: the classifier is not fitted.
    """
    if not classifier.__sklearn_is_fitted__():
        raise not_fitted(classifier)
    labels = tuple(str(label) for label in classifier.classes_)
    if isinstance(classifier, MultiLabelClassifier):
        calibration = classifier.calibration_
        known = embed_known(
            classifier.classifier, data, watch, several=True, calibration=calibration
        )
        scores = classifier.scores(known.vectors)
        given = np.greater_equal(scores, classifier.thresholds_)
        found = MultiLabelOutcomes(scores, given, right_columns(known.truth, len(labels)))
        return MultiLabelEvaluation(
            paths=known.paths,
            outcomes=found,
            metrics=found.metrics(draws),
            labels=labels,
            classes=found.class_metrics(),
            thresholds=tuple(classifier.thresholds_.tolist()),
            excluded=known.excluded,
            provenance=classifier.provenance_,
            notes=known.notes,
        )
    known = embed_known(classifier, data, watch)
    outcomes = compute_outcomes(classifier, known.vectors, known.truth)
    return Evaluation(
        paths=known.paths,
        outcomes=outcomes,
        metrics=outcomes.metrics(draws),
        labels=labels,
        classes=outcomes.class_metrics(),
        several=sum(len(classes) > 1 for classes in known.truth),
        excluded=known.excluded,
        provenance=classifier.provenance_,
        levels=_accuracies(classifier, known),
        level_names=classifier.hierarchy_.level_names if classifier.hierarchy_ else (),
        notes=known.notes,
    )


def _accuracies(classifier: ImageClassifier, known: Known) -> tuple[Interval, ...]:
    """The accuracy at each level of the labels' hierarchy, for a classifier whose classes are its
    labels; () for others.
    """
    if classifier.hierarchy_ is None or classifier.level is not None:
        return ()
    levels = classifier.hierarchy_.levels
    hits = np.empty((len(levels), len(known.vectors)), bool)
    for rows, logits in classifier.head_.blocks(known.vectors):
        right = right_columns(known.truth[rows], logits.shape[1]).astype(float)
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        for number, level in enumerate(levels):
            answers = level.sums(scores).argmax(axis=1)
            hits[number, rows] = level.best(right)[np.arange(len(answers)), answers] > 0
    return tuple(map(measure_share, hits))


def compute_outcomes(
    classifier: ImageClassifier,
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
    for rows, logits in classifier.head_.blocks(vectors):
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
    right_class = np.where(hit, answer, first)
    confidence = np.minimum(confidence, 1)
    return Outcomes(answer, right_class, confidence, top5, loss, len(classifier.classes_))


def round_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics as in JSON: six decimals, null for nan."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return None if math.isnan(value) else round(value, 6)
        return value

    return {name: plain(value) for name, value in metrics.items()}
