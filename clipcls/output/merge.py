"""Puts result files together: the shards of one run, or results of several runs of one kind.

The files are read twice, so that memory holds 16 bytes per image besides the largest file.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipcls.errors import InputError, os_reason
from clipcls.output.columns import find_further, flatten, usual_columns
from clipcls.output.reader import gather_answers, merge_answers, open_records, read_record
from clipcls.predictions import PROVENANCE, UNKNOWN, Result, to_record
from clipcls.questions import prefix_columns

_SHARD = ("shard", "run")
_COMPARED = (*(name for name in PROVENANCE if name not in (*_SHARD, "licence", "precision")), "run")
_NO_ANSWER = 0


@dataclass(slots=True)
class _Lines:
    """The records about one image, several if a table has a row per label, and their place."""

    where: str
    path: str
    columns: tuple[str, ...]
    records: list[Mapping[str, Any]]

    @property
    def answer(self) -> str:
        """The labels as one text; "" if the image could not be read."""
        return "|".join(filter(None, map(_answer, self.records)))

    def convert(self, as_table: bool) -> Iterator[Mapping[str, Any]]:
        """The records for a table, or the one record for another format."""
        if as_table:
            yield from self.records
        elif not self.columns:
            yield _without_copies(self.records[0])
        else:
            answers: dict[str, Result] = {}
            for record in self.records:
                merge_answers(answers, read_record(self.where, record))
            yield to_record(gather_answers(answers))


@dataclass
class Merge:
    """The contents of all files of a merge.

    Attributes:
        files: the files, in their order.
        missing: the shards of the run that no file holds.
        of: the number of shards of the run, or 0.
        twice: images that are in several files, or several times in one.
        contradictory: images with different answers, the first of which is kept: path and both
            places.
        precisions: in which the model computed.
    """

    files: Sequence[str]
    missing: list[int] = field(default_factory=list)
    of: int = 0
    twice: int = 0
    contradictory: list[tuple[str, str, str]] = field(default_factory=list)
    precisions: set[str] = field(default_factory=set)
    _left_out: set[int] = field(default_factory=set)
    _columns: dict[str, None] = field(default_factory=dict)
    _further: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, files: Sequence[str]) -> Merge:
        """Compare the results of files.

        Raises:
            InputError: a file cannot be read, is unfinished, or is of another model, of other
                labels or options, or of shards of another size; the message names both files.
        """
        for file in files:
            if file == "-":
                raise InputError("results are read twice, which standard input cannot be")
            if file.endswith(".part"):
                raise InputError(f"{file}: is unfinished; run its command again to finish it")
        merge = cls(files)
        names, answers = array("Q"), array("Q")
        made: dict[str, Any] = {}
        shards: dict[int, str] = {}
        silent = 0
        for file in files:
            has_shard = False
            for image in _read_images(file):
                names.append(_hash(image.path))
                answers.append(_hash(image.answer) if image.answer else _NO_ANSWER)
                if image.answer:
                    has_shard |= merge._check(file, image.records[0], made, shards)
                merge._columns |= dict.fromkeys(image.columns or _list_columns(image.records[0]))
                merge._further |= {*find_further(image.records[0])}
            silent += not has_shard
        missing = [n for n in range(1, merge.of + 1) if n not in shards]
        merge.missing = missing if len(missing) > silent else []
        merge._find_repeated(np.array(names, np.uint64), np.array(answers, np.uint64))
        return merge

    def columns(self) -> list[str]:
        """The columns of a csv or tsv."""
        names = [name for name in self._columns if name not in (*_SHARD, "error")]
        return [*sorted(names, key=lambda name: name in self._further), "error"]

    def records(self, *, as_table: bool) -> Iterator[Mapping[str, Any]]:
        """The records, each image once, without the shard that it was in.

        Args:
            as_table: give them as a csv or tsv needs them.
        """
        number = -1
        for file in self.files:
            for image in _read_images(file):
                number += 1
                if number in self._left_out:
                    continue
                for record in image.convert(as_table):
                    yield {key: value for key, value in record.items() if key not in _SHARD}

    def _check(
        self, file: str, record: Mapping[str, Any], made: dict[str, Any], shards: dict[int, str]
    ) -> bool:
        """Refuse a record that was made otherwise than the first; whether it names its shard."""
        self.precisions.add(str(record.get("precision", "")))
        mine = {name: record[name] for name in _COMPARED if record.get(name)}
        mine["questions"] = ", ".join(record.get("questions", ()))
        first = made.setdefault("file", file)
        for name in ("questions", *_COMPARED):
            other = made.setdefault("record", mine).get(name)
            if mine.get(name) != other:
                what = "labels or options" if name == "run" else name
                between = "" if name == "run" else f" ({other or 'none'}, {mine.get(name, 'none')})"
                raise InputError(
                    f"{first} and {file}: were made with different {what}{between}; merge results "
                    "of one command"
                )
        number, _, of = str(record.get("shard", "")).partition("/")
        if not (number.isdecimal() and of.isdecimal()):
            return False
        if self.of and int(of) != self.of:
            raise InputError(
                f"{first} and {file}: are shards of {self.of} and of {of}; merge those of one run"
            )
        self.of = int(of)
        shards[int(number)] = file
        return True

    def _find_repeated(self, names: Any, answers: Any) -> None:
        """Choose which of several results of one image to keep: the first that has an answer."""
        order = np.argsort(names, kind="stable")
        starts = np.flatnonzero(np.diff(names[order], prepend=~names[order[:1]]) != 0)
        found: dict[int, int] = {}  # the number of a contradicting result -> of the one kept
        ends = np.append(starts[1:], len(order))
        several = ends - starts > 1
        for start, end in zip(starts[several], ends[several], strict=True):
            group = order[start:end].tolist()
            kept = next((n for n in group if answers[n] != _NO_ANSWER), group[0])
            self.twice += 1
            self._left_out |= {*group} - {kept}
            for number in group:
                if answers[number] not in (_NO_ANSWER, answers[kept]):
                    found.setdefault(number, kept)
        if found:
            wanted = {*found, *found.values()}
            places: dict[int, tuple[str, str]] = {}
            every = (image for file in self.files for image in _read_images(file))
            for number, image in enumerate(every):
                if number in wanted:
                    places[number] = (image.where, image.path)
            self.contradictory = [
                (places[number][1], places[kept][0], places[number][0])
                for number, kept in found.items()
            ]


def _read_images(file: str) -> Iterator[_Lines]:
    """The lines about each image; in a table those that follow each other."""
    try:
        if os.path.getsize(file) == 0:  # of a shard without images
            return
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {os_reason(error)}") from error
    columns, records = open_records(file)
    found: _Lines | None = None
    for where, record in records:
        path = record.get("path")
        if not isinstance(path, str) or not path:
            raise InputError(f"{where}: has no path of an image")
        if found and columns and found.path == path:
            if record not in found.records:
                found.records.append(record)
            continue
        if found:
            yield found
        found = _Lines(where, path, columns, [record])
    if found:
        yield found


def _answer(record: Mapping[str, Any]) -> str:
    """The labels of a record as one text; "" if it has none, since its image could not be read."""
    if record.get("error"):
        return ""
    if questions := record.get("questions"):
        return json.dumps({name: _answer(answer) for name, answer in sorted(questions.items())})
    labels = record.get("labels")
    if labels is None:
        return str(record.get("label", ""))
    return "|".join(candidate["label"] for candidate in labels) or UNKNOWN


def _list_columns(record: Mapping[str, Any]) -> list[str]:
    """The columns of a nested record in a table."""
    further = find_further(record)
    if record.get("error"):
        return further
    answers = record.get("questions", {"": record})
    rows = {name: next(flatten(_without_copies(answer))) for name, answer in answers.items()}
    return [*prefix_columns({name: usual_columns(row) for name, row in rows.items()}), *further]


def _without_copies(record: Mapping[str, Any]) -> dict[str, Any]:
    """A nested record without the columns that parquet repeats from its answers."""
    copies = {"similarity"} if record.get("labels") is None else {"label", "score", "similarity"}
    found = {key: value for key, value in record.items() if key not in copies}
    if "questions" in found:
        items = found["questions"].items()
        found["questions"] = {name: _without_copies(answer) for name, answer in items}
    return found


def _hash(text: str) -> int:
    data = text.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
