"""A run of `classify` or `tag`: options checked first, a record per image, then filing."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clipcls.cli.console import Console
from clipcls.cli.constraints import refuse_inside
from clipcls.cli.filing import (
    FilingSettings,
    choose_mode,
    file_into,
    without_scores,
    write_keywords,
)
from clipcls.cli.options import find_images
from clipcls.cli.outputs import ResultsOutput
from clipcls.cli.progress import format_rate
from clipcls.errors import ImageError
from clipcls.predictions import PROVENANCE, UNKNOWN, Result

if TYPE_CHECKING:
    from clipcls.calibration.base import BaseCalibration
    from clipcls.cli.progress import Total
    from clipcls.data.file_kinds import LeftOut
    from clipcls.embeddings.cache import EmbeddingCache

__all__ = ["Report", "Run"]


@dataclass(slots=True)
class Report:
    """Counts what became of the images of a run, and sums it up."""

    excluded: LeftOut
    classified: int = 0
    unknown: int = 0
    skipped: int = 0
    started: float = field(default_factory=time.monotonic)

    def count(self, result: Result) -> None:
        """Takes one result into account."""
        if isinstance(result, ImageError):
            self.skipped += 1
        else:
            self.classified += 1
            self.unknown += result.label == UNKNOWN

    def summary(self, rate: str = "") -> str:
        """One line: how many images, what became of them, how long it took and how fast."""
        seconds = time.monotonic() - self.started
        parts = [f"{self.classified:,} classified"]
        if self.unknown:
            parts[0] += f" ({self.unknown:,} as {UNKNOWN})"
        if self.skipped:
            parts.append(f"{self.skipped:,} could not be read")
        besides = f"; {self.excluded}" if self.excluded.counts else ""
        return f"{', '.join(parts)} in {seconds:.1f} s{f' ({rate})' if rate else ''}{besides}"


@dataclass
class Run:
    """Where a run's images come from and its records go, as the options say.

    Raises:
        click.UsageError: the options contradict each other.
        ClipclsError: a package that they need is missing.
    """

    console: Console
    inputs: tuple[str, ...]
    null: bool
    output: ResultsOutput
    filing: FilingSettings
    report: Report = field(init=False)
    _to_file: list[Result] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.filing.sort_into:
            refuse_inside(self.filing.sort_into, self.inputs)
        self._form = self.output.choose_format()
        if self.filing.xmp:
            from clipcls.organize.xmp_packet import need_lxml

            need_lxml()
        if self._form == "parquet":
            from clipcls.output.parquet import need_pyarrow

            need_pyarrow("--format parquet")
        from clipcls.data.file_kinds import LeftOut

        self.report = Report(LeftOut())

    def select_columns(self, usual: Sequence[str], every: Sequence[str] = ()) -> list[str]:
        """The columns of a csv or tsv, refused if `--columns` names others than these.

        Args:
            usual: the columns without `--columns`.
            every: further columns that can be asked for; those of provenance always can.
        """
        return self.output.choose_columns(self._form, usual, [*every, *PROVENANCE])

    def find_images(self) -> tuple[Iterator[str | ImageError], Total]:
        """The images and their number, as `find_images` gives them."""
        return find_images(self.inputs, self.null, self.report.excluded)

    def write(
        self,
        results: Iterable[Result],
        columns: Sequence[str],
        *,
        calibration: BaseCalibration | None,
        cache: EmbeddingCache | None,
        watch: Callable[[ImageError | None], None] | None,
    ) -> None:
        """Write one record per result.

        Args:
            results: in the order of the images.
            columns: those of a csv or tsv.
            calibration: what the scores rest on; a warning says if it was made from these images.
            cache: knows the content of many image files.
            watch: called after each result; None where the images were reported before.
        """
        from clipcls.embeddings.cache import hash_image

        known = 0
        with self.output.open(self._form, columns) as writer:
            for result in results:
                self.report.count(result)
                failure = result if isinstance(result, ImageError) else None
                if calibration and not failure:
                    known += calibration.knows(hash_image(cache, result.path))
                if self.filing.sort_into or self.filing.xmp:
                    self._to_file.append(without_scores(result))
                with self.console.results(self.output.file):
                    writer.write(result)
                if watch:
                    watch(failure)
        if known:
            self.console.say(
                f"warning: the calibration was made from {known:,} of these images; what it "
                "promises holds for other images like them"
            )

    def finish(self, *, reviewable: bool) -> int:
        """Say what was done and what to do next, file the images; returns the exit status.

        Args:
            reviewable: whether `clipcls review` takes the results.
        """
        console, report, output = self.console, self.report, self.output.file
        rate = console.pace.rate if console.pace else None
        console.say_done(
            report.summary(format_rate(rate) if rate else ""),
            matters=report.skipped > 0 or output is not None or report.excluded.may_be_images,
        )
        if self._form == "html":
            console.say_written(output, "open it in a browser")
        elif self._form in ("table", "json") or self.filing.sort_into or self.filing.xmp:
            console.say_written(output)
        elif output is not None:
            file = shlex.quote(str(output))
            review = [f"clipcls review {file}"] if reviewable else []
            console.say_written(output, *review, f"clipcls sort {file} --into sorted")
        # Only now: a run that stops earlier has moved nothing that the next one would have to find.
        status = console.status(report.skipped, report.classified)
        if self.filing.xmp:
            status = max(status, write_keywords(console, Path("."), self._to_file))
        if self.filing.sort_into and status != 130:
            filed = file_into(
                console,
                self.filing.sort_into,
                choose_mode(self.filing.move, self.filing.link),
                Path("."),
                self._to_file,
            )
            status = max(status, filed)
        return status
