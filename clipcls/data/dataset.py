"""Labelled images: a folder per class, a csv, or pairs of a path and a label -> `Dataset`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from clipcls.data.file_kinds import LeftOut
from clipcls.data.paths import find_images, list_folder
from clipcls.data.sorted_folders import read_folder_labels
from clipcls.errors import ImageError, InputError, os_reason
from clipcls.files.on_disk import explain_missing, find_on_disk
from clipcls.files.text import canonical, read_table, read_text
from clipcls.predictions import PERSON

log = logging.getLogger("clipcls")

__all__ = [
    "Dataset",
    "DatasetLike",
    "make_dataset",
    "read_dataset",
]

_FILES = (".csv", ".tsv", ".tab", ".txt")  # Excel's "Unicode text" is a .txt with tabs


@dataclass(frozen=True, slots=True)
class Dataset:
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


DatasetLike: TypeAlias = (
    "str | os.PathLike[str] | Dataset | Iterable[tuple[str | os.PathLike[str], "
    "str | Sequence[str]]]"
)


def make_dataset(data: DatasetLike, *, unlabelled: bool = False) -> Dataset:
    """`Dataset` from whatever a Python caller has.

    Args:
        data: a folder or csv file (see `read_dataset`), or pairs of a path and its label or
            labels; pairs with the same path add up.
        unlabelled: whether an image may have no label: a blank in a csv, an empty list.

    Raises:
        InputError: it cannot be read, or there are no images in it.

    Example:
        >>> make_dataset([("a.jpg", "cat"), ("b.jpg", ["cat", "dog"])]).labels
        (('cat',), ('cat', 'dog'))
    """
    if isinstance(data, Dataset):
        if not (unlabelled or all(data.labels)):
            raise InputError(f"{data.source}: an image has no label; that is for several labels")
        return data
    if isinstance(data, str | os.PathLike):
        return read_dataset(data, unlabelled=unlabelled)
    pairs = (
        (os.fspath(path), [labels] if isinstance(labels, str) else list(labels))
        for path, labels in data
    )
    return _merged("data", pairs, unlabelled)


def read_dataset(
    source: str | os.PathLike[str], *, unlabelled: bool = False, exact: bool = False
) -> Dataset:
    """Reads a folder with a folder per class, or a csv file.

    - A folder: the folders directly in it are the classes, and all images below each belong to it
      (as `find_images` finds them), unless a folder further down names a label: see
      `match_labels`. Images that lie beside the class folders have no label and are left
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


def _read_folder(root: str) -> Dataset:
    try:
        folders, beside = list_folder(root)
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
    return Dataset(
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
    missing = {path: explain_missing(path) for path in found if not os.path.lexists(path)}
    if explained := [path for path, reason in missing.items() if ";" in reason]:
        log.warning(
            "%s: %d of %d paths are not on this disk, such as %s (%s); write them relative to the "
            "folder of this file",
            *(name, len(missing), len(paths), explained[0], missing[explained[0]]),
        )
    return found


def _merged(source: str, rows: Iterable[tuple[str, Sequence[str]]], unlabelled: bool) -> Dataset:
    found: dict[str, dict[str, None]] = {}
    for path, labels in rows:
        if not (labels or unlabelled):
            raise InputError(f"{source}: {path} has no label")
        found.setdefault(path, {}).update(dict.fromkeys(labels))
    if not found:
        raise InputError(f"{source}: there are no images in it")
    return Dataset(source, tuple(found), tuple(tuple(labels) for labels in found.values()))
