"""Folders that `clipcls sort` filled: their journals, and the labels that they stand for."""

from __future__ import annotations

import contextlib
import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path

from clipcls.errors import ClipclsError
from clipcls.files.jsonfiles import parse_json

PREFIX = "clipcls-sort-"
FLAGS = sum(getattr(os, f"O_{name}", 0) for name in ("NOFOLLOW", "NONBLOCK", "CLOEXEC", "BINARY"))


def read_folder_labels(into: Path) -> dict[tuple[str, ...], str]:
    """Map the folders below `into` whose name is not their label to their labels.

    Journals are not verified here, as no file is touched because of a label.
    """
    found = {}
    for path in find_journals(into):
        with contextlib.suppress(OSError), open_regular(path, os.O_RDONLY) as file:
            for line in BufferedReader(file):
                if line.startswith(b'{"folder"'):
                    with contextlib.suppress(ClipclsError, ValueError, KeyError, TypeError):
                        made = parse_json(line.decode(), str(path))
                        found[Path(made["folder"]).parts] = str(made["label"])
    return found


def find_journals(into: Path) -> list[Path]:
    """The journals of earlier runs in a folder."""
    found = sorted(into.glob(f"{PREFIX}*.jsonl"))
    return [path for path in found if path.is_symlink() or not path.is_dir()]


def open_regular(path: Path, flags: int) -> FileIO:
    """Open a regular file, without following a link or waiting for a pipe."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError("not a regular file")
    return FileIO(os.open(path, flags | FLAGS), "r+" if flags & os.O_RDWR else "r")
