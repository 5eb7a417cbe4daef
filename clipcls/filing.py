"""Results -> images copied, moved or linked into a folder a label, with a journal to undo it.

Nothing is ever overwritten: a file gets its name by a call that fails where the name is taken, and
a copy is made under a temporary name first. Each step can be interrupted anywhere: what the journal
announced and did not confirm is looked up in the files, and finished or taken back.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import itertools
import os
import shutil
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcls.errors import ImageError, InputError, OutputError
from clipcls.folders import alike, folders_of
from clipcls.inputs import os_reason
from clipcls.journal import Entry, Journal, Mode, journals_in, sync_folder
from clipcls.results import Result

__all__ = ["Filing", "Plan", "Step", "Undoing", "file_results", "place", "plan", "undo"]

_AT_ONCE = 32  # announced together: one fsync
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_MORE_OF_IT = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """One image on its way into one folder, with its sidecars.

    Attributes:
        path: the image as the results name it.
        sources: the image and the sidecars that come along, absolute.
        folder: where they go, absolute.
        number: 1 for the image's own name, 2 for `name (2).jpg`, ...
    """

    path: str
    sources: tuple[Path, ...]
    folder: Path
    number: int

    @property
    def targets(self) -> tuple[Path, ...]:
        """Where each of `sources` goes."""
        image = self.sources[0]
        stem = image.stem if self.number == 1 else f"{image.stem} ({self.number})"
        names = [stem + image.suffix]
        for sidecar in self.sources[1:]:
            own = sidecar.stem == image.stem
            names.append((stem if own else stem + image.suffix) + sidecar.suffix)
        return tuple(self.folder / name for name in names)


@dataclass(slots=True)
class Plan:
    """What a run is going to do.

    Attributes:
        steps: in the order of the results.
        already: how many images are in their folder already.
        unread: how many images `classify` could not read; they are left alone.
        best_only: how many images have several labels and are moved to the best one's folder.
        failed: images that are not there or cannot be filed.
    """

    steps: list[Step] = field(default_factory=list)
    already: int = 0
    unread: int = 0
    best_only: int = 0
    failed: list[ImageError] = field(default_factory=list)


@dataclass(slots=True)
class Filing:
    """What a run did.

    Attributes:
        mode: copy, move or link.
        plan: what it meant to do.
        filed: how many images are in a folder now that were not before.
        failed: images that could not be filed, those of the plan included.
        journal: its journal; None where there was nothing to do.
    """

    mode: Mode
    plan: Plan
    filed: int = 0
    failed: list[ImageError] = field(default_factory=list)
    journal: Path | None = None

    @property
    def exit_code(self) -> int:
        """0: all filed; 1: some could not be."""
        return 1 if self.failed else 0

    def summary(self) -> str:
        """One line."""
        done = {"copy": "copied", "move": "moved", "link": "linked"}[self.mode]
        parts = [f"{self.filed:,} {done}"]
        if self.plan.already:
            parts.append(f"{self.plan.already:,} there already")
        if self.plan.best_only:
            parts.append(f"{self.plan.best_only:,} with several labels moved to the best only")
        if self.plan.unread:
            parts.append(f"{self.plan.unread:,} left alone that `classify` could not read")
        if self.failed:
            parts.append(f"{len(self.failed):,} could not be {done}")
        return "; ".join(parts)


@dataclass(slots=True)
class Undoing:
    """What was undone.

    Attributes:
        undone: how many files (sidecars count) are as they were.
        kept: files that stay where they are, and why.
    """

    undone: int = 0
    kept: list[ImageError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: everything; 1: some files were kept."""
        return 1 if self.kept else 0


def plan(
    results: Sequence[Result],
    into: str | os.PathLike[str],
    mode: Mode = "copy",
    *,
    root: str | os.PathLike[str] = ".",
) -> Plan:
    """What `file_results` is going to do; changes nothing.

    Args:
        results: of `read_results`.
        into: the folder that gets a folder a label.
        mode: copy, move, or link (symbolic, to the absolute path).
        root: what the results' paths are relative to.

    Raises:
        InputError: none of the images is there, or a journal in `into` cannot be read.
    """
    return _Planner(Path(os.path.abspath(into)), mode, Path(root)).plan(results)


