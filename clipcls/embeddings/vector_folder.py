"""A folder of vectors that grows, so that an interrupted run can be resumed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from clipcls.data.file_kinds import VECTORS_MANIFEST
from clipcls.data.sources import find_file
from clipcls.embeddings.vector_files import DType, FolderFile, VectorParquetWriter
from clipcls.embeddings.vectors_info import VectorBlock, VectorsInfo
from clipcls.errors import InputError
from clipcls.files.atomic import lock_descriptor, temporary_path, write_bytes, writing
from clipcls.files.folders import sync_folder
from clipcls.files.text import escape_bytes


class VectorFolder:
    """Parquet files in a folder; each gets its name when it is whole.

    Use it in a `with` block, at whose end, also after an error, the last rows are written.

    Args:
        path: the folder; made if missing. One that holds vectors by the same model is added to.
        make_info, dtype: as for `VectorWriter`.
        rows: the number of rows per file.

    Raises:
        InputError: it holds something else, or vectors that cannot be read.
        OutputError: it cannot be written, or another run is writing it.
    """

    def __init__(
        self, path: str, make_info: Callable[[int], VectorsInfo], dtype: DType, rows: int
    ) -> None:
        self._path, self._make_info, self._rows = Path(path), make_info, rows
        self._dtype: DType = dtype
        self._waiting: list[VectorBlock] = []
        self._info: VectorsInfo | None = None
        self._is_same = False
        self._shard = ""  # the share that is being written
        self._known: dict[str, tuple[int, float, str]] = {}
        self._next = 0
        with writing(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_RDONLY) if os.name != "nt" else None
            if self._lock is not None:
                lock_descriptor(self._lock)
            for left in self._path.glob(".part-*.part"):  # by a run that was killed
                left.unlink(missing_ok=True)
        if (self._path / VECTORS_MANIFEST).exists():
            self._read_known()
        elif any(self._path.iterdir()):
            raise InputError(f"{path}: is not empty and holds no vectors; name a new folder")

    def __enter__(self) -> VectorFolder:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        try:
            self._flush()
            if kind is None and self._info and self._shard not in self._info.shard.split():
                shards = f"{self._info.shard} {self._shard}".strip()
                self._write_info(replace(self._info, shard=shards))
        finally:
            if self._lock is not None:
                os.close(self._lock)

    def has(self, path: str) -> bool:
        """Whether the folder holds this image's vector.

        Raises:
            InputError: its file, or the archive, table or video with it, has changed since.
        """
        if (known := self._known.get(escape_bytes(path))) is None:
            return False
        size, written, part = known
        with contextlib.suppress(OSError, ValueError):
            file = find_file(path)
            stat = os.stat(file)
            is_whole = file == path and size
            if (is_whole and stat.st_size != size) or stat.st_mtime > written:
                raise InputError(
                    f"{file}: has changed since {part} was written; delete that file, or name "
                    "another folder"
                )
        return True

    def write(self, item: VectorBlock) -> None:
        """Add rows; a file is written when there are enough for it."""
        if not self._is_same:
            info = self._make_info(item.vectors.shape[1])
            self._shard = info.shard
            if self._info is None:
                self._write_info(replace(info, shard=""))
            elif self._info.space != info.space:
                raise InputError(
                    f"{self._path}: its vectors are by {self._info.model} in "
                    f"{self._info.precision}, and these by {info.model} in {info.precision}; "
                    "name another folder"
                )
            self._is_same = True
        self._waiting.append(item)
        if sum(len(block.paths) for block in self._waiting) >= self._rows:
            self._flush()

    def _write_info(self, info: VectorsInfo) -> None:
        write_bytes(self._path / VECTORS_MANIFEST, f"{info.to_json()}\n".encode())
        self._info = info

    def _read_known(self) -> None:
        found = FolderFile(str(self._path))
        self._info = found.info
        for part in found.parts:
            written = os.stat(part.path).st_mtime
            for block in part.blocks(("path", "size")):
                for path, size in zip(block.paths, block.sizes, strict=True):
                    self._known[path] = size, written, part.path
        numbers = (Path(part.path).stem.rpartition("-")[2] for part in found.parts)
        self._next = 1 + max((int(n) for n in numbers if n.isdecimal()), default=-1)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not any(block.paths for block in waiting) or self._info is None:
            return
        info, place = replace(self._info, shard=""), self._path / f"part-{self._next:06}.parquet"
        with writing(self._path), temporary_path(place) as part:
            with part.open("x", encoding="utf-8") as file:
                writer = VectorParquetWriter(file, lambda dim: info, self._dtype)
                for block in waiting:
                    writer.write(block)
                writer.finish()
                file.flush()
                os.fsync(file.fileno())
            part.replace(place)
            sync_folder(self._path)
        self._next += 1
