"""Result files: written as the results come; they get their name only when they are whole.

A file is written as `FILE.part`, each record handed to the system as it comes, and renamed at the
end: a reader never sees half a file under the final name, and the results of an interrupted run
stay in the part until a later run with the same file has finished. A part is locked while it is
written: a second run with the same file is refused.

A file whose name ends in `.gz` is compressed; each record can be read as soon as it is written.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from clipcls.errors import OutputError
from clipcls.files.atomic import write_bytes, writing
from clipcls.files.partial import Part
from clipcls.output.csv import CsvWriter, metadata_path
from clipcls.output.gallery import GalleryWriter
from clipcls.output.json import JsonArrayWriter, JsonlWriter, JsonWriter
from clipcls.output.labels import LabelFileWriter
from clipcls.output.parquet import ParquetWriter
from clipcls.output.table import TableWriter
from clipcls.output.writer import Writer

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


def is_stream(path: Path) -> bool:
    """Whether it is a pipe or a device, which is written to directly."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def open_output(
    path: Path | None,
    form: str | MakeWriter,
    *,
    columns: Sequence[str] | None = None,
    bom: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Iterator[Output]:
    """Open a writer to a file, or to stdout without a path.

    Args:
        path: the result file, which appears when the block ends without an error; a link is
            followed. A pipe or a device is written to directly.
        form: a name in `FORMATS`, or what makes such a writer.
        columns, bom, provenance: of csv and tsv, see `CsvWriter`.

    Raises:
        OutputError: it cannot be written, or another run is writing it; the results so far stay in
            its part.
        OutputClosedError: the reading end of a pipe was closed.
    """
    make: Callable[..., Writer] = FORMATS[form] if isinstance(form, str) else form
    if form in ("csv", "tsv"):
        make = functools.partial(make, columns=columns, bom=bom, provenance=provenance)
    if path is None:
        output = Output(sys.stdout, sys.stdout, "standard output", make)
        yield output
        output.finish()
    # By its own name: /dev/stdout and bash's >(...) lead to pipes that have no other.
    elif is_stream(path):
        with writing(path):
            file = path.open("w", encoding="utf-8", newline="")
        with _make_output(file, path, make) as output:
            yield output
            output.finish()
    else:
        yield from _write_file(path, make)


def _write_file(path: Path, make: MakeWriter) -> Iterator[Output]:
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    with writing(path):
        if place.is_dir():
            raise IsADirectoryError(None, "is a directory")
        part = Part(place)
    output = None
    try:
        with _make_output(part.file, path, make, part) as output:
            try:
                yield output
            except BaseException:
                if output.has_written:
                    with contextlib.suppress(Exception):  # what pyarrow raises after a full disk
                        output.finish()
                raise
            output.finish()
        with writing(path):
            part.rename()
    except BaseException as error:
        has_written = output is not None and output.has_written
        places = ", ".join(map(str, part.with_results(has_written)))
        kept = f"complete results are in {places}" if places else "nothing was kept"
        if isinstance(error, OutputError):
            raise type(error)(f"{error}; {kept}") from error
        if places or has_written:
            logger.warning("%s is incomplete; %s", path, kept)
        raise
    finally:
        part.release()
    for old in part.remove_earlier():
        logger.warning("%s: is not a result of an earlier run; left alone", old)
    if metadata := output.writer.describe(place):
        notes = metadata_path(place)
        try:
            if os.path.islink(notes):  # nobody named it, and it may lead anywhere
                raise OutputError(f"{notes}: is a link; left alone")
            write_bytes(notes, metadata)
        except OutputError as error:
            logger.warning(
                "%s; the results are complete, but their provenance is not stored", error
            )


class Output(Writer):
    """A writer whose errors name the output.

    Args:
        stream: the text stream.
        file: what the stream leads to: itself, or the file that it is compressed into.
        name: of the output, for messages.
        make: makes the writer.
        part: the part that the file is, if it is one.

    Attributes:
        writer: the writer of the format.
    """

    def __init__(
        self, stream: TextIO, file: TextIO, name: str, make: MakeWriter, part: Part | None = None
    ) -> None:
        super().__init__(stream)
        self.has_written = False
        self._file, self._name, self._part = file, name, part
        with writing(name):
            self.writer = make(stream)

    def write_block(self, items: Iterable[Any]) -> None:
        """Add many records."""
        with writing(self._name):
            self.writer.write_block(items)
            self.has_written = True
            if self._part:
                self._part.mark_whole()

    def finish(self) -> None:
        """Write the ends of format and compression; a part's to the disk.

        A part that cannot be read without the end of its format is removed if that fails.
        """
        try:
            with writing(self._name):
                self.writer.finish()
                self._stream.flush()
                if self._stream is not self._file:
                    self._stream.close()
                self._file.flush()
                if self._part:
                    os.fsync(self._file.fileno())
                    self._part.mark_whole()
        except Exception:
            if self._part and self.writer.needs_end:
                self._part.remove()
            raise


@contextlib.contextmanager
def _make_output(
    file: TextIO, path: Path, make: MakeWriter, part: Part | None = None
) -> Iterator[Output]:
    """An output on a file, compressed if its path says so; closes the file at the end."""
    stream = file
    if path.suffix.lower() == ".gz":
        # Without a time, so that the same results are the same bytes.
        zipped = gzip.GzipFile("", "wb", compresslevel=6, fileobj=file.buffer, mtime=0)
        stream = io.TextIOWrapper(zipped, encoding="utf-8", newline="")
    try:
        yield Output(stream, file, str(path), make, part)
    finally:
        for opened in (stream, file):
            with contextlib.suppress(OSError):  # what could not be written was reported before
                opened.close()
