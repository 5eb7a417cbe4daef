"""How long a run will take, and which model would take less."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipcls.embeddings.encoded_batch import EncodedBatch

_LONG = 600.0  # seconds; shorter runs are not worth a line
_MEASURED = 5.0  # seconds of encoding that a rate needs
_FASTER = 1.5  # times; a smaller gain is not worth another model


class Estimate:
    """Says once how long a run takes, if that is over ten minutes, from its first batches.

    Only images that were encoded count: those in the cache take next to no time. How many of the
    others are unknown to the cache is counted once, in a thread.

    Args:
        say: writes a line.
        list_images: lists all images of the run.
    """

    def __init__(
        self, say: Callable[[str], None], list_images: Callable[[], Iterable[Any]]
    ) -> None:
        self._say, self._list = say, list_images
        self._started: float | None = None
        self._images = 0
        self._encoding = 0.0
        self._left: int | None = None
        self._is_counting = self._is_said = False

    def add(self, batch: EncodedBatch) -> None:
        """One more batch was encoded; the first one, which loads the model, starts the clock."""
        now = time.monotonic()
        if self._started is None:
            self._started = now
            return
        self._images += batch.images
        self._encoding += batch.seconds
        if self._left is not None:
            self._left -= batch.images
        elif not self._is_counting and now - self._started >= _MEASURED:
            self._is_counting = True
            threading.Thread(target=self._count, args=(batch,), daemon=True).start()
        seconds = (now - self._started) / self._images
        if self._left is not None and not self._is_said and self._left * seconds > _LONG:
            self._is_said = True
            self._say(self._describe(batch, self._left, seconds))

    def restart(self) -> None:
        """Measure anew: a model is being prepared now."""
        self._started, self._images, self._encoding = None, 0, 0.0

    def _count(self, batch: EncodedBatch) -> None:
        try:
            self._left = batch.count_unknown(self._list())
        except Exception:  # the run meets the same error, and reports it
            self._is_said = True

    def _describe(self, batch: EncodedBatch, left: int, seconds: float) -> str:
        from clipcls.models.aliases import find_faster

        line = f"about {format_time(left * seconds)} for {left:,} images"
        encoding = self._encoding / self._images
        faster = find_faster(batch.encoder.name, encoding / seconds, _FASTER)
        if faster is None:
            return line
        alias, share = faster
        less = format_time(left * seconds * share)
        return f"{line}; --model {alias} would take about {less}, with more mistakes"


def format_time(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
