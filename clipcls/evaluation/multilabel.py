"""A classifier of several labels an image and labelled images -> `MultiLabelEvaluation`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.labelled import Watch, embed_known, right_columns
from clipcls.data.dataset import DatasetLike
from clipcls.data.matching import Excluded
from clipcls.evaluation.evaluate import rounded
from clipcls.metrics.multilabel import LabelFigures, label_figures, multilabel_figures
from clipcls.metrics.single_label import Interval

if TYPE_CHECKING:
    from clipcls.classification.multilabel import MultiLabelClassifier
    from clipcls.predictions import Provenance

__all__ = ["MultiLabelAnswers", "MultiLabelEvaluation", "evaluate_multilabel"]

_TELLING = 24


@dataclass(frozen=True, slots=True, eq=False)
class MultiLabelAnswers:
    """Every image and label: the score, whether it was given, whether it is right.

    Attributes:
        paths: the images, (n,).
        scores: float64 (n, n_classes).
        given, truth: bool (n, n_classes).
    """

    paths: tuple[str, ...]
    scores: NDArray[np.float64]
    given: NDArray[np.bool_]
    truth: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class MultiLabelEvaluation:
    """How good a classifier of several labels is on labelled images.

    Attributes:
        images: how many images the figures are of.
        right: how many labels they have, all together.
        given: how many labels they were given.
        unknown: how many images were given none.
        figures: name -> figure with its 95 % interval, as in `multimetrics.multilabel_figures`.
        labels: the classifier's labels.
        thresholds: the score from which each is given.
        classes: each label's figures, in the order of `labels`.
        wrong: path, label and score of the labels wrongly given with the highest scores.
        missed: the same of the right labels with the lowest scores that were not given.
        excluded: what no figure counts, and labels that no mean over labels counts.
        made_by: the model and prompts.
        answers: what the figures were made of; not in the record.
        notes: why these figures are likely better than those of new images.
    """

    images: int
    right: int
    given: int
    unknown: int
    figures: dict[str, Interval]
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    classes: tuple[LabelFigures, ...]
    wrong: tuple[tuple[str, str, float], ...]
    missed: tuple[tuple[str, str, float], ...]
    excluded: Excluded
    made_by: Provenance
    answers: MultiLabelAnswers = field(compare=False, repr=False)
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """As in JSON; what is not defined (the precision of what was never given) is null."""
        return {
            "images": self.images,
            "labels_an_image": rounded(
                {"right": self.right / self.images, "given": self.given / self.images}
            ),
            "unknown": self.unknown,
            "figures": {name: rounded(asdict(figure)) for name, figure in self.figures.items()},
            "interval": 0.95,
            **({"notes": list(self.notes)} if self.notes else {}),
            "per_class": [
                {"label": label, "threshold": round(threshold, 6), **rounded(asdict(figure))}
                for label, threshold, figure in zip(
                    self.labels, self.thresholds, self.classes, strict=True
                )
            ],
            **self.excluded.record(),
            **self.made_by.to_dict(),
        }


def evaluate_multilabel(
    classifier: MultiLabelClassifier,
    data: DatasetLike,
    *,
    draws: int = 1000,
    watch: Watch | None = None,
) -> MultiLabelEvaluation:
    """Measures a fitted classifier of several labels on labelled images.

    A label that an image is not said to have counts as one it does not have.

    Args:
        classifier: fitted.
        data: a csv file, a folder with a folder per class, or pairs (see `make_dataset`); an
            image may have no label.
        draws: how many bootstrap draws the intervals are made of.
        watch: called after each image, with the `ImageError` if it could not be read.

    Raises:
        InputError: there is no labelled image that can be used.
    """
    known = embed_known(
        classifier.classifier, data, watch, several=True, calibration=classifier.calibration_
    )
    labels = tuple(str(label) for label in classifier.classes_)
    truth = right_columns(known.truth, len(labels))
    scores = classifier.scores(known.vectors)
    given = np.greater_equal(scores, classifier.thresholds_)

    def telling(
        which: NDArray[np.bool_], keys: NDArray[np.float64]
    ) -> tuple[tuple[str, str, float], ...]:
        rows, columns = np.nonzero(which)
        best = np.argsort(keys[rows, columns], kind="stable")[:_TELLING]
        return tuple(
            (known.paths[row], labels[column], float(scores[row, column]))
            for row, column in zip(rows[best], columns[best], strict=True)
        )

    return MultiLabelEvaluation(
        images=len(truth),
        right=int(truth.sum()),
        given=int(given.sum()),
        unknown=int((~given.any(axis=1)).sum()),
        figures=multilabel_figures(scores, given, truth, draws),
        labels=labels,
        thresholds=tuple(classifier.thresholds_.tolist()),
        classes=tuple(label_figures(scores, given, truth)),
        wrong=telling(given & ~truth, -scores),
        missed=telling(truth & ~given, scores),
        excluded=known.excluded,
        made_by=classifier.made_by_,
        answers=MultiLabelAnswers(known.paths, scores, given, truth),
        notes=known.notes,
    )
