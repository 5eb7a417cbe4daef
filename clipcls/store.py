"""Embeddings on disk, text and image alike: one SQLite file.

An embedding belongs to a *space* (all that decides a vector besides its content: weights,
architecture, preprocessing or tokenizer, precision) and has the SHA-256 of its content as key,
so that another model's vector can never come back. A file's path, size and mtime are only the
quick way to its content's hash.

The store is a cache: losing it costs time and never an answer. So once it is open, trouble with
it (a full disk, a lock that does not end, a damaged page) is logged once and work goes on
without it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from clipcls.errors import StoreError

__all__ = ["Store", "StoreInfo", "cache_folder", "default_path", "facts_path"]

logger = logging.getLogger(__name__)

_VERSION = 1
# SQLite's mark of whose file it is, at byte 68 of the file: no other file is written to or deleted.
_APPLICATION = int.from_bytes(b"clip", "big")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (key TEXT PRIMARY KEY, facts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spaces (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS embeddings (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL REFERENCES spaces (id),
    content BLOB NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (space, content)
);
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    content BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_content ON files (content);
"""

# A file changed twice within the clock's grain can keep its mtime: what is this young is hashed
# again next time (git calls such an entry racy).
_RACY_NS = 2_000_000_000

# What SQLite's integers hold of nanoseconds since 1970: the years 1677 to 2262. Some systems have
# 1601 for "no time".
_TIMES = (-(2**63), 2**63 - 1)

# How long another process's write may take.
_BUSY_SECONDS = 30.0

_DAMAGED = ("not a database", "malformed", "file is encrypted")


@functools.cache
def cache_folder() -> Path:
    """The user's cache directory for clipcls, which may not exist yet.

    Without a home directory (an empty environment, a user without an account entry) it is a folder
    among the temporary files that belongs to this user alone, and that is logged once.
    """
    with contextlib.suppress(RuntimeError):  # newer versions of platformdirs; older give a "~"
        folder = Path(platformdirs.user_cache_dir("clipcls", appauthor=False))
        if folder.is_absolute():
            return folder
    folder = _own_temporary_folder()
    logger.warning(
        "no home directory: caching in %s; set HOME or XDG_CACHE_HOME to choose the place", folder
    )
    return folder


