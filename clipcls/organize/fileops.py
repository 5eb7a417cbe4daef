"""Move, copy and compare single files so that nothing is overwritten and nothing is lost.

A file gets its name by a call that fails if the name is taken; a copy first has a temporary name.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import itertools
import os
import shutil
import stat
from pathlib import Path
from typing import Literal

from clipcls.files.folders import is_inside, sync_folder

Mode = Literal["copy", "move", "link"]
Version = tuple[int, ...]
"""Size in bytes, mtime and ctime in ns; a file can be replaced without changing all but ctime."""

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_CHUNK = 1 << 20


class RefusalError(OSError):
    """An error with a message of our own, shown as it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(None, reason)


def check_inside(folder: Path, into: Path) -> None:
    """Raise `RefusalError` for a folder that a symbolic link takes out of `into`.

    A folder that others packed or share can contain links that lead anywhere.
    """
    if not is_inside(folder, into):
        real = os.path.realpath(folder)
        raise RefusalError(f"{folder} leads out of {into}, to {real}; replace the link by a folder")


def place(file: Path, name: Path) -> None:
    """Rename a file within its file system, unless the name is taken.

    Raises:
        FileExistsError: the name is taken.
        OSError: it cannot be done; with EXDEV, `name` is on another file system.
    """
    if os.name == "nt":
        os.rename(file, name)  # which refuses there
        return
    try:
        os.link(file, name)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # FAT and some network drives: an empty file of our own reserves the name.
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


def copy(source: Path, part: Path) -> None:
    """Copy a file with its times and permissions to a new name, and sync it to the disk."""
    with source.open("rb") as read:
        before = os.fstat(read.fileno())
        with part.open("xb") as write:
            try:
                shutil.copyfileobj(read, write, _CHUNK)
                write.flush()
                after = os.fstat(read.fileno())
                if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                    raise RefusalError("changed while it was being copied")
                if write.tell() != after.st_size:
                    raise RefusalError("could not be read whole")
                os.fsync(write.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    write.close()
                part.unlink()
                raise
    with contextlib.suppress(OSError):
        shutil.copystat(source, part)


def move(source: Path, target: Path, part: Path) -> None:
    """Move a file; to another file system by a copy named `part`.

    Raises:
        FileExistsError: the target exists.
        OSError: it cannot be done, and the source is where it was.
    """
    try:
        place(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        return
    copy(source, part)
    try:
        if not same_content(source, part):
            raise RefusalError("what was written is not what was read")
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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and sync their names to the disk.

    Otherwise a file moved there from another disk could be on neither disk after a power cut.
    """
    missing = itertools.takewhile(lambda f: not os.path.lexists(f), (folder, *folder.parents))
    above = [made.parent for made in missing]
    folder.mkdir(parents=True, exist_ok=True)
    for parent in above:
        sync_folder(parent)


def is_placed(mode: Mode, source: Path, target: Path) -> bool:
    """Whether the copy or link already exists."""
    if mode == "link":
        return is_link_to(target, source)
    return mode == "copy" and same_content(source, target)


def is_reserved(name: Path, file: Path) -> bool:
    """Whether a name belongs to the empty file by which `place` reserves it for `file`."""
    try:
        held = name.lstat()
        return stat.S_ISREG(held.st_mode) and held.st_size == 0 < file.stat().st_size
    except OSError:
        return False


def read_version(seen: os.stat_result) -> Version:
    """A value that changes whenever the file does."""
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def is_link_to(link: Path, file: Path) -> bool:
    """Whether it is a symbolic link with exactly this target."""
    try:
        return os.readlink(link) == os.fspath(file)
    except OSError:
        return False


def is_same_file(one: Path, other: Path) -> bool:
    """Whether these are two hard links of one file, so that either may be deleted.

    One hard link with two paths, through a symbolic link to its folder, is not.
    """
    try:
        first, second = one.lstat(), other.lstat()
    except OSError:
        return False
    places = [(os.path.realpath(path.parent), path.name) for path in (one, other)]
    return os.path.samestat(first, second) and first.st_nlink > 1 and places[0] != places[1]


def same_content(one: Path, other: Path) -> bool:
    """Whether these are two files with the same bytes; `other` must not be a symbolic link."""
    try:
        if not stat.S_ISREG(other.lstat().st_mode) or os.path.samestat(one.stat(), other.stat()):
            return False
        filecmp.clear_cache()
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
