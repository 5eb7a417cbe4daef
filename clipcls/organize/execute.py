"""Results -> images copied, moved or linked into one folder per label, with a journal to undo it.

Nothing is ever overwritten. Each step can be interrupted anywhere: what the journal announced and
did not confirm is looked up in the files, and finished or undone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcls.errors import ImageError, OutputError, os_reason
from clipcls.files.folders import sync_folder
from clipcls.organize.fileops import (
    RefusalError,
    check_inside,
    copy,
    describe_error,
    is_link_to,
    is_placed,
    is_reserved,
    is_same_file,
    make_folder,
    move,
    place,
    same_content,
)
from clipcls.organize.journal import Entry, Journal, Mode, read_journals
from clipcls.organize.plan import Plan, Step, make_plan
from clipcls.predictions import Result

__all__ = ["Filing", "Undoing", "file_results", "undo"]

logger = logging.getLogger(__name__)

_AT_ONCE = 32  # announced together: one fsync
_NO_MORE_OF_IT = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@dataclass(slots=True)
class Filing:
    """What a run did.

    Attributes:
        mode: copy, move or link.
        plan: what it meant to do.
        filed: how many images are in a folder now that were not before.
        failed: images that could not be filed, those of the plan included.
        journal: its journal, for `undo`; None where nothing was done, or nothing can be undone.
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
            parts.append(f"{self.plan.already:,} already there")
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


def file_results(
    results: Sequence[Result],
    into: str | os.PathLike[str],
    mode: Mode = "copy",
    *,
    root: str | os.PathLike[str] = ".",
    watch: Callable[[int], None] = lambda failed: None,
) -> Filing:
    """Files images by their labels; the same call resumes an interrupted one.

    Args:
        results: of `read_results`.
        into: the folder that gets one folder per label; created if missing.
        mode: copy, move, or link (symbolic, to the absolute path).
        root: what the results' paths are relative to.
        watch: called after each image with the number that failed so far.

    Raises:
        InputError: none of the images exists.
        OutputError: `into` cannot be written, or is full.
    """
    target = Path(os.path.abspath(into))
    journals = read_journals(target)
    # Before anything is made: it may refuse.
    make_plan(results, target, mode, root=root, journals=journals)
    try:
        make_folder(target)
    except OSError as error:
        raise OutputError(f"{into}: cannot be made a folder ({os_reason(error)})") from error
    journal = _resume(journals, mode)
    try:
        todo = make_plan(results, target, mode, root=root, journals=journals)
        done = Filing(mode, todo, failed=list(todo.failed))
        if todo.steps and journal is None:
            journal = Journal.create(target, mode)
            if journal.unsigned:
                logger.warning("this run can neither be resumed nor undone: %s", journal.unsigned)
        if journal is not None:
            done.journal = None if journal.unsigned else journal.path
            for step, why_not in _file(journal, todo):
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
        InputError: it is no journal, or not one that this user's clipcls wrote on this machine.
        OutputError: it cannot be written.
    """
    log = Journal.read(Path(journal))
    done = Undoing()
    if not log.entries and not log.folders:
        return done
    log.open()
    into = log.path.absolute().parent
    try:
        for entry in reversed(list(log.entries.values())):
            try:
                if entry.state == "announced":
                    _settle(log, entry)
                if entry.state in ("failed", "undone"):
                    continue
                why = _undo(log, entry)
            except OSError as error:
                why = describe_error(error)
            if why:
                done.kept.append(ImageError(os.fspath(entry.target), why))
            else:
                log.mark(entry, "undone")
                done.undone += 1
            watch(len(done.kept))
        for folder in reversed(log.folders):
            with contextlib.suppress(OSError):
                check_inside(folder.parent, into)
                folder.rmdir()
        log.finish()
    finally:
        log.close()
    return done


def _resume(journals: Iterable[Journal], mode: Mode) -> Journal | None:
    """Settles what earlier runs left open; returns the last one's journal, to be resumed."""
    current = None
    for journal in journals:
        loose = [e for e in journal.entries.values() if e.state in ("announced", "undoing")]
        if journal.finished and not loose:
            continue
        journal.open()
        for entry in loose:
            with contextlib.suppress(OSError):  # it stays open
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


