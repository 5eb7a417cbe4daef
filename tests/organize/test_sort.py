"""`clipcls sort`: real files; runs that are killed at every call that changes something."""

from __future__ import annotations

import json
import ntpath
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

from clipcls.cli.sort import shorten_path, without_scores
from clipcls.errors import ImageError, InputError, OutputError
from clipcls.labels.folder_names import assign_folders, safe_name
from clipcls.organize import execute, fileops
from clipcls.organize.execute import file_results, undo
from clipcls.organize.fileops import Mode
from clipcls.organize.journal import Journal, read_journals
from clipcls.organize.plan import make_plan
from clipcls.predictions import Prediction, Result
from helpers.cli import Run
from helpers.predictions import all_of
from helpers.sorting import put, results, sort

Tree = dict[str, bytes]


def tree(folder: Path) -> Tree:
    """Every file but journals -> its bytes; a link -> where it leads."""
    return {
        str(p.relative_to(folder)): (b"-> " + os.fsencode(os.readlink(p)))
        if p.is_symlink()
        else p.read_bytes()
        for p in folder.rglob("*")
        if (p.is_file() or p.is_symlink()) and not p.name.startswith("clipcls-sort-")
    }


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return put(
        tmp_path / "photos",
        {
            "a.jpg": "a",
            "b.jpg": "b",
            "sub/a.jpg": "other a",
            "c.png": "c",
            "a.jpg.xmp": "darktable's",
            "c.xmp": "Lightroom's",
        },
    )


FOUR = results(
    ("a.jpg", "cat"), ("b.jpg", "animal > dog"), ("sub/a.jpg", "cat"), ("c.png", ""), ("x", "cat")
)
FILED = {
    "cat/a.jpg": b"a",
    "cat/a.jpg.xmp": b"darktable's",
    "animal/dog/b.jpg": b"b",
    "cat/a (2).jpg": b"other a",
    "unknown/c.png": b"c",
    "unknown/c.xmp": b"Lightroom's",
}


def test_what_is_no_file_of_this_disk_is_left_alone_and_counted(photos: Path) -> None:
    put(photos, {"photo.jpg#2": "a file of this name"})
    found = results(
        *((name, "cat") for name in ("a.jpg", "a.jpg#1", "x.zip!a.jpg", "s3://b/a.jpg")),
        ("photo.jpg#2", "cat"),
    )
    report = file_results(found, photos / "sorted", root=photos)
    assert (report.changed, len(report.failed)) == (2, 1)
    assert "like 2 more" in str(report.failed[0])
    assert "3 not copied" in report.summary()
    with pytest.raises(InputError, match=r"^gone\.jpg: no such file"):
        make_plan(results(("s3://b/a.jpg", "cat"), ("gone.jpg", "cat")), photos / "s", root=photos)


def test_a_copy_leaves_the_originals_and_their_times(photos: Path, tmp_path: Path) -> None:
    before = tree(photos)
    done = file_results(FOUR, tmp_path / "out", root=photos)
    assert tree(tmp_path / "out") == FILED
    assert tree(photos) == before
    assert (tmp_path / "out/cat/a.jpg").stat().st_mtime == 1_600_000_000
    assert (done.changed, [str(e) for e in done.failed]) == (4, ["x: no such file"])
    assert done.exit_code == 1


def test_a_second_run_adds_nothing(photos: Path, tmp_path: Path) -> None:
    for mode in ("copy", "link"):
        into = tmp_path / mode
        first = file_results(FOUR, into, mode, root=photos)
        for journal in (True, False):
            if not journal:
                assert first.journal is not None
                first.journal.unlink()
            before = tree(into)
            again = file_results(FOUR, into, mode, root=photos)
            assert (again.changed, again.unchanged, again.journal) == (0, 4, None)
            assert tree(into) == before


@pytest.mark.parametrize(
    ("first", "then"), [("link", "copy"), ("link", "move"), ("copy", "link"), ("copy", "move")]
)
def test_what_is_there_in_another_way_is_not_taken_for_done(
    photos: Path, tmp_path: Path, first: Mode, then: Mode
) -> None:
    """Who took links for copies and deleted the originals would have lost them."""
    before, out = tree(photos), tmp_path / "out"
    earlier = file_results(results(("a.jpg", "cat")), out, first, root=photos)
    filed = tree(out)
    again = file_results(results(("a.jpg", "cat|dog"), ("b.jpg", "dog")), out, then, root=photos)
    assert [str(e) for e in again.failed] == [
        f"a.jpg: is already there as a {first}: undo that run first (clipcls sort --undo "
        f"{earlier.journal})"
    ]
    assert (again.unchanged, again.changed, again.exit_code) == (0, 1, 1)
    assert filed == {name: held for name, held in tree(out).items() if name != "dog/b.jpg"}
    assert earlier.journal is not None
    assert again.journal is not None
    undo(earlier.journal)
    undo(again.journal)
    assert tree(photos) == before
    assert file_results(FOUR[:2], out, then, root=photos).failed == []


def test_an_image_that_is_gone_is_there_only_if_it_can_be_opened_there(
    photos: Path, tmp_path: Path
) -> None:
    rows = results(("a.jpg", "cat"), ("b.jpg", "dog"))
    file_results(rows, tmp_path / "links", "link", root=photos)
    file_results(rows, tmp_path / "moved", "move", root=photos)
    (tmp_path / "moved/cat/a.jpg").unlink()
    again = file_results(rows, tmp_path / "moved", "move", root=photos)
    assert (again.unchanged, [str(e) for e in again.failed]) == (1, ["a.jpg: no such file"])
    with pytest.raises(InputError, match=r"a.jpg: no such file"):
        file_results(rows, tmp_path / "links", "link", root=photos)


