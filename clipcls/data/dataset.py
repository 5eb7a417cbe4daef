"""Read labelled images from a folder per class, a table, or pairs of a path and a label."""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from clipcls.data.file_kinds import LeftOut, is_archive, is_system_folder, is_table
from clipcls.data.inputs import Found, NamedImage
from clipcls.data.kept import Keep
from clipcls.data.paths import find_images
from clipcls.data.sorted_folders import read_folder_labels
from clipcls.data.sources import find_part, find_source
from clipcls.errors import ImageError, InputError, os_reason
from clipcls.files.on_disk import explain_missing, find_on_disk, is_url, join_address
from clipcls.files.text import canonical, read_table
from clipcls.predictions import PERSON
from clipcls.questions import find_name

log = logging.getLogger("clipcls")

_SEPARATORS = re.compile(r"[/\\]")
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
        folders: the folders that contain each image, from the class folder down, or its class in
            WebDataset's shards; () for other data.
        is_numbered: whether labels may be numbers of a classifier's labels, from 0.
        unreviewed: how many rows of a reviewed table were left out, as no person gave their label.
        vectors: the file of vectors that has these images; "" if they are files.
        listing: lists the images again with what is known of them; None if names are enough.
    """

    source: str
    paths: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    unreadable: tuple[ImageError, ...] = ()
    empty: tuple[str, ...] = ()
    beside: int = 0
    folders: tuple[tuple[str, ...], ...] = ()
    is_numbered: bool = False
    unreviewed: int = 0
    vectors: str = ""
    listing: Callable[[], Iterator[Found]] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def open_images(self, paths: Iterable[str]) -> Iterator[NamedImage]:
        """One image to embed per name; the names are in the order of the dataset."""
        listed = iter(self.listing()) if self.listing else iter(())
        for path in paths:
            named = (each for each in listed if isinstance(each, NamedImage) and each.name == path)
            yield next(named, None) or NamedImage(path, find_source(path))


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
    question: str | None = None,
    image_column: str | None = None,
) -> Dataset:
    """Read a folder with a folder per class, or a table.

    - A folder: the folders directly in it are the classes, with all images below them (see
      `find_images`), unless a folder further down names a label (see `match_labels`). Images next
      to the class folders are left out.
    - An archive, a folder behind a URL, or a pattern of either: the same, below the folders that
      all of its images are in. In shards of WebDataset the `.cls` file of each image has its label,
      or the number of its label among the classifier's, from 0.
    - A table as for `find_images`, with a column of labels. Several labels, in one cell separated
      by `|`, as a list, or in several rows, are several right answers. Numbers that stand for
      names, by the metadata of Hugging Face's datasets, become these names. From a table by
      `clipcls review`, with a column `labelled_by`, only labels that a person gave are taken. Of a
      csv or tsv, a warning counts the paths that the disk spells differently.

    Args:
        source: the folder or file.
        unlabelled: whether an image may have no label.
        question: the column of the labels, `label` if None. Images without an answer to it are left
            out. A folder is of any question.
        image_column: the column of images; None: `path`, or the only one with a usual name.

    Raises:
        InputError: no such folder or file exists, or it cannot be read as labelled images.
    """
    name = os.fspath(source)
    if os.path.isdir(name):
        return _read_folder(name)
    is_remote = is_url(name) and not os.path.lexists(name)
    is_csv = Path(name.lower().removesuffix(".gz")).suffix in _FILES
    if is_table(name) and not is_csv:
        return _read_table(name, unlabelled, question, image_column)
    if not is_csv and (is_archive(name) or is_remote or glob.has_magic(name)):
        return _read_listed(name)
    if not (is_remote or os.path.exists(name)):
        raise InputError(f"{name}: no such file or folder")
    if not is_csv:
        raise InputError(
            f"{name}: labelled images are a folder or archive with a folder per class, or a table "
            "(csv, tsv, jsonl, parquet) with the columns path and label"
        )
    rows = list(_read_csv(name, unlabelled, question, image_column))
    taken = [(path, labels) for path, labels in rows if labels is not None]
    paths = _find_paths(name, [path for path, _ in taken])
    found = zip(paths, (labels for _, labels in taken), strict=True)
    return _merge_reviewed(name, list(found), unlabelled, len(rows) - len(taken))


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


def label_by_folders(source: str, images: Iterable[str], cure: str, **others: Any) -> Dataset:
    """Images whose labels are the folders below those that all of them are in.

    Args:
        source: the dataset's name.
        images: their names; of an image in an archive, only the folders in that count.
        cure: what to do if the images are not in folders, for the message.
        others: of a `Dataset`.

    Raises:
        InputError: the images are not in folders.
    """
    chains, root = {}, source.rstrip("/") + "/"
    is_rooted = True
    for name in images:
        inner = getattr(find_part(name), "member", "") or name.removeprefix(root)
        chains[name] = tuple(_SEPARATORS.split(inner)[:-1])
        is_rooted &= inner != name
    alike = itertools.takewhile(
        lambda names: len({*names}) == 1, zip(*chains.values(), strict=False)
    )
    shared = len([*alike])
    if shared and is_rooted and shared == max(map(len, chains.values())):
        shared -= 1  # all have one label
    inside = {name: chain[shared:] for name, chain in chains.items() if chain[shared:]}
    if not inside:
        raise InputError(f"{source}: its images are not in one folder per label; {cure}")
    labels, folders = tuple(chain[:1] for chain in inside.values()), tuple(inside.values())
    beside = len(chains) - len(inside)
    return Dataset(source, tuple(inside), labels, beside=beside, folders=folders, **others)


def _read_listed(name: str) -> Dataset:
    """Labelled images by their folders or `.cls` files, in an archive or behind a URL."""
    left_out = LeftOut(classes={})
    samples: dict[str, Any] = {}
    unreadable = []
    for each in find_images([name], left_out=left_out):
        if isinstance(each, ImageError):
            unreadable.append(each)
        elif isinstance(each, NamedImage):
            samples[each.name] = getattr(each.source, "sample", None)
        else:
            samples[each] = None
    if not samples:
        raise InputError(str(unreadable[0]))

    find = functools.partial(find_images, [name])
    if not (classes := left_out.classes):
        cure = "list them in a csv with the columns path and label, or add a .cls file to each"
        return label_by_folders(name, samples, cure, unreadable=tuple(unreadable), listing=find)
    labels = {path: (classes[sample],) for path, sample in samples.items() if sample in classes}
    unreadable += [
        ImageError(path, "has no label: no .cls file has its name")
        for path in samples
        if path not in labels
    ]
    folders = tuple(labels.values())
    return Dataset(
        name,
        tuple(labels),
        folders,
        tuple(unreadable),
        folders=folders,
        is_numbered=all(label.isdecimal() for (label,) in folders),
        listing=find,
    )


def _read_table(
    name: str, unlabelled: bool, question: str | None, image_column: str | None
) -> Dataset:
    """Labelled images by a column of a table."""
    column = question or "label"

    def find() -> Iterator[Found]:
        keep = Keep([column], optional=["labelled_by"], is_named=True, option="--label-column")
        return find_images([name], image_column=image_column, keep=keep)

    rows: list[tuple[str, list[str]]] = []
    unreadable, unreviewed = [], 0
    skip_blank = bool(question) and not unlabelled
    for each in find():
        if isinstance(each, ImageError):
            unreadable.append(each)
            continue
        assert isinstance(each, NamedImage)  # since it has cells to keep
        labels = _find_labels(each.kept or {}, column, skip_blank=skip_blank)
        if labels is None:
            unreviewed += 1
        elif labels or unlabelled:
            rows.append((each.name, labels))
        else:
            raise InputError(f"{each.name}: the {column} is blank")
    if not rows and not unreviewed:
        raise InputError(str(unreadable[0]))
    made = _merge_reviewed(name, rows, unlabelled, unreviewed)
    return replace(made, unreadable=tuple(unreadable), listing=find)


def _find_labels(cells: Mapping[str, Any], column: str, *, skip_blank: bool) -> list[str] | None:
    """A row's labels; None if no person gave them, or a blank is to be skipped."""
    if cells.get("labelled_by", PERSON) != PERSON:
        return None
    value = cells.get(column)
    values = value.split("|") if isinstance(value, str) else value
    values = values if isinstance(values, list) else [values]
    labels = [label for each in values if each is not None and (label := canonical(str(each)))]
    return labels if labels or not skip_blank else None


