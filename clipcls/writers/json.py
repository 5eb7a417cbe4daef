"""One record, whole: an evaluation or a calibration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO

__all__ = ["JsonWriter"]


class JsonWriter:
    """Writes one record as a JSON document, stray bytes of paths as in jsonl.

    A field has a line of its own, and so has each item of a list.
    """

    def __init__(self, stream: TextIO, top: int, extra: tuple[str, ...] = ()) -> None:
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes it, handed to the system at once."""
        fields = [f" {_dumped(key)}: {_field(value)}" for key, value in record.items()]
        self._stream.write("{\n" + ",\n".join(fields) + "\n}\n")
        self._stream.flush()


def _field(value: object) -> str:
    if not isinstance(value, list | tuple) or not value:
        return _dumped(value)
    return "[\n  " + ",\n  ".join(map(_dumped, value)) + "\n ]"


def _dumped(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value)
    return text