def test_a_moved_image_takes_its_sidecars_along_and_comes_back(
    photos: Path, tmp_path: Path
) -> None:
    before = tree(photos)
    done = file_results(FOUR, tmp_path / "out", "move", root=photos)
    assert tree(tmp_path / "out") == FILED
    assert tree(photos) == {}
    again = file_results(FOUR, tmp_path / "out", "move", root=photos)
    assert (again.changed, again.unchanged, again.journal) == (0, 4, None)
    assert done.journal is not None
    back = undo(done.journal)
    assert (back.changed, back.failed) == (6, [])
    assert tree(photos) == before
    assert list((tmp_path / "out").iterdir()) == [done.journal]
    assert undo(done.journal).changed == 0
    assert file_results(FOUR, tmp_path / "out", "move", root=photos).changed == 4


def test_a_sidecar_that_a_raw_shares_stays(tmp_path: Path) -> None:
    photos = put(tmp_path / "p", {"a.jpg": "a", "a.CR2": "raw", "a.xmp": "the raw's"})
    file_results(results(("a.jpg", "cat")), tmp_path / "out", "move", root=photos)
    assert tree(photos) == {"a.CR2": b"raw", "a.xmp": b"the raw's"}


def test_what_only_looks_like_a_sidecar_stays(tmp_path: Path) -> None:
    """A folder, a link to nowhere; and no link is moved: it may lead nowhere from there."""
    photos = put(tmp_path / "p", {n: n for n in ("a.jpg", "b.jpg", "c.jpg", "raw/c.xmp")})
    (photos / "a.jpg.xmp").mkdir()
    (photos / "b.xmp").symlink_to("nowhere")
    (photos / "c.xmp").symlink_to("raw/c.xmp")
    rows = results(("a.jpg", "x"), ("b.jpg", "x"), ("c.jpg", "x"))
    assert file_results(rows, tmp_path / "copies", root=photos).failed == []
    assert set(tree(tmp_path / "copies")) == {"x/a.jpg", "x/b.jpg", "x/c.jpg", "x/c.xmp"}
    assert file_results(rows, tmp_path / "out", "move", root=photos).failed == []
    assert set(tree(tmp_path / "out")) == {"x/a.jpg", "x/b.jpg", "x/c.jpg"}
    assert (photos / "c.xmp").read_text() == "raw/c.xmp"


def test_links_are_symbolic_and_absolute(photos: Path, tmp_path: Path) -> None:
    done = file_results(FOUR, tmp_path / "out", "link", root=photos)
    assert os.readlink(tmp_path / "out/cat/a (2).jpg") == str(photos / "sub/a.jpg")
    assert done.journal is not None
    (tmp_path / "out/animal/dog/b.jpg").unlink()
    (tmp_path / "out/animal/dog/b.jpg").write_text("somebody's own")
    back = undo(done.journal)
    assert [e.reason for e in back.failed] == ["is not the link that was made"]
    assert tree(tmp_path / "out") == {"animal/dog/b.jpg": b"somebody's own"}


def test_several_labels_are_several_copies_but_one_move(photos: Path, tmp_path: Path) -> None:
    rows = results(("a.jpg", "cat|dog"), ("b.jpg", "dog"))
    file_results(rows, tmp_path / "copies", root=photos)
    assert {"cat/a.jpg", "cat/a.jpg.xmp", "dog/a.jpg", "dog/a.jpg.xmp", "dog/b.jpg"} == set(
        tree(tmp_path / "copies")
    )
    done = file_results(rows, tmp_path / "moved", "move", root=photos)
    assert set(tree(tmp_path / "moved")) == {"cat/a.jpg", "cat/a.jpg.xmp", "dog/b.jpg"}
    assert "1 with several labels moved to the best only" in done.summary()


def test_nothing_is_overwritten(photos: Path, tmp_path: Path) -> None:
    out = put(tmp_path / "out", {"cat/a.jpg": "mine", "cat/a (2).jpg.xmp": "mine too"})
    file_results(FOUR, out, "move", root=photos)
    found = tree(out)
    assert found["cat/a.jpg"] == b"mine"
    assert found["cat/a (2).jpg.xmp"] == b"mine too"
    assert found["cat/a (3).jpg"] == b"a"
    assert found["cat/a (3).jpg.xmp"] == b"darktable's"
    assert found["cat/a (2).jpg"] == b"other a"


