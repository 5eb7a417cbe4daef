"""Embeddings on disk, text and image alike: one SQLite file.

An embedding belongs to a *space* (all that decides a vector besides its content: weights,
architecture, preprocessing or tokenizer, precision) and has the SHA-256 of its content as key,
so that another model's vector can never come back. A file's path, size and mtime are only the
quick way to its content's hash.

Losing the cache costs time and never an answer. Each row carries a checksum; a row that fails it
counts as missing. A damaged file is set aside, and a new one is started. Any other
trouble (a full disk, a lock that does not end) is logged once and work goes on without the cache.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import marshal
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipcls.errors import CacheError
from clipcls.files.folders import cache_folder
from clipcls.files.hashing import hash_file, is_settled

__all__ = ["CacheInfo", "EmbeddingCache", "clear", "default_path", "open_cache"]

logger = logging.getLogger(__name__)

# SQLite's mark of whose file it is, at byte 68 of the file: no other file is written to or deleted.
_APPLICATION = int.from_bytes(b"clip", "big")
# As SQLite keeps them, in this order.
_SCHEMA = (
    "CREATE TABLE spaces (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    """CREATE TABLE embeddings (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL REFERENCES spaces (id),
    content BLOB NOT NULL,
    vector BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    UNIQUE (space, content)
)""",
    """CREATE TABLE files (
    path BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    content BLOB NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID""",
    "CREATE INDEX files_content ON files (content)",
)
_MARK = _SCHEMA[1]  # which other program's file would have it?

# What SQLite's integers hold of nanoseconds since 1970: the years 1677 to 2262. Some systems have
# 1601 for "no time".
_TIMES = (-(2**63), 2**63 - 1)

# How long another process's write may take.
_BUSY_SECONDS = 30.0

# What sqlite3 raises; its own message can be damaged text, too.
_ERRORS = (sqlite3.Error, UnicodeDecodeError, MemoryError)
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_NO_DAMAGE = _BUSY | {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_MISUSE,
}

T = TypeVar("T")


def default_path() -> Path:
    """The cache that is used where none is named: in the user's cache directory."""
    return cache_folder() / "embeddings.sqlite3"


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
        self.path = Path(path) if path is not None else default_path()
        self._lock = threading.RLock()
        self._usable = True
        self._is_shut = False
        self._spaces: dict[str, int] = {}
        self._inode: tuple[int, int] | None = None
        self._has_started_anew = False
        self._has_warned = False
        try:
            self._file = self.path.absolute()  # to be found again from another working directory
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(self.path)
            self._connect()
        except (OSError, *_ERRORS) as error:
            raise CacheError(
                f"{self.path}: cannot open the cache ({error}); "
                "name another with --cache FILE, or go without with --no-cache"
            ) from error
        _caches.add(self)

    def _connect(self) -> None:
        """Opens the file, or a new one in place of a damaged one.

        While several processes create the file, SQLite refuses some of them without waiting.
        """
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection = self._open()
                break
            except _ERRORS as error:
                if self._is_damage(error):
                    self._set_aside(error)
                elif _code(error) in _BUSY and time.monotonic() < deadline:
                    time.sleep(0.05)
                else:
                    raise
        # At the program's end at the latest: closing moves what is in the WAL into the file.
        self._at_end = weakref.finalize(self, self._connection.close)

    def _open(self) -> sqlite3.Connection:
        self._inode = _inode(self._file)
        connection = sqlite3.connect(
            self._file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = bytes  # damaged text need not be UTF-8
        try:
            if not _version(
                connection
            ):  # before WAL, which would keep it from the file for a while
                connection.execute(f"PRAGMA application_id={_APPLICATION}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            # Also proves now, and not in the middle of a run, that the file can be written.
            connection.execute("BEGIN IMMEDIATE")
            if not _version(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={_checksum(*map(str.encode, _SCHEMA))}")
            connection.execute("COMMIT")
            found = [
                sql
                for (sql,) in connection.execute(
                    "SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY rowid"
                )
            ]
            if _version(connection) != _checksum(*found):
                raise _DamageError("damaged schema")
            if found != [*map(str.encode, _SCHEMA)]:
                raise CacheError(
                    f"{self.path}: another version of clipcls made this cache; delete it with "
                    "`clipcls cache clear`, or name another with --cache FILE"
                )
        except BaseException:
            connection.close()
            raise
        self._inode = _inode(self._file)
        return connection

    def close(self) -> None:
        """Closes the file; the cache cannot be used afterwards."""
        with self._lock:
            self._usable = False
            self._connection.close()

    def _is_open(self) -> bool:
        """Whether it can be used; after a fork the file is opened again for that."""
        if self._usable and self._is_shut:
            self._reopen()
        return self._usable

    def _reopen(self) -> None:
        self._at_end.detach()
        try:
            self._connect()
        except (OSError, CacheError, *_ERRORS) as error:
            self._give_up(error)
        else:
            self._is_shut = False

    def _shut(self) -> None:
        self._connection.close()
        self._is_shut = True
        self._spaces.clear()  # until it is opened again it may be cleared, and have other numbers

    def __reduce__(self) -> tuple[type[EmbeddingCache], tuple[Path]]:
        return EmbeddingCache, (self.path,)

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """The result of `work`, repeated in a new cache if this one is found to be damaged.

        Without a usable cache the result is `otherwise`.
        """
        with self._lock:
            while self._is_open():
                try:
                    return work(self._connection)
                except _ERRORS as error:
                    self._recover(error)
            return otherwise

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self._run(lambda connection: connection.execute(sql, parameters).fetchall(), [])

    def _write(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """`_run` in one write transaction."""

        def transaction(connection: sqlite3.Connection) -> T:
            try:
                connection.execute("BEGIN IMMEDIATE")
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                self._spaces.clear()  # one of them may be undone with the rest
                with contextlib.suppress(*_ERRORS):
                    connection.execute("ROLLBACK")
                raise
            return result

        return self._run(transaction, otherwise)

    def _recover(self, error: Exception) -> None:
        """Opens a new cache if this one is damaged, or was replaced by another process."""
        self._spaces.clear()
        self._close_connection()
        try:
            if self._is_damage(error):
                self._set_aside(error)
            elif self._inode == _inode(self._file):
                raise error
        except (OSError, *_ERRORS) as failure:
            self._give_up(failure)
        else:
            self._reopen()

    def _is_damage(self, error: Exception) -> bool:
        """Whether the file has to make room for a new one, which happens only once."""
        code = _code(error)
        if self._has_started_anew or code is None:
            return False
        if code == sqlite3.SQLITE_READONLY:  # a damaged number in the file's header does that, too
            return os.access(self._file, os.W_OK) and os.access(self._file.parent, os.W_OK)
        return code not in _NO_DAMAGE

    def _set_aside(self, error: Exception) -> None:
        """Renames the damaged file, unless another process was first; the last one is kept."""
        if self._inode != _inode(self._file):
            return
        self._has_started_anew = True
        aside = _damaged(self.path)
        for part, name in zip(_parts(self._file), _parts(_damaged(self._file)), strict=True):
            name.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                part.rename(name)
        logger.warning(
            "the cache %s is damaged (%s): it is now %s, and a new one is started",
            *(self.path, _reason(error), aside.name),
        )

    def _give_up(self, error: Exception) -> None:
        self._usable = False
        self._close_connection()
        logger.warning(
            "the cache %s failed (%s): going on without it; check its disk",
            *(self.path, _reason(error)),
        )

    def _close_connection(self) -> None:
        with contextlib.suppress(*_ERRORS):
            self._connection.close()

    def _is_whole(self, checksum: object, *values: Any) -> bool:
        """Whether a row has its checksum; the first that has not is logged."""
        is_whole = checksum == _checksum(*values)
        if not is_whole and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the cache %s has damaged entries: they are ignored, and made anew when needed",
                self.path,
            )
        return is_whole

    # -- embeddings ---------------------------------------------------------------------------

    def _space(self, name: str, connection: sqlite3.Connection) -> int:
        if name not in self._spaces:
            connection.execute("INSERT OR IGNORE INTO spaces (name) VALUES (?)", (name,))
            row = connection.execute("SELECT id FROM spaces WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise _DamageError("damaged index")
            self._spaces[name] = row[0]
        return self._spaces[name]

    def _known_space(self, name: str) -> int:
        """A space's number, or one that none has: looked up once, for all reads after it."""
        if name not in self._spaces:
            rows = self._rows("SELECT id FROM spaces WHERE name = ?", (name,))
            if not rows:
                return -1
            self._spaces[name] = rows[0][0]
        return self._spaces[name]

    def get(self, space: str, content: bytes) -> NDArray[np.float32] | None:
        """The vector of one content: float32 (dim,), or None where it is not stored."""
        rows = self._rows(
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
        rows = self._rows(
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
        rows = [(*pair, _checksum(space.encode(), *pair)) for pair in vectors]
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

        self._write(work, None)

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
            rows = self._rows(
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
                with self._lock:
                    self._recover(_DamageError("rows out of order"))
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
        rows = self._rows(
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
        self._write(lambda connection: _insert_files(connection, [file]), None)
        return content

    # -- upkeep -------------------------------------------------------------------------------

    def info(self) -> CacheInfo:
        """Counts what the cache holds."""
        kinds = dict(
            self._rows(
                "SELECT substr(name, 1, instr(name, ' ') - 1) AS kind, count(*) "
                "FROM embeddings JOIN spaces ON spaces.id = space GROUP BY kind"
            )
        )
        ((files,),) = self._rows("SELECT count(*) FROM files") or [(0,)]
        size = sum(part.stat().st_size for part in _parts(self.path) if part.exists())
        return CacheInfo(
            self.path,
            size,
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
        rows = self._rows("SELECT path, size, mtime_ns, ctime_ns, content, checksum FROM files")
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

        removed = self._write(work, 0)
        self._rows("VACUUM")
        self._rows("PRAGMA wal_checkpoint(TRUNCATE)")
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
        return EmbeddingCache(default_path())
    except CacheError as error:
        logger.warning("%s; going on without it", error)
        return None


# SQLite's locks are their process's, and a connection that two have damages the file, so none is
# open during a fork
# (https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_).
_caches: weakref.WeakSet[EmbeddingCache] = weakref.WeakSet()
_held: list[EmbeddingCache] = []
_forking = threading.Lock()


def _before_fork() -> None:
    _forking.acquire()
    for cache in list(_caches):
        cache._lock.acquire()
        _held.append(cache)
        cache._shut()


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )


def clear(path: Path) -> bool:
    """Deletes a cache, damaged or not; False where there was none.

    Raises:
        CacheError: it cannot be deleted, is not a cache, or does not tell whether it is one.
    """
    try:
        _refuse_foreign(path)
    except _ERRORS as error:  # such as the lock of the program it belongs to
        raise CacheError(f"{path}: cannot be deleted ({error})") from error
    present = path.exists()
    if not present and path != default_path():
        return False  # what lies beside that name may be anybody's
    for part in (*_parts(path), *_parts(_damaged(path))):
        try:
            part.unlink(missing_ok=True)
        except OSError as error:
            raise CacheError(f"{part}: cannot be deleted ({error.strerror})") from error
    return present


def _refuse_foreign(path: Path) -> None:
    """Refuses a file of somebody else's; the usual place is always ours.

    Raises:
        CacheError: it is.
        sqlite3.OperationalError: it cannot be told.
    """
    if path == default_path() or not path.exists() or not path.stat().st_size:
        return
    if not _is_ours(path):
        raise CacheError(
            f"{path}: is not a cache of clipcls, or too damaged to tell; "
            "name another with --cache FILE"
        )


def _is_ours(path: Path) -> bool:
    # By SQLite, not by open(): closing the file would drop this process's locks on it, and
    # another process would take the WAL away from under its open connections
    # (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, timeout=_BUSY_SECONDS, uri=True)
    try:
        if connection.execute("PRAGMA application_id").fetchone() == (_APPLICATION,):
            return True
        made = connection.execute("SELECT 1 FROM sqlite_master WHERE sql = ?", (_MARK,)).fetchone()
        return made is not None
    except _ERRORS as error:
        # Locked, or not readable. Not so where a process was killed in its first transaction, which
        # only a connection that may write can undo.
        if _code(error) in _NO_DAMAGE - {sqlite3.SQLITE_READONLY}:
            raise
    finally:
        connection.close()
    with path.open("rb") as file:  # SQLite cannot read it, so nobody holds a lock on it
        begin = file.read(1 << 16)
    return _MARK.encode() in begin or begin[68:72] == _APPLICATION.to_bytes(4, "big")


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
        rows.append((*row, _checksum(*row)))
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


class _DamageError(sqlite3.DatabaseError):
    """Damage that SQLite itself does not notice."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _code(error: Exception) -> int | None:
    """SQLite's primary error code; None for what Python's module raises by itself."""
    if isinstance(error, UnicodeDecodeError):  # in a message that quotes the damaged schema
        return sqlite3.SQLITE_CORRUPT
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _reason(error: Exception) -> str:
    is_text = isinstance(error, UnicodeDecodeError)
    return "damaged schema" if is_text else str(error) or type(error).__name__


def _version(connection: sqlite3.Connection) -> int:
    """The checksum of the schema, which is 0 in a new file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _checksum(*values: Any) -> int:
    """The CRC-32 of a row's values, signed; damage may have made them of any type SQLite has.

    Texts are to be given as bytes: marshal writes an interned str in another way.
    """
    return zlib.crc32(marshal.dumps(values, 2)) - (1 << 31)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _parts(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))]


def _damaged(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")
