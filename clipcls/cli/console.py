"""What goes to stderr: progress, warnings, the last word."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from clipcls.cli.progress import Pace, Progress, Style, Total
from clipcls.errors import printable
from clipcls.predictions import UNKNOWN

if TYPE_CHECKING:
    from clipcls.data.matching import Excluded
    from clipcls.errors import ImageError

__all__ = ["Console", "MaxErrors", "report_excluded", "show", "watching"]

_NEWS_EVERY = 60.0  # seconds
_LONGEST_LINE = 2_000  # characters


class MaxErrors(NamedTuple):
    """How many images may be unreadable: a number, or a share of all in percent."""

    value: float
    is_percent: bool = False

    def allowed(self, images: int) -> float:
        """As a number of images."""
        return images * self.value / 100 if self.is_percent else self.value


class Console(logging.Handler):
    """Writes lines to stderr without tearing a progress bar apart."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.quiet = False
        self.style: Style | Literal["auto"] = "auto"
        self.max_errors = MaxErrors(0)
        self.settings: dict[str, tuple[str, str]] = {}  # --option -> its value, where it is set
        self.pace: Pace | None = None
        self._progress: Progress | None = None
        self._has_reported = False
        self._next_news = time.monotonic() + _NEWS_EVERY

    def attach(self, logger: logging.Logger) -> None:
        """Show a logger's warnings as lines, and what takes its time."""
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """One log record as one line."""
        if record.levelno >= logging.WARNING:
            self.say(f"{record.levelname.lower()}: {record.getMessage()}")
            return
        is_preparing = getattr(record, "is_preparing", False)
        if is_preparing and self._progress:
            self._progress.pace.restart()
        style = self._chosen_style()
        if style == "none":
            return
        if not is_preparing and style == "log":  # as seldom as lines of progress
            if time.monotonic() < self._next_news:
                return
            self._next_news = time.monotonic() + _NEWS_EVERY
        self._has_reported = True
        self.say(record.getMessage())

    def say(self, line: str) -> None:
        """One line on stderr; control characters and stray bytes are made visible.

        The middle of a long line, which quotes a file's content, is left out.
        """
        if len(line) > _LONGEST_LINE:
            line = f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 2 :]}"
        text = printable(f"clipcls: {line}")
        if self._progress is None or self._progress.bar is None:
            click.echo(text, err=True)
        else:
            self._progress.bar.write(text, file=sys.stderr)

    def remark(self, line: str) -> None:
        """Say what `--quiet` leaves out."""
        if not self.quiet:
            self.say(line)

    def say_done(self, summary: str, *, matters: bool) -> None:
        """Say what a run did, if someone reads along: on a terminal, or where lines went before.

        Args:
            summary: the line.
            matters: whether to say it in any case but with --quiet.
        """
        if not self.quiet and (matters or self._has_reported or sys.stderr.isatty()):
            self.say(summary)

    def say_written(self, path: Path | None, *after: str) -> None:
        """Say which file was written, and what to do next; nothing of a pipe or with --quiet."""
        if path is None or self.quiet or not path.is_file():
            return
        steps = f"; next: {', or '.join(after)}" if after else ""
        self.say(f"wrote {path}{steps}")

    def status(self, unreadable: int, read: int) -> int:
        """The exit status of a run: 2 if no image could be read, else as `--max-errors` has it."""
        if unreadable and not read:
            return 2
        return 1 if unreadable > self.max_errors.allowed(unreadable + read) else 0

    def origin(self, message: str) -> str:
        """Where a value that an error names comes from, if not from the command line."""
        named = (
            f"{option} is from {source}"
            for option, (value, source) in self.settings.items()
            if re.search(rf"(?<![\w-])({option}|{re.escape(value)})(?![\w-])", message)
        )
        return "; ".join(named)

    @contextmanager
    def progress(self, total: Total = None) -> Iterator[Callable[[int], None]]:
        """Show how far a run is, in the style of `--progress`; nothing with --quiet.

        Yields:
            what to call after each image, with the number skipped so far.
        """
        self._progress = Progress(self, total, self._chosen_style())
        self.pace = self._progress.pace
        try:
            yield self._progress.step
        finally:
            self._progress.close()
            self._has_reported |= self._progress.lines > 0
            self._progress = None

    def _chosen_style(self) -> Style:
        if self.quiet:
            return "none"
        if self.style == "auto":
            return "bar" if sys.stderr.isatty() else "log"
        return self.style

    @contextmanager
    def results(self, output: Path | None) -> Iterator[None]:
        """Keep results on a terminal and the bar apart."""
        bar = self._progress.bar if self._progress else None
        if bar is None or output is not None or not sys.stdout.isatty():
            yield
        else:
            with bar.external_write_mode(sys.stdout):
                yield


def show(line: str) -> None:
    """Print one line on stdout: exact to a file or pipe, without control characters to a terminal.

    Args:
        line: plain text; colours would be escaped.
    """
    # With colour click leaves a line as it is; else it would cut escape sequences out of names.
    click.echo(printable(line) if sys.stdout.isatty() else line, color=True)


@contextmanager
def watching(
    console: Console, total: Total, *, again: bool = False
) -> Iterator[Callable[[ImageError | None], None]]:
    """Shows how far embedding labelled images is; the first time names those that are skipped."""
    skipped = 0
    with console.progress(total) as progress:

        def watch(error: ImageError | None) -> None:
            nonlocal skipped
            if error:
                skipped += 1
                if not again:
                    console.say(f"skipped {error}")
            progress(skipped)

        yield watch


def report_excluded(console: Console, excluded: Excluded) -> None:
    """Says which labelled images are in no figure, and which labels have no images."""
    several = excluded.as_none is not None
    how = "images with it" if several else "not counted: images with it"
    for label, count in excluded.no_labels.items():
        if label == UNKNOWN and not several:
            console.say(f"not counted: images with none of the labels ({UNKNOWN}), {count:,}")
            continue
        console.say(f"{label!r} is none of the labels; {how}, {count:,}")
    if excluded.as_none:
        console.say(
            f"counted as having none of the labels: images without another, {excluded.as_none:,}"
        )
    if several and excluded.left_out:
        console.say(
            f"not counted: images of a kind of which it is not said which, {excluded.left_out:,}"
        )
    if excluded.beside:
        console.say(f"not counted: images beside the class folders, {excluded.beside:,}")
    if excluded.unreviewed:
        console.say(f"not counted: labels that no person gave, {excluded.unreviewed:,}")
    if excluded.without_images:
        names = ", ".join(excluded.without_images[:10])
        rest = len(excluded.without_images) - 10
        more = f" and {rest:,} more" if rest > 0 else ""
        console.say(f"labels without an image: {names}{more}")
