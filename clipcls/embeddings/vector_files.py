"""Vectors of images in files: a parquet file, a folder of parquet files, or `.npy`.

Every file says which model made its vectors, so that another model's are refused:

- parquet: the columns `path`, `hash` (SHA-256 of the image file, hex), `size` (bytes) and `vector`
  (a fixed-size list), and the metadata `clipcls.vectors`, JSON;
- a folder: `clipcls-vectors.json`, the same JSON, and such parquet files, each written whole;
- `x.npy`: one row per image; `x.npy.jsonl` has the same JSON in its first line, then a line with
  path, hash and size per row.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from clipcls.data.file_kinds import VECTORS_KEY, VECTORS_MANIFEST
from clipcls.embeddings.vectors_info import VectorBlock, VectorsInfo, as_unit
from clipcls.errors import InputError, format_count, os_reason, require_extra
from clipcls.files.text import escape_bytes
from clipcls.output.parquet import open_parquet
from clipcls.output.writer import Writer

DType = Literal["float32", "float16"]

_COLUMNS = ("path", "vector", "hash", "size")
_ROWS = 8192  # in a row group
_BLOCK = 2048  # rows that are read at a time


# -- reading ------------------------------------------------------------------------------------


def open_vectors(path: str) -> VectorFile:
    """Open a file or folder of vectors, whatever its kind.

    Raises:
        InputError: it cannot be read, or does not say which model made its vectors.
    """
    if os.path.isdir(path):
        return FolderFile(path)
    with _reading(path), open(path, "rb") as file:
        begin = file.read(6)
    return _NpyFile(path) if begin == b"\x93NUMPY" else _ParquetFile(path)


class VectorFile(abc.ABC):
    """Vectors in a file, in the order of its rows; memory holds a block at a time.

    Attributes:
        path: the file or folder.
        info: what made them.
        dtype: of the numbers.
        extra: the columns that others added.
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)
    extra: Sequence[str] = ()

    def __init__(self, path: str, info: VectorsInfo) -> None:
        self.path, self.info = path, info

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abc.abstractmethod
    def blocks(self) -> Iterator[VectorBlock]:
        """The rows, as unit vectors, or as they are where they cannot be.

        Raises:
            InputError: while iterating: the file is cut off or damaged.
        """

    @abc.abstractmethod
    def labels(self, column: str) -> Iterator[tuple[str, str | None]]:
        """Each row's path and its text in a column; None where there is none.

        Raises:
            InputError: as `blocks`.
        """


class _ParquetFile(VectorFile):
    def __init__(self, path: str) -> None:
        with open_parquet(path, path) as file:
            schema, self._rows = file.schema_arrow, file.metadata.num_rows
        info = VectorsInfo.from_json((schema.metadata or {}).get(VECTORS_KEY, b""), path)
        if missing := {"path", "vector"} - {*schema.names}:
            raise InputError(
                f"{path}: its vectors have no column {min(missing)!r}; give it that name"
            )
        self._names = schema.names
        self.extra = [name for name in schema.names if name not in _COLUMNS]
        if hasattr(kind := schema.field("vector").type, "value_type"):
            self.dtype = np.dtype(kind.value_type.to_pandas_dtype())
        super().__init__(path, info)

    def __len__(self) -> int:
        return int(self._rows)

    def blocks(self, only: Sequence[str] = ()) -> Iterator[VectorBlock]:
        """The rows, `only` with some columns."""
        columns = [name for name in only or _COLUMNS if name in self._names]
        with open_parquet(self.path, self.path) as file:
            for batch in file.iter_batches(_BLOCK, columns=columns):
                yield self._block({name: batch.column(name) for name in columns})

    def _block(self, found: dict[str, Any]) -> VectorBlock:
        dim = self.info.dim
        rows: NDArray[Any] = np.empty((0, dim), np.float32)
        if (vectors := found.pop("vector", None)) is not None:
            flat = vectors.flatten()
            if vectors.null_count or flat.null_count or len(flat) != len(vectors) * dim:
                raise InputError(f"{self.path}: a row has no vector of {dim} numbers; remove it")
            rows = np.from_dlpack(flat).reshape(-1, dim)  # to_numpy() imports pandas
        columns = {name: column.to_pylist() for name, column in found.items()}
        if None in columns["path"]:
            raise InputError(f"{self.path}: a row has no path; remove it")
        return VectorBlock(
            columns["path"],
            as_unit(rows),
            [value or "" for value in columns.get("hash", ())],
            [value or 0 for value in columns.get("size", ())],
        )

    def labels(self, column: str) -> Iterator[tuple[str, str | None]]:
        """Each row's path and label."""
        columns = [name for name in ("path", column) if name in self._names]
        with open_parquet(self.path, self.path) as file:
            for batch in file.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    label = row.get(column)
                    yield row["path"] or "", None if label is None else str(label)


