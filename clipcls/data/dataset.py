"""Images whose labels are known: a folder per class, or a csv -> `LabelledData`, matched to labels.

A label of the data is the classifier's label of the same spelling, else the one that differs from
it only in case, in `_` or `-` for a space, or in white space. What is no label of the classifier
is set excluded and counted, never taken for an error of the classifier.

A folder that `clipcls sort` named differently, as not every system takes the label for a name
(`b/w`), still has that label: by the journal beside it, else by how `sort` makes names of labels.

In folders inside class folders the deepest one that names a label decides (`animal/dog/pug/x.jpg`
is a pug where there is such a label, else a dog); where none does, the top one is the label.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from clipcls.data.file_kinds import LeftOut
from clipcls.data.paths import find_images, folders_and_images
from clipcls.data.sorted_folders import read_folder_labels
from clipcls.errors import ImageError, InputError, os_reason
from clipcls.files.text import canonical, find_on_disk, read_table, read_text, why_missing
from clipcls.labels.folder_names import alike, folder_names
from clipcls.labels.names import join_levels, split_levels
from clipcls.predictions import PERSON

log = logging.getLogger("clipcls")

__all__ = [
    "Excluded",
    "LabelledData",
    "LabelledLike",
    "Matched",
    "make_labelled",
    "read_labelled",
]

_FILES = (".csv", ".tsv", ".tab", ".txt")  # Excel's "Unicode text" is a .txt with tabs


@dataclass(frozen=True, slots=True)
class LabelledData:
    """Images in the order given, each with its right labels as they were written.

    Attributes:
        source: the folder's or file's name, or `data`.
        paths: the images.
        labels: for each image its right labels; an answer is right if it is one of them. None at
            all only where that was asked for: the image has none of the labels.
        unreadable: folders that could not be searched.
        empty: class folders without any image.
        beside: images that lie beside the class folders, without a label.
        folders: the folders each image lies in, from the class folder down; () for other data.
        unreviewed: rows of a reviewed table whose label no person gave; they are left out.
    """

    source: str
    paths: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    unreadable: tuple[ImageError, ...] = ()
    empty: tuple[str, ...] = ()
    beside: int = 0
    folders: tuple[tuple[str, ...], ...] = ()
    unreviewed: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def match(
        self,
        names: Sequence[str],
        meanings: Mapping[str, tuple[int, ...]] | None = None,
        *,
        several: bool = False,
        above: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Matched:
        """Finds the data's labels among a classifier's.

        Args:
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
        find = _Finder(self.source, meanings)
        rows: Sequence[tuple[str, ...]] = self.labels
        empty = self.empty
        if self.folders:
            label_of = _FolderLabels(self, meanings)
            rows = self._deepest(find, label_of)
            empty = tuple(map(label_of, empty))
        known = {
            label: find(label)
            for label in dict.fromkeys([*(label for row in rows for label in row), *empty])
        }
        open_ones = _Finder(self.source, above or {})
        paths, truth = [], []
        strangers: Counter[str] = Counter()
        left_out = as_none = 0
        for path, labels in zip(self.paths, rows, strict=True):
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
                f"{self.source}: no image has a label that is asked for; it has {shown}"
                f"{', ...' if len(known) > 3 else ''}, the labels are "
                f"{', '.join(repr(str(name)) for name in names[:3])}"
                f"{', ...' if len(names) > 3 else ''}"
            )
        excluded = Excluded(
            dict(sorted(strangers.items())),
            left_out,
            self.beside,
            self.unreadable,
            as_none=as_none if several else None,
            unreviewed=self.unreviewed,
        )
        return Matched(tuple(paths), tuple(truth), excluded)

    def _deepest(self, find: _Finder, label_of: _FolderLabels) -> list[tuple[str, ...]]:
        """Each image's label by the folders it lies in: the deepest that names one.

        Names that several labels have are told apart by the folders above them: `bird/crane` is
        `bird > crane`.
        """
        found: dict[tuple[str, ...], tuple[str, ...]] = {}
        for folders in self.folders:
            if folders not in found:
                # A folder in a class folder need not be a label, and is then no doubtful one.
                chain = [label_of(name, strict=not depth) for depth, name in enumerate(folders)]
                ends = range(len(chain), 0, -1)
                names = (_path(chain[start:end]) for end in ends for start in range(end))
                labels = (name for name in names if find(name, strict=name == chain[0]))
                found[folders] = (next(labels, chain[0]),)
        return [found[chain] for chain in self.folders]


