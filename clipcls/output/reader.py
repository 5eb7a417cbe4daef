"""A result file of `clipcls classify` -> `Result`, one per image."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipcls.errors import InputError, install_command, os_reason
from clipcls.files.jsonfiles import parse_json
from clipcls.files.on_disk import find_on_disk
from clipcls.files.text import clean, decode, parse_number, read_table, read_text
from clipcls.labels.names import split_levels
from clipcls.output.columns import read_provenance
from clipcls.predictions import PERSON, UNKNOWN, Provenance

__all__ = ["Result", "read_results", "result_of", "without_scores"]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one image.

    Attributes:
        path: the image as `classify` was given it; relative to where that ran.
        labels: its labels, best first, each as the names from the root of the hierarchy to the
            label (one name where there is none); () where the answer is `unknown`.
        error: why it could not be read, or "".
        scores: of each of `labels`, or where there is none of the best label; None for those
            without a number in the file.
        top: the best labels with their scores, answer or not, best first, as far as they are in
            the file.
        label_set: the labels of `--prediction-sets`, best first, or None.
        made_by: what made the answer, or None where the file does not say.
        by_person: whether a person gave the label, in `clipcls review`.
    """

    path: str
    labels: tuple[tuple[str, ...], ...]
    error: str = ""
    scores: tuple[float | None, ...] = (None,)
    top: tuple[tuple[str, float], ...] = ()
    label_set: tuple[str, ...] | None = None
    made_by: Provenance | None = None
    by_person: bool = False

    @property
    def score(self) -> float | None:
        """Of the best label, whether it was accepted or not; None where the file has no scores."""
        return self.scores[0]

    def record(self) -> dict[str, Any]:
        """As `classify` writes it in jsonl, as far as it is known; `result_of` reads it back."""
        if self.error:
            return {"path": self.path, "error": self.error}
        top = [{"label": label, "score": score} for label, score in self.top]
        record: dict[str, Any] = {"path": self.path}
        if len(self.labels) > 1:
            record["labels"] = [
                {"label": label[-1], "lineage": list(label), "score": score}
                for label, score in itertools.zip_longest(self.labels, self.scores)
            ]
        else:
            label = self.labels[0] if self.labels else (UNKNOWN,)
            record |= {"label": label[-1], "score": self.score}
            if len(label) > 1:
                record["lineage"] = list(label)
        record["top"] = top
        if self.label_set is not None:
            record["set"] = list(self.label_set)
        if self.by_person:
            record["labelled_by"] = PERSON
        return record | (self.made_by.record() if self.made_by else {})


