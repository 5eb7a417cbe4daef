"""Labelled images as a classifier sees them: their vectors and right classes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.in_blocks import Watch, watch_each
from clipcls.classification.multilabel import MultiLabelClassifier, find_base
from clipcls.data.dataset import (
    Dataset,
    DatasetLike,
    label_by_folders,
    make_dataset,
    merge_rows,
    read_dataset,
)
from clipcls.data.file_kinds import is_vectors
from clipcls.data.matching import Excluded, match_labels
from clipcls.embeddings.vector_files import open_vectors
from clipcls.errors import ImageError, InputError, LabelsError
from clipcls.files.text import canonical
from clipcls.labels.names import join_levels
from clipcls.predictions import NO_CLASS, Prediction

if TYPE_CHECKING:
    from clipcls.classification.image_classifier import ImageClassifier
    from clipcls.embeddings.embedded import Embedded

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """The vectors of images whose right classes are known.

    Attributes:
        paths: the images.
        hashes: the SHA-256 of each image's file; b"" if it is not known.
        vectors: float32 (n, dim), unit rows.
        truth: for each image the class numbers that are right; at least one, but for a
            `MultiLabelClassifier`.
        excluded: the images that are left out.
        notes: why figures of these images are likely better than those of new ones.
    """

    paths: tuple[str, ...]
    hashes: tuple[bytes, ...]
    vectors: NDArray[np.float32]
    truth: tuple[tuple[int, ...], ...]
    excluded: Excluded
    notes: tuple[str, ...] = ()


def read_labelled(
    data: DatasetLike,
    *,
    unlabelled: bool = False,
    question: str | None = None,
    image_column: str | None = None,
) -> Dataset:
    """Labelled images as a folder, table or pairs (see `make_dataset`), or as vectors.

    The labels of a file of vectors are in its column `label`, or in the one of the question.
    Without such a column, the name of each image's folder is its label.

    Raises:
        InputError: it cannot be read, or no image has a label.
    """
    if not isinstance(data, str | os.PathLike):
        return make_dataset(data, unlabelled=unlabelled)
    name = os.fspath(data)
    if not is_vectors(name):
        return read_dataset(
            name, unlabelled=unlabelled, question=question, image_column=image_column
        )
    column = question or "label"
    rows = list(open_vectors(name).labels(column))
    if any(label is not None for _, label in rows):
        cells = ((path, (label or "").split("|")) for path, label in rows)
        split = ((path, [each for each in map(canonical, cell) if each]) for path, cell in cells)
        return replace(merge_rows(name, split, unlabelled), vectors=name)
    cure = f"add a column {column!r}"
    return label_by_folders(name, (path for path, _ in rows), cure, vectors=name)


def embed_known(
    classifier: ImageClassifier | MultiLabelClassifier,
    data: DatasetLike,
    watch: Watch | None = None,
    *,
    alone: bool = False,
) -> Known:
    """The vectors of labelled images, by the classifier's cache or model.

    For a `MultiLabelClassifier` an image has all of its labels, which may be none; a label that is
    not the classifier's counts as none. Logs a warning if the classifier was learnt from images of
    these or calibrated on them, since on them it looks better than on new ones.

    Args:
        classifier: fitted.
        data: see `read_labelled`.
        watch: called after each image, with the `ImageError` if it could not be read.
        alone: refuse images with several labels, and take a name above several labels for none of
            them instead of all. A `MultiLabelClassifier` does the latter too: that one label of a
            kind is right does not mean that all are.

    Raises:
        InputError: no labelled image can be used.
    """
    base = find_base(classifier)
    several = base is not classifier
    names, every = base.classes_.tolist(), meanings(base)
    own = {name: (number,) for name, number in own_names(base).items()}
    right = own if several or alone else every
    dataset = read_labelled(data, unlabelled=several)
    matched = match_labels(dataset, names, right, several=several, above=every if several else None)
    for path, classes in zip(matched.paths, matched.truth, strict=True):
        if alone and len(classes) > 1:
            found = ", ".join(repr(names[number]) for number in classes)
            raise InputError(
                f"{dataset.source}: {path} has the labels {found}; to learn from it, keep one"
            )
    for error in matched.excluded.unreadable:
        if watch:
            watch(error)
    embedded: Iterable[Embedded | ImageError]
    if dataset.vectors:
        by_path = {item.path: item for item in base.embed(dataset.vectors)}
        if isinstance(failed := by_path.get(dataset.vectors), ImageError):
            raise InputError(str(failed))
        embedded = watch_each((by_path[path] for path in matched.paths), watch)
    else:
        images = dataset.open_images(matched.paths)
        embedded = watch_each(base.embed(images, hashed=True), watch)
    unreadable, read = [*matched.excluded.unreadable], []
    for path, classes, item in zip(matched.paths, matched.truth, embedded, strict=True):
        if isinstance(item, ImageError):
            unreadable.append(item)
        else:
            read.append((path, item.content, item.vector, classes))
    if not read:
        raise InputError(f"no image could be read; the first: {unreadable[0]}")
    paths, hashes, vectors, truth = zip(*read, strict=True)
    present = {number for classes in truth for number in classes}
    excluded = replace(
        matched.excluded,
        unreadable=tuple(unreadable),
        without_images=tuple(name for n, name in enumerate(names) if n not in present),
    )
    notes = tuple(_note_seen(classifier, base, paths, hashes))
    for note in notes:
        logger.warning("%s; take others", note)
    return Known(paths, hashes, np.stack(vectors), truth, excluded, notes)


def _note_seen(
    classifier: ImageClassifier | MultiLabelClassifier,
    base: ImageClassifier,
    paths: Sequence[str],
    hashes: Sequence[bytes],
) -> Iterator[str]:
    """Sentences on images that the classifier or its calibration has seen."""
    given = map(base.given_class, paths, hashes)
    seen = {"the classifier was learnt": (number not in (None, NO_CLASS) for number in given)}
    if calibration := classifier.calibration_:
        seen["the calibration was made"] = (calibration.knows(digest) for digest in hashes)
    for what, flags in seen.items():
        if count := sum(flags):
            yield (
                f"{what} from {count:,} of these {len(paths):,} images, so on new ones it is "
                "likely worse"
            )


def right_columns(truth: Sequence[tuple[int, ...]], n_classes: int) -> NDArray[np.bool_]:
    """Which classes are right for each image, bool (n, n_classes)."""
    right = np.zeros((len(truth), n_classes), bool)
    rows = np.repeat(np.arange(len(truth)), [len(classes) for classes in truth])
    right[rows, [number for classes in truth for number in classes]] = True
    return right


def own_names(classifier: ImageClassifier) -> dict[str, int]:
    """The number of each class by its name and, in a hierarchy, by its path as it is written."""
    found = {name: number for number, name in enumerate(classifier.classes_.tolist())}
    if classifier.hierarchy_ is None:
        return found
    level = classifier.head_.level or classifier.hierarchy_.levels[-1]
    return {join_levels(path): number for number, path in enumerate(level.paths)} | found


def find_classes(classifier: ImageClassifier, label: str) -> tuple[int, ...]:
    """The class numbers that a name or a path of the hierarchy stands for.

    Raises:
        LabelsError: it is none of the labels.
    """
    if label not in (found := meanings(classifier)):
        raise LabelsError(f"{label!r} is none of the labels")
    return found[label]


def find_answered(classifier: ImageClassifier, answer: Prediction) -> tuple[int, ...]:
    """The class numbers that the best label of the classifier's answer stands for."""
    label = join_levels(answer.lineage) if answer.lineage else answer.top[0].label
    return find_classes(classifier, label)


def meanings(classifier: ImageClassifier) -> dict[str, tuple[int, ...]]:
    """The class numbers that each label of labelled data means.

    In a hierarchy every node has a name: see `Hierarchy.meanings`.
    """
    own: dict[str, tuple[int, ...]] = {
        name: (number,) for name, number in own_names(classifier).items()
    }
    if classifier.hierarchy_ is None:
        return own
    level = classifier.head_.level or classifier.hierarchy_.levels[-1]
    return classifier.hierarchy_.meanings(level) | own