class _FolderLabels:
    """The label that `clipcls sort` made a folder of, where that is not the folder's name."""

    def __init__(self, data: LabelledData, meanings: Mapping[str, tuple[int, ...]]) -> None:
        self._source = data.source
        there = {alike(name) for chain in data.folders for name in chain} | set(data.empty)
        labels = dict.fromkeys(name for text in meanings for name in (text, *split_levels(text)))
        self._exact = set(map(canonical, labels))
        self._made: dict[str, list[str]] = {}
        for label in labels:
            plain, marked = folder_names(label)
            names = {alike(marked)}
            # A plain name beside a marked one is another label's.
            if plain != label and alike(marked) not in there:
                names.add(alike(plain))
            for name in names:
                self._made.setdefault(name, []).append(label)

    def __call__(self, folder: str, *, strict: bool = True) -> str:
        """The label, or the folder's name where no label is made into it.

        Raises:
            InputError: it could be several, and `strict`.
        """
        if canonical(folder) in self._exact:
            return folder
        labels = self._made.get(alike(folder), [])
        if len(labels) > 1 and strict:
            names = " or ".join(f"{folder_names(label)[1]!r} for {label!r}" for label in labels)
            raise InputError(
                f"{self._source}: the folder {folder!r} could be of several labels; rename it to "
                f"{names}"
            )
        return labels[0] if len(labels) == 1 else folder


class _Finder:
    """What a label as it was written means."""

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