def _own_temporary_folder() -> Path:
    """The same folder in each run, unless its name is taken by another user, or by a link."""
    folder = Path(tempfile.gettempdir()) / f"clipcls-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o77:
            return folder
    folder = Path(tempfile.mkdtemp(prefix="clipcls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def default_path() -> Path:
    """The store that is used where none is named: in the user's cache directory."""
    return cache_folder() / "embeddings.sqlite3"


def facts_path() -> Path:
    """Where facts about models are kept: beside the default store."""
    return default_path().with_name("models.sqlite3")


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store holds; sizes in bytes."""

    path: Path
    size: int
    texts: int
    images: int
    files: int
    models: int
    views: int = 0  # of images, that `fit --augment` learnt from


class Store:
    """Embeddings by space and content; safe with several threads and processes, forked ones too.

    Args:
        path: the SQLite file, made with its folders where it is missing.

    Raises:
        StoreError: the file cannot be opened (not writable, made by a newer clipcls, or not a
            store at all). A store that is damaged is set aside under another name and a new one
            begun; but one in a place of its own whose first page is damaged cannot be told from
            another program's file, and is refused as that.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else default_path()
        self._lock = threading.RLock()
        self._usable = True
        self._is_shut = False
        self._spaces: dict[str, int] = {}
        try:
            self._file = self.path.absolute()  # to be found again from another working directory
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(self.path)
            try:
                self._connection = self._connect()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                aside = _set_aside(self.path)
                logger.warning(
                    "the store %s was damaged: it is now %s, and a new one is begun",
                    self.path,
                    aside.name,
                )
                self._connection = self._connect()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"{self.path}: cannot open the store ({error}); "
                "name another with --store FILE, or go without with --no-store"
            ) from error

        # At the program's end at the latest: closing moves what is in the WAL into the file.
        self._at_end = weakref.finalize(self, self._connection.close)
        _stores.add(self)

    def _connect(self) -> sqlite3.Connection:
        """Opens the file; while processes make it together, SQLite refuses some without waiting."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return self._open()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise StoreError(
                    f"{self.path}: the store was made by a newer clipcls; "
                    "update clipcls or name another with --store FILE"
                )
            if version == 0:  # before WAL, which would keep it from the file itself for a while
                connection.execute(f"PRAGMA application_id={_APPLICATION}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            if version < _VERSION:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;"
                )
            # Proves now, and not in the middle of a run, that the file can be written.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Closes the file; the store cannot be used afterwards."""
        with self._lock:
            self._usable = False
            self._connection.close()

    def _is_open(self) -> bool:
        """Whether it can be used; after a fork the file is opened again for that."""
        if self._usable and self._is_shut:
            try:
                self._connection = self._connect()
            except (OSError, sqlite3.Error, StoreError) as error:
                self._usable = False
                logger.warning("the store %s failed (%s): going on without it", self.path, error)
            else:
                self._is_shut = False
                self._at_end.detach()
                self._at_end = weakref.finalize(self, self._connection.close)
        return self._usable

    def _shut(self) -> None:
        self._connection.close()
        self._is_shut = True
        self._spaces.clear()  # until it is opened again it may be cleared, and have other numbers

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            if not self._is_open():
                return []
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                self._give_up(error)
                return []

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection | None]:
        """One write transaction; yields None when the store has been given up."""
        with self._lock:
            if not self._is_open():
                yield None
                return
            try:
                try:
                    self._connection.execute("BEGIN IMMEDIATE")
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    self._spaces.clear()  # one of them may be undone with the rest
                    with contextlib.suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                self._give_up(error)

    def _give_up(self, error: sqlite3.Error) -> None:
        self._usable = False
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        cure = "clear it with `clipcls store clear`" if _is_damage(error) else "see its disk"
        logger.warning("the store %s failed (%s): going on without it; %s", self.path, error, cure)

    # -- embeddings ---------------------------------------------------------------------------

    def _space(self, name: str, connection: sqlite3.Connection) -> int:
        if name not in self._spaces:
            connection.execute("INSERT OR IGNORE INTO spaces (name) VALUES (?)", (name,))
            row = connection.execute("SELECT id FROM spaces WHERE name = ?", (name,)).fetchone()
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
            "SELECT vector FROM embeddings WHERE space = ? AND content = ?",
            (self._known_space(space), content),
        )
        return _vector(rows)

    def get_file(self, space: str, path: str, stat: os.stat_result) -> NDArray[np.float32] | None:
        """The vector of a file that has not changed since it was stored, without reading it."""
        rows = self._rows(
            "SELECT vector FROM files JOIN embeddings USING (content) "
            "WHERE path = ? AND size = ? AND mtime_ns = ? AND space = ?",
            (_path_key(path), stat.st_size, _mtime_ns(stat), self._known_space(space)),
        )
        return _vector(rows)

    def add(
        self,
        space: str,
        items: Iterable[tuple[bytes, NDArray[np.float32]]],
        files: Iterable[tuple[str, os.stat_result, bytes]] = (),
    ) -> None:
        """Stores vectors and the files they were read from, in one transaction.

        Args:
            space: the space the vectors belong to.
            items: (content's SHA-256, float32 vector (dim,)); what is known is replaced.
            files: (path, its stat before it was read, content's SHA-256).
        """
        with self._transaction() as connection:
            if connection is None:
                return
            space_id = self._space(space, connection)
            connection.executemany(
                "INSERT INTO embeddings (space, content, vector) VALUES (?, ?, ?) "
                "ON CONFLICT (space, content) DO UPDATE SET vector = excluded.vector",
                [
                    (space_id, content, np.ascontiguousarray(vector, np.float32).tobytes())
                    for content, vector in items
                ],
            )
            _insert_files(connection, files)

    def images(
        self, space: str, block: int = 1_024
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """All stored images of a space, a block at a time, each content once.

        Yields:
            (paths, float32 (n, dim)) with n at most `block`, in the order they were stored. Of
            several files with the same content the first path in byte order stands for all. What
            is damaged, so that it has not the length of the others, is left out.
        """
        last = 0
        while True:
            # By + not through the index on space, whose order is another: each block would be
            # picked out of all images.
            rows = self._rows(
                "SELECT id, vector, "
                "(SELECT min(path) FROM files WHERE files.content = embeddings.content) "
                "FROM embeddings WHERE +space = ? AND id > ? ORDER BY id LIMIT ?",
                (self._known_space(space), last, block),
            )
            if not rows:
                return
            last = rows[-1][0]
            rows = [row for row in rows if row[2] is not None]
            sizes = Counter(len(row[1]) for row in rows if row[1] and len(row[1]) % 4 == 0)
            if not sizes:
                continue
            usual = sizes.most_common(1)[0][0]
            rows = [row for row in rows if len(row[1]) == usual]
            paths = [os.fsdecode(row[2]) for row in rows]
            vectors = np.frombuffer(b"".join(row[1] for row in rows), np.float32)
            del rows  # as large as the vectors
            yield paths, vectors.reshape(len(paths), -1)

    def copies(self, path: str) -> list[str]:
        """The files that had the same content as this one when they were stored."""
        rows = self._rows(
            "SELECT path FROM files WHERE content = (SELECT content FROM files WHERE path = ?) "
            "ORDER BY path",
            (_path_key(path),),
        )
        return [os.fsdecode(row[0]) for row in rows]

    # -- files and models ---------------------------------------------------------------------

    def file_hash(self, path: str | os.PathLike[str]) -> str:
        """The SHA-256 of a file as hex; a file that has not changed is not read again.

        Raises:
            OSError: the file cannot be read.
        """
        name = os.fspath(path)
        stat = os.stat(name)
        rows = self._rows(
            "SELECT content FROM files WHERE path = ? AND size = ? AND mtime_ns = ?",
            (_path_key(name), stat.st_size, _mtime_ns(stat)),
        )
        if rows:
            return bytes(rows[0][0]).hex()
        content = hash_file(name)
        with self._transaction() as connection:
            if connection is not None:
                _insert_files(connection, [(name, stat, bytes.fromhex(content))])
        return content

    def facts(self, key: str) -> dict[str, Any] | None:
        """What was noted of a model when it was last loaded, or None."""
        rows = self._rows("SELECT facts FROM models WHERE key = ?", (key,))
        try:
            return dict(json.loads(rows[0][0])) if rows else None
        except (TypeError, ValueError):  # damaged; noted again when the model is loaded
            return None

    def set_facts(self, key: str, facts: dict[str, Any]) -> None:
        """Notes what a loaded model says of itself (JSON), so that it need not be loaded to ask."""
        with self._transaction() as connection:
            if connection is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO models VALUES (?, ?)", (key, json.dumps(facts))
                )

    # -- upkeep -------------------------------------------------------------------------------

    def info(self) -> StoreInfo:
        """Counts what the store holds."""
        kinds = dict(
            self._rows(
                "SELECT substr(name, 1, instr(name, ' ') - 1) AS kind, count(*) "
                "FROM embeddings JOIN spaces ON spaces.id = space GROUP BY kind"
            )
        )
        ((files,),) = self._rows("SELECT count(*) FROM files") or [(0,)]
        ((models,),) = self._rows("SELECT count(*) FROM models") or [(0,)]
        size = sum(part.stat().st_size for part in _parts(self.path) if part.exists())
        return StoreInfo(
            self.path,
            size,
            kinds.get("text", 0),
            kinds.get("image", 0),
            files,
            models,
            kinds.get("view,", 0),
        )

    def prune(self) -> int:
        """Forgets files that are gone or changed, and images, with their views, that none has.

        Returns:
            the number of images removed.
        """
        gone = [
            (path,)
            for path, size, mtime_ns in self._rows("SELECT path, size, mtime_ns FROM files")
            if not _unchanged(path, size, mtime_ns)
        ]
        removed = 0
        with self._transaction() as connection:
            if connection is not None:
                connection.executemany("DELETE FROM files WHERE path = ?", gone)
                removed = connection.execute(
                    "DELETE FROM embeddings WHERE space IN "
                    "(SELECT id FROM spaces WHERE name LIKE 'image %') "
                    "AND content NOT IN (SELECT content FROM files)"
                ).rowcount
                connection.executemany(
                    "DELETE FROM embeddings WHERE id = ?", _views_of_nothing(connection)
                )
        self._rows("VACUUM")
        self._rows("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed


# SQLite's locks are their process's, and a connection that two have damages the file, so none is
# open during a fork
# (https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_).
_stores: weakref.WeakSet[Store] = weakref.WeakSet()
_held: list[Store] = []
_forking = threading.Lock()


def _before_fork() -> None:
    _forking.acquire()
    for store in list(_stores):
        store._lock.acquire()
        _held.append(store)
        store._shut()


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )


