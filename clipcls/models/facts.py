"""Facts about models that are remembered across runs, so that nothing is loaded to find them out.

They are small JSON files in the user's cache folder, each written in one step and with a checksum.
Losing one costs time and never changes an answer: a damaged file counts as missing, and a file that
cannot be written is not an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

from clipcls.files import folders
from clipcls.files.atomic import temporary_path
from clipcls.files.hashing import hash_file, is_settled


class ModelFacts:
    """Facts by key; safe across threads and processes, and picklable.

    Args:
        folder: their folder; None: one in the user's cache folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def get(self, key: str) -> dict[str, Any] | None:
        """The facts under a key, or None."""
        try:
            checksum, _, text = self._file(key).read_text(encoding="utf-8").partition("\n")
            if checksum == _checksum(key, text):
                return dict(json.loads(text))
        except (OSError, UnicodeDecodeError):
            pass
        return None

    def set(self, key: str, facts: dict[str, Any]) -> None:
        """Stores facts (JSON) under a key, replacing earlier ones."""
        file, text = self._file(key), json.dumps(facts)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with temporary_path(file) as part:
                part.write_text(f"{_checksum(key, text)}\n{text}", encoding="utf-8")
                part.replace(file)

    def delete(self, key: str) -> None:
        """Deletes the facts under a key."""
        with contextlib.suppress(OSError):
            self._file(key).unlink()

    def file_hash(self, path: str | os.PathLike[str]) -> str:
        """The SHA-256 of a file in hex; an unchanged file is not read again.

        Raises:
            OSError: the file cannot be read.
        """
        name, stat = os.path.abspath(path), os.stat(path)
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        known = self.get(f"file {name}")
        if known and known["stamp"] == stamp:
            return str(known["sha256"])
        sha256 = hash_file(name)
        if is_settled(stat):
            self.set(f"file {name}", {"stamp": stamp, "sha256": sha256})
        return sha256

    def clear(self) -> None:
        """Deletes all facts.

        Raises:
            OSError: one cannot be deleted.
        """
        if self._place().exists():
            shutil.rmtree(self._place())

    def _place(self) -> Path:
        return self._folder or folders.cache_folder() / "models"

    def _file(self, key: str) -> Path:
        return self._place() / f"{hashlib.sha256(_bytes(key)).hexdigest()}.json"


def _checksum(key: str, text: str) -> str:
    return f"{zlib.crc32(_bytes(f'{key} {text}')):08x}"


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # of a path that is not UTF-8
