"""Read labelled images from a folder per class, a csv, or pairs of a path and a label."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from clipcls.data.file_kinds import LeftOut, is_system_folder
from clipcls.data.paths import find_images
from clipcls.data.sorted_folders import read_folder_labels
from clipcls.errors import ImageError, InputError, os_reason
from clipcls.files.on_disk import explain_missing, find_on_disk, is_url, join_address
from clipcls.files.text import canonical, read_table, read_text
from clipcls.predictions import PERSON
from clipcls.questions import find_name

log = logging.getLogger("clipcls")

_FILES = (".csv", ".tsv", ".tab", ".txt")  # Excel's "Unicode text" is a .txt with tabs


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images in the order given, each with its true labels as they were written.

    Attributes:
        source: the folder's or file's name, or `data`.
        paths: the images.
        labels: each image's true labels; an answer is right if it is one of them. Only with
            `unlabelled` may an image have none.
        unreadable: folders that could not be searched.
        empty: class folders without images.
        beside: how many images are next to the class folders, without a label.
        folders: the folders that contain each image, from the class folder down; () for other data.
        unreviewed: how many rows of a reviewed table were left out, as no person gave their label.
        vectors: the file of vectors that has these images; "" if they are files.
    """

    source: str
    paths: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    unreadable: tuple[ImageError, ...] = ()
    empty: tuple[str, ...] = ()
    beside: int = 0
    folders: tuple[tuple[str, ...], ...] = ()
    unreviewed: int = 0
    vectors: str = ""

    def __len__(self) -> int:
        return len(self.paths)


DatasetLike: TypeAlias = (
    "str | os.PathLike[str] | Dataset | Iterable[tuple[str | os.PathLike[str], "
    "str | Sequence[str]]]"
)


def make_dataset(data: DatasetLike, *, unlabelled: bool = False) -> Dataset:
    """Make a `Dataset` from whatever a Python caller has.

    Args:
        data: a folder or csv file (see `read_dataset`), or pairs of a path and its label or
            labels; pairs with the same path add up.
        unlabelled: whether an image may have no label: a blank in a csv, an empty list.

    Raises:
        InputError: it cannot be read, or contains no images.

    Example:
        >>> make_dataset([("a.jpg", "cat"), ("b.jpg", ["cat", "dog"])]).labels
        (('cat',), ('cat', 'dog'))
    """
    if isinstance(data, Dataset):
        if not (unlabelled or all(data.labels)):
            raise InputError(f"{data.source}: an image has no label; only multi-label data may")
        return data
    if isinstance(data, str | os.PathLike):
        return read_dataset(data, unlabelled=unlabelled)
    pairs = (
        (os.fspath(path), [labels] if isinstance(labels, str) else list(labels))
        for path, labels in data
    )
    return merge_rows("data", pairs, unlabelled)


