"""Types of option values beyond click's: files checked before the work, numbers without nan."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

__all__ = ["FILE", "NEW_FILE", "NEW_FOLDER", "NEW_RESULTS", "RESULTS", "NumberRange"]


class _NewFile(click.Path):
    """A file to write when the work is done; refused at once where it could not be."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if os.fspath(value) == "-":
            self.fail("-: this does not go to standard output; name a file", param, ctx)
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.absolute().parent.is_dir():
            self.fail(f"{path}: there is no folder {path.parent}; make it first", param, ctx)
        if path.is_dir():
            self.fail(f"{path}: is a folder; name a file", param, ctx)
        return path


class _Results(click.Path):
    """A file for results, or `-`, which is standard output, as no file is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if os.fspath(value) == "-" else super().convert(value, param, ctx)


class _NewResults(_Results, _NewFile):
    """Both of these."""


class _NewFolder(click.Path):
    """A folder to write into, made where it is missing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.exists() and not path.is_dir():
            self.fail(f"{path}: is not a folder", param, ctx)
        return path


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


FILE = click.Path(path_type=Path)
NEW_FILE, NEW_FOLDER = _NewFile(path_type=Path), _NewFolder(path_type=Path)
RESULTS, NEW_RESULTS = _Results(path_type=Path), _NewResults(path_type=Path)