def read_results(
    source: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> tuple[Result, ...]:
    """Reads a result file: csv, tsv, json, jsonl (also compressed, .gz) or parquet; `-` is stdin.

    Its contents tell the format, not its name. Lines of one image are one result with the labels of
    all. A csv may have been through a spreadsheet (see `textfiles.read_table`); a row without a
    label is one that could not be read. What made the results is taken from the csv's sidecar (see
    `tables`). A path that is not valid UTF-8 is only whole in json and jsonl.

    Args:
        source: the file.
        root: the folder that paths are relative to: those that exist there in another spelling
            alone (see `find_on_disk`) are given as the disk has them. None: as they stand.

    Raises:
        InputError: it cannot be read or does not hold results; the message names file and line.
    """
    name = "stdin" if os.fspath(source) == "-" else os.fspath(source)
    merged: dict[str, Result] = {}
    for where, record in _records(name):
        one = result_of(record, where)
        if root is not None and not one.error:
            one = _respelt(one, root)
        before = merged.get(one.path)
        merged[one.path] = one if before is None else _both(before, one)
    if not merged:
        raise InputError(f"{name}: there are no results in it")
    return tuple(merged.values())


def _respelt(result: Result, root: str | os.PathLike[str]) -> Result:
    path = os.path.join(root, result.path)
    there = find_on_disk(path)
    if there == path or os.path.isdir(there):
        return result
    found = there if os.path.isabs(result.path) else os.path.relpath(there, root)
    return dataclasses.replace(result, path=found)


def _records(name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each record with the place where it stands, for messages."""
    if name == "stdin":
        data = sys.stdin.buffer.read()
        if data.startswith(_PARQUET):
            return _parquet(name, io.BytesIO(data))
        text = decode(data, name)
    else:
        try:
            with open(name, "rb") as file:
                if file.read(4) == _PARQUET:
                    return _parquet(name, name)
            text = read_text(Path(name))
        except OSError as error:
            raise InputError(f"{name}: cannot be read: {os_reason(error)}") from error
    start = text.lstrip()[:1]
    return (_jsonl if start == "{" else _json if start == "[" else _csv)(name, text)


def _both(one: Result, other: Result) -> Result:
    """One image's result out of two lines."""
    if not (one.labels and other.labels):
        return one if one.labels else other
    scores = dict(zip(one.labels, one.scores, strict=True))
    for label, score in zip(other.labels, other.scores, strict=True):
        scores.setdefault(label, score)
    return dataclasses.replace(
        one,
        labels=tuple(scores),
        scores=tuple(scores.values()),
        top=tuple(dict(reversed((*one.top, *other.top))).items())[::-1],
    )


def _jsonl(name: str, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        record = parse_json(line, where, has_paths=True)
        if not isinstance(record, dict):
            raise InputError(f"{where}: is not a record of `clipcls classify -f jsonl`")
        yield where, record


def _json(name: str, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, record in enumerate(parse_json(text, name, has_paths=True), start=1):
        where = f"{name}, record {number}"
        if not isinstance(record, dict):
            raise InputError(f"{where}: is not a record of `clipcls classify -f json`")
        yield where, record


def _csv(name: str, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    table = read_table(text, name, exact=True)
    if not {"path", "label"} <= set(table.columns):
        raise InputError(
            f"{name}: is neither JSON nor a csv with the columns path and label; make it with "
            "`clipcls classify -f jsonl`"
        )
    made_by = {} if name == "stdin" else read_provenance(name)
    for where, cells in table.rows:
        row = {key: value for key, value in cells.items() if value and not _is_missing(key, value)}
        yield where, {**made_by, **row} if "label" in row else {"error": "has no label", **row}


def _is_missing(column: str, cell: str) -> bool:
    """Whether the cell is R's or a spreadsheet's way to say that it is blank."""
    return cell in ("NA", "#N/A") and bool(re.match("error$|similarity|score", column))


_PARQUET = b"PAR1"


def _parquet(name: str, source: str | io.BytesIO) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{name}: parquet needs pyarrow: {install_command('parquet')}") from error
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            rows = (r for batch in file.iter_batches() for r in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{name}, row {number}", {k: v for k, v in row.items() if v is not None}
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: is not a whole parquet file ({reason})") from error


def result_of(record: Mapping[str, Any], where: str = "record") -> Result:
    """A record as `classify` writes it, as a result.

    Args:
        record: as in jsonl, or flat as in csv.
        where: what a message names.

    Raises:
        InputError: it is no such record.
    """
    path, error = record.get("path"), record.get("error")
    if not isinstance(path, str) or not path or "\0" in path:
        raise InputError(f"{where}: has no path of an image")
    if error:
        if not isinstance(error, str):
            raise InputError(f"{where}: `error` is not a text")
        return Result(path, (), error)
    lineage = record.get("lineage")
    if isinstance(lineage, str):
        lineage = split_levels(lineage)
    if record.get("labels") is not None:
        answers = _entries(record["labels"], "labels", where)
        labels = [
            _names(entry.get("lineage") or [entry["label"]], "lineage", where) for entry in answers
        ]
        best = record.get("best")
        scored = _entries(answers or ([] if best is None else [best]), "best", where)
        scores = [_score(entry.get("score"), where) for entry in scored]
        top = _entries(record.get("top") or scored, "top", where)
    elif "label" in record:
        if not isinstance(record["label"], str):
            raise InputError(f"{where}: a label is not a text")
        labels = [_names(lineage or [record["label"]], "lineage", where)]
        scores = [_score(record.get("score"), where)]
        top = _entries(record.get("top") or [*_flat(record)], "top", where)
    else:
        raise InputError(f"{where}: has no label; these are not results of `clipcls classify`")
    given = {label: s for label, s in zip(labels, scores, strict=False) if label != (UNKNOWN,)}
    label_set = record.get("set")
    if isinstance(label_set, str):
        label_set = label_set.split("|")
    made_by = [record.get(key) for key in ("model", "weights", "precision", "prompts")]
    made_by += [record.get(key) or "" for key in ("calibration", "classifier")]
    is_known = all(isinstance(text, str) for text in made_by)
    made_by.append(str(record.get("refined")).lower() == "true")
    return Result(
        path,
        tuple(given),
        scores=tuple(given.values()) or (scores[0] if scores else None,),
        top=tuple(
            (entry["label"], score)
            for entry in top
            if (score := _score(entry.get("score"), where)) is not None
        ),
        label_set=None if label_set is None else _names(label_set, "set", where),
        made_by=_made_by(*made_by) if is_known else None,
        by_person=record.get("labelled_by") == PERSON,
    )


def without_scores(result: Result) -> Result:
    """What filing and keywords need of a result, a fraction of its memory."""
    return Result(result.path, result.labels, result.error, (None,) * max(1, len(result.labels)))


_made_by = functools.lru_cache(maxsize=64)(Provenance)  # a million results share a few


def _entries(value: object, name: str, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(e, dict) for e in value):
        raise InputError(f"{where}: `{name}` is not a list of labels with scores")
    if not all(_is_label(e.get("label")) for e in value):
        raise InputError(f"{where}: a label is not a text")
    return value


def _names(value: object, name: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(map(_is_label, value)):
        raise InputError(f"{where}: `{name}` is not a list of names")
    return tuple(value)


def _is_label(value: object) -> bool:
    return isinstance(value, str) and _has_text(value)


@functools.lru_cache(maxsize=4096)
def _has_text(label: str) -> bool:
    try:
        return bool(clean(label))
    except ValueError:  # control characters, half a surrogate pair
        return False


def _flat(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """`top` out of a csv's columns."""
    best = record.get("best") if record["label"] == UNKNOWN else record["label"]
    if best:
        yield {"label": best, "score": record.get("score")}
    for rank in itertools.count(2):
        if f"label_{rank}" not in record:
            return
        yield {"label": record[f"label_{rank}"], "score": record.get(f"score_{rank}")}


def _score(value: object, where: str) -> float | None:
    if value in (None, ""):
        return None
    try:
        number = parse_number(value) if isinstance(value, str) else float(value)  # type: ignore
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: the score {value!r} is not a number")
    return number
