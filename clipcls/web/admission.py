"""Admission control: bounds on what all requests together may hold, images in work and bytes.

A request takes places for its images once all of them have arrived, so a slow upload takes none.
Its bytes count from the first one; a slow upload is given up when others need the room. Requests
for which there is no room are refused with 503.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException

_SLOW = 32_000  # bytes per second
_GRACE = 2.0  # seconds


class Pace:
    """Whether bytes keep arriving: `is_slow` once they stay below 32 kB/s for 2 seconds."""

    def __init__(self) -> None:
        self.slow_from = time.monotonic() + _GRACE

    def add(self, size: int) -> None:
        """Count bytes that have just arrived."""
        now = time.monotonic()
        self.slow_from = min(now + _GRACE, max(now, self.slow_from) + size / _SLOW)

    @property
    def is_slow(self) -> bool:
        """Whether too few bytes have arrived lately."""
        return time.monotonic() > self.slow_from


class Queue:
    """The images that are accepted and not answered, and the bytes of bodies, within bounds."""

    def __init__(self, most_images: int, most_bytes: int) -> None:
        self.most_images, self._most_bytes = most_images, most_bytes
        self.uploads: set[Ticket] = set()
        self.images = self.held = 0
        self.rate = 10.0  # images answered per second, lately

    @contextmanager
    def ticket(self, expected_bytes: int = 0) -> Iterator[Ticket]:
        """The share of one request, from its headers to its answer, or a refusal.

        `expected_bytes` is the length that its headers declare.
        """
        if self.images >= self.most_images:
            raise self.busy()
        self.make_room(expected_bytes)
        ticket = Ticket(self)
        self.uploads.add(ticket)
        try:
            yield ticket
        finally:
            self.uploads.discard(ticket)
            self.images -= ticket.images
            self.held -= ticket.bytes

    def make_room(self, size: int, asking: Ticket | None = None) -> None:
        """Give up slow uploads, the largest first, or refuse if that is not enough."""
        short = self.held + size - self._most_bytes
        if short <= 0:
            return
        slow = [ticket for ticket in self.uploads if ticket.pace.is_slow and ticket is not asking]
        if short > sum(ticket.bytes for ticket in slow):
            raise self.busy()
        slow.sort(key=lambda ticket: ticket.bytes)
        while short > 0:
            ticket = slow.pop()
            short -= ticket.bytes
            self.held -= ticket.bytes
            ticket.bytes = 0
            self.uploads.discard(ticket)
            ticket.give_up()

    def busy(self) -> HTTPException:
        """A refusal with the time when what waits now will be done."""
        seconds = min(60, max(1, math.ceil(self.images / self.rate)))
        return HTTPException(
            503, "too much is waiting already; try again later", {"retry-after": str(seconds)}
        )

    def learn(self, images: int, seconds: float) -> None:
        """Take a batch into account for the rate."""
        self.rate += 0.1 * (images / max(seconds, 1e-6) - self.rate)


@dataclass(slots=True, eq=False)
class Ticket:
    """The share of one request in a `Queue`; `give_up` is called when its upload is given up."""

    queue: Queue
    images: int = 0
    bytes: int = 0
    pace: Pace = field(default_factory=Pace)
    give_up: Callable[[], object] = lambda: None

    def admit(self, images: int) -> None:
        """Take a place for each image, all of which have arrived, or refuse."""
        if self.queue.images + images > self.queue.most_images:
            raise self.queue.busy()
        self.queue.uploads.discard(self)
        self.queue.images += images
        self.images += images

    def add_bytes(self, size: int) -> None:
        """Count bytes that have arrived before they are kept, or refuse."""
        self.pace.add(size)
        self.queue.make_room(size, self)
        self.queue.held += size
        self.bytes += size
