"""The file of corrections: what a person said of images, on the disk after every word.

At any moment `fit`, `evaluate` and `calibrate` can read it as labelled images: the columns are
`path` (relative to its folder), `label` and `best`, the classifier's best label, with one row per
image. A label for an image without a row is appended and fsynced; a change to a row writes a new
file and puts it, whole, in the old one's place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path

from clipcls.data.dataset import read_dataset
from clipcls.errors import InputError, OutputError, os_reason
from clipcls.files.folders import sync_folder
from clipcls.files.lock import lock_descriptor
from clipcls.files.text import clean, decode, guard, read_table

__all__ = ["Corrections"]

logger = logging.getLogger(__name__)

_COLUMNS = ["path", "label", "best"]
_HEADER = ",".join(_COLUMNS).encode() + b"\n"

Change = dict[str, "tuple[str | None, str | None]"]  # path -> label before and after


class Corrections:
    """The labels of a file of corrections, open to be changed and locked against others.

    Args:
        path: the file; made where it is missing.

    Attributes:
        path: the file.
        labels: absolute path of an image -> its label.
        best: absolute path of an image -> the classifier's best label, as far as it is known.

    Raises:
        InputError: the file holds something else.
        OutputError: it cannot be written, or another process has it open.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._real = Path(os.path.realpath(self.path))
        if not self.path.suffix.lower() == self._real.suffix.lower() == ".csv":
            raise InputError(f"{self._real}: corrections are a .csv file")
        # Where the system starts from at a `..`, be the folder's name a link or not.
        self._folder = os.path.realpath(self.path.absolute().parent)
        self._done: list[Change] = []
        self._undone: list[Change] = []
        self._is_damaged = False
        self._size = 0  # bytes, as this process left it
        self.best: dict[str, str] = {}
        self._file = self._open()
        try:
            self.labels = self._read()
        except BaseException:
            self._file.close()
            raise

    # -- one action each ------------------------------------------------------------------------

    def set(self, labels: Mapping[str, str | None]) -> list[str]:
        """Gives images labels, or takes them away (None): one action, on the disk on return.

        Args:
            labels: path of an image -> its label.

        Returns:
            the images whose label changed, as `place` names them.

        Raises:
            InputError: a path or a label cannot stand in the file; nothing was done.
            OutputError: it could not be written; nothing was done.
        """
        change: Change = {}
        for path, label in labels.items():
            place = self.place(path)
            before = self.labels.get(place)
            if label is not None:
                check_label(label)
            if label != before:
                change[place] = before, label
        if change:
            self._apply(change)
            self._done.append(change)
            self._undone.clear()
        return list(change)

    def undo(self) -> list[str]:
        """Takes back the last action of this process that stands.

        Returns:
            the images whose label changed; none where there is nothing to take back.

        Raises:
            OutputError: it could not be written; nothing was done.
        """
        if not self._done:
            return []
        change = self._done[-1]
        self._apply({path: (after, before) for path, (before, after) in change.items()})
        self._undone.append(self._done.pop())
        return list(change)

    def redo(self) -> list[str]:
        """Does again what `undo` took back last; a new action leaves nothing to do again."""
        if not self._undone:
            return []
        change = self._undone[-1]
        self._apply(change)
        self._done.append(self._undone.pop())
        return list(change)

    @property
    def can_undo(self) -> bool:
        """Whether there is something to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is something to do again."""
        return bool(self._undone)

    def place(self, path: str) -> str:
        """The name that `labels` has an image under.

        Raises:
            InputError: a csv cannot carry it.
        """
        if "\r" in path or "\0" in path:
            raise InputError(f"{path!r}: a csv cannot carry this name; rename the file")
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{path!r}: the name is not UTF-8; rename the file") from error
        folder, name = os.path.split(os.path.abspath(path))
        return os.path.join(os.path.realpath(folder), name)

    def close(self) -> None:
        """Lets go of the file; one that holds no more than a new one is removed."""
        if not self.labels:
            with contextlib.suppress(OSError, OutputError):
                if self._is_there() and self._real.read_bytes() == _HEADER:
                    self._real.unlink()
        self._file.close()

    def __enter__(self) -> Corrections:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the file -------------------------------------------------------------------------------

    def _open(self) -> FileIO:
        """The file, locked, and surely the one that has this name now."""
        while True:
            try:
                file = FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666), "r+")
            except OSError as error:
                raise OutputError(f"{self.path}: cannot be written ({os_reason(error)})") from error
            try:
                lock_descriptor(file.fileno())
                # A review that has just ended may have put another file in its place.
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                    return file
            except BlockingIOError as error:
                file.close()
                raise OutputError(
                    f"{self.path}: another `clipcls review` has it open; go on there, or name "
                    "another file with -o"
                ) from error
            except FileNotFoundError:
                pass
            except BaseException:
                file.close()
                raise
            file.close()

    def _read(self) -> dict[str, str]:
        data = self._file.readall() or b""
        if not data.strip(b"\0\r\n"):
            self._write_whole({})
            return {}
        # The header first: nothing is cut off what is another kind of file.
        header, line_break, rows = data.partition(b"\n")
        cells = header.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
        columns = [cell.strip('"') for cell in cells.rstrip("\r").split(",")]
        self._is_damaged = columns != _COLUMNS  # the first action writes it anew
        if columns not in (_COLUMNS, _COLUMNS[:2]):
            return self._read_rows(self._read_spreadsheet(data))
        if not line_break:
            self._write_whole({})
            return {}
        whole = _whole_rows(rows)
        if len(whole) < len(rows):
            rest = rows[len(whole) :].strip(b"\0").decode(errors="replace")
            if rest.count("\n") > 1:  # more than a row can have lost by a power cut
                line = 2 + whole.count(b"\n")
                raise InputError(
                    f"{self.path}:{line}: a quote is not closed, so where rows end is not clear; "
                    "mend that line, or name another file with -o"
                )
            logger.warning("%s: its last line was cut off, and is left out: %r", self.path, rest)
            try:
                self._file.truncate(len(data) - len(rows) + len(whole))
                os.fsync(self._file.fileno())
            except OSError as error:
                raise OutputError(f"{self.path}: cannot be written ({os_reason(error)})") from error
        return self._read_rows(decode(header + b"\n" + whole, str(self.path)))

    def _read_spreadsheet(self, data: bytes) -> str:
        """The text of a file of corrections as a spreadsheet saved it: UTF-16, semicolons."""
        with contextlib.suppress(InputError):
            text = decode(data, str(self.path))
            if [*read_table(text, str(self.path)).columns] in (_COLUMNS, _COLUMNS[:2]):
                return text
        raise InputError(
            f"{self.path}: is not what `clipcls review` writes (a csv with the columns "
            f"{','.join(_COLUMNS)}); name another file with -o"
        )

    def _read_rows(self, text: str) -> dict[str, str]:
        found: dict[str, str] = {}
        if rows := list(read_table(text, str(self.path)).rows):
            known = read_dataset(self.path, exact=True)
            for path, labels in zip(known.paths, known.labels, strict=True):
                if len(labels) > 1:
                    raise InputError(
                        f"{self.path}: {path} has several labels; keep one, or name another "
                        "file with -o"
                    )
                try:
                    found[self.place(path)] = labels[0]
                except InputError as error:
                    raise InputError(f"{self.path}: {error}") from error
            for _, row in rows:
                path = os.path.join(self.path.parent, row["path"])
                self.best[self.place(path)] = row.get("best", "")
        self._size = self._file.seek(0, os.SEEK_END)
        return found

    def _is_there(self) -> bool:
        """Whether the file still has its name, as this process left it; False where none has it.

        Raises:
            OutputError: another program put its own in its place, or wrote into it.
        """
        try:
            there = os.stat(self._real)
            ours = os.fstat(self._file.fileno())
        except FileNotFoundError:
            return False
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({os_reason(error)})") from error
        if not os.path.samestat(there, ours) or there.st_size != self._size:
            raise OutputError(f"{self.path}: was changed by another program; restart the review")
        return True

    def _apply(self, change: Change) -> None:
        labels = dict(self.labels)
        for path, (_, after) in change.items():
            if after is None:
                labels.pop(path, None)
            else:
                labels[path] = after
        is_whole = self._is_there() and not self._is_damaged
        if not is_whole or any(before is not None for before, _ in change.values()):
            self._write_whole(labels)
        else:
            self._append(self._rows((path, after) for path, (_, after) in change.items() if after))
        self.labels = labels

    def _append(self, data: bytes) -> None:
        size = self._file.seek(0, os.SEEK_END)
        try:
            _write(self._file, data)
            os.fsync(self._file.fileno())
            self._size = size + len(data)
        except OSError as error:
            try:
                self._file.truncate(size)
            except OSError:
                self._is_damaged = True  # the next action writes it anew
                self._size = self._file.seek(0, os.SEEK_END)
            raise OutputError(f"{self.path}: cannot be written ({os_reason(error)})") from error

    def _write_whole(self, labels: Mapping[str, str]) -> None:
        part = self._real.with_name(f".{self._real.name}.{secrets.token_hex(4)}.part")
        data = _HEADER + self._rows(labels.items())
        try:
            file = FileIO(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666), "r+")
            try:
                lock_descriptor(file.fileno())  # before it has the name: nobody gets in between
                _write(file, data)
                os.fsync(file.fileno())
                if os.name == "nt":  # which replaces no file that is open
                    file.close()
                    self._file.close()
                os.replace(part, self._real)
            except BaseException:
                file.close()
                with contextlib.suppress(OSError):
                    part.unlink()
                if os.name == "nt" and self._file.closed:
                    self._file = self._open()
                raise
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({os_reason(error)})") from error
        sync_folder(self._real.parent)
        self._file.close()
        self._file = self._open() if file.closed else file
        self._size = len(data)
        self._is_damaged = False

    def _rows(self, items: Iterable[tuple[str, str]]) -> bytes:
        return "".join(
            f"{_cell(self._cell_path(p))},{_cell(label)},{_cell(self.best.get(p, ''))}\n"
            for p, label in items
        ).encode()

    def _cell_path(self, place: str) -> str:
        try:
            return os.path.relpath(place, self._folder)
        except ValueError:  # another drive
            return place


_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def check_label(label: str) -> None:
    """Refuses a label that would be read back from a truth file as something else.

    Raises:
        InputError: it holds `|` or a control character, or is blank or not in the composed form.
    """
    try:
        same = clean(label) == label and label
    except ValueError as error:
        raise InputError(f"the label {label!r} {error}") from error
    if "|" in label:
        raise InputError(
            f"the label {label!r} holds |, which separates several labels in a csv; rename it"
        )
    if not same:
        raise InputError(f"the label {label!r} is blank, or has white space around it")


def _cell(text: str) -> str:
    text = guard(text)
    if text != text.strip() or any(character in text for character in ',"\n;\t'):
        return '"' + text.replace('"', '""') + '"'
    return text


# A quote begins a quoted cell at the cell's start alone: the one of `5" lens.jpg` is a character.
_CELL = rb'(?: *"(?:[^"]|"")*"(?!")|(?! *"))[^,\n]*'
_ROW = re.compile(rb"%b(?:,%b)*\n" % (_CELL, _CELL))


def _whole_rows(data: bytes) -> bytes:
    """The rows up to the last one that is whole."""
    end = 0
    while row := _ROW.match(data, end):
        end = row.end()
    return data[:end]


def _write(file: FileIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]
