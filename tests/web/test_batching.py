"""Items of many threads come back right, in batches, and none waits longer than was said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from clipcls.web.serve.batching import Batcher


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


@contextmanager
def batching(
    run: Doubler, max_batch: int = 4, max_wait: float = 0.0
) -> Iterator[Batcher[int, int]]:
    batcher = Batcher(run, max_batch=max_batch, max_wait=max_wait)
    try:
        yield batcher
    finally:
        run.may_go.set()
        batcher.close()


def test_each_gets_its_own_result() -> None:
    with batching(Doubler(), max_wait=0.001) as batcher, ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda item: batcher.submit(item).result(20), range(200))
        assert list(results) == [2 * item for item in range(200)]


def test_what_comes_while_a_batch_runs_is_the_next_batch() -> None:
    run = Doubler()
    run.may_go.clear()
    with batching(run) as batcher:
        first = batcher.submit(0)
        _until(lambda: run.batches)
        others = [batcher.submit(item) for item in range(1, 7)]
        run.may_go.set()
        assert [f.result(20) for f in (first, *others)] == [0, 2, 4, 6, 8, 10, 12]
    assert run.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_an_idle_model_waits_for_others_but_not_for_ever() -> None:
    run = Doubler()
    with batching(run, max_batch=2, max_wait=600) as batcher:
        futures = [batcher.submit(1), batcher.submit(2)]  # full: at once
        assert [f.result(20) for f in futures] == [2, 4]
    with batching(run, max_batch=2, max_wait=0.05) as batcher:
        assert batcher.submit(3).result(20) == 6  # alone: after the wait
    assert run.batches == [[1, 2], [3]]


def test_what_is_cancelled_is_not_run() -> None:
    run = Doubler()
    run.may_go.clear()
    with batching(run) as batcher:
        first = batcher.submit(0)
        _until(lambda: run.batches)
        gone, kept = batcher.submit(1), batcher.submit(2)
        called: list[int] = []
        call = batcher.call(lambda: called.append(1))
        assert gone.cancel()
        assert call.cancel()
        run.may_go.set()
        assert (first.result(20), kept.result(20)) == (0, 4)
    assert run.batches == [[0], [2]]
    assert called == []


def test_an_error_is_its_batchs_alone() -> None:
    with batching(Doubler(), max_batch=1) as batcher:
        bad, good = batcher.submit(-1), batcher.submit(1)
        with pytest.raises(ValueError, match="minus one"):
            bad.result(20)
        assert good.result(20) == 2
        with pytest.raises(ZeroDivisionError):
            batcher.call(lambda: 1 / 0).result(20)
        assert batcher.call(lambda: 5).result(20) == 5


def test_calls_and_batches_take_turns() -> None:
    run = Doubler()
    run.may_go.clear()
    order: list[str] = []
    with batching(run, max_batch=1) as batcher:
        batcher.submit(0)
        _until(lambda: run.batches)
        calls = [batcher.call(lambda n=n: order.append(f"call {n}")) for n in range(2)]
        items = [batcher.submit(n) for n in (1, 2)]
        for n, item in enumerate(items):
            item.add_done_callback(lambda _, n=n: order.append(f"item {n}"))
        run.may_go.set()
        for future in (*calls, *items):
            future.result(20)
    assert order == ["call 0", "item 0", "call 1", "item 1"]


def test_close_finishes_what_was_submitted() -> None:
    run = Doubler()
    batcher = Batcher(run, max_batch=2, max_wait=600)
    futures = [batcher.submit(item) for item in range(5)]
    batcher.close()
    assert [f.result(0) for f in futures] == [0, 2, 4, 6, 8]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(1)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.call(lambda: 1)


def _until(happens: object) -> None:
    deadline = time.monotonic() + 20
    while not happens():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.001)
