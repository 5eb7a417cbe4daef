"""A budget of memory that several threads share."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator

__all__ = ["Budget", "Share"]


class Budget:
    """Units of memory that threads take before they need them, first come, first served.

    A thread that asks for more than what is left waits; one that asks for more than there is
    gets it once nobody else holds any. As the first in line is served first, large demands do not
    wait for ever behind small ones.

    Args:
        limit: gives the number of units; asked at each demand.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._taken = 0
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def share(self) -> Iterator[Share]:
        """An empty share, to be filled once; what it holds is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            share.empty()

    @property
    def taken(self) -> int:
        """The units that all threads hold."""
        return self._taken

    def _take(self, units: int) -> None:
        place = object()
        with self._changed:
            self._line.append(place)
            try:
                self._changed.wait_for(
                    lambda: (
                        self._line[0] is place
                        and (not self._taken or self._taken + units <= self._limit())
                    )
                )
                self._taken += units
            finally:
                self._line.remove(place)
                self._changed.notify_all()

    def _give(self, units: int) -> None:
        with self._changed:
            self._taken -= units
            self._changed.notify_all()


class Share:
    """The part of a `Budget` that one thread holds."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._units = 0

    def fill(self, units: int) -> None:
        """Take units in place of those held so far; waits until they are left."""
        self.empty()
        self._budget._take(units)
        self._units = units

    def empty(self) -> None:
        """Give back what is held."""
        if self._units:
            self._budget._give(self._units)
            self._units = 0
