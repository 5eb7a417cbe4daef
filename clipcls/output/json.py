"""JSON: an object per line, all records as an array, or one as a document."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clipcls.errors import InputError, is_control
from clipcls.files.jsonfiles import parse_json
from clipcls.output.answer_blocks import PlainAnswers
from clipcls.output.writer import Writer
from clipcls.predictions import COLUMNS, UNKNOWN


class JsonlWriter(Writer):
    r"""Writes each record as one line of UTF-8.

    A path that is not valid UTF-8 carries its stray bytes as \udc80 to \udcff, which Python's
    `json.loads` and `os.fsencode` turn back into the same bytes.
    """

    def write_block(self, items: Iterable[Any]) -> None:
        """Add lines, of `PlainAnswers` without an object per line."""
        if not isinstance(items, PlainAnswers) or items.kept:
            super().write_block(items)
            return
        self._stream.writelines(_format_answers(items))
        self._stream.flush()

    def format(self, record: Mapping[str, Any]) -> str:
        """One line."""
        return dump_line(record) + "\n"


class JsonArrayWriter(Writer):
    """Writes the same lines as one JSON array, which is valid JSON only with its end."""

    _before = "[\n"

    def format(self, record: Mapping[str, Any]) -> str:
        """One line, after a comma unless it is the first."""
        text, self._before = self._before + dump_line(record), ",\n"
        return text

    def finish(self) -> None:
        """Write the end."""
        self._stream.write("[]\n" if self._before == "[\n" else "\n]\n")


class JsonWriter(Writer):
    """Writes one record as a document: a line per field, and per item of a list."""

    def format(self, record: Mapping[str, Any]) -> str:
        """The document."""
        fields = (f" {dump_line(key)}: {_field(value)}" for key, value in record.items())
        return "{\n" + ",\n".join(fields) + "\n}\n"


def _format_answers(answers: PlainAnswers) -> Iterator[str]:
    """The lines of plain answers, as `Prediction.to_dict` and `dump_line` make them."""
    known = {number: dump_line(str(answers.names[number])) for number in {*answers.classes.flat}}
    provenance = dump_line(answers.provenance.to_dict())[1:]
    nearness: Any = itertools.repeat(None) if answers.nearness is None else answers.nearness
    columns = answers.classes.tolist(), answers.scores.tolist(), answers.similarities.tolist()
    rows = zip(answers.paths, *columns, answers.sure.tolist(), nearness, strict=False)
    for path, classes, scores, similarities, is_sure, near in rows:
        labels = [known[number] for number in classes]
        scores = [repr(round(score, 6)) for score in scores]
        similarities = [repr(round(similarity, 6)) for similarity in similarities]
        top = ", ".join(
            f'{{"label": {label}, "score": {score}, "similarity": {similarity}}}'
            for label, score, similarity in zip(labels, scores, similarities, strict=True)
        )
        label = labels[0] if is_sure else f'"{UNKNOWN}"'
        measured = (
            "" if near is None or near != near else f'"nearness": {round(float(near), 6)!r}, '
        )
        yield (
            f'{{"path": {dump_line(path)}, "label": {label}, "score": {scores[0]}, '
            f'"top": [{top}], {measured}{provenance}\n'
        )


def _field(value: object) -> str:
    if not isinstance(value, list | tuple) or not value:
        return dump_line(value)
    return "[\n  " + ",\n  ".join(map(dump_line, value)) + "\n ]"


def dump_line(value: object) -> str:
    r"""A value as JSON in one line of valid UTF-8 that is safe to print on a terminal.

    Control and format characters are escaped, stray bytes of paths as \udc80 to \udcff.
    """
    text = dump_value(value)
    if text.isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if is_control(c) else c for c in text)


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    import decimal  # only a table's columns hold any

    return float(value) if isinstance(value, decimal.Decimal) else str(value)


dump_value = json.JSONEncoder(ensure_ascii=False, default=_plain).encode
"""A value as JSON; dates and times are texts in ISO 8601, decimal numbers are numbers."""


def read_json(text: str, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The records of an array or of lines, each with its place for messages.

    Raises:
        InputError: while iterating: it is not JSON, or holds something else.
    """
    if text.lstrip().startswith("["):
        records = enumerate(parse_json(text, name, has_paths=True), start=1)
        found = ((f"{name}, record {number}", record) for number, record in records)
    else:
        lines = ((f"{name}, line {n}", line) for n, line in enumerate(text.split("\n"), start=1))
        found = (
            (where, parse_json(line, where, has_paths=True))
            for where, line in lines
            if line.strip()
        )
    for where, record in found:
        if not isinstance(record, dict):
            raise InputError(f"{where}: is not a record of `clipcls classify`")
        if None in record.values():  # by which other programs say that something is unknown
            record = {k: v for k, v in record.items() if v is not None or k not in COLUMNS}
        yield where, record
