"""Single calls from many threads -> batches, run one after the other in one thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Batcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Other = TypeVar("Other")


class Batcher(Generic[Item, Result]):
    """Gathers items into batches; all that it is given runs in one thread of its own.

    An item waits at most `max_wait` for others to come, counted from when it was submitted. While
    a batch runs the next one gathers, so under load nothing is waited for.

    Args:
        run: items, at most `max_batch` -> their results, in order.
        max_batch: the most items of a batch.
        max_wait: how long an item may wait for others while nothing runs, seconds.
        watch: called after each batch with its size and the seconds it took.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch: int,
        max_wait: float,
        watch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._watch = watch
        self._changed = threading.Condition()
        self._items: deque[tuple[float, Item, Future[Result]]] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="clipcls-encode", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[Result]:
        """One item's result; a future that is cancelled before its batch begins is left out."""
        future: Future[Result] = Future()
        with self._changed:
            self._refuse_if_closed()
            self._items.append((time.monotonic(), item, future))
            self._changed.notify()
        return future

    def call(self, function: Callable[[], Other]) -> Future[Other]:
        """Something else, run in the same thread between two batches; batches wait for it."""
        future: Future[Other] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(error)

        with self._changed:
            self._refuse_if_closed()
            self._calls.append(work)
            self._changed.notify()
        return future

    def close(self) -> None:
        """Finishes what was submitted and ends the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise RuntimeError("the batcher is closed")

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._items or self._calls):
                    if self._is_closed:
                        return
                    self._changed.wait()
                work = self._calls.popleft() if self._calls else None
            if work:
                work()  # one, then a batch: neither kind keeps the other waiting for long
            if batch := self._gather():
                self._finish(batch)

    def _gather(self) -> list[tuple[Item, Future[Result]]]:
        with self._changed:
            if not self._items:
                return []
            deadline = self._items[0][0] + self._max_wait
            while len(self._items) < self._max_batch and not self._is_closed:
                left = deadline - time.monotonic()
                if left <= 0 or self._calls:
                    break
                self._changed.wait(left)
            batch: list[tuple[Item, Future[Result]]] = []
            while self._items and len(batch) < self._max_batch:
                _, item, future = self._items.popleft()
                if future.set_running_or_notify_cancel():
                    batch.append((item, future))
            return batch

    def _finish(self, batch: Sequence[tuple[Item, Future[Result]]]) -> None:
        started = time.monotonic()
        try:
            results = self._run([item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            return
        self._watch(len(batch), time.monotonic() - started)
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