def file_results(
    results: Sequence[Result],
    into: str | os.PathLike[str],
    mode: Mode = "copy",
    *,
    root: str | os.PathLike[str] = ".",
    watch: Callable[[int], None] = lambda failed: None,
) -> Filing:
    """Files images by their labels; the same call again goes on where one was interrupted.

    Args:
        results: of `read_results`.
        into: the folder that gets a folder a label; made where it is missing.
        mode: copy, move, or link (symbolic, to the absolute path).
        root: what the results' paths are relative to.
        watch: called after each image with the number that failed so far.

    Raises:
        InputError: none of the images is there, or a journal in `into` cannot be read.
        OutputError: `into` cannot be written, or is full.
    """
    target = Path(os.path.abspath(into))
    _Planner(target, mode, Path(root)).plan(results)  # refuses before anything is made
    try:
        _make_folder(target)
    except OSError as error:
        raise OutputError(f"{into}: cannot be made a folder ({os_reason(error)})") from error
    journal = _resume(target, mode)
    try:
        todo = _Planner(target, mode, Path(root)).plan(results)
        done = Filing(mode, todo, failed=list(todo.failed))
        if todo.steps and journal is None:
            journal = Journal.create(target, mode)
        if journal is not None:
            done.journal = journal.path
            for step, why_not in _file(journal, todo.steps):
                if why_not is None:
                    done.filed += 1
                else:
                    done.failed.append(ImageError(step.path, why_not))
                watch(len(done.failed))
            journal.finish()
    finally:
        if journal is not None:
            journal.close()
    return done


def undo(
    journal: str | os.PathLike[str], *, watch: Callable[[int], None] = lambda kept: None
) -> Undoing:
    """Takes back what a journal says was done, last first; may be interrupted and called again.

    A moved file goes back. A copy is removed if its original is still there with the same content,
    a link if it is still the same link; folders that were made are removed where they are empty.
    Everything else is kept and named.

    Raises:
        InputError: it is no journal.
        OutputError: it cannot be written.
    """
    log = Journal.read(Path(journal))
    log.open()
    done = Undoing()
    try:
        for entry in reversed(list(log.entries.values())):
            if entry.state == "announced":
                _settle(log, entry)
            if entry.state in ("failed", "undone"):
                continue
            try:
                why = _undo(log, entry)
            except OSError as error:
                why = _reason(error)
            if why:
                done.kept.append(ImageError(os.fspath(entry.target), why))
            else:
                log.mark(entry, "undone")
                done.undone += 1
            watch(len(done.kept))
        for folder in reversed(log.folders):
            with contextlib.suppress(OSError):
                folder.rmdir()
        log.finish()
    finally:
        log.close()
    return done


class _RefusalError(OSError):
    """A reason of our own, told as it is."""


def _reason(error: OSError) -> str:
    return str(error) if isinstance(error, _RefusalError) else os_reason(error)


