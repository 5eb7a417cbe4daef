"""The file of corrections: a person's labels of images, on the disk after every action.

At any moment `fit`, `evaluate` and `calibrate` can read it as labelled images: the columns are
`path` (relative to the file's folder), `label` and `best`, the classifier's best label, with one
row per image. Each action writes a new file and puts it, whole, in the old one's place.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

from clipcls.errors import InputError, OutputError
from clipcls.files.atomic import lock_descriptor, temporary_path, write_new, writing
from clipcls.files.folders import sync_folder
from clipcls.files.on_disk import is_url, join_address
from clipcls.files.text import canonical, clean, decode, guard, read_table

_COLUMNS = ["path", "label", "best"]
_HEADER = ",".join(_COLUMNS) + "\n"

Change = dict[str, "str | None"]  # place of an image -> its label from now on


class Corrections:
    """The labels of a file of corrections, locked against other reviews while it is open.

    Args:
        path: the file; made if it is missing.

    Attributes:
        path: the file.
        labels: absolute path of an image -> its label.
        best: absolute path of an image -> the classifier's best label, where it is known.
        done, undone: the changes that undo and redo actions of this process, the next one last.

    Raises:
        InputError: the file holds something else.
        OutputError: it cannot be written, or another process has it open.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._real = Path(os.path.realpath(self.path))
        if not self.path.suffix.lower() == self._real.suffix.lower() == ".csv":
            raise InputError(f"{self._real}: corrections are a .csv file")
        # Where the system starts from at a `..`, even if the folder's name is a link.
        self._folder = os.path.realpath(self.path.absolute().parent)
        self.labels: dict[str, str] = {}
        self.best: dict[str, str] = {}
        self.done: list[Change] = []
        self.undone: list[Change] = []
        # Else each action on 50,000 images would take a second.
        self._format_row = functools.cache(self._make_row)
        self._resolve = functools.cache(os.path.realpath)
        self._file = self._open()
        try:
            self._file.seek(0)
            data = self._file.readall() or b""
            self._size = len(data)  # bytes, as this process left it
            if data:
                self._parse(decode(data, str(self.path)))
            else:
                self._write({})
        except BaseException:
            self._file.close()
            raise

    # -- one action each ------------------------------------------------------------------------

    def set(self, labels: Mapping[str, str | None]) -> list[str]:
        """Give images labels, or take them away (None); returns the `place`s that changed.

        This is one action, which is on the disk on return.

        Raises:
            InputError: the file cannot hold a path or a label; nothing was done.
            OutputError: it could not be written; nothing was done.
        """
        change: Change = {}
        for path, label in labels.items():
            place = self.place(path)
            if label is not None:
                check_label(label)
            if label != self.labels.get(place):
                change[place] = label
        if change:
            self.done.append(self._apply(change))
            self.undone.clear()
        return list(change)

    def undo(self) -> list[str]:
        """Undo the last action of this process; returns the images whose label changed.

        Raises:
            OutputError: it could not be written; nothing was done.
        """
        return self._step(self.done, self.undone)

    def redo(self) -> list[str]:
        """Redo what `undo` undid last; after a new action there is nothing to redo."""
        return self._step(self.undone, self.done)

    def _step(self, source: list[Change], target: list[Change]) -> list[str]:
        if not source:
            return []
        target.append(self._apply(source[-1]))
        return list(source.pop())

    def place(self, path: str) -> str:
        """The key of an image in `labels`; `InputError` if a csv cannot hold its name."""
        if "\r" in path or "\0" in path:
            raise InputError(f"{path!r}: a csv cannot hold this name; rename the file")
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{path!r}: the name is not UTF-8; rename the file") from error
        if is_url(path):
            return path
        folder, name = os.path.split(os.path.abspath(path))
        return os.path.join(self._resolve(folder), name)

    def close(self) -> None:
        """Close the file; without labels it is removed, unless another program wrote it."""
        if not self.labels:
            with contextlib.suppress(OSError, OutputError):
                self._check_unchanged()
                if self._real.read_text() in ("", _HEADER):
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
            with writing(self.path), contextlib.ExitStack() as stack:
                file = stack.enter_context(FileIO(os.fspath(self.path), "a+"))
                try:
                    lock_descriptor(file.fileno())
                    # A review that has just ended may have put another file in its place.
                    if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                        stack.pop_all()
                        return file
                except BlockingIOError as error:
                    raise OutputError(
                        f"{self.path}: another `clipcls review` has it open; continue there, or "
                        "name another file with -o"
                    ) from error
                except FileNotFoundError:
                    pass

    def _parse(self, text: str) -> None:
        """Take the labels from a file's text."""
        table = read_table(text, str(self.path), exact=True)
        if [*table.columns] not in (_COLUMNS, _COLUMNS[:2]):
            raise InputError(
                f"{self.path}: is not what `clipcls review` writes (a csv with the columns "
                f"{','.join(_COLUMNS)}); name another file with -o"
            )
        for where, row in table.rows:
            label = canonical(row["label"])
            try:
                check_label(label)
                place = self.place(join_address(str(self.path.parent), row["path"]))
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
            if not row["path"] or self.labels.setdefault(place, label) != label:
                why = "has several labels" if row["path"] else "has no path"
                raise InputError(
                    f"{where}: {row['path'] or 'the row'} {why}; keep one row per image, or name "
                    "another file with -o"
                )
            self.best[place] = row.get("best", "")

    def _check_unchanged(self) -> None:
        """Raise `OutputError` once another program has written the file, or replaced it."""
        with writing(self.path), contextlib.suppress(FileNotFoundError):
            now, own = os.stat(self._real), os.fstat(self._file.fileno())
            if not os.path.samestat(now, own) or now.st_size != self._size:
                raise OutputError(
                    f"{self.path}: was changed by another program; restart the review"
                )

    def _apply(self, change: Change) -> Change:
        """Make a change, which is on the disk on return; returns the one that undoes it."""
        before = {place: self.labels.get(place) for place in change}
        self._check_unchanged()
        labels = {**self.labels, **change}
        self._write({place: label for place, label in labels.items() if label is not None})
        return before

    def _write(self, labels: dict[str, str]) -> None:
        rows = (self._format_row(p, label, self.best.get(p, "")) for p, label in labels.items())
        data = (_HEADER + "".join(rows)).encode()
        with writing(self.path), temporary_path(self._real) as part:
            write_new(part, data)
            file = FileIO(os.fspath(part), "r+")
            try:
                lock_descriptor(file.fileno())  # before it has the name: nobody gets in between
                if os.name == "nt":  # which replaces no file that is open
                    file.close()
                    self._file.close()
                os.replace(part, self._real)
            except BaseException:
                file.close()
                raise
            finally:
                if self._file.closed:
                    self._file = file = self._open()
        sync_folder(self._real.parent)
        if file is not self._file:
            self._file.close()
            self._file = file
        self._size = len(data)
        self.labels = labels

    def _make_row(self, place: str, label: str, best: str) -> str:
        path = place
        if not is_url(place):
            with contextlib.suppress(ValueError):  # another drive
                path = os.path.relpath(place, self._folder)
        return ",".join(map(_cell, (path, label, best))) + "\n"


def check_label(label: str) -> None:
    """Raise `InputError` for a label that would be read back from the file as something else."""
    try:
        is_same = clean(label) == label and label
    except ValueError as error:
        raise InputError(f"the label {label!r} {error}") from error
    if "|" in label:
        raise InputError(
            f"the label {label!r} holds |, which separates several labels in a csv; rename it"
        )
    if not is_same:
        raise InputError(f"the label {label!r} is blank, or has white space around it")


def _cell(text: str) -> str:
    text = guard(text)
    if text != text.strip() or any(character in text for character in ',"\n;\t'):
        return '"' + text.replace('"', '""') + '"'
    return text
