"""Images that a table lists: csv, tsv, jsonl or parquet with a column of paths, URLs or bytes.

Paths are relative to the table's folder. Bytes, also in the structure of Hugging Face's datasets,
are in parquet files; such an image is called `table.parquet#12` by its row, from 0.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from clipcls.data.budget import Reserve, never_wait
from clipcls.data.container_file import (
    Contained,
    Waiting,
    container_errors,
    find_version,
    open_container,
    place_error,
    stamp_container,
)
from clipcls.data.file_kinds import VECTORS_KEY
from clipcls.data.image_column import choose_column, choose_typed, holds_bytes
from clipcls.data.images import read_bytes
from clipcls.data.kept import Keep, Kept, column_types, find_classes, find_types
from clipcls.data.remote import Info, RemoteFile
from clipcls.errors import ImageError, InputError, require_extra
from clipcls.files.jsonfiles import parse_json
from clipcls.files.on_disk import find_on_disk, is_url, join_address
from clipcls.files.text import decode, read_table, read_text

_CELL = re.compile(r"(.+\.parquet)#(\d{1,15})", re.IGNORECASE | re.DOTALL)
Listed: TypeAlias = "tuple[str | Cell | ImageError, Kept | None]"
T = TypeVar("T")
_ROWS = 16  # read at a time
_LONGEST = 1024  # characters of a path


@dataclass(frozen=True, slots=True)
class Cell(Contained):
    """An image whose bytes are in a row and a column of a parquet file."""

    row: int
    column: str = ""
    _data: Waiting | None = field(default=None, repr=False, compare=False)

    def stamp(self) -> bytes:
        """The table's stamp, and the column, which the image's name does not tell."""
        return self.stamp_place(b" row " + self.column.encode())

    def load(self) -> Cell:
        """The cell with its bytes: rows are read fastest in their order."""
        try:
            data = self._find()
        except ImageError:  # reading it will say why
            return self
        return replace(self, _data=Waiting(len(data), data))

    def read(self, reserve: Reserve = never_wait) -> bytes:
        """The image file's bytes.

        Raises:
            ImageError: the table cannot be read, or has no bytes there.
        """
        data = self._data.take() if self._data else self._find()
        reserve(len(data))
        return data

    def _find(self) -> bytes:
        name = f"{self.container}#{self.row}"
        with container_errors(self.container, "a parquet file", name):
            version = find_version(self.container, self.mark)
            cells = _open_cells(self.container, self.column, version, os.getpid())
            value = cells.get(self.row)
            if isinstance(value, dict):
                path, value = value.get("path"), value.get("bytes")
                if value is None and path:
                    place = _join(self.container, path)
                    try:
                        value = RemoteFile(place).read() if is_url(place) else read_bytes(place)
                    except ImageError as error:
                        raise ImageError(name, str(error)) from error
        if not isinstance(value, bytes) or not value:
            raise ImageError(name, "the row has no image")
        return value


def find_cell(name: str) -> Cell | None:
    """The image that a name like `table.parquet#12` leads to; None if it is no such name."""
    found = _CELL.fullmatch(name) if "#" in name else None
    return Cell(found[1], b"", int(found[2])) if found and not os.path.lexists(name) else None


def list_rows(
    table: str, column: str | None, info: Info | None = None, keep: Keep | None = None
) -> Iterator[Listed]:
    """The images that a table lists, in its order, and the cells to keep of their rows.

    Args:
        table: the file's path or URL.
        column: the column of the images; None: the only one with a usual name, such as `path`.
        info: what a listing says about the table.
        keep: the columns to keep; None: none.
    """
    lower = table.lower().removesuffix(".gz")
    is_parquet, keep = lower.endswith(".parquet"), keep or Keep(())
    try:
        with container_errors(table, "a parquet file" if is_parquet else "a text table"):
            if is_parquet:
                yield from _list_parquet(table, column, info, keep)
                return
            text = read_table_text(table, info)
            if not text.strip():
                raise ImageError(table, "is empty")
            is_json = lower.endswith((".jsonl", ".ndjson"))
            yield from (_list_json if is_json else _list_csv)(table, text, column, keep)
    except ImageError as error:
        yield error.without_frames(), None


def read_table_text(table: str, info: Info | None = None) -> str:
    """The text of a table of this disk or behind a URL.

    Raises:
        ImageError, InputError: it cannot be read.
    """
    if is_url(table) and not os.path.lexists(table):
        return decode(RemoteFile(table, info).read(), table)
    return read_text(Path(table))


def _list_csv(table: str, text: str, column: str | None, keep: Keep) -> Iterator[Listed]:
    read = read_table(text, table, exact=True)
    name = choose_column(table, read.columns, column)
    kept = keep.find(table, read.columns, dict.fromkeys(read.columns, str))
    return _list_rows(table, read.rows, name, keep, kept)


def _list_json(table: str, text: str, column: str | None, keep: Keep) -> Iterator[Listed]:
    def parse(where: str, line: str) -> tuple[str, dict[str, Any]]:
        record = parse_json(line, where, has_paths=True)
        if not isinstance(record, dict):
            raise InputError(f"{where}: is not a JSON object; write one per line")
        return where, record

    lines = [
        (f"{table}, line {number}", line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    _, first = parse(*lines[0])
    whole = (row for row in _try_each(itertools.starmap(parse, lines)) if isinstance(row, tuple))
    types = find_types(record for _, record in whole) if keep.empty else {}
    kept = keep.find(table, [*types], types)
    name = choose_column(table, [*first], column)
    return _list_rows(table, itertools.starmap(parse, lines), name, keep, kept)


def _list_parquet(
    table: str, column: str | None, info: Info | None, keep: Keep
) -> Iterator[Listed]:
    with require_extra("parquet", "reading parquet"):
        import pyarrow.parquet
    mark = stamp_container(table, info)
    with open_container(table) as opened, pyarrow.parquet.ParquetFile(opened) as file:
        if VECTORS_KEY in (file.schema_arrow.metadata or {}):
            raise ImageError(table, "holds vectors; download it first")
        schema = file.schema_arrow
        name = choose_typed(table, schema, column)
        types = column_types(schema)
        has_bytes = holds_bytes(types[name])
        kept = keep.find(table, schema.names, types, find_classes(schema))
        read = {*kept.values()} | (set() if has_bytes else {name})
        rows: Iterable[Mapping[str, Any]] = itertools.repeat({}, file.metadata.num_rows)
        if read:
            batches = file.iter_batches(columns=[*read])
            rows = (row for batch in batches for row in batch.to_pylist())
        if has_bytes:
            for number, row in enumerate(rows):
                yield Cell(table, mark, number, name), keep.take(kept, row)
            return
        named = ((f"{table}#{number}", row) for number, row in enumerate(rows))
        yield from _list_rows(table, named, name, keep, kept)


def _list_rows(
    table: str,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    column: str,
    keep: Keep,
    kept: Mapping[str, str],
) -> Iterator[Listed]:
    """The images that a column names, of rows and their places."""
    for row in _try_each(rows):
        if isinstance(row, InputError):
            yield place_error(table, row), None
        else:
            yield _name(table, row[1].get(column), row[0]), keep.take(kept, row[1])


def _try_each(rows: Iterable[T]) -> Iterator[T | InputError]:
    """The rows, with the error of each that cannot be read; the next may be."""
    rows = iter(rows)
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except InputError as error:
            yield error


def _name(table: str, value: object, where: str) -> str | ImageError:
    if isinstance(value, dict):
        value = value.get("path")
    if value is None or (isinstance(value, str) and not value.strip()):
        return ImageError(where, "the row has no image")
    if not isinstance(value, str):
        return ImageError(where, f"{str(value)[:40]} is no path or URL")
    if value.startswith("data:") or (len(value) > _LONGEST and not is_url(value)):
        reason = f"has {len(value):,} characters, not a path or URL; images in base64 are not read"
        return ImageError(where, f"{reason}, put their bytes into a parquet file")
    place = _join(table, value)
    is_missing = place != value and not is_url(place) and not os.path.lexists(place)
    if is_missing and os.path.lexists(value):
        cure = f"paths in a table are relative to its folder; move {table} to where they begin"
        return ImageError(place, f"no such file; {cure}")
    return place


def _join(table: str, path: str) -> str:
    folder = table.rpartition("/")[0] if is_url(table) else os.path.dirname(table)
    return find_on_disk(join_address(folder, path))


class _Cells:
    """The cells of a column of a parquet file, read a few rows at a time."""

    def __init__(self, table: str, column: str) -> None:
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(open_container(table))
        schema = self._file.schema_arrow
        with_bytes = [name for name, kind in column_types(schema).items() if holds_bytes(kind)]
        self._column = column or (
            with_bytes[0] if len(with_bytes) == 1 else choose_column(table, schema.names, None)
        )
        self._lock = threading.Lock()
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._start = self._group_end = 0

    def get(self, row: int) -> Any:
        """The value of a row; forward is fast."""
        with self._lock:
            size = len(self._batch) if self._batch is not None else 0
            if not self._start <= row < self._group_end:
                self._seek(row)
                size = 0
            while not self._start <= row < self._start + size:
                self._start += size
                self._batch = next(self._batches).column(0)
                size = len(self._batch)
            return self._batch[row - self._start].as_py()

    def _seek(self, row: int) -> None:
        start, metadata = 0, self._file.metadata
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if start <= row < start + rows:
                self._batches = self._file.iter_batches(
                    _ROWS, row_groups=[group], columns=[self._column]
                )
                self._start, self._group_end, self._batch = start, start + rows, None
                return
            start += rows
        raise InputError(f"has {start:,} rows, from 0")


@functools.lru_cache(maxsize=8)
def _open_cells(table: str, column: str, version: bytes, process: int) -> _Cells:
    return _Cells(table, column)
