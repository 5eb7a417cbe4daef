"""Records -> table, csv, jsonl. A record is a dict as `Prediction.record` makes it.

A file is written under the name `FILE.part`, each batch handed to the system as it comes, and
renamed at the end: a reader never sees half a file under the final name, and what an interrupted
run had finished stays in the part.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from clipcls.errors import OutputError
from clipcls.writers.csv import CsvWriter
from clipcls.writers.jsonl import JsonlWriter
from clipcls.writers.table import TableWriter

__all__ = ["FORMATS", "Writer", "open_output", "part_of"]

logger = logging.getLogger(__name__)

FORMATS: dict[str, Callable[[TextIO, int], Writer]] = {
    "table": TableWriter,
    "csv": CsvWriter,
    "jsonl": JsonlWriter,
}


class Writer(Protocol):
    """Writes one record after the other to a text stream."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds one record."""


def part_of(path: Path) -> Path:
    """The name a result file has until it is whole."""
    return path.with_name(path.name + ".part")


@contextlib.contextmanager
def open_output(path: Path | None, form: str, top: int) -> Iterator[Writer]:
    """A writer to a file, or to stdout where there is no path.

    Args:
        path: the result file, which appears when the block ends without an error.
        form: a name in `FORMATS`.
        top: how many labels a record carries; decides csv's columns.

    Raises:
        OutputError: the file cannot be written; what was finished stays in its part.
    """
    if path is None:
        yield FORMATS[form](sys.stdout, top)
        sys.stdout.flush()
        return
    part = part_of(path)
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield FORMATS[form](file, top)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{path}: cannot be written ({reason}){_left(part)}") from error
    except BaseException:
        if left := _left(part):
            logger.warning("%s is not whole%s", path, left)
        raise


def _left(part: Path) -> str:
    """Says where the finished results are; a part without any is removed."""
    with contextlib.suppress(OSError):
        if part.stat().st_size:
            return f"; what was finished is in {part}"
        part.unlink()
    return ""
