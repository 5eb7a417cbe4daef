from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import sqlite3
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipcls.cli.settings import find_own_file
from clipcls.embeddings import cache_file
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.cache_file import clear, default_path
from clipcls.embeddings.embed import embed_array, embed_texts
from clipcls.errors import CacheError
from clipcls.files.folders import cache_folder
from clipcls.files.hashing import hash_file, stamp_file
from clipcls.models.backend import Backend
from helpers.caches import connection
from helpers.encoders import NamesEncoder


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def key(n: int) -> bytes:
    return n.to_bytes(32, "big")


def find_vector(cache: EmbeddingCache, name: str, stamp: bytes) -> object:
    (found,), _ = cache.get_files("image a", [(name, stamp)])
    return found


@pytest.fixture(autouse=True)
def trust_new_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test cannot set a file's ctime back."""
    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", 0)


def old_file(path: Path, content: bytes = b"x") -> bytes:
    path.write_bytes(content)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return stamp_file(path.stat())


def test_what_is_added_comes_back_after_a_restart(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "s.db") as cache:
        cache.add("image a", [(key(1), vector(0.6, 0.8))])
    with EmbeddingCache(tmp_path / "s.db") as cache:
        np.testing.assert_array_equal(cache.get("image a", key(1)), vector(0.6, 0.8))


def test_another_space_never_gives_its_vectors(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "s.db") as cache:
        cache.add("image a", [(key(1), vector(1))])
        assert cache.get("image b", key(1)) is None


def test_a_file_is_known_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    stamp = old_file(path)
    with EmbeddingCache(tmp_path / "s.db") as cache:
        cache.add("image a", [(key(1), vector(1, 0))], [(str(path), stamp, key(1))])
        assert find_vector(cache, str(path), stamp_file(path.stat())) is not None
        os.utime(path, (1_700_000_001, 1_700_000_001))
        assert find_vector(cache, str(path), stamp_file(path.stat())) is None


def test_a_file_just_written_is_not_trusted_by_its_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", 2_000_000_000)
    path = tmp_path / "a.jpg"
    old_file(path)
    with EmbeddingCache(tmp_path / "s.db") as cache:
        cache.add(
            "image a", [(key(1), vector(1, 0))], [(str(path), stamp_file(path.stat()), key(1))]
        )
        assert find_vector(cache, str(path), stamp_file(path.stat())) is None
        assert cache.get("image a", key(1)) is not None


def test_a_file_replaced_by_one_of_the_same_size_and_mtime_is_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    before = old_file(path, b"one")
    with EmbeddingCache(tmp_path / "s.db") as cache:
        cache.add("image a", [(key(1), vector(1, 0))], [(str(path), before, key(1))])
        assert find_vector(cache, str(path), stamp_file(path.stat())) is not None
        while old_file(other, b"two") == before:
            time.sleep(0.001)  # the clock's grain
        other.replace(path)
        assert stamp_file(path.stat()).split()[:2] == before.split()[:2]
        assert find_vector(cache, str(path), stamp_file(path.stat())) is None


def test_a_clock_that_steps_backwards_gives_no_replaced_file_its_old_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", 2_000_000_000)
    path, later = tmp_path / "a.jpg", time.time_ns() + 86_400 * 10**9
    with EmbeddingCache(tmp_path / "s.db") as cache:
        with monkeypatch.context() as ahead:
            ahead.setattr(time, "time_ns", lambda: later)
            before = old_file(path, b"one")
            cache.add("image a", [(key(1), vector(1, 0))], [(str(path), before, key(1))])
            assert find_vector(cache, str(path), stamp_file(path.stat())) is not None
        while old_file(path, b"two") == before:
            time.sleep(0.001)
        assert find_vector(cache, str(path), stamp_file(path.stat())) is None
        # Written while the clock was ahead: its times can come again, so they prove nothing.
        os.utime(path, ns=(later, later))
        cache.add(
            "image a", [(key(2), vector(0, 1))], [(str(path), stamp_file(path.stat()), key(2))]
        )
        assert find_vector(cache, str(path), stamp_file(path.stat())) is None
        assert cache.get("image a", key(2)) is not None