def _merge_reviewed(
    name: str, rows: Sequence[tuple[str, Sequence[str]]], unlabelled: bool, unreviewed: int
) -> Dataset:
    if unreviewed and not rows:
        raise InputError(f"{name}: none of its labels was given by a person; review the images")
    return replace(merge_rows(name, rows, unlabelled), unreviewed=unreviewed)


def _read_csv(
    name: str, unlabelled: bool, question: str | None, image_column: str | None
) -> Iterator[tuple[str, list[str] | None]]:
    """(path, labels) of each row, as `_find_labels` finds them."""
    from clipcls.data.image_column import choose_column
    from clipcls.data.tables import read_table_text

    try:
        table = read_table(read_table_text(name), name)
        if not table.columns:
            return
        has_path = "path" in table.columns and not image_column
        image = "path" if has_path else choose_column(table.where, table.columns, image_column)
    except ImageError as error:
        raise InputError(str(error)) from error
    column = find_name(question or "label", table.columns)
    if column is None and {"best", "labelled_by"} & {*table.columns}:
        # A file of `clipcls review`, which has one per question.
        column = find_name("label", table.columns)
    if column is None:
        shown = ", ".join(map(repr, table.columns[:20]))
        raise InputError(
            f"{table.where}: has no column {question or 'label'!r}; choose from these with "
            f"--label-column: {shown}"
        )
    folder = name.rpartition("/")[0] if is_url(name) else os.path.dirname(name)
    skip_blank = bool(question) and not unlabelled
    for where, cells in table.rows:
        path = cells[image]
        labels = _find_labels(cells, column, skip_blank=skip_blank)
        if labels is not None and (not path or not (labels or unlabelled)):
            raise InputError(f"{where}: the {column if path else image} is blank")
        yield join_address(folder, path), labels


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