class FolderFile(VectorFile):
    """The files of a folder, in the order of their names."""

    def __init__(self, path: str) -> None:
        manifest = os.path.join(path, VECTORS_MANIFEST)
        with _reading(manifest), open(manifest, "rb") as file:
            info = VectorsInfo.from_json(file.read(), manifest)
        with _reading(path):
            names = sorted(os.listdir(path))
        self.parts = [
            _ParquetFile(os.path.join(path, name))
            for name in names
            if name.endswith(".parquet") and not name.startswith(".")
        ]
        for part in self.parts:
            if part.info != replace(info, shard=""):
                raise InputError(f"{part.path}: is not of the vectors of {path}; remove it")
            self.dtype, self.extra = part.dtype, part.extra
        super().__init__(path, info)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def blocks(self) -> Iterator[VectorBlock]:
        """The rows of one file after the other."""
        for part in self.parts:
            yield from part.blocks()

    def labels(self, column: str) -> Iterator[tuple[str, str | None]]:
        """Each row's path and label."""
        for part in self.parts:
            yield from part.labels(column)


class _NpyFile(VectorFile):
    def __init__(self, path: str) -> None:
        try:
            self._rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: is not a whole .npy file of vectors ({error})") from error
        shape, dtype = self._rows.shape, self._rows.dtype
        if len(shape) != 2 or dtype.kind != "f":
            raise InputError(f"{path}: has no vectors: an array {shape} of {dtype}, not of floats")
        self._ids = sidecar_path(path)
        if not os.path.exists(self._ids):
            raise InputError(
                f"{path}: {self._ids}, which names the model and images of its {shape[0]:,} "
                "vectors, is missing; put it there, or pass vectors of another program as an array "
                "in Python"
            )
        with _reading(self._ids), open(self._ids, "rb") as file:
            info = VectorsInfo.from_json(file.readline(), self._ids)
        if shape[1] != info.dim:
            raise InputError(
                f"{path}: its rows have {shape[1]} numbers, not the {info.dim} that {self._ids} "
                "names; embed anew"
            )
        super().__init__(path, info)
        self.dtype = self._rows.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def blocks(self) -> Iterator[VectorBlock]:
        with _reading(self._ids), open(self._ids, encoding="utf-8") as file:
            next(file)
            for start in range(0, len(self), _BLOCK):
                rows = self._rows[start : start + _BLOCK]
                try:
                    ids = [json.loads(line) for _, line in zip(rows, file, strict=False)]
                    paths, hashes, sizes = (
                        [each[name] for each in ids] for name in ("path", "hash", "size")
                    )
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(f"{self._ids}: is damaged; embed anew") from error
                self._check(len(ids) == len(rows))
                yield VectorBlock(paths, as_unit(rows), hashes, sizes)
            self._check(not next(file, ""))

    def labels(self, column: str) -> Iterator[tuple[str, str | None]]:
        """Each row's path, and its hash if that is the column: this format has no others."""
        for block in self.blocks():
            texts = block.hashes if column == "hash" else itertools.repeat(None)
            yield from zip(block.paths, texts, strict=False)

    def _check(self, is_whole: bool) -> None:
        if not is_whole:
            raise InputError(
                f"{self._ids}: has not the {format_count(len(self), 'row')} of {self.path}; embed "
                "anew"
            )


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{name}: {os_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: is damaged; embed anew") from error


# -- writing ------------------------------------------------------------------------------------


class VectorWriter(Writer, abc.ABC):
    """Writes `VectorBlock`s.

    Args:
        stream: a file of text, whose buffer takes the bytes.
        make_info: from the vectors' length, known when the first ones arrive, to their info.
        dtype: of the numbers.
    """

    needs_end = True

    def __init__(
        self, stream: TextIO, make_info: Callable[[int], VectorsInfo], dtype: DType
    ) -> None:
        super().__init__(stream)
        self._make_info, self._dtype = make_info, np.dtype(dtype)
        self._dim = 0

    def add(self, item: VectorBlock) -> None:
        """Add rows."""
        if not self._dim:
            self._dim = item.vectors.shape[1]
            self.begin(self._make_info(self._dim))
        self.write_rows(item)

    @abc.abstractmethod
    def begin(self, info: VectorsInfo) -> None:
        """Write the file's beginning."""

    @abc.abstractmethod
    def write_rows(self, block: VectorBlock) -> None:
        """Write a block."""


class VectorParquetWriter(VectorWriter):
    """Writes parquet.

    Raises:
        InputError: pyarrow is missing.
    """

    def __init__(
        self, stream: TextIO, make_info: Callable[[int], VectorsInfo], dtype: DType
    ) -> None:
        super().__init__(stream, make_info, dtype)
        with require_extra("parquet", "parquet"):
            import pyarrow.parquet  # noqa: F401

        self._waiting: list[VectorBlock] = []

    def begin(self, info: VectorsInfo) -> None:
        """Write the magic number."""
        import pyarrow as pa
        import pyarrow.parquet

        # Without nulls lists are read several times as fast.
        number = pa.field("element", pa.from_numpy_dtype(self._dtype), nullable=False)
        fields = [
            pa.field("path", pa.string(), nullable=False),
            pa.field("hash", pa.string()),
            pa.field("size", pa.int64()),
            pa.field("vector", pa.list_(number, info.dim), nullable=False),
        ]
        self._schema = pa.schema(fields, {VECTORS_KEY: info.to_json()})
        self._file = pyarrow.parquet.ParquetWriter(
            self._stream.buffer,
            self._schema,
            compression={"path": "zstd", "hash": "zstd", "size": "zstd"},  # vectors do not shrink
            use_dictionary=False,
            write_statistics=["path"],
        )

    def write_rows(self, block: VectorBlock) -> None:
        """Add rows; a row group is written when it is full."""
        self._waiting.append(block)
        if sum(len(waiting.paths) for waiting in self._waiting) >= _ROWS:
            self._write_group()

    def finish(self) -> None:
        """Write the last rows, and the file's end."""
        if self._dim:
            self._write_group()
            self._file.close()

    def _write_group(self) -> None:
        import pyarrow as pa

        blocks, self._waiting = self._waiting, []
        if blocks:
            flat = np.concatenate([block.vectors for block in blocks]).astype(self._dtype).ravel()
            columns = [
                [escape_bytes(path) for block in blocks for path in block.paths],
                [value or None for block in blocks for value in block.hashes],
                [value or None for block in blocks for value in block.sizes],
                pa.FixedSizeListArray.from_arrays(
                    pa.array(flat), type=self._schema.field("vector").type
                ),
            ]
            table = pa.table(columns, schema=self._schema)
            self._file.write_table(table, row_group_size=_ROWS)


class NpyWriter(VectorWriter):
    """Writes the rows of a `.npy`; a writer of its own has their paths."""

    def begin(self, info: VectorsInfo) -> None:
        """Write a header for no rows."""
        self._rows = 0
        self._write_header()

    def write_rows(self, block: VectorBlock) -> None:
        """Write the vectors."""
        self._stream.buffer.write(block.vectors.astype(self._dtype).tobytes())
        self._rows += len(block.paths)

    def finish(self) -> None:
        """Write the number of rows into the header, which has room for it."""
        if self._dim:
            self._stream.buffer.seek(0)
            self._write_header()
            self._stream.buffer.seek(0, os.SEEK_END)

    def _write_header(self) -> None:
        shape = (self._rows, self._dim)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream.buffer, header)


class NpyPathsWriter(VectorWriter):
    """Writes what a `.npy` cannot hold: the info, and a line of JSON per row."""

    def begin(self, info: VectorsInfo) -> None:
        """Write the info."""
        self._stream.write(f"{info.to_json()}\n")

    def write_rows(self, block: VectorBlock) -> None:
        """Write a line per row."""
        rows = zip(block.paths, block.hashes, block.sizes, strict=True)
        self._stream.writelines(
            f"{json.dumps({'path': path, 'hash': digest, 'size': size})}\n"
            for path, digest, size in rows
        )


def sidecar_path(npy: str | os.PathLike[str]) -> str:
    """The file with the paths of the rows of a `.npy`."""
    return f"{os.fspath(npy)}.jsonl"