@pytest.mark.parametrize("year", [1601, 2300])  # NTFS's "no time", and a camera's clock gone wrong
def test_a_time_beyond_sqlites_integers(
    tmp_path: Path, year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipcls.files.hashing.is_settled", lambda stat: True)
    nanoseconds = round((year - 1970) * 365.2425) * 86_400 * 10**9
    times = [nanoseconds, nanoseconds + 1]
    stats: list[Any] = [
        types.SimpleNamespace(st_size=1, st_mtime_ns=t, st_ctime_ns=0) for t in times
    ]
    stamp, other = map(stamp_file, stats)
    with EmbeddingCache(tmp_path / "s.db") as cache:
        cache.add("image a", [(key(1), vector(1, 0))], [("a.jpg", stamp, key(1))])
        assert find_vector(cache, "a.jpg", stamp) is not None
        assert find_vector(cache, "a.jpg", other) is None


def test_a_file_of_the_year_2300_is_found_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    time_ns = 10_413_792_000 * 10**9
    try:
        os.utime(path, ns=(time_ns, time_ns))
    except OSError:
        pytest.skip("the file system has no such time")
    with EmbeddingCache(tmp_path / "s.db") as cache:
        assert cache.file_hash(path) == cache.file_hash(path) == hash_file(str(path))
        cache.add("image a", [(key(1), vector(1))], [(str(path), stamp_file(path.stat()), key(1))])
        assert cache.prune() == 0


def test_relative_and_absolute_names_are_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = old_file(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    with EmbeddingCache(tmp_path / "s.db") as cache:
        cache.add("image a", [(key(1), vector(1, 0))], [("a.jpg", stamp, key(1))])
        assert find_vector(cache, str(tmp_path / "a.jpg"), stamp) is not None


def test_file_hash_is_sha256_and_follows_changes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    old_file(path, b"one")
    with EmbeddingCache(tmp_path / "s.db") as cache:
        first = cache.file_hash(path)
        assert first == hash_file(str(path))
        old_file(path, b"three")
        assert cache.file_hash(path) == hash_file(str(path)) != first


def test_images_come_in_blocks_once_a_content(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "s.db") as cache:
        for n in range(5):
            stamp = old_file(tmp_path / f"{n}.jpg")
            twin = old_file(tmp_path / f"{n}-twin.jpg")
            files = [(str(tmp_path / f"{n}.jpg"), stamp, key(n))]
            files += [(str(tmp_path / f"{n}-twin.jpg"), twin, key(n))]
            cache.add("image a", [(key(n), vector(n, 0))], files)
        blocks = list(cache.images("image a", block=2))
    assert [len(paths) for paths, _ in blocks] == [2, 2, 1]
    assert [Path(p).name for paths, _ in blocks for p in paths] == [
        f"{n}-twin.jpg" for n in range(5)
    ]
    np.testing.assert_array_equal(np.vstack([v for _, v in blocks])[:, 0], range(5))


def test_many_blocks_take_hardly_longer_than_one(tmp_path: Path) -> None:
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    with EmbeddingCache(tmp_path / "s.db") as cache:
        stamp = old_file(tmp_path / "a.jpg")
        for space in ("image a", "image b"):
            items = [(key(n * 7919 % 1000), vector(n, 0)) for n in range(1000)]
            cache.add(space, items, [(f"{n}.jpg", stamp, key(n)) for n in range(1000)])
        taken = []
        for block in (1000, 10):
            connection(cache).set_progress_handler(count, 10)
            steps = 0
            assert sum(len(paths) for paths, _ in cache.images("image b", block)) == 1000
            taken.append(steps)
    assert taken[1] < 3 * taken[0]


def test_images_are_those_that_are_not_damaged(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "s.db") as cache:
        for n in range(6):
            stamp = old_file(tmp_path / f"{n}.jpg")
            cache.add("image a", [(key(n), vector(n, 0))], [(f"{n}.jpg", stamp, key(n))])
        connection(cache).execute("UPDATE embeddings SET vector = x'0102' WHERE id = 1")
        connection(cache).execute("UPDATE embeddings SET vector = x'' WHERE id IN (3, 4)")
        blocks = [(paths, rows[:, 0].tolist()) for paths, rows in cache.images("image a", block=2)]
    assert [([Path(p).name for p in paths], rows) for paths, rows in blocks] == [
        (["1.jpg"], [1]),
        (["4.jpg", "5.jpg"], [4, 5]),
    ]


def test_info_and_prune(tmp_path: Path) -> None:
    here, gone = tmp_path / "here.jpg", tmp_path / "gone.jpg"
    with EmbeddingCache(tmp_path / "s.db") as cache:
        for n, path in enumerate((here, gone)):
            cache.add("image a", [(key(n), vector(1))], [(str(path), old_file(path), key(n))])
        cache.add("text a", [(key(9), vector(1))])
        gone.unlink()
        os.link(here, tmp_path / "link.jpg")  # has another ctime since
        assert cache.prune() == 1
        info = cache.info()
        assert (info.images, info.texts, info.files) == (1, 1, 1)
        assert cache.get("text a", key(9)) is not None
        assert cache.get("image a", key(0)) is not None


@pytest.mark.parametrize("content", [b"this is no database " * 100, None])
def test_a_damaged_cache_is_set_aside(
    tmp_path: Path,
    content: bytes | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "s.db"
    monkeypatch.setattr("clipcls.embeddings.cache_file.default_path", lambda: path)
    with EmbeddingCache(path) as cache:
        cache.add("image a", [(key(1), vector(1))])
    if content is None:  # a page in the middle of a real one
        data = bytearray(path.read_bytes())
        data[:100] = b"\0" * 100
        content = bytes(data)
    path.write_bytes(content)
    with EmbeddingCache(path) as cache:
        cache.add("image a", [(key(2), vector(1))])
        assert cache.get("image a", key(2)) is not None
    assert (tmp_path / "s.db.damaged").read_bytes() == content
    assert "damaged" in caplog.text


def test_damage_found_later_is_logged_once_and_the_cache_is_started_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.db"
    with EmbeddingCache(path) as cache:
        cache.add("image a", [(key(n), vector(*range(300))) for n in range(200)])
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING), EmbeddingCache(path) as cache:
        for n in range(3):
            assert cache.get("image a", key(n)) is None
            cache.add("image a", [(key(n), vector(1))])
            assert cache.get("image a", key(n)) is not None
    assert [record.getMessage().count("is damaged") for record in caplog.records] == [1]
    assert clear(path)
    assert not list(tmp_path.iterdir())


def test_a_cache_of_another_version_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    with monkeypatch.context() as patch:
        statements = (*cache_file._SCHEMA, "CREATE TABLE more (a)")
        patch.setattr(cache_file, "_SCHEMA", statements)
        EmbeddingCache(path).close()
    before = path.read_bytes()
    with pytest.raises(CacheError, match="another version of clipcls"):
        EmbeddingCache(path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="--no-cache"):
        EmbeddingCache(tmp_path / "file" / "s.db")


def test_a_full_disk_is_said_once_and_costs_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddingCache(tmp_path / "s.db") as cache:
        connection(cache).execute("PRAGMA max_page_count=20")  # SQLite's own "disk is full"
        for n in range(100):
            cache.add("image a", [(key(n), vector(*range(300)))])
    assert caplog.text.count("going on without it") == 1


def _add_many(path: str, first: int) -> None:
    with EmbeddingCache(path) as cache:
        for n in range(first, first + 100):
            cache.add("image a", [(key(n), vector(n, 0))])


def test_several_processes_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_add_many, args=(path, 100 * i)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with EmbeddingCache(path) as cache:
        assert all(cache.get("image a", key(n)) is not None for n in range(400))


def test_kill_9_keeps_what_was_added(tmp_path: Path) -> None:
    script = (
        "import os, sys, numpy as np; from clipcls.embeddings.cache import EmbeddingCache\n"
        "cache = EmbeddingCache(sys.argv[1])\n"
        "for n in range(50): cache.add('image a', [(n.to_bytes(32, 'big'), np.ones(2))])\n"
        "os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "s.db"
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    with EmbeddingCache(path) as cache:
        assert all(cache.get("image a", key(n)) is not None for n in range(50))


@pytest.mark.parametrize("interrupted", ["BEGIN IMMEDIATE", "COMMIT"])
def test_an_interruption_while_another_process_writes_leaves_no_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    """Ctrl-C is heard when the waiting is over: the transaction has just begun; or at its end."""

    class Interrupted:
        def __init__(self, connection: sqlite3.Connection) -> None:
            self.connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self.connection, name)

        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql == interrupted == "COMMIT":
                raise KeyboardInterrupt
            cursor = self.connection.execute(sql, *parameters)
            if sql == interrupted:
                raise KeyboardInterrupt
            return cursor

    monkeypatch.setattr("clipcls.embeddings.cache_file._BUSY_SECONDS", 0.1)
    with EmbeddingCache(tmp_path / "s.db") as cache:
        own = connection(cache)
        monkeypatch.setattr(cache._file, "_connection", Interrupted(own))
        with pytest.raises(KeyboardInterrupt):
            cache.add("image a", [(key(1), vector(1, 0))])
        monkeypatch.setattr(cache._file, "_connection", own)
        with EmbeddingCache(tmp_path / "s.db") as other:
            other.add("image a", [(key(2), vector(1, 0))])
        cache.add("image a", [(key(3), vector(1, 0))])
        assert [cache.get("image a", key(n)) is None for n in (1, 2, 3)] == [True, False, False]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("closed", ["before", "after"])
def test_a_forked_process_loses_nothing(tmp_path: Path, closed: str) -> None:
    script = (
        "import os, sys, numpy as np; from clipcls.embeddings.cache import EmbeddingCache\n"
        "def add(first):\n"
        "    for n in range(first, first + 50):\n"
        "        cache.add('image a', [(n.to_bytes(32, 'big'), np.ones(2))])\n"
        "cache = EmbeddingCache('s.db')\n"
        "add(0)\n"
        "os.chdir('/')\n"
        "waiting, go = os.pipe()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os.read(waiting, 1)\n"
        "    assert cache.get('image a', bytes(32)) is not None\n"
        "    add(50)\n"
        "    os._exit(0)\n"
        "if sys.argv[1] == 'before': cache.close()\n"
        "os.write(go, b'x')\n"
        "if sys.argv[1] == 'after': add(100); cache.close()\n"
        "sys.exit(os.waitpid(child, 0)[1])"
    )
    path = tmp_path / "s.db"
    command = [sys.executable, "-c", script, closed]
    found = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert found.stderr == b""
    with EmbeddingCache(path) as cache:
        there = [cache.get("image a", key(n)) is not None for n in range(150)]
    assert all(there[:100])
    assert all(there[100:]) == (closed == "after")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_cache_that_is_cleared_after_a_fork_has_no_other_models_vectors(tmp_path: Path) -> None:
    """The file is opened again, and in a new one another space has the old one's number."""
    script = (
        "import os, pathlib, numpy as np\n"
        "from clipcls.embeddings.cache import EmbeddingCache\n"
        "from clipcls.embeddings.cache_file import clear\n"
        "cache = EmbeddingCache('s.db')\n"
        "cache.add('image a', [(bytes(32), np.ones(2))])\n"
        "if not os.fork(): os._exit(0)\n"
        "os.wait()\n"
        "clear(pathlib.Path('s.db'))\n"
        "other = EmbeddingCache('s.db')\n"
        "other.add('image b', [(bytes(32), np.zeros(2))])\n"
        "assert cache.get('image a', bytes(32)) is None\n"
        "cache.add('image a', [(bytes(32), np.ones(2))])\n"
        "assert not other.get('image b', bytes(32)).any()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_a_file_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    photo, database = tmp_path / "photo.jpg", tmp_path / "browser.db"
    photo.write_bytes(b"\xff\xd8\xff" + bytes(200))
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    for path in (photo, database):
        before = path.read_bytes()
        for use in (EmbeddingCache, clear):
            with pytest.raises(CacheError, match="not a cache of clipcls"):
                use(path)
        assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["browser.db", "photo.jpg"]


@pytest.mark.parametrize(
    "damage",
    [slice(0, 100), slice(68, 72), slice(100, 108), slice(18, 19), slice(60, 64), slice(96, 100)],
    ids=str,
)
def test_a_damaged_cache_in_a_place_of_its_own_is_recognised(
    tmp_path: Path, damage: slice, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.db"
    with EmbeddingCache(path) as cache:
        cache.add("image a", [(key(n), np.ones(900, np.float32)) for n in range(9)])
    data = bytearray(path.read_bytes())
    data[damage] = b"\x07" * (damage.stop - damage.start)
    path.write_bytes(data)
    with EmbeddingCache(path) as cache:
        cache.add("image a", [(key(1), np.ones(2, np.float32))])
    with EmbeddingCache(path) as cache:
        assert cache.get("image a", key(1)) is not None
    assert caplog.text.count("a new one is started") <= 1


def test_a_file_that_its_owner_has_locked_is_left_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "browser.db"
    owner = sqlite3.connect(path, isolation_level=None)
    owner.execute("CREATE TABLE bookmarks (url)")
    owner.execute("BEGIN EXCLUSIVE")  # as browsers keep theirs
    for use in (EmbeddingCache, clear):
        with pytest.raises(CacheError, match=r"browser\.db: is not a cache"):
            use(path)
    owner.execute("COMMIT")
    assert owner.execute("SELECT count(*) FROM bookmarks").fetchone() == (0,)
    owner.close()
    assert path.exists()


def test_a_damaged_row_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "s.db") as cache:
        cache.add("image a", [(key(1), vector(1, 0))])
        connection(cache).execute("UPDATE embeddings SET vector = x'0102'")
        assert cache.get("image a", key(1)) is None


def test_a_cache_can_be_pickled(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "s.db") as cache:
        cache.add("image a", [(key(1), vector(1, 0))])
        with pickle.loads(pickle.dumps(cache)) as copy:
            np.testing.assert_array_equal(copy.get("image a", key(1)), vector(1, 0))


def test_a_cache_opened_twice_is_not_taken_away_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with EmbeddingCache(path) as first, EmbeddingCache(path):
        script = (
            "import sys; from clipcls.embeddings.cache import EmbeddingCache\n"
            "EmbeddingCache(sys.argv[1]).close()"
        )
        subprocess.run([sys.executable, "-c", script, str(path)], check=True)
        # The other process was not the last to close, and may not act as if it were.
        assert path.with_name("s.db-wal").exists()
        first.add("image a", [(key(1), vector(1, 0))])
    with EmbeddingCache(path) as cache:
        assert cache.get("image a", key(1)) is not None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows knows the home directory itself")
def test_without_a_home_directory_it_caches_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import pwd
    import tempfile

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache_folder.cache_clear()
    own = tmp_path / f"clipcls-{os.getuid()}"
    try:
        assert default_path() == own / "embeddings.sqlite3"
        assert default_path().parent.stat().st_mode & 0o777 == 0o700
        (record,) = caplog.records  # one line, however often it is asked for
        assert "no home directory" in record.getMessage()
        assert find_own_file() is None
        own.chmod(0o777)  # anybody may have put something there
        cache_folder.cache_clear()
        assert cache_folder() != own
    finally:
        cache_folder.cache_clear()


def test_a_cache_whose_first_transaction_was_killed_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    script = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        f"c.execute('PRAGMA application_id={int.from_bytes(b'clip', 'big')}')\n"
        "c.execute('PRAGMA cache_size=1')\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "c.execute('CREATE TABLE models (a)')\n"
        "for _ in range(99): c.execute('INSERT INTO models VALUES (zeroblob(3000))')\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert path.with_name("s.db-journal").exists()
    with EmbeddingCache(path) as cache:
        cache.add("image a", [(key(1), vector(1, 0))])
        assert cache.get("image a", key(1)) is not None


def damage(data: bytes, chance: np.random.Generator) -> bytes:
    """The bytes with flipped bits, overwritten, zeroed or swapped parts, or cut off."""
    found = bytearray(data)
    kind = chance.integers(6)
    at = int(chance.integers(len(data)))
    size = int(chance.integers(1, 600))
    page = at - at % 4096
    if kind == 0:
        return bytes(found[:at])
    if kind == 1:
        found[at : at + size] = chance.bytes(len(found[at : at + size]))
    elif kind == 2:
        found[page : page + 4096] = bytes(4096)
    elif kind == 3:
        other = 4096 * int(chance.integers(len(data) // 4096))
        found[page : page + 4096], found[other : other + 4096] = (
            found[other : other + 4096],
            found[page : page + 4096],
        )
    else:  # in the schema or anywhere
        for place in chance.integers(4096 if kind == 4 else len(data), size=chance.integers(1, 9)):
            found[place] ^= 1 << chance.integers(8)
    return bytes(found)


def test_no_damage_changes_an_answer(
    tmp_path: Path, paint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    monkeypatch.setattr("clipcls.embeddings.cache_file.default_path", lambda: path)
    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", 0)
    encoder = NamesEncoder()
    images = [paint(f"{n}.png", (20 * n, 255 - 20 * n, 3 * n)) for n in range(12)]
    texts = [f"text {n}" for n in range(12)]

    def answers(cache: EmbeddingCache | None) -> tuple[bytes, ...]:
        rows = embed_array(encoder, images, cache, backend=Backend(workers=1))
        return rows.tobytes(), embed_texts(encoder, texts, cache).tobytes()

    expected = answers(None)
    by_path = dict(zip(images, np.frombuffer(expected[0], np.float32).reshape(12, -1), strict=True))
    with EmbeddingCache(path) as cache:
        other = NamesEncoder()
        other.image_space = "image other"
        monkeypatch.setattr(
            other, "encode_images", lambda pixels: np.eye(32, dtype=np.float32)[: len(pixels)]
        )
        embed_array(other, images, cache)
        assert answers(cache) == expected
        hashed = cache.file_hash(images[0])
        assert len(next(iter(cache.images(encoder.image_space)))[0]) == 12
    whole = path.read_bytes()
    for seed in range(int(os.environ.get("FUZZ_EXAMPLES", "60"))):
        path.write_bytes(damage(whole, np.random.default_rng(seed)))
        with EmbeddingCache(path) as cache:
            assert cache.file_hash(images[0]) == hashed, seed
            for paths, vectors in cache.images(encoder.image_space, 7):
                for name, row in zip(paths, vectors, strict=True):
                    assert (row == by_path[name]).all(), seed
            assert set(cache.copies(images[0])) <= {images[0]}, seed
            assert answers(cache) == expected, seed
            cache.info()
            cache.prune()
            assert cache._file._usable, seed
        with EmbeddingCache(path) as cache:
            assert answers(cache) == expected, seed


def test_without_a_cache_nothing_beside_its_name_is_deleted(tmp_path: Path) -> None:
    names = {f"notes{suffix}" for suffix in ("-wal", "-shm", ".damaged")}
    for name in names:
        (tmp_path / name).write_text("mine")
    assert not clear(tmp_path / "notes")
    assert {p.name for p in tmp_path.iterdir()} == names
