"""What goes to stderr: progress, warnings, the last word."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tqdm import tqdm

    from clipcls.errors import ImageError
    from clipcls.labelled import SetAside

__all__ = ["Console", "say_what_was_set_aside", "watching"]


class Console(logging.Handler):
    """Writes lines to stderr without tearing a progress bar apart."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.quiet = False
        self._bar: tqdm[Any] | None = None

    def attach(self, logger: logging.Logger) -> None:
        """Shows a logger's warnings as lines; on a terminal also what takes its time."""
        logger.addHandler(self)
        logger.setLevel(logging.INFO if sys.stderr.isatty() else logging.WARNING)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """One log record as one line."""
        if record.levelno >= logging.WARNING:
            self.say(f"{record.levelname.lower()}: {record.getMessage()}")
        elif not self.quiet:
            self.say(record.getMessage())

    def say(self, line: str) -> None:
        """One line on stderr; control characters and stray bytes are made visible."""
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in f"clipcls: {line}")
        if self._bar is None:
            click.echo(text, err=True)
        else:
            self._bar.write(text, file=sys.stderr)

    @contextmanager
    def progress(self, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A bar that appears after a second; none where stderr is no terminal or with --quiet.

        Yields:
            what to call after each image, with the number skipped so far.
        """
        if self.quiet or not sys.stderr.isatty():
            yield lambda skipped: None
            return
        from tqdm import tqdm

        def step(skipped: int) -> None:
            if skipped:
                bar.set_postfix(skipped=skipped, refresh=False)
            bar.update()

        with tqdm(total=total, unit=" images", delay=1, leave=False, dynamic_ncols=True) as bar:
            self._bar = bar
            try:
                yield step
            finally:
                self._bar = None

    @contextmanager
    def results(self) -> Iterator[None]:
        """Keeps results on a terminal and the bar apart."""
        if self._bar is None or not sys.stdout.isatty():
            yield
        else:
            with self._bar.external_write_mode(sys.stdout):
                yield


@contextmanager
def watching(
    console: Console, total: int | None, *, again: bool = False
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


def say_what_was_set_aside(console: Console, aside: SetAside) -> None:
    """Says which labelled images are in no figure, and which labels have no images."""
    several = aside.as_none is not None
    how = "images with it" if several else "not counted: images with it"
    for label, count in aside.no_labels.items():
        console.say(f"{label!r} is none of the labels; {how}, {count:,}")
    if aside.as_none:
        console.say(
            f"counted as having none of the labels: images without another, {aside.as_none:,}"
        )
    if several and aside.left_out:
        console.say(
            f"not counted: images of a kind of which it is not said which, {aside.left_out:,}"
        )
    if aside.beside:
        console.say(f"not counted: images beside the class folders, {aside.beside:,}")
    if aside.unreviewed:
        console.say(f"not counted: labels that no person gave, {aside.unreviewed:,}")
    if aside.without_images:
        names = ", ".join(aside.without_images[:10])
        rest = len(aside.without_images) - 10
        more = f" and {rest:,} more" if rest > 0 else ""
        console.say(f"labels without an image: {names}{more}")
