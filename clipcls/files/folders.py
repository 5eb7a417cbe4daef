"""The user's cache folder, and functions of folders."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)


def find_user_folder(kind: Literal["cache", "config", "state"]) -> Path | None:
    """The user's folder of this kind for clipcls, which may not exist yet; None without a home."""
    import platformdirs

    try:
        path = Path(getattr(platformdirs, f"user_{kind}_dir")("clipcls", appauthor=False))
    except RuntimeError:  # newer versions of platformdirs; older ones give a relative path
        return None
    return path if path.is_absolute() else None


@functools.cache
def cache_folder() -> Path:
    """The user's cache folder for clipcls, which may not exist yet.

    Without a home directory (an empty environment, a user without an account) it is a private
    temporary folder, with one warning.
    """
    if folder := find_user_folder("cache"):
        return folder
    folder = _own_temporary_folder()
    logger.warning(
        "no home directory: caching in %s; set HOME or XDG_CACHE_HOME to choose the place", folder
    )
    return folder


def _own_temporary_folder() -> Path:
    """The same folder in each run, unless another user or a link has its name."""
    folder = Path(tempfile.gettempdir()) / f"clipcls-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o77:
            return folder
    folder = Path(tempfile.mkdtemp(prefix="clipcls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, if the system can."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    with contextlib.suppress(OSError):
        os.fsync(folder)
    os.close(folder)


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is inside a folder, after following all symbolic links."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
