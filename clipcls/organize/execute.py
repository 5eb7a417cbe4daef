"""Copy, move or link images into one folder per label, with a journal to undo it.

Nothing is ever overwritten. Each step can be interrupted anywhere: the files show whether what the
journal announced without confirming was done, and it is finished or undone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from clipcls.errors import ImageError, OutputError, os_reason
from clipcls.files.folders import sync_folder
from clipcls.organize.fileops import (
    Mode,
    RefusalError,
    check_inside,
    copy,
    is_link_to,
    is_placed,
    is_reserved,
    is_same_file,
    make_folder,
    move,
    place,
    same_content,
)
from clipcls.organize.journal import Entry, Journal, read_journals
from clipcls.organize.plan import Plan, Step, make_plan
from clipcls.organize.report import Report
from clipcls.predictions import Result

logger = logging.getLogger(__name__)

_AT_ONCE = 32  # steps announced together: one fsync
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def file_results(
    results: Sequence[Result],
    into: str | os.PathLike[str],
    mode: Mode = "copy",
    *,
    root: str | os.PathLike[str] = ".",
    watch: Callable[[int], None] = lambda failed: None,
) -> Report:
    """File images by their labels; the same call resumes an interrupted one.

    Args:
        results: of `read_results`.
        into: the folder that gets one folder per label; made if missing.
        mode: copy, move, or link (symbolic, to the absolute path).
        root: what the results' paths are relative to.
        watch: called after each image with the number that failed so far.

    Raises:
        InputError: none of the images exists.
        OutputError: `into` cannot be written, or its disk is full.
    """
    target = Path(os.path.abspath(into))
    journals = read_journals(target)
    journal = _resume(journals, mode)
    try:
        # Before anything is made: it may refuse.
        plan = make_plan(results, target, mode, root=root, journals=journals)
        try:
            make_folder(target)
        except OSError as error:
            raise OutputError(f"{into}: cannot be made a folder ({os_reason(error)})") from error
        if plan.steps and journal is None:
            journal = Journal.create(target, mode)
            if journal.unsigned:
                logger.warning("this run can neither be resumed nor undone: %s", journal.unsigned)
        if journal is not None:
            plan.report.journal = None if journal.unsigned else journal.path
            _run(journal, plan, watch)
            journal.finish()
    finally:
        if journal is not None:
            journal.close()
    return plan.report


def undo(
    journal: str | os.PathLike[str], *, watch: Callable[[int], None] = lambda failed: None
) -> Report:
    """Undo what a journal says was done, last first; may be interrupted and called again.

    A moved file goes back. A copy is removed if its original still exists with the same content, a
    link if it is still the same link; folders that were made are removed if they are empty.
    Everything else is kept, and reported as failed.

    Raises:
        InputError: it is not a journal, or not one that this user's clipcls wrote on this machine.
        OutputError: it cannot be written.
    """
    log = Journal.read(Path(journal))
    report = Report("restored")
    if not log.entries and not log.folders:
        return report
    log.open()
    try:
        for entry in reversed(list(log.entries.values())):
            try:
                if entry.state == "announced":
                    _settle(log, entry)
                if entry.state in ("failed", "undone"):
                    continue
                _undo(log, entry)
                log.mark(entry, "undone")
                report.changed += 1
            except OSError as error:
                report.failed.append(ImageError(os.fspath(entry.target), os_reason(error)))
            watch(len(report.failed))
        for folder in reversed(log.folders):
            with contextlib.suppress(OSError):
                check_inside(folder.parent, log.folder)
                folder.rmdir()
        log.finish()
    finally:
        log.close()
    return report


def _resume(journals: Iterable[Journal], mode: Mode) -> Journal | None:
    """Settle what earlier runs left open; return the last one's journal if it can be resumed."""
    current: Journal | None = None
    for journal in journals:
        loose = [e for e in journal.entries.values() if e.state in ("announced", "undoing")]
        if journal.finished and not loose:
            continue
        journal.open()
        for entry in loose:
            with contextlib.suppress(OSError):  # it stays open
                _settle(journal, entry)
        done: Journal | None = journal
        if journal.mode == mode and not journal.finished:
            done, current = current, journal
        if done is not None:
            done.finish()
            done.close()
    return current


