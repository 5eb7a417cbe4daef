"""A classifier and labelled images -> `Evaluation`: how good its answers and its scores are."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.data.dataset import LabelledLike, SetAside, make_labelled
from clipcls.errors import ImageError, InputError
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
    from clipcls.calibration.single_label import Kept
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.predictions import Provenance

__all__ = [
    "Evaluation",
    "Known",
    "embed_known",
    "evaluate",
    "logit_blocks",
    "outcomes_of",
    "right_columns",
    "rounded",
]

logger = logging.getLogger(__name__)

Watch = Callable[["ImageError | None"], None]

_IMAGES_A_BLOCK = 1024
_LOGITS_A_BLOCK = 4_000_000


@dataclass(frozen=True, slots=True)
class Known:
    """The vectors of images whose right classes are known.

    Attributes:
        paths: the images.
        vectors: float32 (n, dim), unit rows.
        truth: for each image the class numbers that are right, at least one, unless images without
            a label were asked for.
        set_aside: what of the data is not among them.
        notes: why figures of these images are likely better than those of new ones.
    """

    paths: tuple[str, ...]
    vectors: NDArray[np.float32]
    truth: tuple[tuple[int, ...], ...]
    set_aside: SetAside
    notes: tuple[str, ...] = ()


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
        set_aside: what no figure counts, and labels that no mean over classes counts.
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
    set_aside: SetAside
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
            **self.set_aside.record(),
            **self.made_by.record(),
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
    data: LabelledLike,
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
        data: a folder with a folder per class, a csv file, or pairs (see `make_labelled`).
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
        set_aside=known.set_aside,
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
    if classifier.hierarchy_ is None or classifier.rank is not None:
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


def embed_known(
    classifier: ZeroShotClassifier,
    data: LabelledLike,
    watch: Watch | None = None,
    *,
    several: bool = False,
    alone: bool = False,
    calibration: Kept | None = None,
) -> Known:
    """The vectors of labelled images, by the classifier's store or model.

    Warns of images that the classifier was learnt from or calibrated on: on them it looks better
    than on new ones.

    Args:
        classifier: fitted.
        data: see `make_labelled`.
        watch: called after each image, with the `ImageError` if it could not be read.
        several: whether an image is to be given all its labels, which may be none: so one that
            has only labels nobody asked for counts as having none.
        calibration: of the classifier, where that is not its own.
        alone: whether a name above several labels is none of them, and not all of them; so it is
            with `several`, since that one of a kind is right does not say that all are.

    Raises:
        InputError: there is no labelled image that can be used.
    """
    names = classifier.classes_.tolist()
    meanings = every = classifier.meanings_
    if several or alone:
        meanings = {name: (number,) for name, number in classifier.own_names_.items()}
    matched = make_labelled(data, unlabelled=several).match(
        names, meanings, several=several, above=every if several else None
    )
    unreadable = list(matched.set_aside.unreadable)
    if watch:
        for error in unreadable:
            watch(error)
    paths, vectors, truth = [], [], []
    for path, classes, item in zip(
        matched.paths, matched.truth, classifier.embed(matched.paths), strict=True
    ):
        if isinstance(item, ImageError):
            unreadable.append(item)
        else:
            paths.append(path)
            vectors.append(item.vector)
            truth.append(classes)
        if watch:
            watch(item if isinstance(item, ImageError) else None)
    if not vectors:
        raise InputError(f"no image could be read; the first: {unreadable[0]}")
    calibration = calibration or classifier.calibration_
    seen = {"the classifier was learnt": classifier.learnt_from(paths)}
    if calibration:
        known = sum(calibration.knows(classifier.hash_image(path)) for path in paths)
        seen["the calibration was made"] = known
    notes = tuple(
        f"{what} from {count:,} of these {len(paths):,} images, so on new ones it is likely worse"
        for what, count in seen.items()
        if count
    )
    for note in notes:
        logger.warning("%s; take others", note)
    present = {number for classes in truth for number in classes}
    if classifier.none:
        present.add(len(names) - 1)  # nobody expects images of it
    set_aside = replace(
        matched.set_aside,
        unreadable=tuple(unreadable),
        without_images=tuple(name for n, name in enumerate(names) if n not in present),
    )
    return Known(tuple(paths), np.stack(vectors), tuple(truth), set_aside, notes)


def logit_blocks(
    classifier: ZeroShotClassifier, vectors: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Logits of many images without images x classes of memory: rows, float64 (rows, classes)."""
    step = max(1, min(_IMAGES_A_BLOCK, _LOGITS_A_BLOCK // len(classifier.classes_)))
    for start in range(0, len(vectors), step):
        rows = slice(start, min(start + step, len(vectors)))
        yield rows, classifier.logits(vectors[rows])


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


def right_columns(truth: Sequence[tuple[int, ...]], n_classes: int) -> NDArray[np.bool_]:
    """Which classes are right for each image, bool (n, n_classes)."""
    right = np.zeros((len(truth), n_classes), bool)
    rows = np.repeat(np.arange(len(truth)), [len(classes) for classes in truth])
    right[rows, [number for classes in truth for number in classes]] = True
    return right


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures as in JSON: six decimals, null for nan."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return None if math.isnan(value) else round(value, 6)
        return value

    return {name: plain(value) for name, value in figures.items()}
