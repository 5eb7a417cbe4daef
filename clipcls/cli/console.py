"""Messages on stderr: progress, warnings, the summary."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from clipcls.cli.progress import Pace, Progress, Style, Total
from clipcls.errors import printable
from clipcls.predictions import UNKNOWN

if TYPE_CHECKING:
    from clipcls.data.file_kinds import LeftOut
    from clipcls.data.matching import Excluded
    from clipcls.errors import ImageError

_NEWS_EVERY = 60.0  # seconds
_LONGEST_LINE = 2_000  # characters
_NAMED = 20  # images that are skipped for one reason
_REASON = 100  # characters of a reason that tell it from others


class MaxErrors(NamedTuple):
    """How many images may be unreadable: a number, or a percentage of all."""

    value: float
    is_percent: bool = False

    def allowed(self, images: int) -> float:
        """As a number of images."""
        return images * self.value / 100 if self.is_percent else self.value


class Console(logging.Handler):
    """Writes lines to stderr without tearing a progress bar apart."""

    def __init__(self) -> None:
        super().__init__()
        self.quiet = False
        self.style: Style | Literal["auto"] = "auto"
        self.max_errors = MaxErrors(0)
        self.settings: dict[str, tuple[str, str]] = {}  # --option -> value, source
        self.pace: Pace | None = None
        self._progress: Progress | None = None
        self._has_reported = False
        self._next_news = time.monotonic() + _NEWS_EVERY

    def attach(self, logger: logging.Logger) -> None:
        """Show a logger's warnings, and its news about what takes long, as lines.

        Records with the attribute `batch` count encoded images.
        """
        logger.addHandler(self)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Show one log record as one line."""
        if record.levelno >= logging.WARNING:
            self.say(f"{record.levelname.lower()}: {record.getMessage()}")
            return
        if record.levelno < logging.INFO:
            if self._progress and (batch := getattr(record, "batch", None)):
                self._progress.add(batch)
            return
        is_preparing = getattr(record, "is_preparing", False)
        if is_preparing and self._progress:
            self._progress.restart()
        style = self._choose_style()
        if style == "none":
            return
        if not is_preparing and style == "log":  # as seldom as lines of progress
            if time.monotonic() < self._next_news:
                return
            self._next_news = time.monotonic() + _NEWS_EVERY
        self._has_reported = True
        self.say(record.getMessage())

    def say(self, line: str) -> None:
        """Write one line to stderr, with control characters and stray bytes escaped.

        A long line, which quotes a file's content, loses its middle.
        """
        if len(line) > _LONGEST_LINE:
            line = f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 2 :]}"
        if self._progress:
            self._progress.hide()
        click.echo(printable(f"clipcls: {line}"), err=True)

    def remark(self, line: str) -> None:
        """Say what `--quiet` silences."""
        if not self.quiet:
            self.say(line)

    def say_done(self, summary: str, left_out: LeftOut, *, matters: bool) -> None:
        """Sum up a run, on a terminal or after earlier lines; elsewhere only if it matters."""
        matters |= left_out.may_be_images
        if not self.quiet and (matters or self._has_reported or sys.stderr.isatty()):
            self.say(f"{summary}; {left_out}" if left_out.counts else summary)

    def say_written(self, path: Path | None, *after: str) -> None:
        """Say which file was written, and what to do next; --quiet silences it."""
        if path is None or self.quiet or not path.is_file():
            return
        steps = f"; next: {', or '.join(after)}" if after else ""
        self.say(f"wrote {path}{steps}")

    def status(self, unreadable: int, read: int) -> int:
        """The exit status of a run: 2 if no image could be read, else what `--max-errors` says."""
        if unreadable and not read:
            return 2
        return 1 if unreadable > self.max_errors.allowed(unreadable + read) else 0

    def origin(self, message: str) -> str:
        """The variable or file of the settings that an error names."""
        named = (
            f"{option} is from {source}"
            for option, (value, source) in self.settings.items()
            if re.search(rf"(?<![\w-])({option}|{re.escape(value)})(?![\w-])", message)
        )
        return "; ".join(named)

    @contextmanager
    def progress(self, total: Total = None) -> Iterator[Callable[[int], None]]:
        """Show how far a run is; yields what to call after each image with the number skipped."""
        self._progress = Progress(self.say, total, self._choose_style())
        self.pace = self._progress.pace
        try:
            yield self._progress.step
        finally:
            self._progress.hide()
            self._has_reported |= self._progress.lines > 0
            self._progress = None

    def advance(self, images: int) -> None:
        """Count many images at once, none of which was skipped."""
        if self._progress:
            self._progress.advance(images)

    def _choose_style(self) -> Style:
        if self.quiet:
            return "none"
        if self.style == "auto":
            return "bar" if sys.stderr.isatty() else "log"
        return self.style

    def hide_progress(self) -> None:
        """Make room for a result on the terminal; the next step shows the bar again."""
        if self._progress and sys.stdout.isatty():
            self._progress.hide()


def show(line: str) -> None:
    """Print one line of plain text on stdout; a terminal gets no control characters."""
    # Without `color` click would cut escape sequences out of names.
    click.echo(printable(line) if sys.stdout.isatty() else line, color=True)


class Watch:
    """Counts the images of a run, and reports those that it skips, unless it reads them again.

    Of many images with the same reason the first ones are named, and the others counted.
    """

    def __init__(self, console: Console, step: Callable[[int], None], again: bool) -> None:
        self.read = self.skipped = 0
        self._console, self._step, self._again = console, step, again
        self._counts, self._last = Counter[str](), dict[str, str]()

    def __call__(self, error: ImageError | None) -> None:
        """Count one more image, which is read, or skipped for an error."""
        if error:
            self.skipped += 1
            kind = re.sub(r"\d+", "0", error.reason)[:_REASON]
            self._counts[kind] += 1
            self._last[kind] = error.reason
            if not self._again and self._counts[kind] <= _NAMED:
                self._console.say(f"skipped {error}")
        else:
            self.read += 1
        self._step(self.skipped)

    def say_others(self) -> None:
        """Say how many more images were skipped than were named."""
        for kind, count in self._counts.items():
            if count > _NAMED and not self._again:
                self._console.say(f"skipped {count - _NAMED:,} more: {self._last[kind]}")


@contextmanager
def watching(console: Console, total: Total, *, again: bool = False) -> Iterator[Watch]:
    """Show how far a run is; `again` if it reads images whose errors were reported."""
    with console.progress(total) as step:
        watch = Watch(console, step, again)
        try:
            yield watch
        finally:
            watch.say_others()


def report_excluded(console: Console, excluded: Excluded) -> None:
    """Say which labelled images were not counted, and which labels have no images."""
    several = excluded.as_none is not None
    for label, count in excluded.no_labels.items():
        if label == UNKNOWN and not several:
            console.say(f"not counted: images with none of the labels ({UNKNOWN}), {count:,}")
        else:
            how = "images with it" if several else "not counted: images with it"
            console.say(f"{label!r} is none of the labels; {how}, {count:,}")
    for what, number in (
        ("counted as having none of the labels: images without another", excluded.as_none),
        ("not counted: images whose exact label is not given", several and excluded.left_out),
        ("not counted: images outside the class folders", excluded.beside),
        ("not counted: labels that no person gave", excluded.unreviewed),
    ):
        if number:
            console.say(f"{what}, {number:,}")
    if excluded.without_images:
        names = ", ".join(excluded.without_images[:10])
        rest = len(excluded.without_images) - 10
        more = f" and {rest:,} more" if rest > 0 else ""
        console.say(f"labels without an image: {names}{more}")