@pytest.mark.parametrize("mode", ["copy", "move", "link"])
def test_a_name_taken_meanwhile_is_not_overwritten(
    photos: Path, tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, before = Journal.announce, tree(photos)

    def announce(self, entries, *rest):
        real(self, entries, *rest)
        put(tmp_path / "out", {"cat/a.jpg": "mine"})

    rows = results(("a.jpg", "cat"))
    monkeypatch.setattr(Journal, "announce", announce)
    done = file_results(rows, tmp_path / "out", mode, root=photos)
    (failed,) = done.failed
    assert "taken" in failed.reason
    assert (tree(tmp_path / "out"), tree(photos)) == ({"cat/a.jpg": b"mine"}, before)
    done = file_results(rows, tmp_path / "out", mode, root=photos)
    found = tree(tmp_path / "out")
    assert found.pop("cat/a.jpg") == b"mine"
    assert set(found) == {"cat/a (2).jpg", "cat/a (2).jpg.xmp"}
    assert done.journal is not None
    undo(done.journal)
    assert tree(tmp_path / "out") == {"cat/a.jpg": b"mine"}


def test_sorting_a_sorted_folder_in_place_leaves_what_is_right(tmp_path: Path) -> None:
    out = put(tmp_path / "out", {"cat/a.jpg": "a", "cat/b.jpg": "b"})
    rows = results(("cat/a.jpg", "cat"), ("cat/b.jpg", "dog"))
    done = file_results(rows, out, "move", root=out)
    assert tree(out) == {"cat/a.jpg": b"a", "dog/b.jpg": b"b"}
    assert (done.changed, done.unchanged) == (1, 1)


def test_undo_keeps_what_would_be_lost(photos: Path, tmp_path: Path) -> None:
    done = file_results(FOUR, tmp_path / "out", root=photos)
    (photos / "b.jpg").unlink()
    (tmp_path / "out/cat/a.jpg").write_text("edited")
    assert done.journal is not None
    back = undo(done.journal)
    assert back.exit_code == 1
    assert tree(tmp_path / "out") == {"animal/dog/b.jpg": b"b", "cat/a.jpg": b"edited"}

    done = file_results(results(("c.png", "cat")), tmp_path / "two", "move", root=photos)
    put(photos, {"c.png": "a new one"})
    assert done.journal is not None
    assert "another file exists at" in undo(done.journal).failed[0].reason
    assert (photos / "c.png").read_text() == "a new one"
    assert (tmp_path / "two/cat/c.png").read_text() == "c"


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_undo_never_takes_the_only_one(photos: Path, tmp_path: Path, mode: Mode) -> None:
    """Where the originals' place leads to the sorted files by now."""
    rows = results(("a.jpg", "cat"), ("b.jpg", "cat"))
    done = file_results(rows, tmp_path / "out", mode, root=photos)
    assert done.journal is not None
    photos.rename(tmp_path / "gone")
    photos.symlink_to(tmp_path / "out/cat")
    assert len(undo(done.journal).failed) == 3
    photos.unlink()
    photos.mkdir()
    (photos / "a.jpg").symlink_to(tmp_path / "out/cat/a.jpg")
    undo(done.journal)
    held = tree(tmp_path / "out") | tree(photos)
    assert b"a" in held.values()
    assert b"b" in held.values()


def test_the_target_may_be_renamed_before_undo(photos: Path, tmp_path: Path) -> None:
    before = tree(photos)
    done = file_results(FOUR, tmp_path / "out", "move", root=photos)
    (tmp_path / "out").rename(tmp_path / "renamed")
    assert done.journal is not None
    undo(tmp_path / "renamed" / done.journal.name)
    assert tree(photos) == before


def test_names_that_no_system_refuses() -> None:
    names = ["b/w", "..", ".", ".git", "CON", "com1.txt", "lpt¹", "nul ", "x. .", "a\0b\n", " "]
    for name in [*names, 'q:"<>|?*\\', "/etc/passwd", "z" * 300, "é" * 200, "\ud800", "~"]:
        safe = safe_name(name)
        assert 0 < len(safe.encode()) <= 100
        assert not set(safe) & set('<>:"/\\|?*\0\n')
        assert safe[-1] not in ". "
        assert safe[0] not in ". "
        assert safe.split(".")[0].strip().lower() not in ("con", "com1", "lpt¹", "nul")
    assert safe_name("polar bear") == "polar bear"
    assert safe_name("Dr. Who") == "Dr. Who"
    assert safe_name("z" * 300) != safe_name("z" * 299)


def test_labels_that_are_one_folder_somewhere_get_two() -> None:
    labels = [("polish",), ("Polish",), ("a/b",), ("a_b",), ("Unknown",), ()]
    found = assign_folders(labels)
    assert found == assign_folders(reversed(labels))
    assert len({tuple(map(str.casefold, f)) for f in found.values()}) == len(labels)
    assert found["a_b",] == ("a_b",)
    assert found[()] == ("unknown",)


def test_an_image_named_like_a_folder_gives_way(tmp_path: Path) -> None:
    photos = put(tmp_path / "p", {"dog": "a", "b": "b"})
    rows = results(("dog", "animal"), ("b", "animal > dog"))
    file_results(rows, tmp_path / "out", root=photos)
    assert tree(tmp_path / "out") == {"animal/dog (2)": b"a", "animal/dog/b": b"b"}


def test_images_that_cannot_be_filed_are_named_and_the_rest_is_done(
    photos: Path, tmp_path: Path
) -> None:
    (photos / "link.jpg").symlink_to("b.jpg")
    put(tmp_path / "out", {"bird": "a file, not a folder"})
    rows: list[Result] = [
        *results(("link.jpg", "cat"), ("sub", "cat"), ("", "cat"), ("c.png", "bird"))
    ]
    rows += [ImageError("bad.jpg", "truncated"), *results(("a.jpg", "cat"))]
    done = file_results(rows, tmp_path / "out", "move", root=photos)
    assert {e.path: e.reason for e in done.failed} == {
        "link.jpg": "is a link, which is not moved; name its file",
        "sub": "is not a file",
        "": "is not a file",
        "c.png": f"{tmp_path}/out/bird cannot be made a folder: file exists",
    }
    assert done.unread == 1
    assert (done.changed, (photos / "c.png").read_bytes()) == (1, b"c")


def test_a_wrong_root_is_told_before_anything_is_made(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.jpg: no such file.*--root"):
        file_results(FOUR, tmp_path / "out", root=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_plan_changes_nothing(photos: Path, tmp_path: Path) -> None:
    steps = make_plan(FOUR, tmp_path / "out", "move", root=photos).steps
    assert {str(t.relative_to(tmp_path / "out")) for s in steps for t in s.targets.values()} == set(
        FILED
    )
    assert not (tmp_path / "out").exists()


def test_a_file_system_without_hard_links(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    before = tree(photos)
    put(tmp_path / "out", {"cat/a.jpg": "mine"})
    done = file_results(FOUR, tmp_path / "out", "move", root=photos)
    assert tree(tmp_path / "out") == {
        **{n.replace("a.jpg", "a (2).jpg"): d for n, d in FILED.items() if n != "cat/a (2).jpg"},
        "cat/a (3).jpg": b"other a",
        "cat/a.jpg": b"mine",
    }
    assert done.journal is not None
    undo(done.journal)
    assert tree(photos) == before


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    import tempfile

    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        yield Path(folder)


def test_a_move_to_another_file_system(photos: Path, elsewhere: Path) -> None:
    before = tree(photos)
    done = file_results(FOUR, elsewhere, "move", root=photos)
    assert tree(elsewhere) == FILED
    assert (elsewhere / "cat/a.jpg").stat().st_mtime == 1_600_000_000
    assert tree(photos) == {}
    assert done.journal is not None
    assert undo(done.journal).failed == []
    assert tree(photos) == before


@pytest.mark.parametrize("stopped", [False, True])
def test_a_move_to_another_disk_is_on_it_before_the_file_goes(
    photos: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """A power cut in between: the new name is on the disk, and so are those of new folders."""
    source, target = photos / "b.jpg", elsewhere / "new/dog/b.jpg"
    sure: set[Path] = set()
    stops = [stopped]
    unlink = Path.unlink

    def unlinking(path: Path, missing_ok: bool = False) -> None:
        if path in (source, target):
            if stops and stops.pop():
                sure.clear()
                raise KeyboardInterrupt
            assert ({source: target, target: source}[path]).parent in sure
        unlink(path, missing_ok)

    def again(action: Callable[[], object]) -> None:
        stops[:] = [stopped]
        sure.clear()
        if stopped:
            with pytest.raises(KeyboardInterrupt):
                action()
        action()

    for module in (execute, fileops):
        monkeypatch.setattr(module, "sync_folder", sure.add)
    monkeypatch.setattr(Path, "unlink", unlinking)
    again(lambda: file_results(results(("b.jpg", "dog")), elsewhere / "new", "move", root=photos))
    assert (target.exists(), source.exists()) == (True, False)
    if not stopped:
        assert {elsewhere / "new", elsewhere} <= sure
    (journal,) = read_journals(elsewhere / "new")
    again(lambda: undo(journal.path))
    assert (target.exists(), source.exists()) == (False, True)


# -- killed, refused, full


def forked(action: Callable[[], object]) -> int:
    """Runs it in a child; its wait status."""
    child = os.fork()
    if not child:
        try:
            action()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(9)
    return os.waitpid(child, 0)[1]


def killed_at(call: int, action: Callable[[], object], no_links: bool = False) -> bool:
    """Runs it in a child that kills itself before its n-th call that changes files.

    Returns whether it was killed (it may be through before).
    """

    def run() -> None:
        left = [call]

        def counting(name: str) -> None:
            real = getattr(os, name)

            def counted(*args, **kwargs):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                if name == "link" and no_links:
                    raise PermissionError(1, "Operation not permitted")
                return real(*args, **kwargs)

            setattr(os, name, counted)

        # Nothing of a killed process is lost with the system alive, so that fsync may be left out.
        os.fsync = lambda fd: None
        for name in ("link", "unlink", "replace", "symlink", "mkdir", "rmdir", "fsync"):
            counting(name)
        action()

    status = forked(run)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def kinds(mode: str, here: Path, request: pytest.FixtureRequest) -> tuple[Mode, Path]:
    if mode == "move to another disk":
        return "move", request.getfixturevalue("elsewhere")
    return ("link" if mode == "link" else "copy" if "copy" in mode else "move"), here


MODES = ["copy", "move", "link", "move without hard links", "move to another disk"]


@pytest.mark.parametrize("mode", MODES)
def test_killed_anywhere_a_run_is_resumed_or_undone(
    mode: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    no_links = "without" in mode
    way, base = kinds(mode, tmp_path, request)
    for call in range(1, 500):
        killed = False
        for finish in ("resume", "undo"):
            photos = put(
                tmp_path / f"{call} {finish}",
                {"a.jpg": "a", "b.jpg": "b", "sub/a.jpg": "aa", "a.jpg.xmp": "x"},
            )
            out = base / f"out {call} {finish}"
            rows = results(("a.jpg", "cat"), ("b.jpg", "dog"), ("sub/a.jpg", "cat"))
            before = tree(photos)

            def run(out=out, rows=rows, photos=photos) -> None:
                file_results(rows, out, way, root=photos)

            killed = killed_at(call, run, no_links)
            held = set(tree(photos).values()) | set(tree(out).values() if out.exists() else ())
            assert set(before.values()) <= held, "nothing is lost"
            if finish == "undo":
                for journal in read_journals(out) if out.exists() else []:
                    assert undo(journal.path).failed == []
                assert tree(photos) == before
                assert not out.exists() or tree(out) == {}
                assert not out.exists() or not [p for p in out.iterdir() if p.is_dir()]
            else:
                run()
                found = tree(out)
                assert set(found) == {"cat/a.jpg", "cat/a (2).jpg", "cat/a.jpg.xmp", "dog/b.jpg"}
                assert tree(photos) == ({} if way == "move" else before)
                if way != "link":
                    assert found["cat/a (2).jpg"] == b"aa"
                for journal in read_journals(out):
                    undo(journal.path)
                assert tree(photos) == before
                assert tree(out) == {}
        if not killed:
            break
    assert call > 10


@pytest.mark.parametrize("mode", MODES)
def test_killed_anywhere_undo_goes_on(
    mode: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    way, base = kinds(mode, tmp_path, request)
    for call in range(1, 500):
        photos = put(tmp_path / f"{call}", {"a.jpg": "a", "b.jpg": "b", "a.jpg.xmp": "x"})
        before = tree(photos)
        rows = results(("a.jpg", "cat"), ("b.jpg", "dog"))
        done = file_results(rows, base / f"out {call}", way, root=photos)
        assert done.journal is not None
        journal = done.journal
        killed = killed_at(call, lambda: undo(journal), "without" in mode)  # noqa: B023
        assert undo(journal).failed == []
        assert tree(photos) == before
        assert tree(base / f"out {call}") == {}
        if not killed:
            break
    assert call > 2


def test_a_journal_cut_off_anywhere_is_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    before = tree(photos)
    done = file_results(FOUR, tmp_path / "out", "move", root=photos)
    journal = done.journal
    assert journal is not None
    whole = journal.read_bytes()
    head = whole.index(b"\n") + 1
    announced = whole.index(b'{"done"')
    for size in [*range(announced, len(whole), 7), *range(announced, len(whole))[-30:]]:
        journal.write_bytes(whole[:size])
        assert undo(journal).failed == []
        assert tree(photos) == before
        journal.unlink()
        done = file_results(FOUR, tmp_path / "out", "move", root=photos)
        journal = done.journal
        assert journal is not None
        whole = journal.read_bytes()
    for size in (0, 5, head):
        journal.write_bytes(whole[:size])
        assert undo(journal).changed == 0


def test_a_journal_in_use_is_left_alone(photos: Path, tmp_path: Path) -> None:
    done = file_results(FOUR, tmp_path / "out", "move", root=photos)
    assert done.journal is not None
    other = Journal.read(done.journal)
    other.open()
    with pytest.raises(OutputError, match="another `clipcls sort`"):
        undo(done.journal)
    other.close()


# -- what others put into the folder


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has sorted nothing yet: where their secret will be."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state/clipcls/journal.key"


def test_a_planted_journal_deletes_nothing(
    photos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, {"v/important.txt": "x", "v/a.jpg": "mine", "out/b.jpg": "mine", "out/empty": ""})
    journal = tmp_path / "out/clipcls-sort-20250101-000000.jsonl"
    part = {"size": 1, "mtime_ns": 1, "part": "../v/important.txt"}
    victims = [("/nowhere/x", "zz.jpg"), (str(tmp_path / "v/a.jpg"), "b.jpg")]
    victims.append((str(tmp_path / "v/a.jpg"), "empty"))
    entries = [{"n": n, "from": f, "to": to, **part} for n, (f, to) in enumerate(victims, 1)]
    forged = [*entries, *({"undoing": n} for n in (1, 2, 3)), {"folder": "../v"}]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.jsonl").write_text('{"path": "photos/b.jpg", "label": "cat"}\n')
    before = tree(tmp_path)
    for header in (
        {"clipcls sort": 1, "mode": "move"},
        {"clipcls sort": 1, "mode": "move", "id": "../v/important", "mac": "0" * 32},
    ):
        journal.write_text("".join(json.dumps(line) + "\n" for line in [header, *forged]))
        planted = journal.read_bytes()
        for arguments in (["r.jsonl", "--into", "out", "--dry-run"], ["r.jsonl", "--into", "out"]):
            status, _, said = run("sort", *arguments)
            assert (status, said.count(journal.name)) == (0, 1)
            assert "was not written by this user's clipcls on this machine; left alone" in said
        status, _, said = run("sort", "--undo", str(journal))
        assert (status, len(said.splitlines())) == (2, 1)
        assert "was not written by this user's clipcls on this machine" in said
        assert journal.read_bytes() == planted
        assert tree(tmp_path) == {**before, "out/cat/b.jpg": b"b"}


def test_a_journal_that_was_changed_is_not_acted_upon(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    done = file_results(FOUR, tmp_path / "out", "move", root=photos)
    other = file_results(FOUR[:1], tmp_path / "other", "copy", root=tmp_path / "out/cat")
    assert done.journal is not None
    assert other.journal is not None
    lines = done.journal.read_bytes().splitlines(keepends=True)
    foreign = other.journal.read_bytes().splitlines(keepends=True)
    sources = tree(tmp_path)
    for changed in (
        [*lines, b'{"n": 9, "from": "/etc/passwd", "to": "cat/a.jpg", "size": 1, "mtime_ns": 1}\n'],
        [*lines, foreign[-1]],
        [*lines, lines[-1]],
        [*lines[:2], *lines[3:]],
        [lines[0], lines[2], lines[1], *lines[3:]],
        [foreign[0], *lines[1:]],
        [*lines[1:]],
        [*(line.replace(b"photos", b"photoz") for line in lines)],
        [lines[0].replace(b"move", b"copy"), *lines[1:]],
        [*lines, b"[" * 100_000 + b"\n"],
    ):
        done.journal.write_bytes(b"".join(changed))
        with pytest.raises(InputError, match=r"was changed since|was not written by|is not a jou"):
            undo(done.journal)
        caplog.clear()
        file_results(results(("c.png", "x")), tmp_path / "out", root=tmp_path / "out/unknown")
        assert [r.getMessage().endswith("; left alone") for r in caplog.records] == [True]
        assert done.journal.read_bytes() == b"".join(changed)
        assert sources.items() <= tree(tmp_path).items()
    done.journal.write_bytes(b"".join(lines))
    assert undo(done.journal).failed == []


def test_a_journal_of_another_machine_is_left_alone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_state: Path
) -> None:
    done = file_results(FOUR, tmp_path / "out", "move", root=photos)
    assert done.journal is not None
    assert (own_state.stat().st_mode & 0o777, own_state.stat().st_size) == (0o600, 32)
    assert list(own_state.parent.iterdir()) == [own_state]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(InputError, match="was not written by this user's clipcls"):
        undo(done.journal)
    assert not (tmp_path / "another").exists()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert undo(done.journal).failed == []


def test_what_is_no_journal_but_has_the_name_of_one(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe would be waited for, a link or a file without a line break be cut."""
    out = put(
        tmp_path / "out", {"clipcls-sort-1.jsonl": "no line", "clipcls-sort-2.jsonl": "[" * 9**5}
    )
    put(tmp_path, {"mine": '{"clipcls sort": 1, and no more'})
    os.mkfifo(out / "clipcls-sort-3.jsonl")
    (out / "clipcls-sort-4.jsonl").symlink_to(tmp_path / "mine")
    (out / "clipcls-sort-5.jsonl").mkdir()
    (out / "clipcls-sort-6.jsonl").write_bytes(b"\0" * 100 + b"\n")
    os.link(tmp_path / "mine", out / "clipcls-sort-7.jsonl")
    (out / "clipcls-sort-8.jsonl").touch()
    done = file_results(FOUR, out, "move", root=photos)
    assert tree(out) == FILED
    assert (tmp_path / "mine").read_text() == '{"clipcls sort": 1, and no more'
    assert (out / "clipcls-sort-1.jsonl").read_text() == "no line"
    (warning,) = caplog.records
    assert warning.getMessage() == (
        f"{out}/clipcls-sort-1.jsonl: is not a journal of `clipcls sort`; left alone, like 4 more"
    )
    for n in (3, 4, 5):
        with pytest.raises(InputError, match="not a regular file"):
            undo(out / f"clipcls-sort-{n}.jsonl")
    assert undo(out / "clipcls-sort-7.jsonl").changed == 0
    assert (tmp_path / "mine").read_text() == '{"clipcls sort": 1, and no more'
    assert done.journal is not None
    assert undo(done.journal).failed == []
    file_results(results(("a.jpg", "clipcls-sort-1.jsonl")), tmp_path / "new", root=photos)
    assert "_clipcls-sort-1.jsonl/a.jpg" in tree(tmp_path / "new")
    assert file_results(FOUR, tmp_path / "new", root=photos).changed == 4
    assert len(caplog.records) == 1


@pytest.mark.parametrize("mode", ["copy", "move", "link"])
def test_a_link_in_the_folder_leads_nothing_out_of_it(
    photos: Path, tmp_path: Path, mode: Mode
) -> None:
    elsewhere = put(tmp_path / "elsewhere", {"mine": "mine"})
    out = put(tmp_path / "out", {"here/x": "x"})
    (out / "cat").symlink_to(elsewhere)
    (out / "animal").symlink_to(tmp_path / "none yet")
    (out / "unknown").symlink_to("here")
    before = tree(photos)
    assert len(make_plan(FOUR, out, mode, root=photos).report.failed) == 4
    done = file_results(FOUR, out, mode, root=photos)
    assert str(done.failed[0]) == (
        f"a.jpg: {out}/cat leads out of {out}, to {elsewhere}; replace the link by a folder"
    )
    assert tree(elsewhere) == {"mine": b"mine"}
    assert not (tmp_path / "none yet").exists()
    assert (done.changed, (out / "here/c.png").read_bytes()) == (1, b"c")
    assert before["a.jpg"] == (photos / "a.jpg").read_bytes()


@pytest.mark.parametrize("mode", ["copy", "move", "link"])
def test_a_link_put_there_later_leads_neither_undo_nor_resumption_out(
    photos: Path, tmp_path: Path, mode: Mode
) -> None:
    """The victim's copy of the same photo, reached by what was a folder of labels."""
    out = tmp_path / "out"
    done = file_results(FOUR, out, mode, root=photos)
    assert done.journal is not None
    whole = done.journal.read_bytes()
    (out / "cat").rename(tmp_path / "album")
    (out / "cat").symlink_to(tmp_path / "album")
    (out / "animal/dog/b.jpg").unlink()
    (out / "animal/dog").rmdir()
    (out / "animal").rmdir()
    (out / "animal").symlink_to(tmp_path / "empty")
    (tmp_path / "empty/dog").mkdir(parents=True)
    put(photos, {"a.jpg": "a", "sub/a.jpg": "other a", "d.jpg": "d"})
    album, before = tree(tmp_path / "album"), tree(photos)
    done.journal.write_bytes(whole[: whole.index(b'{"done"')])
    assert file_results(results(("d.jpg", "")), out, mode, root=photos).changed == 1
    assert tree(tmp_path / "album") == album
    back = undo(done.journal)
    assert {Path(e.path).name for e in back.failed} >= {"a.jpg", "a.jpg.xmp", "a (2).jpg"}
    assert tree(tmp_path / "album") == album
    assert before.items() <= tree(photos).items()
    assert (tmp_path / "empty/dog").is_dir()


def test_without_a_home_folder_a_run_is_done_but_not_undone(
    photos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.jsonl").write_text('{"path": "photos/b.jpg", "label": "cat"}\n')
    put(tmp_path, {"~/.local/state/clipcls/journal.key": "k" * 32, "no folder": ""})
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)

    def unknown(user: int) -> None:
        raise KeyError(user)

    for number, why in enumerate(("journal.key: cannot be", "no home folder")):
        monkeypatch.setenv("XDG_STATE_HOME", f"{tmp_path}/no folder")
        if number:
            monkeypatch.setattr("pwd.getpwuid", unknown)
            monkeypatch.delenv("XDG_STATE_HOME")
            monkeypatch.delenv("HOME")
        status, _, said = run("sort", "r.jsonl", "--into", f"out {number}")
        assert status == 0, said
        assert "warning: this run can neither be resumed nor undone: " in said
        assert why in said.lower()
        assert "1 copied" in said
        assert "--undo" not in said
        (journal,) = (tmp_path / f"out {number}").glob("*.jsonl")
        assert run("sort", "--undo", str(journal))[0] == 2
        before[f"out {number}/cat/b.jpg"] = b"b"
        assert tree(tmp_path) == before


def test_the_secret_is_whole_wherever_its_maker_is_killed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for no_links in (False, True):
        for call in range(1, 100):
            state = tmp_path / f"state {call} {no_links}"
            monkeypatch.setenv("XDG_STATE_HOME", str(state))
            rows, out = results(("b.jpg", "dog")), tmp_path / f"out {call} {no_links}"
            killed = killed_at(call, lambda: file_results(rows, out, root=photos), no_links)  # noqa: B023
            done = file_results(rows, out, root=photos)
            assert len((state / "clipcls/journal.key").read_bytes()) == 32
            for journal in read_journals(out):
                assert undo(journal.path).failed == []
            assert tree(out) == {}
            if not killed:
                break
        assert call > 3
    (state / "clipcls/journal.key").write_bytes(b"")
    done = file_results(rows, tmp_path / "new", root=photos)
    assert (done.changed, done.journal) == (1, None)
    (file,) = (tmp_path / "new").glob("*.jsonl")
    with pytest.raises(InputError, match=r"journal.key: is damaged; delete it"):
        undo(file)


def test_an_original_that_was_replaced_by_one_of_the_same_size_and_time_is_filed(
    photos: Path, tmp_path: Path
) -> None:
    file_results(FOUR, tmp_path / "out", root=photos)
    (photos / "b.jpg").unlink()
    put(photos, {"b.jpg": "B"})
    (photos / "c.png").chmod(0o600)
    again = file_results(FOUR, tmp_path / "out", root=photos)
    assert (again.changed, again.unchanged) == (1, 3)
    assert tree(tmp_path / "out") == {**FILED, "animal/dog/b (2).jpg": b"B"}


def test_where_files_cannot_be_locked_there_is_one_run_at_a_time(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some network drives: the secret, which is on this machine, is locked instead."""
    import fcntl

    real = fcntl.flock

    def flock(file, operation):
        if not os.readlink(f"/proc/self/fd/{file}").endswith("journal.key"):
            raise OSError(37, "No locks available")
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    done = file_results(FOUR[:1], tmp_path / "out", "move", root=photos)
    assert done.journal is not None
    other = Journal.create(tmp_path / "out", "move")
    with pytest.raises(OutputError, match="another `clipcls sort`"):
        undo(done.journal)
    with pytest.raises(OutputError, match="another `clipcls sort`"):
        file_results(FOUR, tmp_path / "out", "move", root=photos)
    other.close()
    assert file_results(FOUR, tmp_path / "out", "move", root=photos).changed == 3


def test_a_disk_that_takes_no_more(tmp_path: Path, elsewhere: Path) -> None:
    """A limit on a file's size: a real error of write(2) in the middle of a copy."""
    photos = put(tmp_path / "p", {"a.jpg": "a", "big.jpg": "b" * 3_000_000, "c.jpg": "c"})
    before = tree(photos)
    rows = results(("a.jpg", "x"), ("big.jpg", "x"), ("c.jpg", "x"))

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        done = file_results(rows, elsewhere / "out", "move", root=photos)
        assert [e.reason for e in done.failed] == ["file too large"]

    assert forked(run) == 0
    assert tree(photos) == {"big.jpg": before["big.jpg"]}
    assert set(tree(elsewhere / "out")) == {"x/a.jpg", "x/c.jpg"}
    file_results(rows, elsewhere / "out", "move", root=photos)
    assert set(tree(elsewhere / "out")) == {"x/a.jpg", "x/big.jpg", "x/c.jpg"}


def test_a_full_disk_ends_the_run_and_it_goes_on_later(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    real, left = os.fsync, [5]

    def full(file: int) -> None:
        left[0] -= stat.S_ISREG(os.fstat(file).st_mode)
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"no space left.*resumes"):
        file_results(FOUR, tmp_path / "out", root=photos)
    monkeypatch.undo()
    assert 0 < len(tree(tmp_path / "out")) < len(FILED)
    file_results(FOUR, tmp_path / "out", root=photos)
    assert tree(tmp_path / "out") == FILED
    assert len(read_journals(tmp_path / "out")) == 1


# -- the command


def test_the_command(photos: Path) -> None:
    before = tree(photos)
    lines = [json.dumps({"path": name, "label": "cat"}) for name in ("a.jpg", "sub/a.jpg")]
    (photos / "r.jsonl").write_text("\n".join(lines))
    done = sort("r.jsonl", "--into", "out", "--dry-run", cwd=photos)
    assert done.stdout.splitlines() == [
        "a.jpg -> out/cat/a.jpg",
        "a.jpg.xmp -> out/cat/a.jpg.xmp",
        "sub/a.jpg -> out/cat/a (2).jpg",
    ]
    assert done.stderr == "clipcls: dry run; without --dry-run: 2 copied\n"
    done = sort("-", "--into", "out", "--move", cwd=photos, stdin="\n".join(lines))
    assert done.returncode == 0
    assert done.stderr.startswith("clipcls: 2 moved\nclipcls: to undo it: clipcls sort --undo")
    journal = done.stderr.split()[-1]
    done = sort("--undo", journal, cwd=photos)
    assert done.stderr == "clipcls: 3 restored\n"
    (photos / "r.jsonl").unlink()
    assert tree(photos) == before


def test_a_name_that_no_file_can_have_is_one_failed_image(photos: Path) -> None:
    names = ["\ud800.jpg", "a.jpg"]
    records = [json.dumps({"path": name, "label": "cat", "score": 0.9}) for name in names]
    (photos / "r.jsonl").write_text("\n".join(records) + "\n")
    done = sort("r.jsonl", "--into", "out", cwd=photos)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("is not a valid file name") == 1
    assert "1 copied" in done.stderr
    assert (photos / "out/cat/a.jpg").read_bytes() == b"a"


def test_paths_are_named_from_here_where_they_are_below(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    assert shorten_path(photos / "sub" / "a.jpg") == os.path.join("sub", "a.jpg")
    assert shorten_path(photos.parent / "b.jpg") == str(photos.parent / "b.jpg")
    with monkeypatch.context() as windows:
        windows.setattr(os.path, "relpath", ntpath.relpath)
        windows.setattr(os, "getcwd", lambda: "C:\\photos")
        below: Any = PureWindowsPath("C:/photos/a.jpg")
        elsewhere: Any = PureWindowsPath("D:/sorted/cat")
        assert shorten_path(below) == "a.jpg"
        assert shorten_path(elsewhere) == "D:\\sorted\\cat"


def test_bad_usage_is_one_line_and_nothing_is_done(
    photos: Path, run_real: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    (photos / "r.jsonl").write_text('{"path": "a.jpg", "label": "cat"}\n')
    for arguments, status, message in [
        (["r.jsonl"], 2, "--into DIR"),
        (["r.jsonl", "--into", "o", "--move", "--link"], 2, "exclude each other"),
        (["--undo", "j", "--into", "o"], 2, "stands alone"),
        (["--undo", "r.jsonl"], 2, "is not a journal"),
        (["--undo", "none"], 2, "none: cannot be read"),
        (["none.jsonl", "--into", "o"], 2, "none.jsonl: cannot be read"),
        (["b.jpg", "--into", "o"], 2, "neither JSON nor a csv"),
        (["r.jsonl", "--into", "b.jpg"], 2, "b.jpg"),
        (["r.jsonl", "--into", "/proc/clipcls"], 3, "/proc/clipcls"),
        (["r.jsonl", "--into", "/sys"], 3, "/sys"),
    ]:
        found, _, said = run_real("sort", *arguments)
        assert found == status, said
        assert message in said
        assert not (photos / "o").exists()


def test_a_long_run_keeps_no_scores_for_filing() -> None:
    answers = [{"label": "dog", "lineage": ["animal", "dog"], "score": 0.9}, {"label": "cat"}]
    best = {"label": "cat", "score": 0.1, "similarity": 0.2}
    for labels in (answers, []):
        whole = Prediction.from_dict({"path": "a.jpg", "labels": labels, "best": best})
        (kept,) = all_of(Prediction, [without_scores(whole)])
        assert (kept.path, kept.label, kept.label_paths) == (
            whole.path,
            whole.label,
            whole.label_paths,
        )
        assert (kept.top, kept.labels, kept.provenance) == ((), None, None)
    error = ImageError("a.jpg", "truncated")
    assert without_scores(error) is error
