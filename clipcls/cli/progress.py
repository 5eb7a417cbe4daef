"""How far a run is: a bar on a terminal, elsewhere one line per minute."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Literal

from clipcls.cli.estimate import Estimate, format_time
from clipcls.errors import format_count

if TYPE_CHECKING:
    from clipcls.embeddings.encoded_batch import EncodedBatch

Style = Literal["bar", "log", "none"]
Total = int | Collection[Any] | Callable[[], Iterable[Any]] | None
"""The steps, or their number; a function that lists them runs only if the run takes a while."""

_BAR_AFTER = 1.0  # seconds
_BAR_EVERY = 0.1
_LINE_EVERY = 60.0
_COUNT_AFTER = {"bar": _BAR_AFTER, "log": _LINE_EVERY / 2}  # counting slows the run down
_BURST = 0.25


class Pace:
    """The number of images done, and their rate without the time to prepare the model.

    The first results arrive together, as a batch that took an unknown time; the rate is that of the
    results after them.
    """

    def __init__(self) -> None:
        self.done = 0
        self.restart()

    def restart(self) -> None:
        """Measure anew from the next image on, since a model is being prepared now."""
        self._first: float | None = None
        self._before = self.done
        self._since = self._last = 0.0

    def count(self, *, failed: bool = False) -> None:
        """Count one more image; `failed` ones do not start the clock."""
        self.done += 1
        self._last = time.monotonic()
        if self._first is None and not failed:
            self._first = self._last
        if self._first is None or self._last - self._first < _BURST:
            self._before, self._since = self.done, self._last

    @property
    def rate(self) -> float | None:
        """Images per second, or None before the second batch."""
        counted = self.done - self._before
        return counted / max(self._last - self._since, 1e-9) if counted else None


class Progress:
    """Shows how far a run of `total` steps is, in one of the styles; `say` writes a line."""

    def __init__(self, say: Callable[[str], None], total: Total, style: Style) -> None:
        self.pace = Pace()
        self.lines = 0
        self._say, self._style = say, style
        self._total = len(total) if isinstance(total, Collection) else total
        self._estimate = None
        if style != "none" and total is not None and not isinstance(total, int):
            list_images = total if callable(total) else lambda: total
            self._estimate = Estimate(say, list_images)
        self._skipped = 0
        self._rate: float | None = None
        self._width = 0  # of the bar on the terminal
        self._shown = self._began = time.monotonic()

    def advance(self, steps: int) -> None:
        """Many more steps are done."""
        self.pace.done += steps - 1
        self.step(self._skipped)

    def step(self, skipped: int) -> None:
        """One more step is done; `skipped` of all so far were skipped."""
        self._rate = self.pace.rate  # before this step: it may be the first of a batch
        self.pace.count(failed=skipped > self._skipped)
        self._skipped = skipped
        if self._style == "none":
            return
        now = time.monotonic()
        if callable(self._total) and now - self._began >= _COUNT_AFTER[self._style]:
            count, self._total = self._total, None
            threading.Thread(target=self._count, args=(count,), daemon=True).start()
        is_due = now - self._shown >= (_LINE_EVERY if self._style == "log" else _BAR_EVERY)
        if self._style == "log" and is_due:
            self._shown = now
            self.lines += 1
            self._say(self._describe())
        elif (
            self._style == "bar" and now - self._began >= _BAR_AFTER and (is_due or not self._width)
        ):
            self._shown = now
            self._draw()

    def add(self, batch: EncodedBatch) -> None:
        """A batch of images was encoded, which says how long the run will take."""
        if self._estimate:
            self._estimate.add(batch)

    def restart(self) -> None:
        """Measure anew from the next image on, since a model is being prepared now."""
        self.pace.restart()
        if self._estimate:
            self._estimate.restart()

    def hide(self) -> None:
        """Remove the bar from the terminal, until the next step draws it again."""
        if self._width:
            sys.stderr.write(f"\r{' ' * self._width}\r")
            sys.stderr.flush()
            self._width = 0

    def _count(self, list_steps: Callable[[], Iterable[Any]]) -> None:
        try:
            self._total = sum(1 for _ in list_steps())
        except Exception:  # the run meets the same error, and reports it
            self._total = None

    def _describe(self) -> str:
        done, total = self.pace.done, self._total if isinstance(self._total, int) else None
        parts = [format_count(done, "image") if total is None else f"{done:,} of {total:,} images"]
        if self._rate:
            parts.append(format_rate(self._rate))
            if total is not None and total > done:
                parts.append(f"{format_time((total - done) / self._rate)} left")
        if self._skipped:
            parts.append(f"{self._skipped:,} skipped")
        return ", ".join(parts)

    def _draw(self) -> None:
        text = self._describe()
        if isinstance(self._total, int) and self._total:
            filled = min(20, 20 * self.pace.done // self._total)
            text = f"[{'#' * filled}{'.' * (20 - filled)}] {text}"
        text = text[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r{text.ljust(self._width)}")
        sys.stderr.flush()
        self._width = len(text)


def format_rate(rate: float) -> str:
    """Images per second; of slow ones, seconds per image."""
    if rate < 1:
        return f"{1 / rate:,.1f} s per image"
    return f"{rate:,.{0 if rate >= 10 else 1}f} images/s"