def clear(path: Path) -> bool:
    """Deletes a store, damaged or not; False where there was none.

    Raises:
        StoreError: it cannot be deleted, is not a store, or does not tell whether it is one.
    """
    try:
        _refuse_foreign(path)
    except sqlite3.OperationalError as error:  # such as the lock of the program it belongs to
        raise StoreError(f"{path}: cannot be deleted ({error})") from error
    present = path.exists()
    for part in _parts(path):
        try:
            part.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{part}: cannot be deleted ({error.strerror})") from error
    return present


def _refuse_foreign(path: Path) -> None:
    """Refuses a file of somebody else's; the usual place is always ours.

    Raises:
        StoreError: it is.
        sqlite3.OperationalError: it cannot be told.
    """
    if path in (default_path(), facts_path()) or not path.exists() or not path.stat().st_size:
        return
    # By SQLite, never by open(): closing the file would drop this process's locks on it, and
    # another process would take the WAL away from under its open connections
    # (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, timeout=_BUSY_SECONDS, uri=True)
    try:
        (found,) = connection.execute("PRAGMA application_id").fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # locked, or not readable
            raise
        found = None
    finally:
        connection.close()
    if found != _APPLICATION:
        raise StoreError(f"{path}: is not a store of clipcls; name another with --store FILE")


