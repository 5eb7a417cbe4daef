"""One JSON object a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from clipcls.output.json import dump_line

__all__ = ["JsonlWriter"]


class JsonlWriter:
    """Writes records whole, a line each, in UTF-8.

    A path that is not valid UTF-8 carries its stray bytes as \\udc80 to \\udcff, which Python's
    `json.loads` and `os.fsencode` turn back into the same bytes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds one line, handed to the system at once."""
        self._stream.write(dump_line(record) + "\n")
        self._stream.flush()