def _file(journal: Journal, plan: Plan) -> Iterator[tuple[Step, str | None]]:
    """Does a plan's steps; yields each with None, or why it could not be done."""
    steps = plan.steps
    for start in range(0, len(steps), _AT_ONCE):
        group = steps[start : start + _AT_ONCE]
        announced: list[list[Entry] | OSError] = []
        for step in group:
            try:
                announced.append(_entries(journal, step))
            except OSError as error:
                announced.append(error)
        entries = [e for some in announced if isinstance(some, list) for e in some]
        journal.announce(entries, _missing_folders(journal, group), plan.labels)
        for step, todo in zip(group, announced, strict=True):
            try:
                if isinstance(todo, OSError):
                    raise todo
                _do_step(journal, step, todo)
            except OSError as error:
                if error.errno in _NO_MORE_OF_IT:
                    raise OutputError(
                        f"{step.folder}: cannot be written ({os_reason(error)}); once it can, the "
                        "same command resumes"
                    ) from error
                yield step, describe_error(error)
            else:
                yield step, None


def _entries(journal: Journal, step: Step) -> list[Entry]:
    pairs = reversed(list(zip(step.sources, step.targets, strict=True)))
    return [
        journal.entry(source, target, source.stat())
        for source, target in pairs
        if not is_placed(journal.mode, source, target)
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
    """The sidecars first, so that a filed image has them; all of them or none.

    A name that was taken since the plan was made is numbered on.
    """
    try:
        check_inside(step.folder, journal.path.parent)
        make_folder(step.folder)
    except OSError as error:
        for entry in todo:
            journal.mark(entry, "failed")
        if error.errno in _NO_MORE_OF_IT or isinstance(error, RefusalError):
            raise
        reason = f"{step.folder} cannot be made a folder: {os_reason(error)}"
        raise RefusalError(reason) from error
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
        FileExistsError: the target exists.
        OSError: it was not done, and nothing is left of it.
    """
    if mode == "link":
        os.symlink(entry.source, entry.target)
    elif mode == "copy":
        copy(entry.source, entry.part)
        try:
            place(entry.part, entry.target)
        except OSError:
            entry.part.unlink()
            raise
    else:
        move(entry.source, entry.target, entry.part)


def _settle(journal: Journal, entry: Entry) -> None:
    """Finds out what became of an entry that was announced; finishes it or takes it back.

    Raises:
        RefusalError: a link takes its target out of the journal's folder; nothing was done.
    """
    source, target = entry.source, entry.target
    check_inside(target.parent, journal.path.parent)
    for part in (entry.part, source.with_name(entry.part.name)):
        with contextlib.suppress(OSError):
            part.unlink()
    if entry.state == "undoing" and is_reserved(source, target):
        source.unlink()
    if journal.mode == "link":
        done = is_link_to(target, source)
    elif not os.path.lexists(source):
        done = journal.mode == "move" and os.path.lexists(target)
    elif is_reserved(target, source):
        target.unlink()
        done = False
    else:
        done = is_same_file(source, target) or same_content(source, target)
        if done and journal.mode == "move":
            sync_folder(target.parent)
            source.unlink()
    journal.mark(entry, "done" if done else "failed")


def _undo(journal: Journal, entry: Entry) -> str:
    """Takes one entry back; returns why not, or ""."""
    source, target = entry.source, entry.target
    check_inside(target.parent, journal.path.parent)
    if journal.mode == "link":
        if os.path.lexists(target) and not is_link_to(target, source):
            return "is not the link that was made"
        target.unlink(missing_ok=True)
        return ""
    if journal.mode == "copy":
        if not os.path.lexists(target):
            return ""
        if not same_content(source, target):
            return "the original is missing or differs from this copy"
        target.unlink()
        return ""
    part = source.with_name(entry.part.name)
    part.unlink(missing_ok=True)
    if not os.path.lexists(target):
        return "" if os.path.lexists(source) else "no longer exists"
    if os.path.lexists(source):
        if entry.state == "undoing" and is_reserved(source, target):
            source.unlink()
        elif is_same_file(source, target) or same_content(source, target):
            sync_folder(source.parent)
            target.unlink()
            return ""
        else:
            return f"another file exists at {source}"
    journal.mark(entry, "undoing")
    make_folder(source.parent)
    move(target, source, part)
    return ""
