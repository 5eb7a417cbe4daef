"""The journal of a `clipcls sort` run: what is about to be done to which file, line by line.

A line is a JSON object: first the header, then

    {"folder": "cat"}                               this folder is about to be made
    {"folder": "b_w", "label": "b/w"}               so is this one, whose name is not its label
    {"n": 1, "from": "/photos/a.jpg", "to": "cat/a.jpg", "version": [size, mtime_ns, ctime_ns]}
    {"done": 1}                                     it exists, whole
    {"failed": 1}                                   it was not done, and left nothing behind
    {"undoing": 1}
    {"undone": 1}
    {"finished": true}

`to` and `folder` are relative to the journal's folder, so that this can be renamed. Lines that
announce something are on the disk (fsync) before it is done.

Files are deleted and moved because a journal says so, and anybody can put one into a folder that
they share or pack. So each line ends with a `mac`: HMAC-SHA256, under a secret in the user's state
folder, of the line and the `mac` before it; the header holds a random `id`. A line that was forged,
changed, added or moved does not verify, and such a journal is ignored.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from clipcls.data.sorted_folders import PREFIX, find_journals, open_regular
from clipcls.errors import InputError, OutputError, os_reason
from clipcls.files.atomic import lock_descriptor, writing
from clipcls.files.folders import sync_folder
from clipcls.organize.fileops import Mode, Version
from clipcls.organize.signing import Signer, key_path, make_key, new_key, read_key

logger = logging.getLogger(__name__)

_HEAD = b'{"clipcls sort": 1, '
_LONGEST = 16 << 20  # bytes of a line


@dataclass(slots=True)
class Entry:
    """One file: where it was, where it goes, and what became of it; paths are absolute."""

    n: int
    source: Path
    target: Path
    part: Path  # the temporary name of a copy
    version: Version  # of the source
    state: str = "announced"  # or "done", "failed", "undoing", "undone"


@dataclass(slots=True)
class Journal:
    """A journal file and its content; once created or opened, lines can be added.

    Attributes:
        entries: by number, in their order.
        folders: those announced, absolute, in their order.
        finished: whether the run reached its end.
        unsigned: why no later process can verify it, and so neither resume nor undo it; else "".
    """

    path: Path
    mode: Mode
    entries: dict[int, Entry] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    finished: bool = False
    unsigned: str = ""
    _signer: Signer = field(default_factory=lambda: Signer(new_key()))
    _id: str = ""
    _size: int = 0  # bytes that verified
    _last: int = 0
    _file: FileIO | None = None
    _lock_file: FileIO | None = None

    @property
    def folder(self) -> Path:
        """Its folder, absolute."""
        return Path(os.path.abspath(self.path)).parent

    @classmethod
    def create(cls, into: Path, mode: Mode) -> Journal:
        """A new journal in an existing folder, on the disk and locked, or `OutputError`."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for number in itertools.count():
            path = into / f"{PREFIX}{stamp}{f'_{number}' if number else ''}.jsonl"
            with writing(path), contextlib.suppress(FileExistsError):
                file = path.open("xb", buffering=0)
                break
        journal = cls(path, mode, _id=secrets.token_hex(16), _file=file)
        try:
            journal._signer = Signer(make_key())
        except InputError as error:
            journal.unsigned = str(error)
        journal._lock()
        journal._add([{"clipcls sort": 1, "mode": mode, "id": journal._id}], sync=True)
        sync_folder(into)
        return journal

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read and verify a journal, without opening it for new lines.

        A last line that was cut off was never acted upon and is left out.

        Raises:
            InputError: it cannot be read, is not a journal, or was not written by this user.
        """
        try:
            with open_regular(path, os.O_RDONLY) as file:
                return cls._read(path, file)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({os_reason(error)})") from error

    @classmethod
    def _read(cls, path: Path, file: FileIO) -> Journal:
        journal = cls(path, "copy", finished=True)  # as nothing is left to do without a header
        stream = BufferedReader(FileIO(file.fileno(), closefd=False))
        lines = iter(partial(stream.readline, _LONGEST), b"")
        for number, line in enumerate(lines, 1):
            if number == 1 and not _HEAD.startswith(line[: len(_HEAD)]):
                raise InputError(f"{path}: is not a journal of `clipcls sort`")
            if not line.endswith(b"\n") or b"\0" in line:
                break
            if number == 1:
                journal._signer = Signer(read_key() or new_key())
            if not journal._signer.verifies(line):
                raise InputError(
                    f"{path}: was not written by this user's clipcls on this machine"
                    if number == 1
                    else f"{path}:{number}: was changed since this user's clipcls wrote it"
                )
            journal._take(json.loads(line))
            journal._size += len(line)
        return journal

    def open(self) -> None:
        """Open it for new lines, or raise `OutputError`."""
        with writing(self.path):
            self._file = open_regular(self.path, os.O_RDWR)
            self._lock()
            if self._read(self.path, self._file)._signer != self._signer:
                raise OutputError(f"{self.path}: another `clipcls sort` is using it")
            self._file.truncate(self._size)
            self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close it and release its lock."""
        for file in (self._file, self._lock_file):
            if file is not None:
                file.close()
        self._file = self._lock_file = None

    def announce(self, entries: Sequence[Entry], labels: Mapping[Path, str]) -> None:
        """Write to the disk which files, and folders for them, are about to be made.

        `labels` has the labels of those folders that are named differently.
        """
        lines: list[dict[str, Any]] = []
        own = self.folder
        wanted = (path for entry in entries for path in reversed(entry.target.parents))
        for path in dict.fromkeys(path for path in wanted if own in path.parents):
            if path not in self.folders and not os.path.lexists(path):
                label = {"label": labels[path]} if path in labels else {}
                lines.append({"folder": self._relative(path), **label})
                self.folders.append(path)
        for entry in entries:
            paths = {"from": os.fspath(entry.source), "to": self._relative(entry.target)}
            lines.append({"n": entry.n, **paths, "version": entry.version})
            self.entries[entry.n] = entry
        self._add(lines, sync=True)

    def mark(self, entry: Entry, state: str) -> None:
        """Write what became of an entry; if a power cut loses the line, the files still show it."""
        self._add([{state: entry.n}])
        entry.state = state

    def finish(self) -> None:
        """Write that the run reached its end."""
        self._add([{"finished": True}], sync=True)
        self.finished = True

    def entry(self, source: Path, target: Path, version: Version) -> Entry:
        """A new entry, not yet announced."""
        self._last = n = self._last + 1
        return Entry(n, source, target, self._part(target, n), version)

    def _part(self, target: Path, n: int) -> Path:
        return target.with_name(f".{PREFIX}{self._id}-{n}.part")

    def _take(self, line: dict[str, Any]) -> None:
        del line["mac"]
        if "n" in line:
            self._last = n = line["n"]
            target = self.folder / line["to"]
            version = tuple(line["version"])
            self.entries[n] = Entry(n, Path(line["from"]), target, self._part(target, n), version)
        elif "clipcls sort" in line:
            self.mode, self._id, self.finished = line["mode"], line["id"], False
        elif "folder" in line:
            self.folders.append(self.folder / line["folder"])
        elif "finished" in line:
            self.finished = True
        else:
            ((state, n),) = line.items()
            self.entries[n].state = state

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self.folder)

    def _add(self, lines: list[dict[str, Any]], sync: bool = False) -> None:
        assert self._file is not None
        data = b"".join(self._signer.sign(json.dumps(line).encode()) for line in lines)
        with writing(self.path):
            while data:
                data = data[self._file.write(data) :]
            if sync:
                os.fsync(self._file.fileno())

    def _lock(self) -> None:
        assert self._file is not None
        try:
            is_locked = lock_descriptor(self._file.fileno())
            if is_locked or os.name == "nt" or self.unsigned:  # which no other run will touch
                return
            # A file system without locks: one run at a time there.
            self._lock_file = FileIO(os.fspath(key_path() or ""))
            if not lock_descriptor(self._lock_file.fileno()):
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        except BlockingIOError as error:
            raise OutputError(f"{self.path}: another `clipcls sort` is using it") from error
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be locked ({os_reason(error)})") from error


def read_journals(into: Path) -> list[Journal]:
    """The journals in a folder that this user wrote, oldest first; a warning names others."""
    found, others = [], []
    for path in find_journals(into):
        try:
            found.append(Journal.read(path))
        except InputError as error:
            others.append(error)
    if others:
        more = f", like {len(others) - 1:,} more" if others[1:] else ""
        logger.warning("%s; left alone%s", others[0], more)
    return found