def read_dataset(
    source: str | os.PathLike[str],
    *,
    unlabelled: bool = False,
    exact: bool = False,
    question: str | None = None,
) -> Dataset:
    """Read a folder with a folder per class, or a csv file.

    - A folder: the folders directly in it are the classes, with all images below them (see
      `find_images`), unless a folder further down names a label (see `match_labels`). Images next
      to the class folders are left out.
    - A `.csv` or `.tsv` file, also compressed (`.gz`): the first line names the columns, including
      `path` and `label`. Paths are relative to the file's folder; a warning counts those that the
      disk spells differently (see `find_on_disk`). Several labels, in one cell separated by `|` or
      in several rows, are several right answers. From a table by `clipcls review`, with a column
      `labelled_by`, only labels that a person gave are taken.

    Args:
        source: the folder or file.
        unlabelled: whether an image may have no label.
        exact: whether to take paths exactly as the csv spells them.
        question: the column of the labels, `label` if None: a csv can answer several questions per
            image. Images without an answer to it are left out. A folder is of any question.

    Raises:
        InputError: no such folder or file exists, or it cannot be read as labelled images.
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
    rows = list(_rows(name, read_text(Path(name)), unlabelled, unreviewed, question))
    if unreviewed and not rows:
        raise InputError(f"{name}: none of its labels was given by a person; review the images")
    if not exact:
        rows = list(
            zip(_find_paths(name, [p for p, _ in rows]), (ls for _, ls in rows), strict=True)
        )
    return replace(merge_rows(name, rows, unlabelled), unreviewed=len(unreviewed))


def _read_folder(root: str) -> Dataset:
    try:
        folders = [
            name
            for name in sorted(os.listdir(root))
            if os.path.isdir(os.path.join(root, name))
            and not (name.startswith(".") or is_system_folder(name))
        ]
    except OSError as error:
        raise InputError(f"{root}: {os_reason(error)}") from error
    if not folders:
        raise InputError(f"{root}: contains no folders; make one per class, named like its label")
    labels = read_folder_labels(Path(root))
    paths: list[str] = []
    chains: list[tuple[str, ...]] = []
    unreadable: list[ImageError] = []
    beside = 0
    left_out = LeftOut()
    with contextlib.suppress(InputError):  # no images, as is said below
        for item in find_images([root], left_out=left_out):
            if isinstance(item, ImageError):
                unreadable.append(item)
            elif chain := Path(name := str(item)).relative_to(root).parts[:-1]:
                paths.append(name)
                chains.append(tuple(labels.get(chain[: n + 1], c) for n, c in enumerate(chain)))
            else:
                beside += 1
    if not paths:
        besides = f": {left_out}" if left_out.counts else ""
        raise InputError(f"{root}: its folders contain no images{besides}")
    found = {Path(path).relative_to(root).parts[0] for path in paths}
    found.update(*(Path(item.path).relative_to(root).parts[:1] for item in unreadable))
    return Dataset(
        root,
        tuple(paths),
        tuple(chain[:1] for chain in chains),
        tuple(unreadable),
        tuple(labels.get((folder,), folder) for folder in folders if folder not in found),
        beside,
        tuple(chains),
    )


def _rows(
    name: str, text: str, unlabelled: bool, unreviewed: list[str], question: str | None
) -> Iterator[tuple[str, list[str]]]:
    """(path, labels) of each row; paths that nobody reviewed are added to the list."""
    table = read_table(text, name)
    column = find_name(question or "label", table.columns)
    if column is None and "label" in table.columns and {"best", "labelled_by"} & {*table.columns}:
        # A file of `clipcls review`, which has one per question.
        column = find_name("label", table.columns)
    if table.columns and ("path" not in table.columns or column is None):
        cure = (
            "; choose the column of the labels with --question" if "path" in table.columns else ""
        )
        raise InputError(
            f"{table.where}: the first line must name the columns path and {question or 'label'}; "
            f"it has {', '.join(map(repr, table.columns[:5]))}{cure}"
        )
    folder = os.path.dirname(name)
    for where, cells in table.rows:
        if cells.get("labelled_by", PERSON) != PERSON:
            unreviewed.append(cells["path"])
            continue
        labels = [label for label in map(canonical, cells[column or ""].split("|")) if label]
        if question and not labels and not unlabelled:
            unreviewed.append(cells["path"])
            continue
        if not cells["path"] or not (labels or unlabelled):
            raise InputError(f"{where}: the {column if cells['path'] else 'path'} is blank")
        yield join_address(folder, cells["path"]), labels


def _find_paths(name: str, paths: Sequence[str]) -> list[str]:
    """The paths as the disk spells them; missing ones as they are."""
    found = [path if os.path.isdir(there := find_on_disk(path)) else there for path in paths]
    respelt = [pair for pair in zip(paths, found, strict=True) if pair[0] != pair[1]]
    if respelt:
        log.warning(
            "%s: the disk spells %d of %d paths differently, such as %a as %a; they were found",
            *(name, len(respelt), len(paths), *respelt[0]),
        )
    local = (path for path in found if not is_url(path))
    missing = {path: explain_missing(path) for path in local if not os.path.lexists(path)}
    if explained := [path for path, reason in missing.items() if ";" in reason]:
        log.warning(
            "%s: %d of %d paths are not on this disk, such as %s (%s); write them relative to the "
            "folder of this file",
            *(name, len(missing), len(paths), explained[0], missing[explained[0]]),
        )
    return found


def merge_rows(source: str, rows: Iterable[tuple[str, Sequence[str]]], unlabelled: bool) -> Dataset:
    """The images of (path, labels) rows; rows with the same path add up.

    Raises:
        InputError: there are no rows, or, without `unlabelled`, one has no label.
    """
    found: dict[str, dict[str, None]] = {}
    for path, labels in rows:
        if not (labels or unlabelled):
            raise InputError(f"{source}: {path} has no label")
        found.setdefault(path, {}).update(dict.fromkeys(labels))
    if not found:
        raise InputError(f"{source}: contains no images")
    return Dataset(source, tuple(found), tuple(tuple(labels) for labels in found.values()))
