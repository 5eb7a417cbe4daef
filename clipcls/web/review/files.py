"""The files of one review."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from clipcls.data.sorted_folders import open_regular
from clipcls.errors import InputError


@dataclass(frozen=True, slots=True)
class ReviewFiles:
    """The files of one review, next to each other and named after its results."""

    corrections: Path
    table: Path  # the reviewed table, written at the end
    classifier: Path  # learnt on the page
    page: Path  # a report of the table

    @classmethod
    def for_results(
        cls, results: str, output: Path | None = None, question: str = ""
    ) -> ReviewFiles:
        """The files for a file of results, or for its answers to one of several questions.

        `output` is another file of corrections.
        """
        stem = Path(results.removesuffix(".gz")).stem + (question and f".{question.casefold()}")
        corrections = output or Path(results).with_name(f"{stem}.corrections.csv")
        base = corrections.stem.removesuffix(".corrections")
        ends = (".reviewed.csv", ".safetensors", ".reviewed.html")
        return cls(corrections, *(corrections.with_name(base + end) for end in ends))

    def refuse_foreign_table(self) -> None:
        """Raise `InputError` if `table` exists and is not a reviewed table."""
        try:
            with open_regular(self.table, os.O_RDONLY) as file:  # nobody named this file
                is_table = b"labelled_by" in file.read(1000)
        except FileNotFoundError:
            return
        except OSError:
            is_table = False
        if not is_table:
            raise InputError(
                f"{self.table}: the review would write its table here, but this is another file; "
                "rename it, or name another file of corrections with -o"
            )
