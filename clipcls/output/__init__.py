"""Records -> table, csv, tsv, json, jsonl, parquet, gallery; an evaluation -> table, json, page;
a calibration -> json; suggested labels -> a label file.

A record is a dict as the `record` of its class makes it.

A file is written under the name `FILE.part`, each record handed to the system as it comes, and
renamed at the end: a reader never sees half a file under the final name, and what an interrupted
run had finished stays in the part until a later run with the same file has finished. A part is
locked while it is written: of two runs with the same file the later one is refused.

A file whose name ends in `.gz` is compressed, with each record handed on whole as it comes. What
made the rows of a csv or tsv file stands in its sidecar (see `tables`).
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeAlias, runtime_checkable

from clipcls.errors import OutputClosedError, OutputError
from clipcls.files.partial import Part, part_of
from clipcls.output.columns import metadata_path
from clipcls.output.csv import CsvWriter
from clipcls.output.gallery import GalleryWriter
from clipcls.output.json import JsonArrayWriter, JsonWriter
from clipcls.output.jsonl import JsonlWriter
from clipcls.output.labels import LabelFileWriter
from clipcls.output.parquet import ParquetWriter
from clipcls.output.table import TableWriter

__all__ = [
    "FORMATS",
    "Writer",
    "is_stream",
    "open_output",
    "part_of",
    "write_bytes",
]

logger = logging.getLogger(__name__)

MakeWriter: TypeAlias = "Callable[[TextIO], Writer]"

FORMATS: dict[str, MakeWriter] = {
    "table": TableWriter,
    "csv": CsvWriter,
    "tsv": functools.partial(CsvWriter, delimiter="\t"),
    "jsonl": JsonlWriter,
    "json": JsonArrayWriter,
    "document": JsonWriter,
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
    path: Path | None,
    form: str | MakeWriter,
    *,
    columns: Sequence[str] | None = None,
    bom: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Iterator[Writer]:
    """A writer to a file, or to stdout where there is no path.

    Args:
        path: the result file, which appears when the block ends without an error; a link is
            followed. A pipe or a device is written to as it is.
        form: a name in `FORMATS`, or what makes such a writer.
        columns, bom, provenance: of csv and tsv, see `CsvWriter`.

    Raises:
        OutputError: it cannot be written, or another run is writing it; what was finished stays in
            its part.
        OutputClosedError: the reader of a pipe went away.
    """
    make: Callable[..., Writer] = FORMATS[form] if isinstance(form, str) else form
    if form in ("csv", "tsv"):
        make = functools.partial(make, columns=columns, bom=bom, provenance=provenance)
    if path is None:
        with _blaming("standard output"):
            writer = make(sys.stdout)
        yield _Blaming(writer, "standard output")
        with _blaming("standard output"):
            _finish(writer, sys.stdout)
        return
    # By its own name: /dev/stdout and bash's >(...) lead to pipes that have no other.
    if is_stream(path):
        with _blaming(str(path)):
            file = path.open("w", encoding="utf-8", newline="")
        with _closed(file), _closed(_compressed(file, path)) as stream:
            writer = make(stream)
            yield _Blaming(writer, str(path))
            with _blaming(str(path)):
                _finish(writer, stream)
                file.flush()
        return
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    yield from _whole_file(path, place, make)


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


def _whole_file(path: Path, place: Path, make: MakeWriter) -> Iterator[Writer]:
    with _blaming(str(path)):
        if place.is_dir():
            raise IsADirectoryError(None, "is a directory")
        part = Part(part_of(place))
    given = None
    try:
        with _closed(part.file), _closed(_compressed(part.file, path)) as stream:
            writer = make(stream)
            given = _Blaming(writer, str(path), part)
            try:
                yield given
            except BaseException:
                if given.written:
                    with contextlib.suppress(Exception):  # what pyarrow raises after a full disk
                        _end(writer, stream, part)
                raise
            with _blaming(str(path)):
                _end(writer, stream, part)
        with _blaming(str(path)):
            part.rename(place)
    except BaseException as error:
        has_written = given is not None and given.written
        places = ", ".join(map(str, part.with_results(has_written)))
        kept = f"what was finished is in {places}" if places else "nothing was kept"
        if isinstance(error, OutputError):
            raise type(error)(f"{error}; {kept}") from error
        if places or has_written:
            logger.warning("%s is not whole; %s", path, kept)
        raise
    finally:
        part.release()
    for old in part.remove_earlier(place):
        logger.warning("%s: is no result of an earlier run, and left alone", old)
    if isinstance(writer, CsvWriter) and (metadata := writer.describe(place)):
        notes = metadata_path(place)
        try:
            if os.path.islink(notes):  # which nobody named, and which may lead anywhere
                raise OutputError(f"{notes}: is a link, and left alone")
            write_bytes(notes, metadata)
        except OutputError as error:
            logger.warning("%s; the results are whole, but do not say what made them", error)


def _compressed(file: TextIO, path: Path) -> TextIO:
    """The text file itself, or what compresses into it where the path says so."""
    if path.suffix.lower() != ".gz":
        return file
    # Without a time, so that the same results are the same bytes.
    zipped = gzip.GzipFile("", "wb", compresslevel=6, fileobj=file.buffer, mtime=0)
    return io.TextIOWrapper(zipped, encoding="utf-8", newline="")


def _finish(writer: Writer, stream: TextIO) -> None:
    """Writes what has gathered, and the ends of the format and of a compressed file."""
    if isinstance(writer, EndedWriter):
        writer.finish()
    stream.flush()
    if isinstance(stream.buffer, gzip.GzipFile):
        stream.close()


def _end(writer: Writer, stream: TextIO, part: Part) -> None:
    """Writes the ends to the disk; without them some formats cannot be read, and are removed."""
    try:
        _finish(writer, stream)
        part.file.flush()
        os.fsync(part.file.fileno())
        part.mark_whole()
    except Exception:
        if isinstance(writer, EndedWriter) and writer.needs_end:
            part.remove()
        raise


class _Blaming:
    """A writer whose trouble is told by the name of what it writes to."""

    def __init__(self, writer: Writer, name: str, part: Part | None = None) -> None:
        self._writer = writer
        self._name = name
        self._part = part
        self.written = False

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds one record."""
        with _blaming(self._name):
            self._writer.write(record)
            self.written = True
            if self._part:
                self._part.mark_whole()


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
def _closed(file: TextIO) -> Iterator[TextIO]:
    """Closes a file at the end; what it could not write was told when it was written."""
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.close()
