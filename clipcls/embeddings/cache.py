"""Embeddings of texts and images on disk, in one SQLite file.

An embedding belongs to a *space*, which names everything that decides a vector besides its content
(weights, architecture, preprocessing or tokenizer, precision), and has the SHA-256 of its content
as key, so another model's vector can never be returned. A file's path, size and times are only a
shortcut to the hash of its content.

Losing the cache costs time and never changes an answer. Each row carries a checksum; a row that
fails it counts as missing. `cache_file` takes care of the file itself.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcls.data.sources import absolute_name, find_file, find_source, hash_source
from clipcls.embeddings.cache_file import CacheFile, DamageError, compute_checksum
from clipcls.errors import CacheError, ImageError

logger = logging.getLogger(__name__)

_PARAMETERS = 128  # of a statement; its rows fit into the processor's cache


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """The contents of a cache; size in bytes."""

    path: Path
    size: int
    texts: int
    images: int
    files: int


class EmbeddingCache:
    """Embeddings by space and content; safe across threads and processes, forked ones included.

    Args:
        path: the SQLite file, created with its folders if missing; None: the default cache.

    Raises:
        CacheError: the file cannot be opened (not writable, made by another version of clipcls,
            or not a cache). A damaged cache is renamed and a new one started, but a file outside
            the default place that is no longer recognisable as a cache is refused.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._file = CacheFile(path)
        self._has_warned = False

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self._file.path

    def close(self) -> None:
        """Closes the file; the cache cannot be used afterwards."""
        self._file.close()

    def __reduce__(self) -> tuple[type[EmbeddingCache], tuple[Path]]:
        return EmbeddingCache, (self.path,)

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def get(self, space: str, content: bytes) -> NDArray[np.float32] | None:
        """The vector of one content: float32 (dim,), or None if it is not stored."""
        rows = self._file.rows(
            "SELECT vector, checksum FROM embeddings WHERE space = ? AND content = ?",
            (space, content),
        )
        if not rows or not self._is_whole(space.encode(), content, *rows[0]):
            return None
        return np.frombuffer(rows[0][0], np.float32)

    def vectors(self, space: str) -> dict[bytes, NDArray[np.float32]]:
        """All vectors of a space by their content, the one that was stored first coming first."""
        rows = self._file.rows(
            "SELECT content, vector, checksum FROM embeddings WHERE space = ? ORDER BY id", (space,)
        )
        return {
            content: np.frombuffer(vector, np.float32)
            for content, vector, checksum in rows
            if self._is_whole(space.encode(), content, vector, checksum)
        }

    def get_files(
        self, space: str, files: Sequence[tuple[str, bytes]]
    ) -> tuple[list[bytes | None], NDArray[np.float32]]:
        """The SHA-256 of each image (name, stamp), and the vectors of those that are known.

        Returns:
            the hashes, None if an image has changed or is not stored, and float32 (n_known, dim).
        """
        keys = [_path_key(name) if stamp else b"" for name, stamp in files]
        found: dict[bytes, tuple[bytes, bytes, int]] = {}
        vectors = bytearray()
        encoded = space.encode()
        once = [*dict.fromkeys(keys)]  # an image may come several times
        for start in range(0, len(once), _PARAMETERS):
            asked = once[start : start + _PARAMETERS]
            # CROSS JOIN: first the files, which are few, then their vectors.
            for path, stamp, content, checksum, vector, vector_checksum in self._file.rows(
                "SELECT path, stamp, files.content, files.checksum, vector, embeddings.checksum "
                "FROM files CROSS JOIN embeddings ON embeddings.content = files.content "
                f"WHERE space = ? AND path IN ({','.join('?' * len(asked))})",
                (space, *asked),
            ):
                if (
                    compute_checksum(path, stamp, content) == checksum
                    and compute_checksum(encoded, content, vector) == vector_checksum
                ):
                    found[path] = stamp, content, len(found)
                    vectors += vector
                else:
                    self._warn_of_damage()
        known = [
            row if row and row[0] == stamp else None
            for (_, stamp), row in zip(files, map(found.get, keys), strict=True)
        ]
        order = [row[2] for row in known if row]
        array = np.frombuffer(vectors, np.float32).reshape(max(len(found), 1), -1)
        if order != [*range(len(found))]:
            array = array[order]
        return [row and row[1] for row in known], array

    def add(
        self,
        space: str,
        items: Iterable[tuple[bytes, NDArray[np.float32]]],
        files: Iterable[tuple[str, bytes, bytes]] = (),
    ) -> None:
        """Stores vectors and the places they were read from, in one transaction.

        Args:
            space: the space the vectors belong to.
            items: (content's SHA-256, float32 vector (dim,)); known ones are replaced.
            files: (name, its stamp before it was read, content's SHA-256); see `Source.stamp`. An
                image without a stamp is found by its content alone.
        """
        keys = [
            (space.encode(), content, np.ascontiguousarray(vector, np.float32).tobytes())
            for content, vector in items
        ]
        rows = [(space, *key[1:], compute_checksum(*key)) for key in keys]
        files = list(files)

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO embeddings (space, content, vector, checksum) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (space, content) DO UPDATE SET content = excluded.content, "
                "vector = excluded.vector, checksum = excluded.checksum",
                rows,
            )
            _insert_files(connection, files)

        self._file.write(work, None)

    def images(
        self, space: str, block: int = 1_024
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """All stored images of a space, a block at a time, each content once.

        Yields:
            (paths, float32 (n, dim)) with n at most `block`, in the order they were stored. If
            several files have the same content, the path is the first in byte order. Damaged
            entries are left out.
        """
        # The + keeps SQLite from the index on space, which has another order: each block would be
        # picked out of all images. With min() the other columns are those of its row.
        for rows in self._blocks(
            "SELECT id, embeddings.content, vector, embeddings.checksum, "
            "min(path), stamp, files.checksum "
            "FROM embeddings CROSS JOIN files ON files.content = embeddings.content "
            "WHERE +space = ? AND id > ? GROUP BY id ORDER BY id LIMIT ?",
            (space,),
            block,
        ):
            whole = [
                (os.fsdecode(path), vector)
                for _, content, vector, checksum, path, stamp, file_checksum in rows
                if self._is_whole(space.encode(), content, vector, checksum)
                and self._is_whole(path, stamp, content, file_checksum)
            ]
            if whole:
                paths, vectors = zip(*whole, strict=True)
                array = np.frombuffer(b"".join(vectors), np.float32)
                yield list(paths), array.reshape(len(paths), -1)

    def copies(self, path: str) -> list[str]:
        """The files that had the same content as this one when they were stored."""
        rows = self._file.rows(
            "SELECT path, stamp, content, checksum FROM files "
            "WHERE content = (SELECT content FROM files WHERE path = ?) ORDER BY path",
            (_path_key(path),),
        )
        return [os.fsdecode(row[0]) for row in rows if self._is_whole(*row)]

    def file_hash(self, path: str | os.PathLike[str]) -> str:
        """The SHA-256 of an image's content in hex; an unchanged one is not read again.

        Raises:
            OSError: the file cannot be read.
            ImageError: an image that is not a file of this disk cannot be read.
        """
        name = os.fspath(path)
        stamp = find_source(name).stamp()
        key = _path_key(name), stamp
        rows = stamp and self._file.rows(
            "SELECT content, checksum FROM files WHERE path = ? AND stamp = ?", key
        )
        if rows and self._is_whole(*key, *rows[0]):
            return str(rows[0][0].hex())
        content = hash_source(name)
        file = (name, stamp, bytes.fromhex(content))
        self._file.write(lambda connection: _insert_files(connection, [file]), None)
        return content

    def info(self) -> CacheInfo:
        """Counts what the cache holds."""
        kinds = dict(
            self._file.rows(
                "SELECT substr(space, 1, instr(space, ' ') - 1) AS kind, count(*) "
                "FROM embeddings GROUP BY kind"
            )
        )
        ((files,),) = self._file.rows("SELECT count(*) FROM files") or [(0,)]
        texts, images = (kinds.get(kind, 0) for kind in (b"text", b"image"))
        return CacheInfo(self.path, self._file.size(), texts, images, files)

    def prune(self) -> int:
        """Forgets missing and changed files, and images that no file has.

        Returns:
            the number of images removed.
        """
        rows = self._file.rows("SELECT path, stamp, content, checksum FROM files")
        gone = [row[:1] for row in rows if not self._is_whole(*row) or _has_changed(*row[:2])]

        def work(connection: sqlite3.Connection) -> int:
            connection.executemany("DELETE FROM files WHERE path IS ?", gone)
            return connection.execute(
                "DELETE FROM embeddings WHERE space LIKE 'image %' "
                "AND content NOT IN (SELECT content FROM files)"
            ).rowcount

        removed = self._file.write(work, 0)
        self._file.rows("VACUUM")
        self._file.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed

    def dump_vectors(self, block: int) -> Iterator[list[tuple[str, bytes, bytes, int]]]:
        """All vectors, a block at a time, as (space, content, vector's bytes, checksum)."""
        sql = (
            "SELECT id, space, content, vector, checksum FROM embeddings WHERE id > ? "
            "ORDER BY id LIMIT ?"
        )
        for rows in self._blocks(sql, (), block):
            yield [(row[1].decode(), *row[2:]) for row in rows if self._is_whole(*row[1:])]

    def dump_files(self, block: int) -> Iterator[list[tuple[bytes, bytes, bytes, int]]]:
        """All files, a block at a time, as (path, stamp, content, checksum)."""
        last = b""
        while rows := self._file.rows(
            "SELECT * FROM files WHERE path > ? ORDER BY path LIMIT ?", (last, block)
        ):
            last = rows[-1][0]
            yield [row for row in rows if self._is_whole(*row)]

    def absorb(
        self,
        vectors: Iterable[tuple[str, bytes, bytes, int]],
        files: Iterable[tuple[bytes, bytes, bytes, int]],
    ) -> int | None:
        """Adds rows of another cache, as dumped, unless they are damaged or known.

        Returns:
            the number of new vectors; None if they could not be stored.
        """
        vectors = [row for row in vectors if self._is_whole(row[0].encode(), *row[1:])]
        files = [row for row in files if self._is_whole(*row)]

        def work(connection: sqlite3.Connection) -> int:
            before = connection.total_changes
            connection.executemany(
                "INSERT OR IGNORE INTO embeddings (space, content, vector, checksum) "
                "VALUES (?, ?, ?, ?)",
                vectors,
            )
            new = connection.total_changes - before
            connection.executemany("INSERT OR IGNORE INTO files VALUES (?, ?, ?, ?)", files)
            return new

        return self._file.write(work, None)

    def _blocks(self, sql: str, parameters: tuple[Any, ...], block: int) -> Iterator[list[Any]]:
        """The rows of a statement that also takes the last row's id and the number of rows."""
        last = 0
        while rows := self._file.rows(sql, (*parameters, last, block)):
            if rows[-1][0] <= last:
                self._file.recover(DamageError("rows out of order"))
                return
            last = rows[-1][0]
            yield rows

    def _is_whole(self, *row: Any) -> bool:
        """Whether a row matches its checksum, the last value; the first that does not is logged."""
        is_whole: bool = row[-1] == compute_checksum(*row[:-1])
        if not is_whole:
            self._warn_of_damage()
        return is_whole

    def _warn_of_damage(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the cache %s has damaged entries: they are ignored and recomputed when needed",
                self.path,
            )


def open_cache(cache: bool | str | os.PathLike[str] | EmbeddingCache) -> EmbeddingCache | None:
    """Opens the cache to use: True for the default one, False for none.

    Raises:
        CacheError: a cache that was named cannot be opened. If the default one cannot, that is
            logged and work goes on without it.
    """
    if isinstance(cache, EmbeddingCache):
        return cache
    if not isinstance(cache, bool):
        return EmbeddingCache(cache)
    if not cache:
        return None
    try:
        return EmbeddingCache()
    except CacheError as error:
        logger.warning("%s; going on without it", error)
        return None


def hash_image(cache: EmbeddingCache | None, path: str) -> bytes:
    """The SHA-256 of an image file's content, from the cache if known there.

    Returns:
        b"" if the file cannot be read.
    """
    try:
        return bytes.fromhex((cache.file_hash if cache else hash_source)(path))
    except (OSError, ImageError):
        return b""


def _insert_files(
    connection: sqlite3.Connection, files: Iterable[tuple[str, bytes, bytes]]
) -> None:
    rows = []
    for name, stamp, content in files:
        row = (_path_key(name), stamp, content)
        rows.append((*row, compute_checksum(*row)))
    connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)


def _path_key(name: str) -> bytes:
    return os.fsencode(absolute_name(name))


def _has_changed(path: bytes, stamp: bytes) -> bool:
    """Whether a file is missing or has another size or mtime; linking to it changes its ctime.

    Images that are not on this disk are taken as unchanged.
    """
    file = find_file(os.fsdecode(path))
    if not file:
        return False
    try:
        now = os.stat(file)
    except OSError:
        return True
    return bool(stamp) and stamp.split()[:2] != [b"%d" % now.st_size, b"%d" % now.st_mtime_ns]
