"""The cache's SQLite file, kept healthy: opened, replaced when damaged, closed for a fork.

A damaged file is renamed and a new one is started. Any other trouble, such as a full disk or a lock
that is never released, is logged once, and work goes on without the file.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from clipcls.errors import CacheError
from clipcls.files.folders import cache_folder

logger = logging.getLogger(__name__)

# SQLite's application ID, at byte 68 of the file. A file without it is never written or deleted.
_APPLICATION = b"clip"
# As SQLite stores them, in this order.
_SCHEMA = (
    """CREATE TABLE embeddings (
    id INTEGER PRIMARY KEY,
    space TEXT NOT NULL,
    content BLOB NOT NULL,
    vector BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    UNIQUE (space, content)
)""",
    """CREATE TABLE files (
    path BLOB PRIMARY KEY,
    stamp BLOB NOT NULL,
    content BLOB NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID""",
    "CREATE INDEX files_content ON files (content)",
)

# How long to wait for another process that is writing.
_BUSY_SECONDS = 30.0

# A damaged file can make sqlite3 quote text that is not UTF-8, or ask for too much memory.
_ERRORS = (sqlite3.Error, UnicodeDecodeError, MemoryError)

# SQLite's locks belong to the process, and two processes with one connection damage the file, so
# no connection is open during a fork
# (https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_).
_lock = threading.RLock()
_files: weakref.WeakSet[CacheFile] = weakref.WeakSet()

T = TypeVar("T")


class DamageError(sqlite3.DatabaseError):
    """Damage that SQLite itself does not notice."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def default_path() -> Path:
    """The default cache, in the user's cache folder."""
    return cache_folder() / "embeddings.sqlite3"


class CacheFile:
    """Runs SQL on the file; safe across threads and processes, forked ones included.

    Args:
        path: the file, created with its folders if missing; None: `default_path()`.

    Raises:
        CacheError: as `EmbeddingCache`.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else default_path()
        self._file = self.path.absolute()  # the working directory may change
        self._usable = True
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._has_started_anew = False
        try:
            with _lock:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _refuse_foreign(self.path)
                self._connect()
                _files.add(self)
        except (OSError, *_ERRORS) as error:
            raise CacheError(
                f"{self.path}: cannot open the cache ({error}); "
                "name another with --cache FILE, or go without with --no-cache"
            ) from error

    def close(self) -> None:
        """Closes the file for good."""
        with _lock:
            self._usable = False
            self.disconnect()

    def size(self) -> int:
        """Size on disk in bytes."""
        return sum(part.stat().st_size for part in _parts(self.path) if part.exists())

    def run(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """The result of `work`, repeated on a new file if this one proves to be damaged.

        Without a usable file the result is `otherwise`.
        """
        with _lock:
            while self._usable:
                try:
                    return work(self._connection or self._connect())
                except (OSError, CacheError, *_ERRORS) as error:
                    self.recover(error)
            return otherwise

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """The rows of a statement; none without a usable file."""
        return self.run(lambda connection: connection.execute(sql, parameters).fetchall(), [])

    def write(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """`run` in one write transaction."""

        def transaction(connection: sqlite3.Connection) -> T:
            try:
                connection.execute("BEGIN IMMEDIATE")
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(*_ERRORS):
                    connection.execute("ROLLBACK")
                raise
            return result

        return self.run(transaction, otherwise)

    def recover(self, error: Exception) -> None:
        """Makes room for a new file if this one is damaged; else gives up on it.

        A file that another process has replaced meanwhile is opened again.
        """
        with _lock:
            self.disconnect()
            try:
                if self._is_damage(error):
                    self._set_aside(error)
                elif self._inode == _inode(self._file):
                    raise error
            except (OSError, CacheError, *_ERRORS) as failure:
                self._usable = False
                logger.warning(
                    "the cache %s failed (%s): going on without it; check its disk",
                    *(self.path, failure),
                )

    def disconnect(self) -> None:
        """Closes the file until its next use."""
        if self._connection is not None:
            self._connection = None
            with contextlib.suppress(*_ERRORS):
                self._close_connection()

    def _connect(self) -> sqlite3.Connection:
        """Opens the file, or a new one in place of a damaged one."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while self._connection is None:
            try:
                self._connection = self._open()
            except _ERRORS as error:
                if self._is_damage(error):
                    self._set_aside(error)
                # While several processes create the file, SQLite refuses some without waiting.
                elif "locked" in str(error) and time.monotonic() < deadline:
                    time.sleep(0.05)
                else:
                    raise
        # At exit at the latest: closing moves the WAL's content into the file.
        self._close_connection = weakref.finalize(self, self._connection.close)
        return self._connection

    def _open(self) -> sqlite3.Connection:
        self._inode = _inode(self._file)
        connection = sqlite3.connect(
            self._file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = bytes  # damaged text need not be UTF-8
        try:
            if not _version(connection):  # before WAL, which would keep it out of the file
                connection.execute(f"PRAGMA application_id={int.from_bytes(_APPLICATION, 'big')}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            # Also proves now, and not in the middle of a run, that the file can be written.
            connection.execute("BEGIN IMMEDIATE")
            schema = [statement.encode() for statement in _SCHEMA]
            if not _version(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={compute_checksum(*schema)}")
            connection.execute("COMMIT")
            sql = "SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY rowid"
            found = [statement for (statement,) in connection.execute(sql)]
            if _version(connection) != compute_checksum(*found):
                raise DamageError("damaged schema")
            if found != schema:
                raise CacheError(
                    f"{self.path}: another version of clipcls made this cache; delete it with "
                    "`clipcls cache clear`, or name another with --cache FILE"
                )
        except BaseException:
            connection.close()
            raise
        self._inode = _inode(self._file)
        return connection

    def _is_damage(self, error: Exception) -> bool:
        """Whether the file, not its disk or a lock, is at fault; it is replaced only once."""
        if self._has_started_anew:
            return False
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extended part
        if code == sqlite3.SQLITE_READONLY:  # a damaged number in the header causes it, too
            return os.access(self._file, os.W_OK) and os.access(self._file.parent, os.W_OK)
        if isinstance(error, sqlite3.OperationalError):
            return code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA)
        return bool(code) or isinstance(error, UnicodeDecodeError)

    def _set_aside(self, error: Exception) -> None:
        """Renames the damaged file, unless another process already has; keeps the last one."""
        if self._inode != _inode(self._file):
            return
        self._has_started_anew = True
        aside = _damaged(self._file)
        for part, name in zip(_parts(self._file), _parts(aside), strict=True):
            name.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                part.rename(name)
        logger.warning(
            "the cache %s is damaged (%s): it is now %s, and a new one is started",
            *(self.path, error, aside.name),
        )


def _before_fork() -> None:
    _lock.acquire()
    for file in list(_files):
        file.disconnect()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def clear(path: Path) -> bool:
    """Deletes a cache, damaged or not; False if there was none.

    Raises:
        CacheError: it cannot be deleted, or is not recognisable as a cache.
    """
    try:
        _refuse_foreign(path)
        exists = path.exists()
        if exists or path == default_path():  # elsewhere, similar names may be anybody's
            for part in (*_parts(path), *_parts(_damaged(path))):
                part.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(f"{error.filename}: cannot be deleted ({error.strerror})") from error
    return exists


def _refuse_foreign(path: Path) -> None:
    """Refuses somebody else's file; one at the default path is always ours.

    Raises:
        CacheError: the file is not recognisable as a cache.
        OSError: it cannot be read.
    """
    if path == default_path() or not path.exists():
        return
    with _lock:
        # To close a file drops all of this process's locks on it
        # (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
        if any(file._connection and file._inode == _inode(path) for file in _files):
            return
        with path.open("rb") as opened:
            begin = opened.read(1 << 16)
    if begin and begin[68:72] != _APPLICATION and _SCHEMA[0].encode() not in begin:
        raise CacheError(
            f"{path}: is not a cache of clipcls, or too damaged to tell; "
            "name another with --cache FILE"
        )


def _version(connection: sqlite3.Connection) -> int:
    """The checksum of the schema; 0 in a new file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def compute_checksum(*values: Any) -> int:
    """A signed CRC-32 of values of any type that SQLite stores; text must be given as bytes."""
    # marshal writes an interned str differently.
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
