"""Types of option values beyond click's: files checked before the work, numbers without nan."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click


class _NewFile(click.Path):
    """A file to write, refused before the work if it cannot be."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if os.fspath(value) == "-":
            self.fail("-: this does not go to standard output; name a file", param, ctx)
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.absolute().parent.is_dir():
            self.fail(f"{path}: the folder {path.parent} is missing; make it first", param, ctx)
        return path


class _NewResults(_NewFile):
    """A new file, or as text a folder or URL for commands that write many files; None for `-`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = os.fsdecode(value)
        if text == "-":
            return None
        is_place = "://" in text or text.endswith("/") or os.path.isdir(text)
        return text if is_place else super().convert(value, param, ctx)


class NumberRange(click.FloatRange):
    """`click.FloatRange` without nan, which is below and above nothing."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """A number in the range."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail("nan is not a number", param, ctx)
        return number


class _Count(click.IntRange):
    def get_metavar(self, *_arguments: Any, **_named: Any) -> str:  # which differ between versions
        return "N"


class _Vectors(click.Path):
    """A file of vectors to write, by its suffix, or a folder, which has none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(value))
        if path.suffix.lower() in (".parquet", ".npy") and not path.is_dir():
            return os.fspath(NEW_FILE.convert(value, param, ctx))
        if path.is_dir() or (not path.suffix and path.name not in ("", "-")):
            return os.fspath(path)
        self.fail(f"{value}: name a .parquet or .npy file, or a folder without a dot", param, ctx)


COUNT = _Count(1)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
NEW_FILE, RESULTS = _NewFile(dir_okay=False), _NewResults(dir_okay=False)
VECTORS = _Vectors()
