"""Measures a classifier on labelled images: how good its answers and its scores are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.head import log_sum_exp
from clipcls.classification.in_blocks import Watch
from clipcls.classification.labelled import Known, embed_known, right_columns
from clipcls.classification.multilabel import MultiLabelClassifier
from clipcls.data.dataset import DatasetLike
from clipcls.data.matching import Excluded
from clipcls.errors import not_fitted
from clipcls.metrics.intervals import Interval, measure_share
from clipcls.metrics.multilabel import MultiLabelOutcomes
from clipcls.metrics.single_label import BINS, ClassMetrics, Outcomes

if TYPE_CHECKING:
    from clipcls.classification.image_classifier import ImageClassifier
    from clipcls.predictions import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good a classifier is on labelled images.

    Attributes:
        paths: the images that the metrics are of.
        outcomes: the answer to each image and what is right: `MultiLabelOutcomes` of several labels
            per image, else `Outcomes`.
        metrics: name -> metric with its 95 % interval; `outcomes.names` explains them.
        classes: each label's metrics.
        excluded: images that no metric counts, and labels that no mean over classes counts.
        provenance: the model and prompts.
        notes: why these metrics are likely better than those of new images.
        several: how many images have several right labels.
        levels: the name of each level of the labels' hierarchy from the root, and the share of
            right answers there; the last is the accuracy. () without a hierarchy.
    """

    paths: tuple[str, ...]
    outcomes: Outcomes | MultiLabelOutcomes = field(compare=False, repr=False)
    metrics: dict[str, Interval]
    classes: tuple[ClassMetrics, ...]
    excluded: Excluded
    provenance: Provenance
    notes: tuple[str, ...] = ()
    several: int = 0
    levels: tuple[tuple[str, Interval], ...] = ()

    @property
    def images(self) -> int:
        """How many images the metrics are of."""
        return len(self.paths)

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON; what is not defined (the precision of what was never given) is
        null."""
        levels = [
            {"level": number, "name": name, **round_metrics(share)}
            for number, (name, share) in enumerate(self.levels, 1)
        ]
        return {
            "images": self.images,
            "metrics": {name: round_metrics(one) for name, one in self.metrics.items()},
            "interval": 0.95,
            **({"notes": list(self.notes)} if self.notes else {}),
            "per_class": [round_metrics(one) for one in self.classes],
            **({"levels": levels} if levels else {}),
            **self._details(),
            **self.excluded.record(),
            **self.provenance.to_dict(),
        }

    def _details(self) -> dict[str, Any]:
        """The fields that only one kind of outcomes has."""
        found = self.outcomes
        if isinstance(found, MultiLabelOutcomes):
            right, given = (float(m.sum(axis=1).mean()) for m in (found.truth, found.given))
            return {
                "labels_per_image": {"right": round(right, 6), "given": round(given, 6)},
                "unknown": int((~found.given.any(axis=1)).sum()),
            }
        return {
            "with_several_labels": self.several,
            "confused": [
                {"label": label, "answer": answer, "images": count}
                for label, answer, count in found.confused_pairs()
            ],
            "reliability": {
                "bins": f"{BINS} of equal mass",
                "curve": [round_metrics(b) for b in found.reliability()],
            },
            "risk_coverage": [round_metrics(point) for point in found.risk_coverage()],
        }


def evaluate(
    classifier: ImageClassifier | MultiLabelClassifier,
    data: DatasetLike,
    *,
    draws: int = 1000,
    watch: Watch | None = None,
) -> Evaluation:
    """Measures a fitted classifier on labelled images.

    With one label per image, an image with several right labels is right if the answer is one of
    them. The metrics of single classes then count it for that one, else for its first; its loss is
    that of its labels' summed scores. With several labels per image, an image does not have the
    labels that the data does not name.

    Args:
        classifier: fitted.
        data: a folder with one folder per class, a csv file, or pairs (see `make_dataset`); for
            several labels per image an image may have no label.
        draws: how many bootstrap draws the intervals rest on; fewer, but at least 200, where they
            would take more than seconds.
        watch: called after each image, with the `ImageError` if it could not be read.

    Raises:
        InputError: no labelled image can be used.
        NotFittedError: the classifier is not fitted.
    """
    if not classifier.__sklearn_is_fitted__():
        raise not_fitted(classifier)
    known = embed_known(classifier, data, watch)
    outcomes: Outcomes | MultiLabelOutcomes
    if isinstance(classifier, MultiLabelClassifier):
        scores, labels = classifier.scores(known.vectors), tuple(classifier.classes_.tolist())
        given = np.greater_equal(scores, classifier.thresholds_)
        truth = right_columns(known.truth, len(labels))
        outcomes = MultiLabelOutcomes(scores, given, truth, labels)
        classes = outcomes.class_metrics(classifier.thresholds_)
    else:
        outcomes = compute_outcomes(classifier, known.vectors, known.truth)
        classes = outcomes.class_metrics()
    return Evaluation(
        paths=known.paths,
        outcomes=outcomes,
        metrics=outcomes.metrics(draws),
        classes=classes,
        excluded=known.excluded,
        provenance=classifier.provenance_,
        notes=known.notes,
        several=sum(len(right) > 1 for right in known.truth),
        levels=_measure_levels(classifier, known),
    )


def _measure_levels(
    classifier: ImageClassifier | MultiLabelClassifier, known: Known
) -> tuple[tuple[str, Interval], ...]:
    """`Evaluation.levels`; () for a classifier that answers with the nodes of one level."""
    if isinstance(classifier, MultiLabelClassifier) or classifier.level is not None:
        return ()
    if (hierarchy := classifier.hierarchy_) is None:
        return ()
    names = hierarchy.level_names or ("",) * len(hierarchy.levels)
    found = []
    for name, level in zip(names, hierarchy.levels, strict=True):
        answers = classifier.head_.at(level).best(known.vectors)
        hits = [
            answer in level.node[list(right)]
            for answer, right in zip(answers, known.truth, strict=True)
        ]
        found.append((name, measure_share(np.array(hits))))
    return tuple(found)


def compute_outcomes(
    classifier: ImageClassifier,
    vectors: NDArray[np.float32],
    truth: Sequence[tuple[int, ...]],
) -> Outcomes:
    """The classifier's answers, and what is right.

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
        inside = np.where(right, logits, -np.inf)
        total = log_sum_exp(logits)[:, 0]
        answer[rows] = logits.argmax(axis=1)
        hit[rows] = right[np.arange(len(logits)), answer[rows]]
        confidence[rows] = np.minimum(np.exp(logits.max(axis=1) - total), 1)
        top5[rows] = (logits > inside.max(axis=1, keepdims=True)).sum(axis=1) < 5
        loss[rows] = np.maximum(total - log_sum_exp(inside)[:, 0], 0)
    labels = tuple(classifier.classes_.tolist())
    return Outcomes(answer, np.where(hit, answer, first), confidence, top5, loss, labels)


def round_metrics(metrics: Any) -> dict[str, Any]:
    """A dataclass of numbers as JSON: six decimals, null for NaN, without fields that are None."""
    known = {name: value for name, value in asdict(metrics).items() if value is not None}
    for name, value in known.items():
        if isinstance(value, float):
            known[name] = None if math.isnan(value) else round(value, 6)
    return known
