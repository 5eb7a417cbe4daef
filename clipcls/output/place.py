"""The folder that shards of results go to: on this disk or wherever fsspec can write."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipcls.errors import InputError, OutputError
from clipcls.files.atomic import write_bytes
from clipcls.files.jsonfiles import parse_json

FORMAT = "clipcls shards 1"
SHARD_NAME = re.compile(r"part-\d{5,}-[0-9a-f]{8}\.parquet")
MANIFEST = "_manifest.json"
"""Its underscore hides it from programs that read the folder as one parquet table."""


class Place:
    """A folder by its path or URL; picklable.

    Raises:
        InputError: no file system has such URLs, or its package is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url if "://" in url else os.path.abspath(url)
        import fsspec.core

        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{url}: {reason or 'cannot be opened'}") from error

    def __reduce__(self) -> tuple[type[Place], tuple[str]]:
        return Place, (self.url,)

    def names(self) -> list[str]:
        """The names of its files; [] if it does not exist.

        Raises:
            OutputError: it cannot be listed.
        """
        with self._translating():
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
            names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
            return [name for name in names if name and not name.startswith(".")]

    def write(self, name: str, data: bytes) -> None:
        """Write a file that appears whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        path = f"{self._root}/{name}"
        with self._translating():
            if "://" in self.url and not self.url.startswith("file://"):
                self._fs.pipe_file(path, data)  # an object store shows an object when it is whole
            else:
                os.makedirs(self._root, exist_ok=True)
                write_bytes(Path(path), data)

    def open(self, name: str) -> Any:
        """Open a file for reading bytes."""
        return self._fs.open(f"{self._root}/{name}", "rb")

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        with self._translating(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest; None without one.

        Raises:
            OutputError, InputError: it cannot be read.
        """
        with self._translating():
            try:
                text = self._fs.cat_file(f"{self._root}/{MANIFEST}").decode()
            except FileNotFoundError:
                return None
        found = parse_json(text, f"{self.url}/{MANIFEST}")
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f"{self.url}/{MANIFEST}: is not a manifest of this version of clipcls")
        return found

    def list_finished(self) -> list[str]:
        """The names of the shards of a finished run, in the order of the images.

        Raises:
            InputError: it cannot be read, is no folder of results, or is unfinished.
        """
        try:
            names, manifest = self.names(), self.read_manifest()
        except OutputError as error:  # nothing is written here
            raise InputError(str(error)) from error
        if manifest is None:
            raise InputError(f"{self.url}: holds no results of --ray")
        shards = filter(SHARD_NAME.fullmatch, names)
        found = sorted(shards, key=lambda name: (len(name), name))  # from 100,000 on, more digits
        if not manifest.get("complete") or len(found) != manifest.get("shards"):
            raise InputError(f"{self.url}: is unfinished; run its command again to finish it")
        return found

    def write_manifest(self, content: dict[str, Any]) -> None:
        """Write the manifest, a field per line."""
        text = json.dumps({"format": FORMAT, **content}, indent=1, ensure_ascii=False)
        self.write(MANIFEST, f"{text}\n".encode())

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (InputError, OutputError, FileNotFoundError):
            raise
        except Exception as error:  # each file system has errors of its own
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
            raise OutputError(
                f"{self.url}: cannot be written or read ({reason or type(error).__name__})"
            ) from error