class _Planner:
    def __init__(self, into: Path, mode: Mode, root: Path) -> None:
        self.into = into
        self.mode = mode
        self.root = root
        self.earlier: dict[Path, list[Entry]] = defaultdict(list)
        for journal in journals_in(into):
            for entry in journal.entries.values():
                if entry.state in ("done", "announced"):
                    self.earlier[entry.source].append(entry)
        self.taken: dict[Path, set[str]] = defaultdict(set)
        self.seen: set[tuple[Path, Path | None]] = set()
        self.listed: dict[Path, tuple[dict[str, str], Counter[str]]] = {}
        self.result = Plan()

    def plan(self, results: Sequence[Result]) -> Plan:
        folders = folders_of(label for r in results for label in r.labels or ((),))
        for names in folders.values():
            for depth, name in enumerate(names):
                self.taken[self.into.joinpath(*names[:depth])].add(alike(name))
        missing = 0
        for result in results:
            if result.error:
                self.result.unread += 1
                continue
            source = Path(os.path.abspath(self.root / result.path))
            labels = result.labels or ((),)
            if self.mode == "move" and len(labels) > 1:
                self.result.best_only += 1
                labels = labels[:1]
            places = [self.into.joinpath(*folders[label]) for label in labels]
            try:
                self._image(result.path, source, places)
            except FileNotFoundError:
                missing += 1
                self.result.failed.append(ImageError(result.path, "no such file"))
            except OSError as error:
                self.result.failed.append(ImageError(result.path, _reason(error)))
        if missing and missing == len(results) - self.result.unread:
            raise InputError(
                f"{self.result.failed[0].path}: no such file, nor any other of the results; their "
                "paths are relative to where `classify` ran: give that folder with --root"
            )
        return self.result

    def _image(self, path: str, source: Path, places: Iterable[Path]) -> None:
        try:
            seen = source.lstat()
        except FileNotFoundError:
            if not path or not self.earlier.get(source):
                raise
            self.result.already += 1
            return
        if stat.S_ISLNK(seen.st_mode):
            if self.mode == "move":
                raise _RefusalError("is a link, which is not moved; name its file")
            seen = source.stat()
        if not path or not stat.S_ISREG(seen.st_mode):
            raise _RefusalError("is not a file")
        for folder in places:
            key = (source, None if self.mode == "move" else folder)
            if key in self.seen:
                continue
            self.seen.add(key)
            if self._is_there(source, seen, folder):
                self.result.already += 1
                continue
            for number in itertools.count(1):
                step = Step(path, (source, *self._sidecars(source)), folder, number)
                names = [alike(target.name) for target in step.targets]
                if self.taken[folder].intersection(names):
                    continue
                there = [os.path.lexists(target) for target in step.targets]
                if any(there) and not all(
                    _is_the_same(self.mode, source, target)
                    for source, target, is_there in zip(
                        step.sources, step.targets, there, strict=True
                    )
                    if is_there
                ):
                    continue
                self.taken[folder].update(names)
                if all(there):
                    self.result.already += 1
                else:
                    self.result.steps.append(step)
                break

    def _is_there(self, source: Path, seen: os.stat_result, folder: Path) -> bool:
        if os.path.realpath(source.parent) == os.path.realpath(folder):
            return True
        return any(
            entry.target.parent == folder
            and (entry.size, entry.mtime_ns) == (seen.st_size, seen.st_mtime_ns)
            and entry.state == "done"
            and os.path.lexists(entry.target)
            for entry in self.earlier.get(source, ())
        )

    def _sidecars(self, image: Path) -> Iterator[Path]:
        """photo.jpg.xmp, and photo.xmp where no other file beside it (a raw) has that stem."""
        if image.parent not in self.listed:
            names = os.listdir(image.parent)
            stems = Counter(Path(n).stem for n in names if not n.lower().endswith(".xmp"))
            self.listed[image.parent] = {n.lower(): n for n in names}, stems
        names_of, stems = self.listed[image.parent]
        found = [names_of.get(f"{image.name}.xmp".lower())]
        if stems[image.stem] == 1:
            found.append(names_of.get(f"{image.stem}.xmp".lower()))
        for sidecar in (image.with_name(name) for name in found if name):
            # A relative link would lead elsewhere from there.
            if sidecar.is_file() and not (self.mode == "move" and sidecar.is_symlink()):
                yield sidecar


def _resume(into: Path, mode: Mode) -> Journal | None:
    """Settles what earlier runs left open; the last one's journal is gone on with."""
    current = None
    for journal in journals_in(into):
        loose = [e for e in journal.entries.values() if e.state in ("announced", "undoing")]
        if journal.finished and not loose:
            continue
        journal.open()
        for entry in loose:
            _settle(journal, entry)
        if journal.mode == mode and not journal.finished:
            if current is not None:
                current.finish()
                current.close()
            current = journal
        else:
            journal.finish()
            journal.close()
    return current


