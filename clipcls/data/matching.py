"""Match the labels of a dataset to the classes of a classifier.

A label of the data is the classifier's label of the same spelling, else the one that differs only
in case, in `_` or `-` for a space, or in white space. Labels the classifier does not have are
excluded and counted, never held against it.

A folder that `clipcls sort` could not name after its label (`b/w`) still has that label: by the
journal next to it, else by the way `sort` makes names.

Of nested folders the deepest that names a label decides (`animal/dog/pug/x.jpg` is a pug if that is
a label, else a dog); if none does, the top one is the label.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipcls.data.dataset import Dataset
from clipcls.errors import ImageError, InputError
from clipcls.files.text import canonical
from clipcls.labels.folder_names import folder_names, normalize_name
from clipcls.labels.names import join_levels, split_levels


@dataclass(frozen=True, slots=True)
class Excluded:
    """Counts of a dataset's images that no metric includes.

    Attributes:
        no_labels: labels of the data that the classifier does not have -> number of images.
        left_out: images with no other labels, or with several of which it is open which are right.
        beside: images next to the class folders, without a label.
        unreadable: images that could not be read, and folders that could not be searched.
        without_images: labels of the classifier that no image has.
        as_none: of several labels per image, images with no label but `no_labels`, which count as
            having none; None for one label per image.
        unreviewed: rows of a reviewed table whose label no person gave.
    """

    no_labels: dict[str, int]
    left_out: int
    beside: int
    unreadable: tuple[ImageError, ...]
    without_images: tuple[str, ...] = ()
    as_none: int | None = None
    unreviewed: int = 0

    def record(self) -> dict[str, Any]:
        """The counts as JSON has them."""
        return {
            "no_labels": self.no_labels,
            "left_out": self.left_out,
            **({} if self.as_none is None else {"as_none": self.as_none}),
            "beside": self.beside,
            **({"unreviewed": self.unreviewed} if self.unreviewed else {}),
            "without_images": list(self.without_images),
            "unreadable": [error.to_dict() for error in self.unreadable],
        }


@dataclass(frozen=True, slots=True)
class MatchedDataset:
    """The images that count, the right class numbers of each, and the rest."""

    paths: tuple[str, ...]
    truth: tuple[tuple[int, ...], ...]
    excluded: Excluded


def match_labels(
    data: Dataset,
    names: Sequence[str],
    meanings: Mapping[str, tuple[int, ...]] | None = None,
    *,
    several: bool = False,
    above: Mapping[str, tuple[int, ...]] | None = None,
) -> MatchedDataset:
    """Find the labels of a dataset among a classifier's.

    Args:
        data: labelled images.
        names: the classifier's labels, in the order of the class numbers.
        meanings: possible labels of the data -> the class numbers that are then right; None:
            `names`, each its own number.
        several: whether images are given all their labels; one with none of `names` then stays.
        above: with `several`, labels above classes that leave open which of these are right; an
            image with such a label and none of its classes is left out.

    Raises:
        InputError: a label of the data could be several of `names`, or no image has any of them.
    """
    if meanings is None:
        meanings = {name: (number,) for number, name in enumerate(names)}
    if data.is_numbered:
        meanings = {str(number): (number,) for number in range(len(names))} | dict(meanings)
    find = _Finder(data.source, meanings)
    rows: Sequence[tuple[str, ...]] = data.labels
    empty = data.empty
    if data.folders:
        name_folder = _FolderLabels(data, meanings)
        rows = _find_deepest(data.folders, find, name_folder)
        empty = tuple(map(name_folder, empty))
    labels_of_data = dict.fromkeys([*(label for row in rows for label in row), *empty])
    known = {label: find(label) for label in labels_of_data}
    find_above = _Finder(data.source, above or {})
    paths, truth = [], []
    unknown: Counter[str] = Counter()
    left_out = as_none = 0
    for path, labels in zip(data.paths, rows, strict=True):
        classes = tuple(dict.fromkeys(n for label in labels for n in known[label]))
        foreign = [label for label in labels if not known[label]]
        unknown.update(foreign)
        undecided = any(
            below and not set(below) & set(classes) for below in map(find_above, foreign)
        )
        if (several and not undecided) or (not several and (classes or not labels)):
            paths.append(path)
            truth.append(classes)
            as_none += bool(labels and not classes)
        else:
            left_out += 1
    unknown.update({label: 0 for label in empty if not known[label]})
    if not any(truth):
        raise InputError(
            f"{data.source}: no image has one of the labels {_list_some(names)}; the labels of "
            f"the data are {_list_some(list(known)) or 'none at all'}"
        )
    excluded = Excluded(
        dict(sorted(unknown.items())),
        left_out,
        data.beside,
        data.unreadable,
        as_none=as_none if several else None,
        unreviewed=data.unreviewed,
    )
    return MatchedDataset(tuple(paths), tuple(truth), excluded)


def _list_some(names: Sequence[str]) -> str:
    return ", ".join([*(repr(str(name)) for name in names[:3]), *["..."] * (len(names) > 3)])


def _find_deepest(
    chains: Sequence[tuple[str, ...]], find: _Finder, name_folder: _FolderLabels
) -> list[tuple[str, ...]]:
    """Each image's label by the folders that contain it: the deepest that names one.

    Names that labels share are told apart by the folders above: `bird/crane` is `bird > crane`.
    """
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for folders in dict.fromkeys(chains):
        # Only the class folder must be a label, so only there ambiguity is an error.
        chain = [name_folder(name, strict=not depth) for depth, name in enumerate(folders)]
        ends = range(len(chain), 0, -1)
        names = (_join(chain[start:end]) for end in ends for start in range(end))
        labels = (name for name in names if find(name, strict=name == chain[0]))
        found[folders] = (next(labels, chain[0]),)
    return [found[chain] for chain in chains]


class _FolderLabels:
    """Finds the label after which `clipcls sort` named a folder."""

    def __init__(self, data: Dataset, meanings: Mapping[str, tuple[int, ...]]) -> None:
        self._source = data.source
        existing = {normalize_name(name) for chain in data.folders for name in chain}
        existing |= set(data.empty)
        labels = dict.fromkeys(name for text in meanings for name in (text, *split_levels(text)))
        self._exact = set(map(canonical, labels))
        self._labels: dict[str, list[str]] = {}
        for label in labels:
            plain, marked = folder_names(label)
            names = {normalize_name(marked)}
            # A plain name next to a marked one is another label's.
            if plain != label and normalize_name(marked) not in existing:
                names.add(normalize_name(plain))
            for name in names:
                self._labels.setdefault(name, []).append(label)

    def __call__(self, folder: str, *, strict: bool = True) -> str:
        """The label, or the folder's name if none fits; with `strict` an error if several fit."""
        labels = self._labels.get(normalize_name(folder), [])
        if canonical(folder) in self._exact or not labels:
            return folder
        if len(labels) > 1 and strict:
            names = " or ".join(f"{folder_names(label)[1]!r} for {label!r}" for label in labels)
            raise InputError(
                f"{self._source}: the folder {folder!r} could be of several labels; rename it to "
                f"{names}"
            )
        return labels[0] if len(labels) == 1 else folder


class _Finder:
    """Finds the classes that a label means, by spelling."""

    def __init__(self, source: str, meanings: Mapping[str, tuple[int, ...]]) -> None:
        self._source = source
        self._exact = {canonical(name): numbers for name, numbers in meanings.items()}
        self._loose: dict[str, list[str]] = {}
        for name in self._exact:
            self._loose.setdefault(_simplify(name), []).append(name)

    def __call__(self, label: str, *, strict: bool = True) -> tuple[int, ...]:
        """The right class numbers, or () if none fit; with `strict` an error if several fit."""
        if canonical(label) in self._exact:
            return self._exact[canonical(label)]
        like = self._loose.get(_simplify(label), [])
        if len(like) > 1 and strict:
            found = " or ".join(map(repr, like))
            raise InputError(f"{self._source}: {label!r} could be the label {found}")
        return self._exact[like[0]] if len(like) == 1 else ()


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else join_levels(names)


def _simplify(label: str) -> str:
    """The label without case, with single spaces for white space, `_` and `-`."""
    return " ".join(re.sub("[_-]", " ", canonical(label).casefold()).split())
