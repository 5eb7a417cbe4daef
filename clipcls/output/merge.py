"""Puts result files together: the shards of one run, or results of several runs of one kind.

The files are read twice, so that memory holds 16 bytes per image besides the largest file.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from clipcls.errors import InputError
from clipcls.files.on_disk import is_url
from clipcls.output.columns import find_further, flatten, usual_columns
from clipcls.output.parquet import read_parquet
from clipcls.output.place import Place
from clipcls.output.reader import gather_answers, merge_answers, open_records, read_record
from clipcls.output.writer import Writer
from clipcls.predictions import PROVENANCE, UNKNOWN, Result, to_record
from clipcls.questions import prefix_columns

_SHARD = ("shard", "run")
_RESULT = {"label", "labels", "questions", "error", "rank"}  # one of these is in each record
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
            yield self.records[0]
        else:
            answers: dict[str, Result] = {}
            for record in self.records:
                merge_answers(answers, read_record(self.where, record))
            yield to_record(gather_answers(answers))


@dataclass
class Comparison:
    """Compares the images in the files of a merge, in 16 bytes per image.

    Attributes:
        files: the files, in their order.
        missing: the shards of the run that no file holds.
        of: the number of shards of the run, or 0.
        twice: images that are in several files, or several times in one.
        contradictory: images with different contents, the first of which is kept: path and both
            places.
        precisions: in which the model computed.
    """

    content: ClassVar[str] = "answers"

    files: Sequence[str]
    missing: list[int] = field(default_factory=list)
    of: int = 0
    twice: int = 0
    contradictory: list[tuple[str, str, str]] = field(default_factory=list)
    precisions: set[str] = field(default_factory=set)
    shards: set[int] = field(default_factory=set)
    left_out: set[int] = field(default_factory=set)  # numbers of images that come again
    _names: array[int] = field(default_factory=lambda: array("Q"))
    _contents: array[int] = field(default_factory=lambda: array("Q"))

    def add_image(self, path: str, content: str) -> None:
        """Note the next image; its content is "" if it has none."""
        self._names.append(_hash(path))
        self._contents.append(_hash(content) if content else _NO_ANSWER)

    def add_shards(self, file: str, text: str) -> bool:
        """Note the shards that a file holds, as `1/4` or `1/4 2/4`; whether it names any.

        Raises:
            InputError: they are of another number of shards.
        """
        found = re.findall(r"(\d+)/(\d+)", text)
        for number, of in found:
            if self.of and int(of) != self.of:
                raise InputError(
                    f"{self.files[0]} and {file}: are shards of {self.of} and of {of}; merge those "
                    "of one run"
                )
            self.of = int(of)
            self.shards.add(int(number))
        return bool(found)

    def finish(self, places: Callable[[], Iterator[tuple[str, str]]], silent: int = 0) -> None:
        """Find what is missing or repeated.

        Of several results of one image the first that has an answer is kept.

        Args:
            places: place and path of each image, in the order of `add_image`.
            silent: the number of files that do not tell their shard, since they hold no images.
        """
        missing = [n for n in range(1, self.of + 1) if n not in self.shards]
        self.missing = missing if len(missing) > silent else []
        names, contents = (np.array(n, np.uint64) for n in (self._names, self._contents))
        _, image, count = np.unique(names, return_inverse=True, return_counts=True)
        repeated: dict[int, list[int]] = {}
        for number in np.flatnonzero(count[image] > 1).tolist():
            repeated.setdefault(image[number], []).append(number)
        found: dict[int, int] = {}  # the number of a contradicting result -> of the one kept
        for numbers in repeated.values():
            kept = next((n for n in numbers if contents[n] != _NO_ANSWER), numbers[0])
            self.left_out |= {*numbers} - {kept}
            found |= {n: kept for n in numbers if contents[n] not in (_NO_ANSWER, contents[kept])}
        self.twice = len(repeated)
        if found:
            wanted = {*found, *found.values()}
            known = {n: place for n, place in enumerate(places()) if n in wanted}
            self.contradictory = [
                (known[number][1], known[kept][0], known[number][0])
                for number, kept in found.items()
            ]


@dataclass
class Merge(Comparison):
    """The results in all files of a merge."""

    _columns: dict[str, None] = field(default_factory=dict)
    _further: set[str] = field(default_factory=set)
    _made: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Sequence[str]) -> Merge:
        """Compare the results of files, or of folders of `--ray`.

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
        silent = 0
        for file in files:
            has_shard = False
            for image in _read_images(file):
                if "rank" in image.records[0]:
                    raise InputError(
                        f"{file}: is of `clipcls search`; merge vectors by `clipcls embed`, and "
                        "search these"
                    )
                with _naming(image.where):
                    answer = image.answer
                    columns = image.columns or _list_columns(image.records[0])
                merge.add_image(_name_row(image.records[0]), answer)
                if answer:
                    has_shard |= merge._check(file, image.records[0])
                merge._columns |= dict.fromkeys(columns)
                merge._further |= {*find_further(image.records[0])}
            silent += not has_shard

        merge.finish(lambda: ((image.where, image.path) for image in merge._images()), silent)
        return merge

    def _images(self) -> Iterator[_Lines]:
        return itertools.chain.from_iterable(map(_read_images, self.files))

    def columns(self) -> list[str]:
        """The columns of a csv or tsv."""
        names = [name for name in self._columns if name not in (*_SHARD, "error")]
        return [*sorted(names, key=lambda name: name in self._further), "error"]

    def write(self, writer: Writer, *, as_table: bool) -> None:
        """Write the records, each image once, without the shard that it was in.

        Args:
            writer: of any format.
            as_table: whether it writes csv or tsv.

        Raises:
            InputError: a record is none of results; the message names its place.
        """
        for number, image in enumerate(self._images()):
            with _naming(image.where):
                for record in image.convert(as_table) if number not in self.left_out else ():
                    writer.write({k: v for k, v in record.items() if k not in _SHARD})

    def _check(self, file: str, record: Mapping[str, Any]) -> bool:
        """Refuse a record that was made otherwise than the first; whether it names its shard."""
        made = self._made
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
        return self.add_shards(file, str(record.get("shard", "")))


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """Name the record in which something is missing or of another type."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: is not a record of `clipcls classify`") from error


def _read_images(file: str) -> Iterator[_Lines]:
    """The lines about each image; in a table those that follow each other."""
    has_suffix = bool(os.path.splitext(file)[1])
    if os.path.isdir(file) or (is_url(file) and not has_suffix and not os.path.lexists(file)):
        place = Place(file)
        for name in place.list_finished():
            with place.open(name) as opened:
                yield from _group((), read_parquet(opened, f"{place.url}/{name}"))
        return
    if os.path.isfile(file) and os.path.getsize(file) == 0:  # of a shard without images
        return
    yield from _group(*open_records(file))


def _group(
    columns: tuple[str, ...], records: Iterable[tuple[str, Mapping[str, Any]]]
) -> Iterator[_Lines]:
    found: _Lines | None = None
    for where, record in records:
        path = record.get("path")
        if not isinstance(path, str) or not path:
            raise InputError(f"{where}: has no path of an image")
        if not record.keys() & _RESULT:
            raise InputError(f"{where}: has no label; these are not results of clipcls")
        if found and columns and _name_row(found.records[0]) == _name_row(record):
            if record not in found.records:
                found.records.append(record)
            continue
        if found:
            yield found
        found = _Lines(where, path, columns, [record])
    if found:
        yield found


def _name_row(record: Mapping[str, Any]) -> str:
    """An image and its cells of columns to keep: rows of a table may share an image."""
    cells = (record[name] for name in find_further(record))
    return "\0".join([record["path"], *("" if cell is None else str(cell) for cell in cells)])


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
    rows = {name: list(flatten(answer)) for name, answer in answers.items()}
    return [
        *prefix_columns({name: usual_columns(row) for name, (row, *_) in rows.items()}),
        *further,
    ]


def _hash(text: str) -> int:
    data = text.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
