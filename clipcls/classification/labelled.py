"""A classifier and labelled images -> their vectors and right classes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipcls.data.dataset import DatasetLike, make_dataset
from clipcls.data.matching import Excluded, match_labels
from clipcls.embeddings.cache import hash_image
from clipcls.errors import ImageError, InputError
from clipcls.labels.names import join_levels
from clipcls.predictions import NO_CLASS

if TYPE_CHECKING:
    from clipcls.calibration.base import BaseCalibration
    from clipcls.classification.image_classifier import ImageClassifier

__all__ = [
    "Known",
    "Watch",
    "embed_known",
    "meanings",
    "own_names",
    "right_columns",
]

logger = logging.getLogger(__name__)

Watch = Callable[["ImageError | None"], None]


@dataclass(frozen=True, slots=True)
class Known:
    """The vectors of images whose right classes are known.

    Attributes:
        paths: the images.
        vectors: float32 (n, dim), unit rows.
        truth: for each image the class numbers that are right, at least one, unless images without
            a label were asked for.
        excluded: what of the data is not among them.
        notes: why figures of these images are likely better than those of new ones.
    """

    paths: tuple[str, ...]
    vectors: NDArray[np.float32]
    truth: tuple[tuple[int, ...], ...]
    excluded: Excluded
    notes: tuple[str, ...] = ()


def embed_known(
    classifier: ImageClassifier,
    data: DatasetLike,
    watch: Watch | None = None,
    *,
    several: bool = False,
    alone: bool = False,
    calibration: BaseCalibration | None = None,
) -> Known:
    """The vectors of labelled images, by the classifier's cache or model.

    Warns of images that the classifier was learnt from or calibrated on: on them it looks better
    than on new ones.

    Args:
        classifier: fitted.
        data: see `make_dataset`.
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
    right = every = meanings(classifier)
    if several or alone:
        right = {name: (number,) for name, number in own_names(classifier).items()}
    matched = match_labels(
        make_dataset(data, unlabelled=several),
        names,
        right,
        several=several,
        above=every if several else None,
    )
    unreadable = list(matched.excluded.unreadable)
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
    learnt = sum(classifier.given_class(path) not in (None, NO_CLASS) for path in paths)
    seen = {"the classifier was learnt": learnt}
    if calibration:
        known = sum(calibration.knows(hash_image(classifier.cache_, path)) for path in paths)
        seen["the calibration was made"] = known
    notes = tuple(
        f"{what} from {count:,} of these {len(paths):,} images, so on new ones it is likely worse"
        for what, count in seen.items()
        if count
    )
    for note in notes:
        logger.warning("%s; take others", note)
    present = {number for classes in truth for number in classes}
    if classifier.reject:
        present.add(len(names) - 1)  # nobody expects images of it
    excluded = replace(
        matched.excluded,
        unreadable=tuple(unreadable),
        without_images=tuple(name for n, name in enumerate(names) if n not in present),
    )
    return Known(tuple(paths), np.stack(vectors), tuple(truth), excluded, notes)


def right_columns(truth: Sequence[tuple[int, ...]], n_classes: int) -> NDArray[np.bool_]:
    """Which classes are right for each image, bool (n, n_classes)."""
    right = np.zeros((len(truth), n_classes), bool)
    rows = np.repeat(np.arange(len(truth)), [len(classes) for classes in truth])
    right[rows, [number for classes in truth for number in classes]] = True
    return right


def own_names(classifier: ImageClassifier) -> dict[str, int]:
    """What means one class alone: its name and, in a hierarchy, its path as it is written."""
    found = {name: number for number, name in enumerate(classifier.classes_.tolist())}
    if classifier.hierarchy_ is None:
        return found
    level = classifier.head_.level or classifier.hierarchy_.levels[-1]
    return {join_levels(path): number for number, path in enumerate(level.paths)} | found


def meanings(classifier: ImageClassifier) -> dict[str, tuple[int, ...]]:
    """What a label of labelled data means: its name -> the class numbers that are right.

    In a hierarchy every node has a name: see `Hierarchy.meanings`.
    """
    names: dict[str, tuple[int, ...]] = {
        name: (number,) for number, name in enumerate(classifier.classes_.tolist())
    }
    if classifier.hierarchy_ is None:
        return names
    level = classifier.head_.level or classifier.hierarchy_.levels[-1]
    return classifier.hierarchy_.meanings(level) | names