def _file(journal: Journal, steps: Sequence[Step]) -> Iterator[tuple[Step, str | None]]:
    """Does the steps; yields each with None, or why it could not be done."""
    for start in range(0, len(steps), _AT_ONCE):
        group = steps[start : start + _AT_ONCE]
        announced: list[list[Entry] | OSError] = []
        for step in group:
            try:
                announced.append(_entries(journal, step))
            except OSError as error:
                announced.append(error)
        entries = [e for some in announced if isinstance(some, list) for e in some]
        journal.announce(entries, _missing_folders(journal, group))
        for step, todo in zip(group, announced, strict=True):
            try:
                if isinstance(todo, OSError):
                    raise todo
                _do_step(journal, step, todo)
            except OSError as error:
                if error.errno in _NO_MORE_OF_IT:
                    raise OutputError(
                        f"{step.folder}: cannot be written ({os_reason(error)}); once it can, the "
                        "same command again goes on"
                    ) from error
                yield step, _reason(error)
            else:
                yield step, None


def _entries(journal: Journal, step: Step) -> list[Entry]:
    pairs = reversed(list(zip(step.sources, step.targets, strict=True)))
    return [
        journal.entry(source, target, source.stat())
        for source, target in pairs
        if not _is_the_same(journal.mode, source, target)
    ]


def _missing_folders(journal: Journal, steps: Iterable[Step]) -> list[Path]:
    into = Path(os.path.abspath(journal.path)).parent
    wanted = dict.fromkeys(
        folder
        for step in steps
        for folder in [*reversed(step.folder.parents), step.folder]
        if into in folder.parents
    )
    known = set(journal.folders)
    return [f for f in wanted if f not in known and not os.path.lexists(f)]


def _do_step(journal: Journal, step: Step, todo: list[Entry]) -> None:
    """The sidecars first, so that an image that is there has them; all of them or none.

    A name that was taken since the plan was made is numbered on.
    """
    try:
        _make_folder(step.folder)
    except OSError as error:
        for entry in todo:
            journal.mark(entry, "failed")
        if error.errno in _NO_MORE_OF_IT:
            raise
        reason = f"{step.folder} cannot be made a folder: {os_reason(error)}"
        raise _RefusalError(reason) from error
    number = step.number
    while True:
        try:
            for entry in todo:
                _do(journal.mode, entry)
                journal.mark(entry, "done")
            return
        except OSError as error:
            for entry in todo:
                if entry.state == "done":
                    with contextlib.suppress(OSError):
                        _undo(journal, entry)
                        journal.mark(entry, "undone")
                else:
                    journal.mark(entry, "failed")
            if not isinstance(error, FileExistsError):
                raise
        while True:
            number += 1
            step = Step(step.path, step.sources, step.folder, number)
            if not any(map(os.path.lexists, step.targets)):
                break
        todo = _entries(journal, step)
        journal.announce(todo)


def _do(mode: Mode, entry: Entry) -> None:
    """Copies, moves or links one file.

    Raises:
        FileExistsError: there is something at the target.
        OSError: it was not done, and nothing is left of it.
    """
    if mode == "link":
        os.symlink(entry.source, entry.target)
    elif mode == "copy":
        _copy(entry.source, entry.part)
        try:
            place(entry.part, entry.target)
        except OSError:
            entry.part.unlink()
            raise
    else:
        _move(entry.source, entry.target, entry.part)


