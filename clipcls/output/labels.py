"""Suggested labels as a text file to edit, which `classify --labels` reads."""

from __future__ import annotations

from typing import Any, TextIO

from clipcls.errors import format_count, printable
from clipcls.predictions import to_record

__all__ = ["LabelFileWriter"]


class LabelFileWriter:
    """Writes a line per label, with a comment above it: images, an example, other names."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, item: Any) -> None:
        """Writes the record of a `Suggestion`, handed to the system at once."""
        record = to_record(item)
        labels, images = record["labels"], format_count(record["images"], "image")
        self._stream.write(
            f"# {format_count(len(labels), 'label')} for {images}, suggested by clipcls "
            f"with {printable(record['model'])} ({record['weights']}).\n"
            "# Edit it, then: clipcls classify --labels FILE\n"
        )
        for label in labels:
            also = ", ".join(map(printable, label["merged"]))
            self._stream.write(
                f"# {format_count(label['images'], 'image')}, such as {printable(label['example'])}"
                f"{'; also: ' * bool(also)}{also}\n"
                f"{printable(label['line']) if self._stream.isatty() else label['line']}\n"
            )
        self._stream.flush()
