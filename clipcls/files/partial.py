"""The name of a result file until it is whole, and the right to write to it."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from typing import IO, Any, TextIO

from clipcls.files.atomic import lock_descriptor


class Part:
    """A new file `NAME.part` for one run; what an interrupted run left there is set aside.

    It is locked until `release`. Where the file system has no locks, a later run takes the name
    away, and this one fails at its end.

    Attributes:
        path: the file's name until it is whole.
        file: the file, open for writing.
        earlier: results of interrupted runs, the latest at the end.

    Raises:
        BlockingIOError: another run is writing it.
        OSError: it cannot be created.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self.path = path = place.with_name(f"{place.name}.part")
        self._whole = 0
        self.earlier = _set_aside(path)
        try:
            self.file: TextIO = path.open("x", encoding="utf-8", newline="")
        except FileExistsError as error:  # a run started at the same time
            raise _busy() from error
        try:
            self._lock = _Lock(self.file)
            if not self._lock.is_on(path):
                self._lock.release()
                raise _busy()
        except BaseException:
            self.file.close()
            raise

    def rename(self) -> None:
        """Give the file, once closed, its final name."""
        if not self._lock.is_on(self.path):
            raise FileNotFoundError(None, f"{self.path.name} was removed in the meantime")
        self.path.replace(self._place)

    def remove(self) -> None:
        """Remove the file, unless it is another run's by now."""
        if self._lock.is_on(self.path):
            self.path.unlink(missing_ok=True)

    def mark_whole(self) -> None:
        """Note that everything written so far is whole."""
        self._whole = os.fstat(self.file.fileno()).st_size

    def with_results(self, has_own: bool) -> list[Path]:
        """The files with results, after the run failed and the file was closed.

        Removes a line that a full disk cut off, and the whole part unless this run `has_own`
        results (a compressed file is never empty).
        """
        with contextlib.suppress(OSError):
            if self._lock.is_on(self.path):
                if has_own and self._whole:
                    if self._whole < self.path.stat().st_size:
                        os.truncate(self.path, self._whole)
                    return [self.path, *self.earlier]
                self.remove()
        return self.earlier

    def remove_earlier(self) -> list[Path]:
        """Remove what earlier runs left; return files that do not begin like the whole file."""
        others = []
        for old in self.earlier:
            if old.is_symlink() or not old.is_file() or _begin(old) != _begin(self._place):
                others.append(old)
            else:
                old.unlink(missing_ok=True)
        return others

    def release(self) -> None:
        """Let other runs have the name."""
        self._lock.release()


class _Lock:
    """Keeps other runs off a file until `release`, even after it is closed."""

    def __init__(self, file: IO[Any]) -> None:
        self._number: int | None = None
        if os.name == "nt":  # where open files cannot be taken away
            return
        self._number = os.dup(file.fileno())
        try:
            lock_descriptor(self._number)
        except BlockingIOError:
            self.release()
            raise

    def is_on(self, path: Path) -> bool:
        """Whether the file still has this name."""
        if self._number is None:
            return path.exists()
        try:
            return os.path.samestat(os.fstat(self._number), path.stat())
        except OSError:
            return False

    def release(self) -> None:
        if self._number is not None:
            os.close(self._number)
            self._number = None


def _set_aside(part: Path) -> list[Path]:
    """Rename what an interrupted run left; return the results of all such runs."""
    names = (part.with_name(f"{part.name}.{number}") for number in itertools.count(1))
    earlier = list(itertools.takewhile(Path.exists, names))
    try:
        with part.open("r+b", buffering=0) as file:  # closed again: Windows renames no open file
            lock = _Lock(file)
    except FileNotFoundError:
        return earlier
    try:
        if not lock.is_on(part):  # its run has just ended
            return earlier
        if part.stat().st_size:
            earlier.append(part.rename(part.with_name(f"{part.name}.{len(earlier) + 1}")))
        else:
            part.unlink()
    finally:
        lock.release()
    return earlier


def _begin(path: Path) -> bytes:
    """The bytes that tell a file's format."""
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError:
        return b""


def _busy() -> OSError:
    return BlockingIOError(None, "another run is writing it")
