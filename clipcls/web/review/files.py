"""The files of one review."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from clipcls.errors import InputError

__all__ = ["ReviewFiles"]


@dataclass(frozen=True, slots=True)
class ReviewFiles:
    """The files of one review, next to each other and named after its results."""

    corrections: Path
    table: Path  # the reviewed table, written at the end
    classifier: Path  # learnt on the page
    page: Path  # a report of the table

    @classmethod
    def for_results(cls, results: str, output: Path | None = None) -> ReviewFiles:
        """The files for a file of results; `output` is another file of corrections."""
        stem = Path(results.removesuffix(".gz")).stem
        corrections = output or Path(results).with_name(f"{stem}.corrections.csv")
        base = corrections.stem.removesuffix(".corrections")
        ends = (".reviewed.csv", ".safetensors", ".reviewed.html")
        return cls(corrections, *(corrections.with_name(base + end) for end in ends))

    def refuse_foreign_table(self) -> None:
        """Raise `InputError` if `table` exists and is not a reviewed table."""
        try:
            # Nobody named this file: a link could lead anywhere, and opening a pipe would block.
            if stat.S_ISREG(self.table.lstat().st_mode):
                with self.table.open("rb") as file:
                    if b"labelled_by" in file.readline(1000):
                        return
        except FileNotFoundError:
            return
        except OSError:
            pass
        raise InputError(
            f"{self.table}: the review would write its table here, but this is another file; "
            "rename it, or name another file of corrections with -o"
        )
