"""Single items -> batches, run one after the other in one thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Other = TypeVar("Other")


class Batcher(Generic[Item, Result]):
    """Gathers items into batches, which one thread runs; to be used from one event loop.

    While a batch runs the next one gathers, so only the first item of an idle batcher waits for
    others, `max_wait` seconds at most.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch: int,
        max_wait: float,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._is_full: asyncio.Event | None = None
        self._worker: asyncio.Task[None] | None = None
        self._calls = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "clipcls-encode")

    async def submit(self, item: Item) -> Result:
        """One item's result; an item whose caller is cancelled before its batch is left out."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        elif self._is_full and len(self._waiting) >= self._max_batch:
            self._is_full.set()
        return await future

    async def call(self, function: Callable[[], Other]) -> Other:
        """The result of a function that runs between two batches: one call, then one batch."""
        async with self._calls:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        """Wait for what is running, and end the thread."""
        self._thread.shutdown()

    async def _work(self) -> None:
        self._is_full = asyncio.Event()
        if len(self._waiting) < self._max_batch:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_full.wait(), self._max_wait)
        loop = asyncio.get_running_loop()
        while batch := self._take_batch():
            try:
                items = [item for item, _ in batch]
                results = await loop.run_in_executor(self._thread, self._run, items)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)

    def _take_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_batch:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch
