"""Result files: written as the results come, whole or not at all under their name.

A file is written under the name `FILE.part`, each record handed to the system as it comes, and
renamed at the end: a reader never sees half a file under the final name, and what an interrupted
run had finished stays in the part until a later run with the same file has finished. A part is
locked while it is written: of two runs with the same file the later one is refused.

A file whose name ends in `.gz` is compressed, with each record handed on whole as it comes.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeAlias, runtime_checkable

from clipcls.errors import OutputClosedError, OutputError
from clipcls.files.atomic import write_bytes
from clipcls.files.partial import Part
from clipcls.output.csv import CsvWriter, metadata_path
from clipcls.output.gallery import GalleryWriter
from clipcls.output.json import JsonArrayWriter, JsonlWriter, JsonWriter
from clipcls.output.labels import LabelFileWriter
from clipcls.output.parquet import ParquetWriter
from clipcls.output.table import TableWriter

__all__ = ["FORMATS", "EndedWriter", "Writer", "is_stream", "open_output"]

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

    def write(self, item: Any, /) -> None:
        """Adds one record, or what has one (`to_dict`)."""


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
    """A writer to a file, or to stdout without a path.

    Args:
        path: the result file, which appears when the block ends without an error; a link is
            followed. A pipe or a device is written to as it is.
        form: a name in `FORMATS`, or what makes such a writer.
        columns, bom, provenance: of csv and tsv, see `CsvWriter`.

    Raises:
        OutputError: it cannot be written, or another run is writing it; what was finished stays in
            its part.
        OutputClosedError: the reading end of a pipe was closed.
    """
    make: Callable[..., Writer] = FORMATS[form] if isinstance(form, str) else form
    if form in ("csv", "tsv"):
        make = functools.partial(make, columns=columns, bom=bom, provenance=provenance)
    if path is None:
        output = _Output(sys.stdout, "standard output", make)
        yield output
        output.finish()
    # By its own name: /dev/stdout and bash's >(...) lead to pipes that have no other.
    elif is_stream(path):
        with _blaming(str(path)):
            file = path.open("w", encoding="utf-8", newline="")
        with _closed(file), _closed(_compressed(file, path)) as stream:
            output = _Output(stream, str(path), make)
            yield output
            output.finish()
            with _blaming(str(path)):
                file.flush()
    else:
        yield from _whole_file(path, make)


def _whole_file(path: Path, make: MakeWriter) -> Iterator[Writer]:
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    with _blaming(str(path)):
        if place.is_dir():
            raise IsADirectoryError(None, "is a directory")
        part = Part(place)
    output = None
    try:
        with _closed(part.file), _closed(_compressed(part.file, path)) as stream:
            output = _Output(stream, str(path), make, part)
            try:
                yield output
            except BaseException:
                if output.has_written:
                    with contextlib.suppress(Exception):  # what pyarrow raises after a full disk
                        output.finish()
                raise
            output.finish()
        with _blaming(str(path)):
            part.rename()
    except BaseException as error:
        has_written = output is not None and output.has_written
        places = ", ".join(map(str, part.with_results(has_written)))
        kept = f"what was finished is in {places}" if places else "nothing was kept"
        if isinstance(error, OutputError):
            raise type(error)(f"{error}; {kept}") from error
        if places or has_written:
            logger.warning("%s is not whole; %s", path, kept)
        raise
    finally:
        part.release()
    for old in part.remove_earlier():
        logger.warning("%s: is no result of an earlier run, and left alone", old)
    if isinstance(output.writer, CsvWriter) and (metadata := output.writer.describe(place)):
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


class _Output:
    """A writer on a stream; an error names what is written to.

    Args:
        stream: the text stream.
        name: of what is written to, for messages.
        make: makes the writer.
        part: the part that the stream writes, if it is one.
    """

    def __init__(
        self, stream: TextIO, name: str, make: MakeWriter, part: Part | None = None
    ) -> None:
        self.has_written = False
        self._stream, self._name, self._part = stream, name, part
        with _blaming(name):
            self.writer = make(stream)

    def write(self, item: Any) -> None:
        """Adds one record."""
        with _blaming(self._name):
            self.writer.write(item)
            self.has_written = True
            if self._part:
                self._part.mark_whole()

    def finish(self) -> None:
        """Writes the ends of format and compression; a part's to the disk.

        A part without an end that its format cannot be read without is removed.
        """
        try:
            with _blaming(self._name):
                if isinstance(self.writer, EndedWriter):
                    self.writer.finish()
                self._stream.flush()
                if isinstance(self._stream.buffer, gzip.GzipFile):
                    self._stream.close()
                if self._part:
                    self._part.file.flush()
                    os.fsync(self._part.file.fileno())
                    self._part.mark_whole()
        except Exception:
            if self._part and isinstance(self.writer, EndedWriter) and self.writer.needs_end:
                self._part.remove()
            raise


@contextlib.contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Turns what the system says of a write into an `OutputError`."""
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosedError(f"{name}: the reading end of the pipe was closed") from error
    except OSError as error:
        raise OutputError(f"{name}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def _closed(file: TextIO) -> Iterator[TextIO]:
    """Closes a file at the end; what it could not write was reported before."""
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.close()
