"""The base of the writers of all formats."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from clipcls.predictions import to_record


class Writer:
    """Writes records to a text stream, one after the other.

    Attributes:
        needs_end: whether none of the output can be read before `finish`.
    """

    needs_end = False

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, item: Any) -> None:
        """Add a record, or what has one (`to_dict`), and hand it to the system at once."""
        self.write_block([item])

    def write_block(self, items: Iterable[Any]) -> None:
        """Add many records, and hand them to the system together."""
        for item in items:
            self.add(item)
        self._stream.flush()

    def add(self, item: Any) -> None:
        """Write a record to the stream, which may hold it back."""
        self._stream.write(self.format(to_record(item)))

    def format(self, record: Any) -> str:
        """The text of a record."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write buffered records, and the end."""

    def describe(self, file: Path) -> bytes:
        """The content of the sidecar with the provenance of the results; b"" for none."""
        return b""
