"""Records as JSON: one as a document, or all as an array."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO

from clipcls.errors import is_control

__all__ = ["JsonArrayWriter", "JsonWriter", "dump_line"]


class JsonWriter:
    """Writes one record as a JSON document, stray bytes of paths as in jsonl.

    A field has a line of its own, and so has each item of a list.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes it, handed to the system at once."""
        fields = [f" {dump_line(key)}: {_field(value)}" for key, value in record.items()]
        self._stream.write("{\n" + ",\n".join(fields) + "\n}\n")
        self._stream.flush()


class JsonArrayWriter:
    """Writes records as one JSON array, a line per record; needs its end to be valid JSON."""

    needs_end = False

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._before = "[\n"

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds one record, handed to the system at once."""
        self._stream.write(self._before + dump_line(record))
        self._stream.flush()
        self._before = ",\n"

    def finish(self) -> None:
        """Writes the end."""
        self._stream.write("[]\n" if self._before == "[\n" else "\n]\n")
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
