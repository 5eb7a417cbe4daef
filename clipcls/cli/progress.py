"""How far a run is: a bar on a terminal, elsewhere one line per minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tqdm import tqdm

    from clipcls.cli.console import Console

__all__ = ["Pace", "Progress", "Style", "Total", "format_rate"]

Style = Literal["bar", "log", "none"]
Total = int | Callable[[], int] | None
"""How many steps there will be; a function that finds out runs only if the run takes a while."""

_BAR_AFTER = 1.0  # seconds
_LINE_EVERY = 60.0
_COUNT_AFTER = {"bar": _BAR_AFTER, "log": 10.0}
_BURST = 0.25


class Pace:
    """The number of images done, and their rate without what preparing the model took.

    The first results arrive together, as a batch whose own time is unknown; the rate is that of
    the results after them.
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
        """Take one more image into account; `failed` ones do not start the clock."""
        self.done += 1
        self._last = time.monotonic()
        if self._first is None and not failed:
            self._first = self._last
        if self._first is None or self._last - self._first < _BURST:
            self._before, self._since = self.done, self._last

    @property
    def rate(self) -> float | None:
        """Images per second, or None while the first batch is all there is."""
        counted = self.done - self._before
        return counted / max(self._last - self._since, 1e-9) if counted else None


class Progress:
    """Shows how far a run is, in one of the styles.

    Args:
        console: where lines go.
        total: how many steps there will be.
        style: what to show.
    """

    def __init__(self, console: Console, total: Total, style: Style) -> None:
        self.pace = Pace()
        self.bar: tqdm[Any] | None = None
        self.lines = 0
        self._console = console
        self._total = total
        self._style = style
        self._skipped = 0
        self._rate: float | None = None
        self._shown = self._began = time.monotonic()

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
        if self._style == "log":
            if now - self._shown >= _LINE_EVERY:
                self._shown = now
                self.lines += 1
                self._console.say(self._line())
        elif self.bar is not None or now - self._began >= _BAR_AFTER:
            self._draw()

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self.bar is not None:
            self.bar.start_t = 0  # tqdm leaves a bar that is younger than its delay
            self.bar.close()
            self.bar = None

    def _count(self, count: Callable[[], int]) -> None:
        try:
            self._total = count()
        except Exception:  # the run itself meets it, too, and reports it
            self._total = None

    def _line(self) -> str:
        of = f" of {self._total:,}" if isinstance(self._total, int) else ""
        return ", ".join((f"{self.pace.done:,}{of} images", *self._details()))

    def _details(self) -> list[str]:
        details = []
        if self._rate:
            details.append(format_rate(self._rate))
            if isinstance(self._total, int) and self._total > self.pace.done:
                details.append(f"{_format_time((self._total - self.pace.done) / self._rate)} left")
        if self._skipped:
            details.append(f"{self._skipped:,} skipped")
        return details

    def _draw(self) -> None:
        total = self._total if isinstance(self._total, int) else None
        layout = (
            "{n:,} images{postfix}"
            if total is None
            else "{percentage:3.0f}%|{bar}| {n:,}/{total:,}{postfix}"
        )
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                initial=self.pace.done - 1,
                bar_format=layout,
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
            )
        self.bar.total, self.bar.bar_format = total, layout
        self.bar.set_postfix_str(", ".join(self._details()), refresh=False)
        self.bar.update()


def format_rate(rate: float) -> str:
    """Images per second; of slow ones, seconds per image."""
    if rate < 1:
        return f"{1 / rate:,.1f} s per image"
    return f"{rate:,.{0 if rate >= 10 else 1}f} images/s"


def _format_time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
