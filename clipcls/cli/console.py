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

__all__ = ["Console"]


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