def _move(source: Path, target: Path, part: Path) -> None:
    try:
        place(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        return
    _copy(source, part)
    try:
        if not _same_content(source, part):
            raise _RefusalError("what was written is not what was read")
        place(part, target)
    except OSError:
        part.unlink()
        raise
    sync_folder(target.parent)
    try:
        source.unlink()
    except OSError:
        target.unlink()
        raise


def _make_folder(folder: Path) -> None:
    """Makes a folder and those above it, and puts their names on the disk.

    Otherwise a file that was moved there from another disk may be on neither after a power cut.
    """
    missing = itertools.takewhile(lambda f: not os.path.lexists(f), (folder, *folder.parents))
    above = [made.parent for made in missing]
    folder.mkdir(parents=True, exist_ok=True)
    for parent in above:
        sync_folder(parent)


def place(file: Path, name: Path) -> None:
    """Renames a file on its own file system, where nothing has the name.

    Raises:
        FileExistsError: something has it.
        OSError: it cannot be done; with EXDEV the name is on another file system.
    """
    if os.name == "nt":
        os.rename(file, name)  # which refuses there
        return
    try:
        os.link(file, name)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # FAT and some network drives: an empty file of our own keeps the name free of others.
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(file, name)
        except OSError:
            os.unlink(name)
            raise
        return
    try:
        os.unlink(file)
    except OSError:
        os.unlink(name)
        raise


def _copy(source: Path, part: Path) -> None:
    """Copies a file, its times and permissions under a new name, to the disk."""
    with source.open("rb") as read:
        before = os.fstat(read.fileno())
        with part.open("xb") as write:
            try:
                shutil.copyfileobj(read, write, _CHUNK)
                write.flush()
                after = os.fstat(read.fileno())
                if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                    raise _RefusalError("was changed while it was copied")
                if write.tell() != after.st_size:
                    raise _RefusalError("could not be read whole")
                os.fsync(write.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    write.close()
                part.unlink()
                raise
    with contextlib.suppress(OSError):
        shutil.copystat(source, part)


def _settle(journal: Journal, entry: Entry) -> None:
    """Finds out what became of an entry that was announced; finishes it or takes it back."""
    source, target = entry.source, entry.target
    for part in (entry.part, source.with_name(entry.part.name)):
        with contextlib.suppress(OSError):
            part.unlink()
    if entry.state == "undoing" and _is_reserved(source, target):
        source.unlink()
    if journal.mode == "link":
        done = _is_link_to(target, source)
    elif not os.path.lexists(source):
        done = journal.mode == "move" and os.path.lexists(target)
    elif _is_reserved(target, source):
        target.unlink()
        done = False
    else:
        done = _is_same_file(source, target) or _same_content(source, target)
        if done and journal.mode == "move":
            sync_folder(target.parent)
            source.unlink()
    journal.mark(entry, "done" if done else "failed")


def _undo(journal: Journal, entry: Entry) -> str:
    """Takes one entry back; returns why not, or ""."""
    source, target = entry.source, entry.target
    if journal.mode == "link":
        if os.path.lexists(target) and not _is_link_to(target, source):
            return "is not the link that was made"
        target.unlink(missing_ok=True)
        return ""
    if journal.mode == "copy":
        if not os.path.lexists(target):
            return ""
        if not _same_content(source, target):
            return "the original is gone or differs from this copy"
        target.unlink()
        return ""
    part = source.with_name(entry.part.name)
    part.unlink(missing_ok=True)
    if not os.path.lexists(target):
        return "" if os.path.lexists(source) else "is not there any more"
    if os.path.lexists(source):
        if entry.state == "undoing" and _is_reserved(source, target):
            source.unlink()
        elif _is_same_file(source, target) or _same_content(source, target):
            sync_folder(source.parent)
            target.unlink()
            return ""
        else:
            return f"there is another file at {source}"
    journal.mark(entry, "undoing")
    _make_folder(source.parent)
    _move(target, source, part)
    return ""


def _is_the_same(mode: Mode, source: Path, target: Path) -> bool:
    """Whether a copy or link is there already."""
    if mode == "link":
        return _is_link_to(target, source)
    return mode == "copy" and _same_content(source, target)


def _is_reserved(name: Path, file: Path) -> bool:
    """Whether a name is only held by the empty file that `place` puts there."""
    try:
        held = name.lstat()
        return stat.S_ISREG(held.st_mode) and held.st_size == 0 < file.stat().st_size
    except OSError:
        return False


def _is_link_to(link: Path, file: Path) -> bool:
    try:
        return os.readlink(link) == os.fspath(file)
    except OSError:
        return False


def _is_same_file(one: Path, other: Path) -> bool:
    """Whether these are two hard links of one file, so that either may go.

    One link that is reached on two ways, by a link to its folder, is not.
    """
    try:
        first, second = one.lstat(), other.lstat()
    except OSError:
        return False
    places = [(os.path.realpath(path.parent), path.name) for path in (one, other)]
    return os.path.samestat(first, second) and first.st_nlink > 1 and places[0] != places[1]


def _same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes, and are not one; `other` is no symbolic link."""
    try:
        if not stat.S_ISREG(other.lstat().st_mode) or os.path.samestat(one.stat(), other.stat()):
            return False
        filecmp.clear_cache()
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
