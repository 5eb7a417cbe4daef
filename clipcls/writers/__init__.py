"""Records -> table, csv, jsonl, parquet, gallery; an evaluation -> table, json, page;
a calibration -> json; suggested labels -> a label file.

A record is a dict as the `record` of its class makes it.

A file is written under the name `FILE.part`, each record handed to the system as it comes, and
renamed at the end: a reader never sees half a file under the final name, and what an interrupted
run had finished stays in the part until a later run with the same file has finished. A part is
locked while it is written: of two runs with the same file the later one is refused.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeAlias, runtime_checkable

from clipcls.errors import OutputClosedError, OutputError
from clipcls.writers.csv import EXPLAINED, CsvWriter
from clipcls.writers.evaluation import EvaluationTable, MultiLabelTable
from clipcls.writers.evaluation_page import EvaluationPage, MultiLabelPage
from clipcls.writers.gallery import GalleryWriter
from clipcls.writers.json import JsonWriter
from clipcls.writers.jsonl import JsonlWriter
from clipcls.writers.labels import LabelFileWriter
from clipcls.writers.parquet import ParquetWriter
from clipcls.writers.parts import Part, part_of
from clipcls.writers.table import TableWriter

__all__ = ["EXPLAINED", "FORMATS", "Writer", "is_stream", "open_output", "part_of", "write_bytes"]

logger = logging.getLogger(__name__)

MakeWriter: TypeAlias = "Callable[[TextIO, int, tuple[str, ...]], Writer]"

FORMATS: dict[str, MakeWriter] = {
    "table": TableWriter,
    "csv": CsvWriter,
    "jsonl": JsonlWriter,
    "json": JsonWriter,
    "evaluation": EvaluationTable,
    "evaluation page": EvaluationPage,
    "multilabel": MultiLabelTable,
    "multilabel page": MultiLabelPage,
    "labels": LabelFileWriter,
    "parquet": ParquetWriter,
    "html": GalleryWriter,
}


class Writer(Protocol):
    """Writes one record after the other to a text stream."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds one record."""


@runtime_checkable
class EndedWriter(Writer, Protocol):
    """A writer whose output is only whole with an end.

    Attributes:
        needs_end: whether nothing of it can be read without.
    """

    needs_end: bool

    def finish(self) -> None:
        """Writes what has gathered, and the end."""


def is_stream(path: Path) -> bool:
    """Whether it is a pipe or a device, which is written to as it is."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def open_output(
    path: Path | None, form: str | MakeWriter, top: int, extra: tuple[str, ...] = ()
) -> Iterator[Writer]:
    """A writer to a file, or to stdout where there is no path.

    Args:
        path: the result file, which appears when the block ends without an error; a link is
            followed. A pipe or a device is written to as it is.
        form: a name in `FORMATS`, or what makes such a writer.
        top: how many labels a record carries; decides csv's columns.
        extra: fields that not every record has; csv gets a column for each.

    Raises:
        OutputError: it cannot be written, or another run is writing it; what was finished stays in
            its part.
        OutputClosedError: the reader of a pipe went away.
    """
    make = FORMATS[form] if isinstance(form, str) else form
    if path is None:
        with _blaming("standard output"):
            writer = make(sys.stdout, top, extra)
        yield _Blaming(writer, "standard output")
        with _blaming("standard output"):
            _finish(writer)
            sys.stdout.flush()
        return
    # By its own name: /dev/stdout and bash's >(...) lead to pipes that have no other.
    if is_stream(path):
        with _blaming(str(path)):
            file = path.open("w", encoding="utf-8", newline="")
        with _closed(file):
            writer = make(file, top, extra)
            yield _Blaming(writer, str(path))
            with _blaming(str(path)):
                _finish(writer)
                file.flush()
        return
    yield from _whole_file(path, Path(os.path.realpath(path)), make, top, extra)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a binary file, which is whole or not there.

    Raises:
        OutputError: it cannot be written.
    """
    place = Path(os.path.realpath(path))
    part = part_of(place.with_name(f"{place.name}.{secrets.token_hex(4)}"))  # no other run's
    with _blaming(str(path)):
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)


def _whole_file(
    path: Path, place: Path, make: MakeWriter, top: int, extra: tuple[str, ...]
) -> Iterator[Writer]:
    with _blaming(str(path)):
        if place.is_dir():
            raise IsADirectoryError(None, "is a directory")
        part = Part(part_of(place))
    try:
        with _closed(part.file):
            writer = make(part.file, top, extra)
            given = _Blaming(writer, str(path))
            try:
                yield given
            except BaseException:
                if given.written:
                    _leave(writer, part)
                raise
            with _blaming(str(path)):
                _finish(writer)
                part.file.flush()
                os.fsync(part.file.fileno())
        with _blaming(str(path)):
            part.rename(place)
    except BaseException as error:
        left = "".join(f"; what was finished is in {p}" for p in part.with_results())
        if isinstance(error, OutputError):
            raise type(error)(f"{error}{left}") from error
        if left:
            logger.warning("%s is not whole%s", path, left)
        raise
    finally:
        part.release()
    for old in part.earlier:
        old.unlink(missing_ok=True)


def _finish(writer: Writer) -> None:
    if isinstance(writer, EndedWriter):
        writer.finish()


def _leave(writer: Writer, part: Part) -> None:
    """Makes what an interrupted run has written readable; what never will be is removed."""
    try:
        _finish(writer)
    except Exception:  # of a full disk OSError, of what that has closed whatever pyarrow raises
        if isinstance(writer, EndedWriter) and writer.needs_end:
            part.remove()


class _Blaming:
    """A writer whose trouble is told by the name of what it writes to."""

    def __init__(self, writer: Writer, name: str) -> None:
        self._writer = writer
        self._name = name
        self.written = False

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds one record."""
        with _blaming(self._name):
            self._writer.write(record)
            self.written = True


@contextlib.contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Turns what the system says of a write into an `OutputError`."""
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosedError(f"{name}: its reader went away") from error
    except OSError as error:
        raise OutputError(f"{name}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def _closed(file: TextIO) -> Iterator[None]:
    """Closes a file at the end; what it could not write was told when it was written."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.close()
