"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from clipcls.errors import OutputError

__all__ = ["temporary_path", "write_bytes", "write_new"]


@contextlib.contextmanager
def temporary_path(path: Path, suffix: str = "") -> Iterator[Path]:
    """A free, hidden name next to a file for its new content; removed at the end if it exists."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part{suffix}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def write_new(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a new file and flush it to the disk.

    Raises:
        OSError: it exists, or cannot be written.
    """
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: Path, data: bytes) -> None:
    """Write or replace a file, whole or not at all; a link is followed.

    Raises:
        OutputError: it cannot be written.
    """
    place = Path(os.path.realpath(path))
    try:
        with temporary_path(place) as part:
            write_new(part, data)
            part.replace(place)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
