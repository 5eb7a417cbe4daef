"""The journal of a `clipcls sort`: what is about to be done to which file, line by line.

A line is a JSON object: first the header, then

    {"folder": "cat"}                               this folder is about to be made
    {"folder": "b_w", "label": "b/w"}               so is this one, whose name is not its label
    {"n": 1, "from": "/photos/a.jpg", "to": "cat/a.jpg", "part": ..., "size": ..., "mtime_ns": ...}
    {"done": 1}                                     it is there, whole
    {"failed": 1}                                   it was not done, and left nothing behind
    {"undoing": 1}
    {"undone": 1}
    {"finished": true}

`to`, `part` (the temporary name of a copy) and `folder` are relative to the journal's folder, so
that this can be renamed. Lines that announce something are on the disk (fsync) before it is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from clipcls.errors import InputError, OutputError
from clipcls.inputs import os_reason

__all__ = ["Entry", "Journal", "Mode", "journals_in", "read_folder_labels", "sync_folder"]

Mode = Literal["copy", "move", "link"]
_PREFIX = "clipcls-sort-"


@dataclass(slots=True)
class Entry:
    """One file: announced, and what became of it.

    Attributes:
        n: its number in the journal, from 1.
        source: where it was, absolute.
        target: where it goes, absolute.
        part: the temporary name of a copy, absolute.
        size: of the source, bytes.
        mtime_ns: of the source, nanoseconds.
        state: "announced", "done", "failed", "undoing" or "undone".
    """

    n: int
    source: Path
    target: Path
    part: Path
    size: int
    mtime_ns: int
    state: str = "announced"


@dataclass(slots=True)
class Journal:
    """A journal file, open to be added to, and what stands in it.

    Attributes:
        path: the file.
        mode: what the run does with files.
        entries: by number, in their order.
        folders: those announced, absolute, in their order.
        finished: whether the run came to its end.
    """

    path: Path
    mode: Mode
    entries: dict[int, Entry] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    finished: bool = False
    _file: FileIO | None = None
    _last: int = 0

    @classmethod
    def create(cls, into: Path, mode: Mode) -> Journal:
        """A new one, on the disk and locked, in a folder that exists.

        Raises:
            OutputError: it cannot be written.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S")
        number = 0
        while True:
            path = into / f"{_PREFIX}{stamp}{f'_{number}' if number else ''}.jsonl"
            try:
                file = path.open("xb", buffering=0)
            except FileExistsError:
                number += 1
                continue
            except OSError as error:
                raise OutputError(f"{path}: cannot be written ({os_reason(error)})") from error
            journal = cls(path, mode, _file=file)
            journal._lock()
            journal._add([{"clipcls sort": 1, "mode": mode}], sync=True)
            sync_folder(into)
            return journal

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Reads one, not open to be added to.

        A last line that is cut off was never acted upon and is left out.

        Raises:
            InputError: it cannot be read, or is no journal.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({os_reason(error)})") from error
        into = Path(os.path.abspath(path)).parent
        lines = data.split(b"\n")[:-1]
        no_journal = f"{path}: is not a journal of `clipcls sort`"
        try:
            head = json.loads(lines[0]) if lines else {"clipcls sort": 1, "mode": "copy"}
            if head["clipcls sort"] != 1 or head["mode"] not in ("copy", "move", "link"):
                raise InputError(no_journal)
            journal = cls(path, head["mode"])
            for line in lines[1:]:
                if line:
                    journal._take(into, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(no_journal) from error
        return journal

    def open(self) -> None:
        """Opens it to be added to.

        Raises:
            OutputError: it cannot be written, or another process is at it.
        """
        try:
            self._file = self.path.open("r+b", buffering=0)
            self._lock()
            whole = self.path.read_bytes().rpartition(b"\n")[0]
            self._file.truncate(len(whole) + 1 if whole else 0)
            self._file.seek(0, os.SEEK_END)
            if not whole:  # its header was lost with the machine's power
                self._add([{"clipcls sort": 1, "mode": self.mode}], sync=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({os_reason(error)})") from error

    def close(self) -> None:
        """Lets go of it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def announce(
        self,
        entries: Iterable[Entry],
        folders: Iterable[Path] = (),
        labels: Mapping[Path, str] | None = None,
    ) -> None:
        """Writes down what is about to be done, to the disk.

        Args:
            entries: the files.
            folders: the folders that will be made.
            labels: folder -> its label, where that is not its name.
        """
        entries, folders = list(entries), list(folders)
        lines: list[dict[str, Any]] = []
        for path in folders:
            label = (labels or {}).get(path)
            own = {} if label is None else {"label": label}
            lines.append({"folder": self._relative(path), **own})
        for entry in entries:
            lines.append(
                {
                    "n": entry.n,
                    "from": os.fspath(entry.source),
                    "to": self._relative(entry.target),
                    "part": self._relative(entry.part),
                    "size": entry.size,
                    "mtime_ns": entry.mtime_ns,
                }
            )
            self.entries[entry.n] = entry
        self.folders += folders
        self._add(lines, sync=True)

    def mark(self, entry: Entry, state: str) -> None:
        """Writes down what became of an entry.

        It is handed to the system, not to the disk: what the machine's power loses of it is found
        out again from the files.
        """
        self._add([{state: entry.n}])
        entry.state = state

    def finish(self) -> None:
        """Writes down that the run came to its end."""
        self._add([{"finished": True}], sync=True)
        self.finished = True

    def entry(self, source: Path, target: Path, seen: os.stat_result) -> Entry:
        """A new entry, not yet announced."""
        self._last = n = self._last + 1
        part = target.with_name(f".{self.path.stem}-{n}.part")
        return Entry(n, source, target, part, seen.st_size, seen.st_mtime_ns)

    def _take(self, into: Path, line: dict[str, Any]) -> None:
        if "n" in line:
            target, part = into / line["to"], into / line["part"]
            self._last = line["n"]
            self.entries[line["n"]] = Entry(
                line["n"], Path(line["from"]), target, part, line["size"], line["mtime_ns"]
            )
        elif "folder" in line:
            self.folders.append(into / line["folder"])
        elif "finished" in line:
            self.finished = True
        else:
            ((state, n),) = line.items()
            self.entries[n].state = state

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self.path.parent)

    def _add(self, lines: list[dict[str, Any]], sync: bool = False) -> None:
        assert self._file is not None
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        try:
            while data:
                data = data[self._file.write(data) :]
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({os_reason(error)})") from error

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{self.path}: another `clipcls sort` is at it") from error
        except OSError:
            return  # a file system without locks


def journals_in(into: Path) -> list[Journal]:
    """The journals in a folder, oldest first."""
    return [Journal.read(path) for path in sorted(into.glob(f"{_PREFIX}*.jsonl"))]


def read_folder_labels(into: Path) -> dict[tuple[str, ...], str]:
    """Folders below `into` that a run made -> their labels, where these are not their names."""
    found = {}
    for path in sorted(into.glob(f"{_PREFIX}*.jsonl")):
        with contextlib.suppress(OSError), path.open("rb") as file:
            for line in file:
                if line.startswith(b'{"folder"'):
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        made = json.loads(line)
                        found[Path(made["folder"]).parts] = str(made["label"])
    return found


def sync_folder(path: Path) -> None:
    """Puts the names in a folder on the disk, where the system can."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    with contextlib.suppress(OSError):
        os.fsync(folder)
    os.close(folder)