def hash_file(path: str) -> str:
    """The SHA-256 of a file's content as hex, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _vector(rows: Sequence[Any]) -> NDArray[np.float32] | None:
    """The vector of a row, or None where there is none or its length cannot be."""
    if not rows or not rows[0][0] or len(rows[0][0]) % 4:
        return None
    return np.frombuffer(rows[0][0], np.float32)


def _views_of_nothing(connection: sqlite3.Connection) -> list[tuple[int]]:
    """Numbers of the views whose image no file has any more."""
    rows = connection.execute(
        "SELECT embeddings.id, space, content FROM embeddings JOIN spaces ON spaces.id = space "
        "WHERE name LIKE 'view, %'"
    )
    views = {(space, content): number for number, space, content in rows}
    if not views:
        return []
    from clipcls.views import View

    spaces = {space for space, _ in views}
    for (content,) in connection.execute("SELECT DISTINCT content FROM files"):
        for space in spaces:
            # A view's key tells nothing of its image; the images' tell their views', from 1 on.
            numbers = itertools.count(1)
            while views.pop((space, View("", next(numbers)).key(content)), None) is not None:
                pass
    return [(number,) for number in views.values()]


def _insert_files(
    connection: sqlite3.Connection, files: Iterable[tuple[str, os.stat_result, bytes]]
) -> None:
    youngest = time.time_ns() - _RACY_NS
    connection.executemany(
        "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
        [
            # What is young, or of a time that cannot be kept, has a size that no file has: found
            # by content, never by stat.
            (
                _path_key(path),
                stat.st_size if _TIMES[0] < stat.st_mtime_ns < youngest else -1,
                _mtime_ns(stat),
                content,
            )
            for path, stat, content in files
        ],
    )


def _mtime_ns(stat: os.stat_result) -> int:
    """When the file was changed, or the nearest time that can be kept."""
    return min(max(stat.st_mtime_ns, _TIMES[0]), _TIMES[1])


def _path_key(path: str) -> bytes:
    return os.fsencode(os.path.abspath(path))


def _unchanged(path: bytes, size: int, mtime_ns: int) -> bool:
    try:
        stat = os.stat(path)
    except OSError:
        return False
    return _mtime_ns(stat) == mtime_ns and size in (stat.st_size, -1)


def _is_damage(error: sqlite3.Error) -> bool:
    return any(word in str(error) for word in _DAMAGED)


def _parts(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))]


def _set_aside(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for part in reversed(_parts(path)):
        aside = part.with_name(f"{part.name}.damaged-{stamp}")
        if part.exists():
            part.replace(aside)
    return aside
