"""Items come back right, in batches, and none waits longer than was said."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from clipcls.web.serve.batching import Batcher
from helpers.loops import run_async


class Doubler:
    """Doubles numbers, once it is let; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        assert self.may_go.wait(20)
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]


@asynccontextmanager
async def batching(
    run: Doubler, max_batch: int = 4, max_wait: float = 0.0
) -> AsyncIterator[Batcher[int, int]]:
    batcher = Batcher(run, max_batch=max_batch, max_wait=max_wait)
    try:
        yield batcher
    finally:
        run.may_go.set()
        batcher.close()


def in_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def timed() -> None:
            await asyncio.wait_for(test(), 30)

        run_async(timed())

    run.__name__ = test.__name__
    return run


async def begun(run: Doubler) -> None:
    while not run.batches:
        await asyncio.sleep(0.001)


@in_a_loop
async def test_each_gets_its_own_result() -> None:
    async with batching(Doubler(), max_wait=0.001) as batcher:
        results = await asyncio.gather(*map(batcher.submit, range(200)))
    assert results == [2 * item for item in range(200)]


@in_a_loop
async def test_what_comes_while_a_batch_runs_is_the_next_batch() -> None:
    run = Doubler()
    run.may_go.clear()
    async with batching(run) as batcher:
        first = asyncio.create_task(batcher.submit(0))
        await begun(run)
        others = [asyncio.create_task(batcher.submit(item)) for item in range(1, 7)]
        await asyncio.sleep(0)
        run.may_go.set()
        assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10, 12]
    assert run.batches == [[0], [1, 2, 3, 4], [5, 6]]


@in_a_loop
async def test_an_idle_model_waits_for_others_but_not_for_ever() -> None:
    run = Doubler()
    async with batching(run, max_batch=2, max_wait=600) as batcher:
        both = asyncio.gather(batcher.submit(1), batcher.submit(2))  # full: at once
        assert list(await both) == [2, 4]
    async with batching(run, max_batch=2, max_wait=0.05) as batcher:
        assert await batcher.submit(3) == 6  # alone: after the wait
    assert run.batches == [[1, 2], [3]]


@in_a_loop
async def test_what_is_cancelled_is_not_run() -> None:
    run = Doubler()
    run.may_go.clear()
    async with batching(run) as batcher:
        first = asyncio.create_task(batcher.submit(0))
        await begun(run)
        gone, kept = (asyncio.create_task(batcher.submit(item)) for item in (1, 2))
        called: list[int] = []
        call = asyncio.create_task(batcher.call(lambda: called.append(1)))
        await asyncio.sleep(0)
        assert gone.cancel()
        assert call.cancel()
        await asyncio.sleep(0)
        run.may_go.set()
        assert list(await asyncio.gather(first, kept)) == [0, 4]
    assert run.batches == [[0], [2]]
    assert called == []


@in_a_loop
async def test_an_error_is_its_batchs_alone() -> None:
    async with batching(Doubler(), max_batch=1) as batcher:
        bad, good = await asyncio.gather(
            batcher.submit(-1), batcher.submit(1), return_exceptions=True
        )
        assert isinstance(bad, ValueError)
        assert good == 2
        with pytest.raises(ZeroDivisionError):
            await batcher.call(lambda: 1 / 0)
        assert await batcher.call(lambda: 5) == 5


@in_a_loop
async def test_calls_and_batches_take_turns() -> None:
    run = Doubler()
    run.may_go.clear()
    async with batching(run, max_batch=1) as batcher:
        first = asyncio.create_task(batcher.submit(0))
        await begun(run)
        calls = [batcher.call(lambda: run.batches.append([])) for _ in range(2)]
        items = [batcher.submit(number) for number in range(1, 8)]
        work = asyncio.gather(first, *calls, *items)
        await asyncio.sleep(0)
        run.may_go.set()
        await work
    # How soon the event loop hears of an end decides how many batches go before a call.
    assert [] in run.batches[1:3]
    assert run.batches[-1] == [7]
