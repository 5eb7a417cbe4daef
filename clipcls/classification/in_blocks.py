"""Answers embedded images in their order: all at once, or in blocks."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar, cast

from clipcls.embeddings.embedded import Embedded, StoredRows
from clipcls.errors import ImageError
from clipcls.numerics import one_blas_thread
from clipcls.output.answer_blocks import PlainAnswers

_MATCHED_TOGETHER = 1024  # images; bounds memory
_FEW = 512  # rows, for which threads are not worth their start
_WORKERS = min(4, os.cpu_count() or 1)

Watch = Callable[["ImageError | None"], None]
Answer = TypeVar("Answer")


def watch_each(
    embedded: Iterable[Embedded | ImageError], watch: Watch | None
) -> Iterator[Embedded | ImageError]:
    """The images as they come; `watch` is called after each, with its error if it has one."""
    for item in embedded:
        yield item
        if watch:
            watch(item if isinstance(item, ImageError) else None)


def answer_together(
    embedded: Iterable[Embedded | ImageError],
    answer: Callable[[list[Embedded]], Iterable[Answer]],
) -> Iterator[Answer | ImageError]:
    """The answers to all of these images at once; errors keep their places."""
    items = list(embedded)
    errors = [item if isinstance(item, ImageError) else None for item in items]
    images = [item for item in items if not isinstance(item, ImageError)]
    del items  # `answer` may let go of vectors
    answers = iter(_answer_all(images, answer)) if images else iter(())
    for error in errors:
        yield error or next(answers)


def _answer_all(
    images: list[Embedded] | StoredRows, answer: Callable[[Any], Iterable[Answer]]
) -> Iterable[Answer]:
    """The answers to images, with what is kept of the table that lists them."""
    every_kept = images.kept if isinstance(images, StoredRows) else [each.kept for each in images]
    found: Any = answer(images)
    if not any(every_kept):
        pass
    elif isinstance(found, PlainAnswers):
        found.kept = every_kept
    else:
        found = (replace(a, kept=kept) for a, kept in zip(found, every_kept, strict=True))
    return cast("Iterable[Answer]", found)


def answer_in_blocks(
    embedded: Iterable[Embedded | ImageError],
    answer: Callable[[list[Embedded]], Iterable[Answer]],
) -> Iterator[Answer | ImageError]:
    """The answers to images in their order, some at a time, which bounds memory."""
    return itertools.chain.from_iterable(answer_blocks(embedded, answer))


def answer_blocks(
    embedded: Iterable[Embedded | ImageError | StoredRows],
    answer: Callable[[Any], Iterable[Answer]],
) -> Iterator[Iterable[Answer | ImageError]]:
    """The answers to images in their order, in blocks, as `answer` gives them.

    Images that the encoder just finished are answered at once; cached images come many at a time.
    Many stored rows are answered in threads, while later ones are read and earlier answers written.
    """
    block: list[Embedded | ImageError] = []
    tasks: deque[Future[Iterable[Answer]]] = deque()
    with ExitStack() as stack, ThreadPoolExecutor(_WORKERS, "clipcls-answer") as pool:
        for item in embedded:
            if isinstance(item, StoredRows) and len(item) >= _FEW:
                yield from _answer_block(block, answer)
                block = []
                if not tasks:
                    stack.enter_context(one_blas_thread())  # per worker
                tasks.append(pool.submit(_answer_all, item, answer))
                if len(tasks) > _WORKERS:
                    yield tasks.popleft().result()
                continue
            while tasks:
                yield tasks.popleft().result()
            stack.close()
            block += item if isinstance(item, StoredRows) else [item]
            fresh = not isinstance(item, ImageError | StoredRows) and not item.stored
            if fresh or len(block) >= _MATCHED_TOGETHER:
                yield from _answer_block(block, answer)
                block = []
        while tasks:
            yield tasks.popleft().result()
        yield from _answer_block(block, answer)


def _answer_block(
    block: list[Embedded | ImageError], answer: Callable[[Any], Iterable[Answer]]
) -> Iterator[Iterable[Answer | ImageError]]:
    if any(isinstance(item, ImageError) for item in block):
        yield answer_together(block, answer)
    elif block:
        yield _answer_all(cast("list[Embedded]", block), answer)
