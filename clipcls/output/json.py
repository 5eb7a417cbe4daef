"""JSON: an object per line, all records as an array, or one as a document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from clipcls.errors import InputError, is_control
from clipcls.files.jsonfiles import parse_json
from clipcls.predictions import to_record

__all__ = ["JsonArrayWriter", "JsonWriter", "JsonlWriter", "dump_line", "read_json"]


class JsonlWriter:
    r"""Writes each record whole, in a line of UTF-8, and hands it to the system at once.

    A path that is not valid UTF-8 carries its stray bytes as \udc80 to \udcff, which Python's
    `json.loads` and `os.fsencode` turn back into the same bytes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, item: Any) -> None:
        """Adds one line."""
        self._stream.write(dump_line(to_record(item)) + "\n")
        self._stream.flush()


class JsonArrayWriter:
    """The same lines as one JSON array; needs its end to be valid JSON."""

    needs_end = False

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._before = "[\n"

    def write(self, item: Any) -> None:
        """Adds one record."""
        self._stream.write(self._before + dump_line(to_record(item)))
        self._stream.flush()
        self._before = ",\n"

    def finish(self) -> None:
        """Writes the end."""
        self._stream.write("[]\n" if self._before == "[\n" else "\n]\n")
        self._stream.flush()


class JsonWriter:
    """Writes one record as a document: a line per field, and per item of a list."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, item: Any) -> None:
        """Writes the document."""
        fields = [f" {dump_line(key)}: {_field(value)}" for key, value in to_record(item).items()]
        self._stream.write("{\n" + ",\n".join(fields) + "\n}\n")
        self._stream.flush()


def _field(value: object) -> str:
    if not isinstance(value, list | tuple) or not value:
        return dump_line(value)
    return "[\n  " + ",\n  ".join(map(dump_line, value)) + "\n ]"


def dump_line(value: object) -> str:
    r"""A value as JSON in one line of valid UTF-8, fit for a terminal.

    Stray bytes of paths are \udc80 to \udcff, control and format characters escaped likewise.
    """
    text = json.dumps(value, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if is_control(c) else c for c in text)


def read_json(text: str, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The records of an array or of lines, each with where it stands, for messages.

    Raises:
        InputError: from the iterator: it is not JSON, or holds something else.
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
        yield where, record
