"""The SQLite file of a cache, kept healthy: opened, replaced where it is damaged, shut for a fork.

A damaged file is set aside, and a new one is started. Any other trouble (a full disk, a lock that
does not end) is logged once and work goes on without the file.
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

from clipcls.embeddings.sqlite_errors import (
    BUSY,
    ERRORS,
    NO_DAMAGE,
    DamageError,
    error_code,
    error_reason,
)
from clipcls.errors import CacheError
from clipcls.files.folders import cache_folder

__all__ = ["CacheFile", "clear", "default_path", "row_checksum"]

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

# How long another process's write may take.
_BUSY_SECONDS = 30.0

T = TypeVar("T")


def default_path() -> Path:
    """The cache that is used where none is named: in the user's cache directory."""
    return cache_folder() / "embeddings.sqlite3"


class CacheFile:
    """Runs SQL in the file; safe with several threads and processes, forked ones too.

    Args:
        path: the file, made with its folders where it is missing; None: `default_path()`.

    Attributes:
        memo: what a caller remembers of the rows; emptied when they may be others.

    Raises:
        CacheError: as `EmbeddingCache`.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else default_path()
        self.memo: dict[str, int] = {}
        self._lock = threading.RLock()
        self._usable = True
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._has_started_anew = False
        try:
            self._file = self.path.absolute()  # to be found again from another working directory
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(self.path)
            self._connect()
        except (OSError, *ERRORS) as error:
            raise CacheError(
                f"{self.path}: cannot open the cache ({error}); "
                "name another with --cache FILE, or go without with --no-cache"
            ) from error
        _files.add(self)

    def close(self) -> None:
        """Closes the file; it cannot be used afterwards."""
        with self._lock:
            self._usable = False
            self._shut()

    def size(self) -> int:
        """Bytes on the disk."""
        return sum(part.stat().st_size for part in _parts(self.path) if part.exists())

    def run(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """The result of `work`, repeated in a new file if this one is found to be damaged.

        Without a usable file the result is `otherwise`.
        """
        with self._lock:
            while connection := self._opened():
                try:
                    return work(connection)
                except ERRORS as error:
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
                self.memo.clear()  # one of them may be undone with the rest
                with contextlib.suppress(*ERRORS):
                    connection.execute("ROLLBACK")
                raise
            return result

        return self.run(transaction, otherwise)

    def recover(self, error: Exception) -> None:
        """Makes room for a new file if this one is damaged; gives up unless there is another."""
        with self._lock:
            self._shut()
            try:
                if self._is_damage(error):
                    self._set_aside(error)
                elif self._inode == _inode(self._file):  # not replaced by another process
                    raise error
            except (OSError, *ERRORS) as failure:
                self._give_up(failure)

    def shut_for_fork(self) -> None:
        """Holds the lock, and closes the file until it is next used."""
        self._lock.acquire()
        self._shut()

    def release_after_fork(self) -> None:
        """Gives the lock back."""
        self._lock.release()

    def _opened(self) -> sqlite3.Connection | None:
        """The connection, made again where it was closed by a fork or to recover."""
        if self._usable and self._connection is None:
            try:
                self._connect()
            except (OSError, CacheError, *ERRORS) as error:
                self._give_up(error)
        return self._connection

    def _shut(self) -> None:
        self.memo.clear()  # until it is opened again it may be cleared, and have other numbers
        if self._connection is not None:
            self._connection = None
            with contextlib.suppress(*ERRORS):
                self._at_end()

    def _give_up(self, error: Exception) -> None:
        self._usable = False
        logger.warning(
            "the cache %s failed (%s): going on without it; check its disk",
            *(self.path, error_reason(error)),
        )

    def _connect(self) -> None:
        """Opens the file, or a new one in place of a damaged one.

        While several processes create the file, SQLite refuses some of them without waiting.
        """
        deadline = time.monotonic() + _BUSY_SECONDS
        while self._connection is None:
            try:
                self._connection = self._open()
            except ERRORS as error:
                if self._is_damage(error):
                    self._set_aside(error)
                elif error_code(error) in BUSY and time.monotonic() < deadline:
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
                connection.execute(f"PRAGMA user_version={row_checksum(*map(str.encode, _SCHEMA))}")
            connection.execute("COMMIT")
            found = [
                sql
                for (sql,) in connection.execute(
                    "SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY rowid"
                )
            ]
            if _version(connection) != row_checksum(*found):
                raise DamageError("damaged schema")
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

    def _is_damage(self, error: Exception) -> bool:
        """Whether the file has to make room for a new one, which happens only once."""
        code = error_code(error)
        if self._has_started_anew or code is None:
            return False
        if code == sqlite3.SQLITE_READONLY:  # a damaged number in the file's header does that, too
            return os.access(self._file, os.W_OK) and os.access(self._file.parent, os.W_OK)
        return code not in NO_DAMAGE

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
            *(self.path, error_reason(error), aside.name),
        )


# SQLite's locks are their process's, and a connection that two have damages the file, so none is
# open during a fork
# (https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_).
_files: weakref.WeakSet[CacheFile] = weakref.WeakSet()
_held: list[CacheFile] = []
_forking = threading.Lock()


def _before_fork() -> None:
    _forking.acquire()
    for file in list(_files):
        file.shut_for_fork()
        _held.append(file)


def _after_fork() -> None:
    while _held:
        _held.pop().release_after_fork()
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
    except ERRORS as error:  # such as the lock of the program it belongs to
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
    except ERRORS as error:
        # Locked, or not readable. Not so where a process was killed in its first transaction, which
        # only a connection that may write can undo.
        if error_code(error) in NO_DAMAGE - {sqlite3.SQLITE_READONLY}:
            raise
    finally:
        connection.close()
    with path.open("rb") as file:  # SQLite cannot read it, so nobody holds a lock on it
        begin = file.read(1 << 16)
    return _MARK.encode() in begin or begin[68:72] == _APPLICATION.to_bytes(4, "big")


def _version(connection: sqlite3.Connection) -> int:
    """The checksum of the schema, which is 0 in a new file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def row_checksum(*values: Any) -> int:
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
