"""Embeddings on disk, text and image alike: one SQLite file.

An embedding belongs to a *space* (all that decides a vector besides its content: weights,
architecture, preprocessing or tokenizer, precision) and has the SHA-256 of its content as key,
so that another model's vector can never come back. A file's path, size and mtime are only the
quick way to its content's hash.

Losing the cache costs time and never an answer. Each row carries a checksum; a row that fails it
counts as missing. `cache_file` looks after the file itself.
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.cache_file import CacheFile, row_checksum
from clipcls.embeddings.sqlite_errors import DamageError
from clipcls.errors import CacheError
from clipcls.files.hashing import hash_file, is_settled

__all__ = ["CacheInfo", "EmbeddingCache", "hash_image", "open_cache"]

logger = logging.getLogger(__name__)

# What SQLite's integers hold of nanoseconds since 1970: the years 1677 to 2262. Some systems have
# 1601 for "no time".
_TIMES = (-(2**63), 2**63 - 1)


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What a cache holds; sizes in bytes."""

    path: Path
    size: int
    texts: int
    images: int
    files: int
    views: int = 0  # of images, that `fit --augment` learnt from


class EmbeddingCache:
    """Embeddings by space and content; safe with several threads and processes, forked ones too.

    Args:
        path: the SQLite file, made with its folders where it is missing.

    Raises:
        CacheError: the file cannot be opened (not writable, made by another version of clipcls,
            or not a cache at all). A damaged cache is set aside under another name and a new one
            started; but a file in a place of the user's choice that no longer shows that it is a
            cache is refused.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._file = CacheFile(path)
        self._has_warned = False

    @property
    def path(self) -> Path:
        """Where it is."""
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

    def _is_whole(self, checksum: object, *values: Any) -> bool:
        """Whether a row has its checksum; the first that has not is logged."""
        is_whole = checksum == row_checksum(*values)
        if not is_whole and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the cache %s has damaged entries: they are ignored, and made anew when needed",
                self.path,
            )
        return is_whole

    # -- embeddings ---------------------------------------------------------------------------

    def _space(self, name: str, connection: sqlite3.Connection) -> int:
        if name not in self._file.memo:
            connection.execute("INSERT OR IGNORE INTO spaces (name) VALUES (?)", (name,))
            row = connection.execute("SELECT id FROM spaces WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise DamageError("damaged index")
            self._file.memo[name] = row[0]
        return self._file.memo[name]

    def _known_space(self, name: str) -> int:
        """A space's number, or one that none has: looked up once, for all reads after it."""
        if name not in self._file.memo:
            rows = self._file.rows("SELECT id FROM spaces WHERE name = ?", (name,))
            if not rows:
                return -1
            self._file.memo[name] = rows[0][0]
        return self._file.memo[name]

    def get(self, space: str, content: bytes) -> NDArray[np.float32] | None:
        """The vector of one content: float32 (dim,), or None where it is not stored."""
        rows = self._file.rows(
            "SELECT vector, checksum FROM embeddings WHERE space = ? AND content = ?",
            (self._known_space(space), content),
        )
        return self._vector(space, content, *rows[0]) if rows else None

    def get_file(self, space: str, path: str, stat: os.stat_result) -> NDArray[np.float32] | None:
        """The vector of a file that has not changed since it was stored, without reading it."""
        content = self._content(path, stat)
        return self.get(space, content) if content else None

    def _content(self, path: str, stat: os.stat_result) -> bytes | None:
        """The SHA-256 of a file's content, if it has not changed since it was stored."""
        file = (_path_key(path), *_stamp(stat))
        rows = self._file.rows(
            "SELECT content, checksum FROM files "
            "WHERE path = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?",
            file,
        )
        if not rows or not self._is_whole(rows[0][1], *file, rows[0][0]):
            return None
        return bytes(rows[0][0])

    def _vector(
        self, space: str, content: bytes, vector: Any, checksum: object
    ) -> NDArray[np.float32] | None:
        if not self._is_whole(checksum, space.encode(), content, vector):
            return None
        return np.frombuffer(vector, np.float32)

    def add(
        self,
        space: str,
        items: Iterable[tuple[bytes, NDArray[np.float32]]],
        files: Iterable[tuple[str, os.stat_result, bytes]] = (),
    ) -> None:
        """Caches vectors and the files they were read from, in one transaction.

        Args:
            space: the space the vectors belong to.
            items: (content's SHA-256, float32 vector (dim,)); what is known is replaced.
            files: (path, its stat before it was read, content's SHA-256).
        """
        vectors = [
            (content, np.ascontiguousarray(vector, np.float32).tobytes())
            for content, vector in items
        ]
        rows = [(*pair, row_checksum(space.encode(), *pair)) for pair in vectors]
        files = list(files)

        def work(connection: sqlite3.Connection) -> None:
            number = self._space(space, connection)
            connection.executemany(
                "INSERT INTO embeddings (space, content, vector, checksum) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (space, content) DO UPDATE SET content = excluded.content, "
                "vector = excluded.vector, checksum = excluded.checksum",
                [(number, *row) for row in rows],
            )
            _insert_files(connection, files)

        self._file.write(work, None)

    def images(
        self, space: str, block: int = 1_024
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """All stored images of a space, a block at a time, each content once.

        Yields:
            (paths, float32 (n, dim)) with n at most `block`, in the order they were stored. Of
            several files with the same content the first path in byte order stands for all.
            Damaged entries are left out.
        """
        last, name = 0, space.encode()
        while True:
            # By + not through the index on space, whose order is another: each block would be
            # picked out of all images. Beside min() SQLite gives the other columns of that row.
            rows = self._file.rows(
                "SELECT id, embeddings.content, vector, embeddings.checksum, "
                "min(path), size, mtime_ns, ctime_ns, files.checksum "
                "FROM embeddings CROSS JOIN files ON files.content = embeddings.content "
                "WHERE +space = ? AND id > ? GROUP BY id ORDER BY id LIMIT ?",
                (self._known_space(space), last, block),
            )
            if not rows:
                return
            numbers = [last, *(row[0] for row in rows)]
            if any(number >= after for number, after in itertools.pairwise(numbers)):
                self._file.recover(DamageError("rows out of order"))
                return
            last = numbers[-1]
            rows = [
                (path, vector)
                for _, content, vector, checksum, path, *stamp, file_checksum in rows
                if self._is_whole(checksum, name, content, vector)
                and self._is_whole(file_checksum, path, *stamp, content)
            ]
            sizes = Counter(len(vector) for _, vector in rows)
            if not sizes:
                continue
            usual = sizes.most_common(1)[0][0]
            rows = [row for row in rows if len(row[1]) == usual]
            paths = [os.fsdecode(path) for path, _ in rows]
            vectors = np.frombuffer(b"".join(vector for _, vector in rows), np.float32)
            del rows  # as large as the vectors
            yield paths, vectors.reshape(len(paths), -1)

    def copies(self, path: str) -> list[str]:
        """The files that had the same content as this one when they were stored."""
        rows = self._file.rows(
            "SELECT path, size, mtime_ns, ctime_ns, content, checksum FROM files "
            "WHERE content = (SELECT content FROM files WHERE path = ?) ORDER BY path",
            (_path_key(path),),
        )
        return [os.fsdecode(row[0]) for row in rows if self._is_whole(row[-1], *row[:-1])]

    def file_hash(self, path: str | os.PathLike[str]) -> str:
        """The SHA-256 of a file as hex; a file that has not changed is not read again.

        Raises:
            OSError: the file cannot be read.
        """
        name = os.fspath(path)
        stat = os.stat(name)
        if known := self._content(name, stat):
            return known.hex()
        content = hash_file(name)
        file = (name, stat, bytes.fromhex(content))
        self._file.write(lambda connection: _insert_files(connection, [file]), None)
        return content

    # -- upkeep -------------------------------------------------------------------------------

    def info(self) -> CacheInfo:
        """Counts what the cache holds."""
        kinds = dict(
            self._file.rows(
                "SELECT substr(name, 1, instr(name, ' ') - 1) AS kind, count(*) "
                "FROM embeddings JOIN spaces ON spaces.id = space GROUP BY kind"
            )
        )
        ((files,),) = self._file.rows("SELECT count(*) FROM files") or [(0,)]
        return CacheInfo(
            self.path,
            self._file.size(),
            kinds.get(b"text", 0),
            kinds.get(b"image", 0),
            files,
            kinds.get(b"view,", 0),
        )

    def prune(self) -> int:
        """Forgets files that are gone or changed, and images, with their views, that none has.

        Returns:
            the number of images removed.
        """
        rows = self._file.rows(
            "SELECT path, size, mtime_ns, ctime_ns, content, checksum FROM files"
        )
        gone = [
            row[:1]
            for row in rows
            if not self._is_whole(row[-1], *row[:-1]) or not _unchanged(*row[:3])
        ]

        def work(connection: sqlite3.Connection) -> int:
            connection.executemany("DELETE FROM files WHERE path IS ?", gone)
            removed = connection.execute(
                "DELETE FROM embeddings WHERE space IN "
                "(SELECT id FROM spaces WHERE name LIKE 'image %') "
                "AND content NOT IN (SELECT content FROM files)"
            ).rowcount
            connection.executemany(
                "DELETE FROM embeddings WHERE id = ?", _views_of_nothing(connection)
            )
            return removed

        removed = self._file.write(work, 0)
        self._file.rows("VACUUM")
        self._file.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed


def open_cache(cache: bool | str | os.PathLike[str] | EmbeddingCache) -> EmbeddingCache | None:
    """The cache to use: True is the default one, False none.

    Raises:
        CacheError: a cache that was asked for by name cannot be opened. Where the default one
            cannot, that is logged and work goes on without.
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


def _views_of_nothing(connection: sqlite3.Connection) -> list[tuple[int]]:
    """Numbers of the views whose image no file has any more."""
    rows = connection.execute(
        "SELECT embeddings.id, space, content FROM embeddings JOIN spaces ON spaces.id = space "
        "WHERE name LIKE 'view, %'"
    )
    views = {(space, content): number for number, space, content in rows}
    if not views:
        return []
    from clipcls.data.augment import View

    spaces = {space for space, _ in views}
    for (content,) in connection.execute("SELECT DISTINCT content FROM files"):
        if not isinstance(content, bytes):  # damaged
            continue
        for space in spaces:
            # A view's key tells nothing of its image; the images' tell their views', from 1 on.
            numbers = itertools.count(1)
            while views.pop((space, View("", next(numbers)).key(content)), None) is not None:
                pass
    return [(number,) for number in views.values()]


def _insert_files(
    connection: sqlite3.Connection, files: Iterable[tuple[str, os.stat_result, bytes]]
) -> None:
    rows = []
    for path, status, content in files:
        size, *times = _stamp(status)
        # What is young, or of a time that cannot be kept, has a size that no file has: found by
        # content, never by stat.
        if not is_settled(status) or min(times) <= _TIMES[0]:
            size = -1
        row = (_path_key(path), size, *times, content)
        rows.append((*row, row_checksum(*row)))
    connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)


def _stamp(stat: os.stat_result) -> tuple[int, int, int]:
    """A file's size and times, or the nearest times that can be kept.

    A file replaced by another of the same size and mtime (`cp -p`, `rsync -t`) has a new ctime.
    """
    mtime_ns, ctime_ns = (
        min(max(time_ns, _TIMES[0]), _TIMES[1]) for time_ns in (stat.st_mtime_ns, stat.st_ctime_ns)
    )
    return stat.st_size, mtime_ns, ctime_ns


def _path_key(path: str) -> bytes:
    return os.fsencode(os.path.abspath(path))


def _unchanged(path: bytes, size: int, mtime_ns: int) -> bool:
    try:
        stat = os.stat(path)
    except OSError:
        return False
    return _stamp(stat)[1] == mtime_ns and size in (stat.st_size, -1)


def hash_image(cache: EmbeddingCache | None, path: str) -> bytes:
    """The SHA-256 of an image file's content, by the cache where it knows it.

    Returns:
        b"" where the file cannot be read.
    """
    from clipcls.files.hashing import hash_file

    try:
        return bytes.fromhex((cache.file_hash if cache else hash_file)(path))
    except OSError:
        return b""
