"""Embeds texts and images: vectors from the cache if known, else from the encoder."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from clipcls.data.images import FILES, PIXELS, decode_image, find_missing_share
from clipcls.data.inputs import NamedImage, NamedVectors, OnError, apply_on_error, name_images
from clipcls.data.sources import Source, is_download, load_ahead, needs_request
from clipcls.embeddings.embedded import Embedded, StoredRows, find_known, gather, read_vectors
from clipcls.embeddings.encoded_batch import EncodedBatch
from clipcls.embeddings.space import Space
from clipcls.embeddings.vectors_info import VectorBlock
from clipcls.errors import ImageError, ModelError
from clipcls.models.backend import Backend
from clipcls.numerics import unit_rows

if TYPE_CHECKING:
    from clipcls.data.inputs import Images
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.models.encoder import Encoder

logger = logging.getLogger(__name__)

# Texts are stored this many at a time, so an interrupted long list does not start over.
_TEXTS_PER_TRANSACTION = 1024

# Squared norms differ from 1 by rounding, 1e-6 at most.
_NORM_TOLERANCE = 1e-3

# Most images, known ones included, that may wait for a batch to fill.
_LONGEST_BATCH = 1024


@dataclass(slots=True)
class _Pending:
    """An image that was read: either its vector is known or its pixels wait for the encoder."""

    path: str
    is_file: bool
    vector: NDArray[np.float32] | None = None
    pixels: NDArray[Any] | None = None
    content: bytes = b""  # its key in the cache
    size: int = 0
    kept: Mapping[str, Any] | None = None
    is_whole: bool = True  # else it is not stored, so that the next run warns again
    stamp: bytes = b""


_Item: TypeAlias = _Pending | ImageError | StoredRows


def embed_texts(
    encoder: Encoder, texts: Sequence[str], cache: EmbeddingCache | None = None
) -> NDArray[np.float32]:
    """Unit vectors of texts; with a cache, each distinct text is encoded only once, ever.

    Returns:
        float32 (len(texts), dim), in the order of `texts`.

    Raises:
        ModelError: a text has no finite vector.
    """
    keys = {text: hashlib.sha256(text.encode()).digest() for text in texts}
    vectors = {}
    space = Space(encoder, cache, "text") if cache else None
    for text, key in keys.items():
        vector = space.get(key) if space else None
        if vector is not None:
            vectors[text] = vector
    missing = [text for text in keys if text not in vectors]
    for start in range(0, len(missing), _TEXTS_PER_TRANSACTION):
        chunk = missing[start : start + _TEXTS_PER_TRANSACTION]
        rows = encoder.encode_texts(chunk)
        for warning in encoder.describe_cut(chunk):
            logger.warning("%s", warning)
        if not np.isfinite(rows).all():
            raise ModelError(f"{encoder.name}: no finite vector for a text; try --precision fp32")
        vectors.update(zip(chunk, rows, strict=True))
        if len(missing) > _TEXTS_PER_TRANSACTION:
            logger.info("%d of %d prompts embedded", start + len(chunk), len(missing))
        if space:
            space.add([(keys[text], row) for text, row in zip(chunk, rows, strict=True)])
    return np.stack([vectors[text] for text in texts])


def embed_images(
    encoder: Encoder,
    images: Images,
    cache: EmbeddingCache | None = None,
    *,
    backend: Backend | None = None,
    hashed: bool = False,
) -> Iterator[Embedded | ImageError]:
    """Unit vectors of images, in their order, reading ahead in threads with bounded memory.

    Each batch is cached before its first vector is yielded, so an interrupted run resumes where it
    stopped. A file whose path, size and times are known is not opened; one whose content is known
    is not decoded; an image that comes decoded is not stored.

    Args:
        encoder: the model.
        images: one image or many (see `clipcls.data.inputs`), or errors, which are
            passed through.
        cache: stores the vectors.
        backend: sets the number of decoding threads; None: `Backend()`.
        hashed: give each file's `content` and `size`; without a cache it must be hashed.

    Yields:
        an `Embedded` per image, or an `ImageError` if it has no vector.

    Raises:
        TypeError: at once if `images` is neither an image nor an iterable of them, and at its turn
            if an item is not an image.
        InputError: at its turn, a file of vectors is another model's.
    """
    found = embed_blocks(encoder, images, cache, backend=backend, hashed=hashed)

    def flatten() -> Iterator[Embedded | ImageError]:
        with contextlib.closing(found):
            for item in found:
                if isinstance(item, StoredRows):
                    yield from item
                else:
                    yield item

    return flatten()


def embed_blocks(
    encoder: Encoder,
    images: Images,
    cache: EmbeddingCache | None = None,
    *,
    backend: Backend | None = None,
    hashed: bool = False,
) -> Generator[Embedded | ImageError | StoredRows, None, None]:
    """As `embed_images`, with many rows of a file of vectors as one item."""
    threads = (backend or Backend()).threads
    rows = images if is_vector_array(images) else None
    if rows is not None and not (np.isfinite(rows).all() and rows.any(axis=1).all()):
        raise ValueError("a row of X is zero or not finite")
    named: Iterator[Any] = name_images([] if rows is not None else images)  # refuses others at once

    def embed_groups() -> Generator[Embedded | ImageError | StoredRows, None, None]:
        if rows is not None:
            names = [f"images[{number}]" for number in range(len(rows))]
            yield StoredRows(VectorBlock(names, unit_rows(rows)))
        groups = itertools.groupby(named, lambda each: isinstance(each, NamedVectors))
        for are_vectors, group in groups:
            if are_vectors:
                yield from read_vectors(encoder, group)
            else:
                yield from _embed(encoder, group, cache, threads, hashed)

    return embed_groups()


def is_vector_array(images: object) -> TypeGuard[NDArray[Any]]:
    """Whether this is an array of vectors, float (n, dim), not of images."""
    return isinstance(images, np.ndarray) and images.dtype.kind == "f" and images.ndim == 2


def embed_array(
    encoder: Encoder,
    images: Images,
    cache: EmbeddingCache | None = None,
    *,
    backend: Backend | None = None,
    on_error: OnError = "raise",
    dim: int = 0,
) -> NDArray[np.float32]:
    """Unit vectors of images as an array, float32 (n, dim).

    Args:
        encoder, images, cache, backend: as for `embed_images`.
        on_error: what to do about an image that cannot be read; with "yield" its row is NaN.
        dim: the vectors' length if no image has one.

    Raises:
        ImageError: with `on_error="raise"`.
        TypeError: as `embed_images`.
    """
    found = embed_images(encoder, images, cache, backend=backend)
    rows = [
        None if isinstance(item, ImageError) else item.vector
        for item in apply_on_error(found, on_error)
    ]
    dim = next((len(row) for row in rows if row is not None), dim)
    vectors = np.full((len(rows), dim), np.nan, np.float32)
    for number, row in enumerate(rows):
        if row is not None:
            vectors[number] = row
    return vectors


def compute_rows(
    compute: Callable[[NDArray[np.float32]], NDArray[Any]],
    vectors: NDArray[np.float32],
    missing: object,
) -> NDArray[Any]:
    """`compute` of the rows of `embed_array`, with `missing` in place of NaN rows."""
    known = ~np.isnan(vectors).any(axis=1)
    found = compute(vectors if known.all() else vectors[known])
    rows = np.full((len(vectors), *found.shape[1:]), missing, found.dtype)
    rows[known] = found
    return rows


def _embed(
    encoder: Encoder,
    images: Iterable[NamedImage | ImageError],
    cache: EmbeddingCache | None,
    threads: int,
    hashed: bool,
) -> Iterator[Embedded | ImageError | StoredRows]:
    queue: deque[Future[_Item] | _Item] = deque()
    decoding: Future[None] = Future()  # done when the first image that opens is decoded
    space: Space | None = None
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clipcls-decode")
    readers = ThreadPoolExecutor(max(16, threads), thread_name_prefix="clipcls-read")

    def ahead() -> Iterator[_Item]:
        """The images in order, while a queue of later ones is being read."""
        nonlocal space
        for block in gather(images) if cache else ([image] for image in images):
            if cache and not space and any(isinstance(item, NamedImage) for item in block):
                space = Space(encoder, cache, "image")
            for item in find_known(block, space):
                if isinstance(item, NamedImage):
                    image = replace(item, source=load_ahead(item.source))
                    workers = readers if is_download(image.source) else pool
                    task = workers.submit(_prepare, image, encoder, space, decoding, hashed)
                    queue.append(task)
                else:
                    queue.append(item)
                # `batch_size` is read only if needed, since it may import torch.
                while queue and (
                    not isinstance(queue[0], Future)
                    or sum(map(_count, queue)) > 2 * encoder.batch_size + threads
                ):
                    yield _result(queue.popleft(), encoder, decoding)
        while queue:
            yield _result(queue.popleft(), encoder, decoding)

    batch: list[_Item] = []
    held = waiting = 0
    try:
        for item in ahead():
            batch.append(item)
            held += _count(item)
            waiting += isinstance(item, _Pending) and item.vector is None
            if not waiting or waiting == encoder.batch_size or held >= _LONGEST_BATCH:
                yield from _finish(batch, encoder, space)
                batch, held, waiting = [], 0, 0
        yield from _finish(batch, encoder, space)
    finally:
        # Without waiting: if the garbage collector closes this, that may be in any thread.
        for workers in (pool, readers):
            workers.shutdown(wait=False, cancel_futures=True)


def _count(item: object) -> int:
    """How many images an item of the queue stands for."""
    return len(item) if isinstance(item, StoredRows) else 1


def _result(
    item: Future[_Item] | _Item,
    encoder: Encoder,
    decoding: Future[None],
) -> _Item:
    if not isinstance(item, Future):
        return item
    either: tuple[Future[Any], ...] = (item, decoding)
    wait(either, return_when=FIRST_COMPLETED)
    if decoding.done():
        encoder.load_image_tower()  # while others are decoded; in the thread that Ctrl-C reaches
    return item.result()


def _prepare(
    image: NamedImage,
    encoder: Encoder,
    space: Space | None,
    decoding: Future[None],
    hashed: bool,
) -> _Item:
    """Runs in a thread: reads, hashes, decodes and preprocesses one image.

    Completes `decoding` when the first image can be opened, so the encoder is likely needed.
    """

    def reserve(size: int) -> None:
        reserve_pixels(size)
        with contextlib.suppress(InvalidStateError):  # another image was first
            decoding.set_result(None)

    name, source = image.name, image.source
    item = _Pending(name, is_file=isinstance(source, Source), kept=image.kept)
    if needs_request(image.source):
        (known,) = find_known([image], space, by_request=True)
        if isinstance(known, StoredRows):
            return known
    try:
        with FILES.share() as reserve_file, PIXELS.share() as reserve_pixels:
            if isinstance(source, Source):
                item.stamp = source.stamp()  # before reading, so that a later change is noticed
                source = source.read(reserve_file)
            if isinstance(source, Image):
                item.pixels = encoder.preprocess(source)
                if item.stamp:  # of part of a file: not the hash of a file's bytes, but as unique
                    item.content = hashlib.sha256(item.stamp + os.fsencode(name)).digest()
                return item
            data, item.size = source, len(source)
            if space or hashed:
                item.content = hashlib.sha256(data).digest()
            if space:
                item.vector = space.get(item.content)
                if item.vector is not None:
                    return item
            decoded = decode_image(data, name, least_side=encoder.least_side, reserve=reserve)
            item.pixels = encoder.preprocess(decoded)
            if find_missing_share(decoded):
                item.is_whole = False
            return item
    except ImageError as error:
        return error.without_frames(image.kept)
    except MemoryError:
        return ImageError(name, "not enough memory to decode it", image.kept)


def _finish(
    batch: Sequence[_Item], encoder: Encoder, space: Space | None
) -> Iterator[Embedded | ImageError | StoredRows]:
    """Encodes what waits in a batch, caches it, and yields the whole batch in order."""
    images = [item for item in batch if isinstance(item, _Pending)]
    waiting = [item for item in images if item.pixels is not None]
    if waiting:
        started = time.perf_counter()
        rows = encoder.encode_images([item.pixels for item in waiting if item.pixels is not None])
        done = EncodedBatch(encoder, len(rows), time.perf_counter() - started, space)
        logger.debug("%d images encoded", len(rows), extra={"batch": done})
        for pending, row in zip(waiting, rows, strict=True):
            pending.vector = row
    new = [item for item in images if item.content and item.is_whole and _is_unit(item.vector)]
    if space and new:
        space.add(
            [(item.content, item.vector) for item in new if item.vector is not None],
            [(item.path, item.stamp, item.content) for item in new if item.is_file],
        )
    for item in batch:
        if not isinstance(item, _Pending):
            yield item
        elif _is_unit(item.vector):
            yield Embedded(
                item.path,
                item.vector,
                item.pixels is None,
                item.is_file,
                item.content,
                item.size,
                item.kept,
            )
        else:
            reason = "the model gave no finite vector; try --precision fp32"
            yield ImageError(item.path, reason, item.kept)


def _is_unit(vector: NDArray[np.float32] | None) -> TypeGuard[NDArray[np.float32]]:
    """False for a vector that is missing or not finite."""
    return vector is not None and abs(float(vector @ vector) - 1) < _NORM_TOLERANCE
