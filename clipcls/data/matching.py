"""The labels of a dataset -> the classes of a classifier.

A label of the data is the classifier's label of the same spelling, else the one that differs from
it only in case, in `_` or `-` for a space, or in white space. What is no label of the classifier
is excluded and counted, never taken for an error of the classifier.

A folder that `clipcls sort` named differently, as not every system takes the label for a name
(`b/w`), still has that label: by the journal beside it, else by how `sort` makes names of labels.

In folders inside class folders the deepest one that names a label decides (`animal/dog/pug/x.jpg`
is a pug where there is such a label, else a dog); where none does, the top one is the label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipcls.data.dataset import Dataset
from clipcls.errors import ImageError, InputError
from clipcls.files.text import canonical
from clipcls.labels.folder_names import folder_names, normalize_name
from clipcls.labels.names import join_levels, split_levels

__all__ = ["Excluded", "MatchedDataset", "match_labels"]


@dataclass(frozen=True, slots=True)
class Excluded:
    """Counts of a dataset's images that no figure includes.

    Attributes:
        no_labels: labels of the data that are none of the classifier's -> how many images.
        left_out: images that have no other labels than these; of several labels per image those
            with one that stands above labels and leaves open which of them are right.
        beside: images that lie beside the class folders, without a label.
        unreadable: images that could not be read, and folders that could not be searched.
        without_images: labels of the classifier that no image has.
        as_none: of several labels per image, those that have no other labels than `no_labels`,
            which count as having none; None for one label per image.
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
        """As in JSON."""
        return {
            "no_labels": self.no_labels,
            "left_out": self.left_out,
            **({} if self.as_none is None else {"as_none": self.as_none}),
            "beside": self.beside,
            **({"unreviewed": self.unreviewed} if self.unreviewed else {}),
            "without_images": list(self.without_images),
            "unreadable": [{"path": e.path, "error": e.reason} for e in self.unreadable],
        }


@dataclass(frozen=True, slots=True)
class MatchedDataset:
    """The images that count.

    Attributes:
        paths: the images.
        truth: for each image the class numbers that are right, in the order given; at least one,
            unless the image has none of them and is to be given all it has.
        excluded: the rest.
    """

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
        names: the classifier's labels; class numbers count in their order.
        meanings: what labels of the data may be, and the class numbers that are then right;
            None: `names`, each its own number.
        several: whether an image is to be given all its labels: one whose labels are all none
            of `names` then stays, as an image without any.
        above: of `several`, what stands above classes and leaves open which of them are
            right: an image with such a label and none of its classes is left out.

    Raises:
        InputError: a label of the data could be several of `names`, or no image has a label
            that is among them.
    """
    if meanings is None:
        meanings = {name: (number,) for number, name in enumerate(names)}
    find = _Finder(data.source, meanings)
    rows: Sequence[tuple[str, ...]] = data.labels
    empty = data.empty
    if data.folders:
        label_of = _FolderLabels(data, meanings)
        rows = _find_deepest(data.folders, find, label_of)
        empty = tuple(map(label_of, empty))
    known = {
        label: find(label)
        for label in dict.fromkeys([*(label for row in rows for label in row), *empty])
    }
    open_ones = _Finder(data.source, above or {})
    paths, truth = [], []
    strangers: Counter[str] = Counter()
    left_out = as_none = 0
    for path, labels in zip(data.paths, rows, strict=True):
        classes = tuple(dict.fromkeys(n for label in labels for n in known[label]))
        foreign = [label for label in labels if not known[label]]
        strangers.update(foreign)
        undecided = any(
            below and not set(below) & set(classes) for below in map(open_ones, foreign)
        )
        if (several and not undecided) or (not several and (classes or not labels)):
            paths.append(path)
            truth.append(classes)
            as_none += bool(labels and not classes)
        else:
            left_out += 1
    strangers.update({label: 0 for label in empty if not known[label]})
    if not any(truth):
        shown = ", ".join(map(repr, list(known)[:3])) or "none at all"
        raise InputError(
            f"{data.source}: no image has a label that is asked for; it has {shown}"
            f"{', ...' if len(known) > 3 else ''}, the labels are "
            f"{', '.join(repr(str(name)) for name in names[:3])}"
            f"{', ...' if len(names) > 3 else ''}"
        )
    excluded = Excluded(
        dict(sorted(strangers.items())),
        left_out,
        data.beside,
        data.unreadable,
        as_none=as_none if several else None,
        unreviewed=data.unreviewed,
    )
    return MatchedDataset(tuple(paths), tuple(truth), excluded)


def _find_deepest(
    chains: Sequence[tuple[str, ...]], find: _Finder, label_of: _FolderLabels
) -> list[tuple[str, ...]]:
    """Each image's label by the folders it lies in: the deepest that names one.

    Names that several labels have are told apart by the folders above them: `bird/crane` is
    `bird > crane`.
    """
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for folders in chains:
        if folders not in found:
            # A folder in a class folder need not be a label, and is then no doubtful one.
            chain = [label_of(name, strict=not depth) for depth, name in enumerate(folders)]
            ends = range(len(chain), 0, -1)
            names = (_path(chain[start:end]) for end in ends for start in range(end))
            labels = (name for name in names if find(name, strict=name == chain[0]))
            found[folders] = (next(labels, chain[0]),)
    return [found[chain] for chain in chains]


class _FolderLabels:
    """The label that `clipcls sort` made a folder of, where that is not the folder's name."""

    def __init__(self, data: Dataset, meanings: Mapping[str, tuple[int, ...]]) -> None:
        self._source = data.source
        there = {normalize_name(name) for chain in data.folders for name in chain} | set(data.empty)
        labels = dict.fromkeys(name for text in meanings for name in (text, *split_levels(text)))
        self._exact = set(map(canonical, labels))
        self._made: dict[str, list[str]] = {}
        for label in labels:
            plain, marked = folder_names(label)
            names = {normalize_name(marked)}
            # A plain name beside a marked one is another label's.
            if plain != label and normalize_name(marked) not in there:
                names.add(normalize_name(plain))
            for name in names:
                self._made.setdefault(name, []).append(label)

    def __call__(self, folder: str, *, strict: bool = True) -> str:
        """The label, or the folder's name where no label is made into it.

        Raises:
            InputError: it could be several, and `strict`.
        """
        if canonical(folder) in self._exact:
            return folder
        labels = self._made.get(normalize_name(folder), [])
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
            self._loose.setdefault(_loosely(name), []).append(name)

    def __call__(self, label: str, *, strict: bool = True) -> tuple[int, ...]:
        """The class numbers that are right; () for what is no label.

        Raises:
            InputError: it could be several, and `strict`.
        """
        if canonical(label) in self._exact:
            return self._exact[canonical(label)]
        like = self._loose.get(_loosely(label), [])
        if len(like) > 1 and strict:
            found = " or ".join(map(repr, like))
            raise InputError(f"{self._source}: {label!r} could be the label {found}")
        return self._exact[like[0]] if len(like) == 1 else ()


def _path(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else join_levels(names)


def _loosely(label: str) -> str:
    """The label as folders may spell it: without case, `_` and `-` being spaces."""
    words = canonical(label).casefold().replace("_", " ").replace("-", " ").split()
    return " ".join(words)
