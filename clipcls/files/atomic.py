"""Write files whole or not at all, and lock files that several processes write."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from clipcls.errors import OutputClosedError, OutputError, os_reason


@contextlib.contextmanager
def writing(name: object) -> Iterator[None]:
    """Turn an error of the system into an `OutputError` that names what is written."""
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosedError(f"{name}: the reading end of the pipe was closed") from error
    except OSError as error:
        reason = "no such folder" if error.errno == errno.ENOENT else os_reason(error)
        raise OutputError(f"{name}: cannot be written ({reason})") from error


@contextlib.contextmanager
def temporary_path(path: Path, suffix: str = "") -> Iterator[Path]:
    """A free, hidden name next to a file for its new content; removed at the end if it exists."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part{suffix}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def write_new(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a new file, whole or not at all, and flush it to the disk.

    Raises:
        OSError: it exists, or cannot be written.
    """
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write or replace a file, whole or not at all; a link is followed.

    Raises:
        OutputError: it cannot be written.
    """
    place = Path(os.path.realpath(path))
    with writing(path), temporary_path(place) as part:
        write_new(part, data)
        part.replace(place)


def lock_descriptor(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file against other processes, until it and all duplicates are closed.

    The lock is on the file itself, so nothing is left behind and the lock survives a rename. There
    is none on Windows, where nobody can replace an open file and a lock would keep readers out.

    Args:
        descriptor: of the file.
        shared: several processes may hold such a lock.

    Returns:
        Whether it is locked: some file systems have no locks.

    Raises:
        BlockingIOError: another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, "another run is writing it") from error
    except OSError:
        return False
    return True