@dataclass(frozen=True, slots=True)
class Excluded:
    """What of labelled data is in no figure.

    Attributes:
        no_labels: labels of the data that are none of the classifier's -> how many images.
        left_out: images that have no other labels than these; of several labels an image those
            with one that stands above labels and leaves open which of them are right.
        beside: images that lie beside the class folders, without a label.
        unreadable: images that could not be read, and folders that could not be searched.
        without_images: labels of the classifier that no image has.
        as_none: of several labels an image, those that have no other labels than `no_labels`,
            which count as having none; None for one label an image.
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
class Matched:
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


LabelledLike: TypeAlias = (
    "str | os.PathLike[str] | LabelledData | Iterable[tuple[str | os.PathLike[str], "
    "str | Sequence[str]]]"
)


def make_labelled(data: LabelledLike, *, unlabelled: bool = False) -> LabelledData:
    """`LabelledData` from whatever a Python caller has.

    Args:
        data: a folder or csv file (see `read_labelled`), or pairs of a path and its label or
            labels; pairs with the same path add up.
        unlabelled: whether an image may have no label: a blank in a csv, an empty list.

    Raises:
        InputError: it cannot be read, or there are no images in it.

    Example:
        >>> make_labelled([("a.jpg", "cat"), ("b.jpg", ["cat", "dog"])]).labels
        (('cat',), ('cat', 'dog'))
    """
    if isinstance(data, LabelledData):
        if not (unlabelled or all(data.labels)):
            raise InputError(f"{data.source}: an image has no label; that is for several labels")
        return data
    if isinstance(data, str | os.PathLike):
        return read_labelled(data, unlabelled=unlabelled)
    pairs = (
        (os.fspath(path), [labels] if isinstance(labels, str) else list(labels))
        for path, labels in data
    )
    return _merged("data", pairs, unlabelled)


def read_labelled(
    source: str | os.PathLike[str], *, unlabelled: bool = False, exact: bool = False
) -> LabelledData:
    """Reads a folder with a folder per class, or a csv file.

    - A folder: the folders directly in it are the classes, and all images below each belong to it
      (as `find_images` finds them), unless a folder further down names a label: see
      `LabelledData.match`. Images that lie beside the class folders have no label and are left
      out.
    - A `.csv` or `.tsv` file, also compressed (`.gz`): the first line names the columns, `path` and
      `label` among them. Paths are relative to the file's folder; a warning counts those that the
      disk spells differently (see `find_on_disk`). Several labels of an image are several right
      answers: in one cell, separated by `|`, or in a row each. A blank one is an error unless
      `unlabelled`: the image then has none of the labels. Of a table that `clipcls review` wrote,
      with a column `labelled_by`, only the labels that a person gave are taken.

    Args:
        source: the folder or file.
        unlabelled: whether an image may have no label.
        exact: whether to take paths as they stand in a csv, whatever the disk has.

    Raises:
        InputError: there is no such folder or file, it cannot be read as that, or it is empty.
    """
    name = os.fspath(source)
    if os.path.isdir(name):
        return _read_folder(name)
    if not os.path.exists(name):
        raise InputError(f"{name}: no such file or folder")
    if Path(name.lower().removesuffix(".gz")).suffix not in _FILES:
        raise InputError(
            f"{name}: labelled images are a folder with a folder per class, or a .csv file with "
            "the columns path and label"
        )
    unreviewed: list[str] = []
    rows = list(_rows(name, read_text(Path(name)), unlabelled, unreviewed))
    if unreviewed and not rows:
        raise InputError(f"{name}: no person gave any of its labels; review the images first")
    if not exact:
        rows = list(zip(_found(name, [p for p, _ in rows]), (ls for _, ls in rows), strict=True))
    return replace(_merged(name, rows, unlabelled), unreviewed=len(unreviewed))


def _read_folder(root: str) -> LabelledData:
    try:
        folders, beside = folders_and_images(root)
    except OSError as error:
        raise InputError(f"{root}: {os_reason(error)}") from error
    if not folders:
        raise InputError(f"{root}: has no folders in it; make one per class, named like its label")
    names = read_folder_labels(Path(root))
    paths: list[str] = []
    labels: list[tuple[str, ...]] = []
    chains: list[tuple[str, ...]] = []
    unreadable: list[ImageError] = []
    empty: list[str] = []
    left_out = LeftOut()
    for folder in folders:
        before = len(paths) + len(unreadable)
        try:
            for item in find_images([os.path.join(root, folder)], left_out=left_out):
                if isinstance(item, ImageError):
                    unreadable.append(item)
                else:
                    paths.append(item)
                    chain = Path(item).relative_to(root).parts[:-1]
                    chains.append(
                        tuple(names.get(chain[: n + 1], name) for n, name in enumerate(chain))
                    )
                    labels.append(chains[-1][:1])
        except InputError:
            pass  # no images in it
        if before == len(paths) + len(unreadable):
            empty.append(names.get((folder,), folder))
    if not paths:
        besides = f": {left_out}" if left_out.counts else ""
        raise InputError(f"{root}: there are no images in its folders{besides}")
    return LabelledData(
        root,
        tuple(paths),
        tuple(labels),
        tuple(unreadable),
        tuple(empty),
        len(beside),
        tuple(chains),
    )


def _rows(
    name: str, text: str, unlabelled: bool, unreviewed: list[str]
) -> Iterator[tuple[str, list[str]]]:
    """(path, labels) of each row that is not blank; paths that nobody reviewed go to the list."""
    table = read_table(text, name)
    if table.columns and not {"path", "label"} <= set(table.columns):
        raise InputError(
            f"{table.where}: the first line must name the columns path and label; it has "
            f"{', '.join(map(repr, table.columns[:5]))}"
        )
    folder = os.path.dirname(name)
    for where, cells in table.rows:
        if cells.get("labelled_by", PERSON) != PERSON:
            unreviewed.append(cells["path"])
            continue
        labels = [label for label in map(canonical, cells["label"].split("|")) if label]
        if not cells["path"] or not (labels or unlabelled):
            raise InputError(f"{where}: the {'label' if cells['path'] else 'path'} is blank")
        yield os.path.join(folder, cells["path"]), labels


def _found(name: str, paths: Sequence[str]) -> list[str]:
    """The paths as the disk spells them; those without a file as they are."""
    found = [path if os.path.isdir(there := find_on_disk(path)) else there for path in paths]
    respelt = [(path, there) for path, there in zip(paths, found, strict=True) if path != there]
    if respelt:
        kinds = {"backslashes" if "\\" in path else "Unicode" for path, _ in respelt}
        log.warning(
            "%s: the disk spells %d of %d paths differently (%s), such as %s; they were found",
            *(name, len(respelt), len(paths), ", ".join(sorted(kinds)), respelt[0][1]),
        )
    missing = {path: why_missing(path) for path in found if not os.path.lexists(path)}
    if explained := [path for path, reason in missing.items() if ";" in reason]:
        log.warning(
            "%s: %d of %d paths are not on this disk, such as %s (%s); write them relative to the "
            "folder of this file",
            *(name, len(missing), len(paths), explained[0], missing[explained[0]]),
        )
    return found


def _merged(
    source: str, rows: Iterable[tuple[str, Sequence[str]]], unlabelled: bool
) -> LabelledData:
    found: dict[str, dict[str, None]] = {}
    for path, labels in rows:
        if not (labels or unlabelled):
            raise InputError(f"{source}: {path} has no label")
        found.setdefault(path, {}).update(dict.fromkeys(labels))
    if not found:
        raise InputError(f"{source}: there are no images in it")
    return LabelledData(source, tuple(found), tuple(tuple(labels) for labels in found.values()))


def _path(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else join_levels(names)


def _loosely(label: str) -> str:
    """The label as folders may spell it: without case, `_` and `-` being spaces."""
    words = canonical(label).casefold().replace("_", " ").replace("-", " ").split()
    return " ".join(words)
