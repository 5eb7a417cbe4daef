"""A budget of memory that several threads share."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator

Reserve = Callable[[int], None]
"""Called with a size in bytes before so much is read; may wait for memory."""


def never_wait(size: int) -> None:
    """The `Reserve` of a caller who reads one image alone."""


class Budget:
    """Units of memory that threads reserve before they need them, first come, first served.

    A thread that asks for more than is left waits; one that asks for more than the limit gets it
    once nobody else has any. Large demands are never overtaken by small ones.

    Args:
        limit: returns the number of units; called at each demand.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._taken = 0
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def taken(self) -> int:
        """The units that all threads have."""
        return self._taken

    @contextlib.contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function that reserves units in place of those it reserved before; waits for them.

        All are given back at the end.
        """
        held = 0

        def reserve(units: int) -> None:
            nonlocal held
            self._give(held)
            held = 0
            if units:
                self._take(units)
                held = units

        try:
            yield reserve
        finally:
            reserve(0)

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