def _run(journal: Journal, plan: Plan, watch: Callable[[int], None]) -> None:
    report = plan.report
    for start in range(0, len(plan.steps), _AT_ONCE):
        steps = plan.steps[start : start + _AT_ONCE]
        entries = [_make_entries(journal, step) for step in steps]
        journal.announce([entry for some in entries for entry in some], plan.labels)
        for step, todo in zip(steps, entries, strict=True):
            try:
                _run_step(journal, step, todo)
                report.changed += 1
            except OSError as error:
                if error.errno in _DISK_ERRORS:
                    raise OutputError(
                        f"{step.folder}: cannot be written ({os_reason(error)}); once it can, the "
                        "same command resumes"
                    ) from error
                report.failed.append(ImageError(step.path, os_reason(error)))
            watch(len(report.failed))


def _make_entries(journal: Journal, step: Step) -> list[Entry]:
    """The sidecars first, so that a filed image has them."""
    return [
        journal.entry(source, target, step.sources[source])
        for source, target in reversed(step.targets.items())
        if not is_placed(journal.mode, source, target)
    ]


def _run_step(journal: Journal, step: Step, entries: Sequence[Entry]) -> None:
    """Copy, move or link all of a step's files, or none and raise `OSError`."""
    try:
        check_inside(step.folder, journal.folder)
        try:
            make_folder(step.folder)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            reason = f"{step.folder} cannot be made a folder: {os_reason(error)}"
            raise RefusalError(reason) from error
        for entry in entries:
            _place(journal.mode, entry)
            journal.mark(entry, "done")
    except OSError as error:
        for entry in entries:
            if entry.state == "done":
                with contextlib.suppress(OSError):
                    _undo(journal, entry)
                    journal.mark(entry, "undone")
            else:
                journal.mark(entry, "failed")
        if isinstance(error, FileExistsError):
            raise RefusalError("its new name was taken in the meantime; run it again") from error
        raise


def _place(mode: Mode, entry: Entry) -> None:
    """Copy, move or link one file; after an `OSError` nothing is left of it."""
    if mode == "link":
        os.symlink(entry.source, entry.target)
    elif mode == "move":
        move(entry.source, entry.target, entry.part)
    else:
        copy(entry.source, entry.part)
        try:
            place(entry.part, entry.target)
        except OSError:
            entry.part.unlink()
            raise


def _settle(journal: Journal, entry: Entry) -> None:
    """Find out what became of an entry that was announced, and finish it or take it back."""
    source, target = entry.source, entry.target
    check_inside(target.parent, journal.folder)
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


def _undo(journal: Journal, entry: Entry) -> None:
    """Take one entry back, or raise `OSError`."""
    source, target = entry.source, entry.target
    check_inside(target.parent, journal.folder)
    exists = os.path.lexists(target)
    if journal.mode == "link":
        if exists and not is_link_to(target, source):
            raise RefusalError("is not the link that was made")
        target.unlink(missing_ok=True)
        return
    if journal.mode == "copy":
        if exists and not same_content(source, target):
            raise RefusalError("the original is missing or differs from this copy")
        target.unlink(missing_ok=True)
        return
    part = source.with_name(entry.part.name)
    part.unlink(missing_ok=True)
    if not exists:
        if not os.path.lexists(source):
            raise RefusalError("no longer exists")
        return
    if os.path.lexists(source):
        if entry.state == "undoing" and is_reserved(source, target):
            source.unlink()
        elif is_same_file(source, target) or same_content(source, target):
            sync_folder(source.parent)
            target.unlink()
            return
        else:
            raise RefusalError(f"another file exists at {source}")
    journal.mark(entry, "undoing")
    make_folder(source.parent)
    move(target, source, part)
