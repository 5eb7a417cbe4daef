"""What all requests of a server may hold together: images in work, and bytes of bodies.

A request takes places once its images have arrived, so a slow upload holds none. Its bytes count
from the first one, and a slow upload makes way when others need the room.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["BusyError", "Pace", "Queue", "Ticket"]

_SLOW = 32_000  # bytes a second
_GRACE = 2.0  # seconds


class BusyError(Exception):
    """No room for a request now; there may be some in `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too much is waiting already; try again later")
        self.retry_after = retry_after


class Pace:
    """Whether bytes keep arriving: `is_slow` once they stay below 32 kB/s for 2 seconds."""

    def __init__(self) -> None:
        self.slow_from = time.monotonic() + _GRACE

    def add(self, size: int) -> None:
        """Counts bytes that have just arrived."""
        now = time.monotonic()
        self.slow_from = min(now + _GRACE, max(now, self.slow_from) + size / _SLOW)

    @property
    def is_slow(self) -> bool:
        """Whether too few bytes have arrived of late."""
        return time.monotonic() > self.slow_from


class Queue:
    """Bounds the images that are accepted and not answered, and the bytes of bodies.

    Args:
        images: the most images.
        held: the most bytes.
    """

    def __init__(self, images: int, held: int) -> None:
        self._most_images, self._most_held = images, held
        self._uploads: set[Ticket] = set()
        self.images = self.held = 0
        self.rate = 10.0  # images answered a second, lately

    @contextmanager
    def ticket(self, expected_bytes: int = 0) -> Iterator[Ticket]:
        """What one request holds, from its headers to its answer.

        Args:
            expected_bytes: the length that its headers declare.

        Raises:
            BusyError: the queue is full already.
        """
        if self.images >= self._most_images:
            raise self.busy()
        self._make_room(expected_bytes)
        ticket = Ticket(self)
        self._uploads.add(ticket)
        try:
            yield ticket
        finally:
            self._uploads.discard(ticket)
            self.images -= ticket.images
            self.held -= ticket.bytes

    def admit(self, ticket: Ticket, images: int) -> None:
        """Takes places for a request whose images have arrived, or raises `BusyError`."""
        if self.images + images > self._most_images:
            raise self.busy()
        self._uploads.discard(ticket)
        self.images += images
        ticket.images += images

    def hold(self, ticket: Ticket, size: int) -> None:
        """Counts bytes before they are kept, or raises `BusyError`."""
        self._make_room(size, ticket)
        self.held += size
        ticket.bytes += size

    def _make_room(self, size: int, asking: Ticket | None = None) -> None:
        """Gives up slow uploads, the largest first, where that frees enough bytes."""
        short = self.held + size - self._most_held
        if short <= 0:
            return
        slow = [ticket for ticket in self._uploads if ticket.pace.is_slow and ticket is not asking]
        if short > sum(ticket.bytes for ticket in slow):
            raise self.busy()
        slow.sort(key=lambda ticket: ticket.bytes)
        while short > 0:
            ticket = slow.pop()
            short -= ticket.bytes
            self.held -= ticket.bytes
            ticket.bytes = 0
            self._uploads.discard(ticket)
            if ticket.give_up:
                ticket.give_up()

    def busy(self) -> BusyError:
        """An error that says when what waits now will be done."""
        return BusyError(min(60, max(1, math.ceil(self.images / self.rate))))

    def learn(self, images: int, seconds: float) -> None:
        """Takes a batch into account for the rate."""
        self.rate += 0.1 * (images / max(seconds, 1e-6) - self.rate)


@dataclass(slots=True, eq=False)
class Ticket:
    """What one request holds in a `Queue`.

    Attributes:
        give_up: called when its upload has to make way.
    """

    queue: Queue
    images: int = 0
    bytes: int = 0
    pace: Pace = field(default_factory=Pace)
    give_up: Callable[[], object] | None = None

    def admit(self, images: int) -> None:
        """Takes a place for each image, all of which have arrived, or raises `BusyError`."""
        self.queue.admit(self, images)

    def add_bytes(self, size: int) -> None:
        """Counts bytes that have arrived before they are kept, or raises `BusyError`."""
        self.pace.add(size)
        self.queue.hold(self, size)
