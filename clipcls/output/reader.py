"""Reads result files of `clipcls classify` in any format."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipcls.errors import ImageError, InputError, os_reason
from clipcls.files.on_disk import find_on_disk
from clipcls.files.text import decode, read_text
from clipcls.output import parquet
from clipcls.output.columns import unflatten
from clipcls.output.csv import read_csv
from clipcls.output.json import read_json
from clipcls.predictions import Prediction, Result

__all__ = ["read_results"]


def read_results(
    source: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> tuple[Result, ...]:
    """Read a result file: csv, tsv, json, jsonl (also compressed, .gz) or parquet; `-` is stdin.

    The format is recognised by the contents, not the name. Several lines for one image make one
    result with all their labels. A path that is not valid UTF-8 survives only in json and jsonl.

    Args:
        source: the file.
        root: the folder that paths are relative to: those that exist there only in another spelling
            (see `find_on_disk`) are given as on the disk. None: all stay as they are.

    Returns:
        per image a `Prediction`, or the `ImageError` that says why there is none.

    Raises:
        InputError: it cannot be read or holds no results; the message names file and line.
    """
    name = "stdin" if os.fspath(source) == "-" else os.fspath(source)
    merged: dict[str, Result] = {}
    for where, record in _records(name):
        found = _result(unflatten(record), where)
        if root is not None and isinstance(found, Prediction):
            found = _respelt(found, root)
        before = merged.get(found.path)
        merged[found.path] = found if before is None else _merged(before, found)
    if not merged:
        raise InputError(f"{name}: contains no results")
    return tuple(merged.values())


def _records(name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each record with its place for messages."""
    if name == "stdin":
        data = sys.stdin.buffer.read()
        if data.startswith(parquet.MAGIC):
            return parquet.read_parquet(io.BytesIO(data), name)
        text = decode(data, name)
    else:
        try:
            with open(name, "rb") as file:
                if file.read(len(parquet.MAGIC)) == parquet.MAGIC:
                    return parquet.read_parquet(name, name)
            text = read_text(Path(name))
        except OSError as error:
            raise InputError(f"{name}: cannot be read: {os_reason(error)}") from error
    return (read_json if text.lstrip().startswith(("{", "[")) else read_csv)(text, name)


def _result(record: Mapping[str, Any], where: str) -> Result:
    try:
        if error := record.get("error"):
            path = Prediction.from_dict({"path": record.get("path"), "label": "-"}).path
            if not isinstance(error, str):
                raise ValueError("`error` is not a text")
            return ImageError(path, error)
        return Prediction.from_dict(record)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _respelt(found: Prediction, root: str | os.PathLike[str]) -> Prediction:
    path = os.path.join(root, found.path)
    there = find_on_disk(path)
    if there == path or os.path.isdir(there):
        return found
    path = there if os.path.isabs(found.path) else os.path.relpath(there, root)
    return dataclasses.replace(found, path=path)


def _merged(one: Result, other: Result) -> Result:
    """One image's result from two lines: the labels of both, with the scores of the first."""
    if isinstance(one, ImageError) or (not isinstance(other, ImageError) and not one.given):
        return other
    if isinstance(other, ImageError) or not other.given:
        return one
    ours, theirs = (dict(zip(p.label_paths, p.given, strict=True)) for p in (one, other))
    given = ours | theirs | ours
    first, second = ({candidate.label: candidate for candidate in p.top} for p in (one, other))
    return dataclasses.replace(
        one,
        top=tuple((first | second | first).values()),
        lineages=tuple(given) if any(len(names) > 1 for names in given) else None,
        labels=tuple(given.values()),
    )
