"""A result file of `clipcls classify` (jsonl or csv) -> `Result`, one an image."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipcls.errors import InputError, LabelsError
from clipcls.labels import levels_of
from clipcls.predictions import UNKNOWN
from clipcls.ready import read_text

__all__ = ["Result", "read_results"]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one image.

    Attributes:
        path: the image as `classify` was given it; relative to where that ran.
        labels: its labels, best first, each as the names from the root of the hierarchy to the
            label (one name where there is none); () where the answer is `unknown`.
        error: why it could not be read, or "".
    """

    path: str
    labels: tuple[tuple[str, ...], ...]
    error: str = ""


def read_results(source: str | os.PathLike[str]) -> tuple[Result, ...]:
    """Reads a result file; `-` is stdin.

    Lines of one image are one result with the labels of all. In a csv the `'` in front of what a
    spreadsheet would take for a formula is taken off again; a path that is not valid UTF-8 is only
    whole in jsonl.

    Raises:
        InputError: it cannot be read or does not hold results; the message names file and line.
    """
    name = "stdin" if os.fspath(source) == "-" else os.fspath(source)
    if name == "stdin":
        text = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", errors="replace").read()
    else:
        try:
            text = read_text(Path(source), "labels")
        except LabelsError as error:
            raise InputError(str(error)) from error
    records = _jsonl(name, text) if text.lstrip().startswith("{") else _csv(name, text)
    merged: dict[str, Result] = {}
    for where, record in records:
        one = _result(where, record)
        before = merged.get(one.path, one)
        labels = tuple(dict.fromkeys((*before.labels, *one.labels)))
        merged[one.path] = Result(one.path, labels, "" if labels else one.error)
    if not merged:
        raise InputError(f"{name}: there are no results in it")
    return tuple(merged.values())


def _jsonl(name: str, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        where = f"{name}, line {number}"
        if not isinstance(record, dict):
            raise InputError(f"{where}: is not a record of `clipcls classify -f jsonl`")
        yield where, record


def _csv(name: str, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if not {"path", "label"} <= set(rows.fieldnames or ()):
            raise InputError(
                f"{name}: is neither jsonl nor a csv with the columns path and label; make it with "
                "`clipcls classify -f jsonl`"
            )
        for row in rows:
            yield (
                f"{name}, line {rows.line_num}",
                {
                    key: value[1:] if value[0] == "'" and value[1:2] in _APOSTROPHED else value
                    for key, value in row.items()
                    if isinstance(key, str) and value
                },
            )
    except csv.Error as error:
        raise InputError(f"{name}, line {rows.line_num}: {error}") from error


# What writers.csv puts a ' before; "" is not among them.
_APOSTROPHED = tuple("=+-@\t")


def _result(where: str, record: Mapping[str, Any]) -> Result:
    path, error = record.get("path"), record.get("error")
    if not isinstance(path, str) or "\0" in path:
        raise InputError(f"{where}: has no path of an image")
    if error:
        return Result(path, (), str(error))
    lineage = record.get("lineage")
    if isinstance(lineage, str):
        lineage = levels_of(lineage)
    if lineage is not None and not isinstance(lineage, (list, tuple)):
        raise InputError(f"{where}: `lineage` is not a list of names")
    labels: Iterable[Any]
    if "labels" in record:
        entries = record["labels"]
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise InputError(f"{where}: `labels` is not a list of labels with scores")
        labels = [(entry.get("label"),) for entry in entries]
    elif "label" in record:
        labels = [lineage or (record["label"],)]
    else:
        raise InputError(f"{where}: has no label; these are not results of `clipcls classify`")
    names = [tuple(label) for label in labels]
    if not all(isinstance(n, str) and n.strip() for n in itertools.chain(*names)):
        raise InputError(f"{where}: a label is not a text")
    return Result(path, tuple(label for label in names if label != (UNKNOWN,)))
