"""Texts and image files -> vectors, from the cache where they are known, else by the encoder."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from clipcls.data.augment import View
from clipcls.data.images import FILES, PIXELS, decode_image, find_missing_share, read_bytes
from clipcls.data.inputs import NamedImage, OnError, apply_on_error, name_images
from clipcls.errors import ImageError, ModelError
from clipcls.models.backend import Backend

if TYPE_CHECKING:
    from clipcls.data.inputs import Images
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.models.encoder import Encoder

__all__ = [
    "Embedded",
    "compute_rows",
    "embed_array",
    "embed_images",
    "embed_texts",
    "stored_images",
]

logger = logging.getLogger(__name__)

# Texts are stored this many at a time, so that a long list interrupted is not begun again.
_TEXTS_A_TRANSACTION = 1024

# Squared norms differ from 1 by rounding, 1e-6 at most.
_NORM_TOLERANCE = 1e-3

# Known images that may gather behind one that still has to be encoded.
_LONGEST_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Embedded:
    """One image's unit vector, float32 (dim,).

    Attributes:
        path: the image's name.
        vector: the vector.
        stored: whether it came out of the cache.
        is_file: whether `path` is a file that was read here, not just a name that came with data.
    """

    path: str
    vector: NDArray[np.float32]
    stored: bool = False
    is_file: bool = False


@dataclass(slots=True)
class _Pending:
    """An image on its way: either its vector is known or its pixels wait for the encoder."""

    path: str
    vector: NDArray[np.float32] | None = None
    pixels: NDArray[Any] | None = None
    content: bytes | None = None
    stat: os.stat_result | None = None
    is_view: bool = False
    is_file: bool = False

    def space(self, encoder: Encoder) -> str:
        """Where the cache keeps its vector; views apart, since no file has their content."""
        return f"view {encoder.image_space}" if self.is_view else encoder.image_space


def embed_texts(
    encoder: Encoder, texts: Sequence[str], cache: EmbeddingCache | None = None
) -> NDArray[np.float32]:
    """Unit vectors of texts; each distinct text is encoded once, ever, where there is a cache.

    Returns:
        float32 (len(texts), dim), in the order of `texts`.
    """
    keys = {text: hashlib.sha256(text.encode()).digest() for text in texts}
    vectors = {}
    for text, key in keys.items():
        vector = cache.get(encoder.text_space, key) if cache else None
        if _is_unit(vector):
            vectors[text] = vector
    missing = [text for text in keys if text not in vectors]
    for start in range(0, len(missing), _TEXTS_A_TRANSACTION):
        chunk = missing[start : start + _TEXTS_A_TRANSACTION]
        rows = encoder.encode_texts(chunk)
        for warning in encoder.describe_cut(chunk):
            logger.warning("%s", warning)
        if not np.isfinite(rows).all():
            raise ModelError(f"{encoder.name}: no finite vector for a text; try --precision fp32")
        vectors.update(zip(chunk, rows, strict=True))
        if len(missing) > _TEXTS_A_TRANSACTION:
            logger.info("%d of %d prompts embedded", start + len(chunk), len(missing))
        if cache:
            cache.add(
                encoder.text_space,
                [(keys[text], row) for text, row in zip(chunk, rows, strict=True)],
            )
    return np.stack([vectors[text] for text in texts])


def embed_images(
    encoder: Encoder,
    images: Images | Iterable[View],
    cache: EmbeddingCache | None = None,
    *,
    backend: Backend | None = None,
) -> Iterator[Embedded | ImageError]:
    """Unit vectors of images, in their order, reading ahead in threads with bounded memory.

    Each batch is in the cache before its first vector is yielded, so a run that is stopped goes
    on where it was. A file whose path, size and times are known is not opened; one whose content
    is known is not decoded; an image that comes decoded is not stored.

    Args:
        encoder: what turns pixels into vectors.
        images: one image or many (see `clipcls.data.inputs`), views of files, or errors that are
            handed through.
        cache: where vectors are kept.
        backend: how many threads decode images; None: `Backend()`.

    Yields:
        an `Embedded` for each image, or the `ImageError` that says why there is none.

    Raises:
        TypeError: at once where `images` is neither an image nor an iterable of them, and at its
            turn where one of them is none.
    """
    return _embed(encoder, name_images(images), cache, (backend or Backend()).threads)


def embed_array(
    encoder: Encoder,
    images: Images,
    cache: EmbeddingCache | None = None,
    *,
    backend: Backend | None = None,
    on_error: OnError = "raise",
    dim: int = 0,
) -> NDArray[np.float32]:
    """Unit vectors of images as the rows of an array, float32 (n, dim).

    Args:
        encoder, images, cache, backend: as for `embed_images`.
        on_error: what becomes of an image that cannot be read; with "yield" its row is NaN.
        dim: the vectors' length, where no image has one.

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
    """`compute` of the rows of `embed_array`, with `missing` in the places of the NaN ones."""
    known = ~np.isnan(vectors).any(axis=1)
    found = compute(vectors if known.all() else vectors[known])
    rows = np.full((len(vectors), *found.shape[1:]), missing, found.dtype)
    rows[known] = found
    return rows


def _embed(
    encoder: Encoder,
    images: Iterator[NamedImage | ImageError],
    cache: EmbeddingCache | None,
    threads: int,
) -> Iterator[Embedded | ImageError]:
    queue: deque[Future[_Pending | ImageError] | _Pending | ImageError] = deque()
    decoding: Future[None] = Future()  # done when the first image that opens is decoded
    with ThreadPoolExecutor(threads, thread_name_prefix="clipcls-decode") as pool:

        def ahead() -> Iterator[_Pending | ImageError]:
            """The images in order; the queue holds what is being read ahead of them."""
            for image in images:
                if isinstance(image, ImageError):
                    queue.append(image)
                else:
                    known = _known(image, encoder, cache)
                    queue.append(known or pool.submit(_prepare, image, encoder, cache, decoding))
                # The encoder is asked only where it will be needed: asking may load torch.
                while queue and (
                    not isinstance(queue[0], Future)
                    or len(queue) > 2 * encoder.batch_size + threads
                ):
                    yield _result(queue.popleft(), encoder, decoding)
            while queue:
                yield _result(queue.popleft(), encoder, decoding)

        batch: list[_Pending | ImageError] = []
        waiting = 0
        try:
            for item in ahead():
                batch.append(item)
                waiting += isinstance(item, _Pending) and item.vector is None
                # Nothing that is done waits behind more than a batch of what is not.
                if not waiting or waiting == encoder.batch_size or len(batch) == _LONGEST_BATCH:
                    yield from _finish(batch, encoder, cache)
                    batch, waiting = [], 0
            yield from _finish(batch, encoder, cache)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def stored_images(
    encoder: Encoder, cache: EmbeddingCache, block: int = 1_024
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """All images whose vectors by this encoder are in the cache, a block at a time.

    Yields:
        as `EmbeddingCache.images`, without vectors that are damaged.
    """
    for paths, vectors in cache.images(encoder.image_space, block):
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.einsum("ij,ij->i", vectors, vectors)
        whole = np.abs(norms - 1) < _NORM_TOLERANCE
        if whole.all():
            yield paths, vectors
        elif whole.any():
            yield list(itertools.compress(paths, whole)), vectors[whole]


def _result(
    item: Future[_Pending | ImageError] | _Pending | ImageError,
    encoder: Encoder,
    decoding: Future[None],
) -> _Pending | ImageError:
    if not isinstance(item, Future):
        return item
    either: tuple[Future[Any], ...] = (item, decoding)
    wait(either, return_when=FIRST_COMPLETED)
    if decoding.done():
        encoder.load_image_tower()  # beside the decoding, and in the thread that Ctrl-C reaches
    return item.result()


def _known(image: NamedImage, encoder: Encoder, cache: EmbeddingCache | None) -> _Pending | None:
    """A file that has not changed since it was stored needs no thread."""
    if cache and image.source is None:
        stat = _stat(image.name)
        vector = cache.get_file(encoder.image_space, image.name, stat) if stat else None
        if _is_unit(vector):
            return _Pending(image.name, vector, is_file=True)
    return None


def _prepare(
    image: NamedImage, encoder: Encoder, cache: EmbeddingCache | None, decoding: Future[None]
) -> _Pending | ImageError:
    """Runs in a thread: reads, hashes, decodes and preprocesses one image.

    `decoding` is done when the first of them could be opened, and so the encoder is likely needed.
    """

    def reserve(size: int) -> None:
        pixels.fill(size)
        with contextlib.suppress(InvalidStateError):  # another image was first
            decoding.set_result(None)

    name, source = image.name, image.source
    view = source if isinstance(source, View) else None
    try:
        with FILES.share() as file, PIXELS.share() as pixels:
            if isinstance(source, Image):
                return _Pending(name, pixels=encoder.preprocess(source))
            # Before reading: a later change is then noticed.
            stat = _stat(name) if cache and source is None else None
            data = source if isinstance(source, bytes) else read_bytes(name, reserve=file.fill)
            key = content = hashlib.sha256(data).digest() if cache or view else b""
            if view:
                key = view.key(content)
            if cache:
                known = _Pending(name, None, None, key, stat, view is not None, source is None)
                known.vector = cache.get(known.space(encoder), key)
                if _is_unit(known.vector):
                    return known
            decoded = decode_image(data, name, least_side=encoder.least_side, reserve=reserve)
            ready = encoder.preprocess(view.render(decoded, content) if view else decoded)
            if find_missing_share(decoded):
                key = b""  # not stored: the next run has to warn again
    except ImageError as error:
        return error.without_frames()
    except MemoryError:
        return ImageError(name, "not enough memory to decode it")
    return _Pending(name, None, ready, key or None, stat, view is not None, source is None)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None  # reading it will say why


def _finish(
    batch: Sequence[_Pending | ImageError], encoder: Encoder, cache: EmbeddingCache | None
) -> Iterator[Embedded | ImageError]:
    """Encodes what waits in a batch, caches it, and yields all of the batch in order."""
    images = [item for item in batch if isinstance(item, _Pending)]
    waiting = [item for item in images if item.pixels is not None]
    if waiting:
        rows = encoder.encode_images([item.pixels for item in waiting if item.pixels is not None])
        for pending, row in zip(waiting, rows, strict=True):
            pending.vector, pending.pixels = row, None
    new = [item for item in images if item.content is not None and _is_unit(item.vector)]
    if cache and new:
        for space in dict.fromkeys(item.space(encoder) for item in new):
            items = [item for item in new if item.space(encoder) == space]
            cache.add(
                space,
                [(i.content, i.vector) for i in items if i.content and i.vector is not None],
                [(i.path, i.stat, i.content) for i in items if i.stat and i.content],
            )
    encoded = {id(item) for item in waiting}
    for item in batch:
        if isinstance(item, ImageError):
            yield item
        elif item.vector is not None and _is_unit(item.vector):
            yield Embedded(item.path, item.vector, id(item) not in encoded, item.is_file)
        else:
            yield ImageError(item.path, "the model gave no finite vector; try --precision fp32")


def _is_unit(vector: NDArray[np.float32] | None) -> TypeGuard[NDArray[np.float32]]:
    """Not so for what is not finite, not there, or damaged in the cache."""
    return vector is not None and abs(float(vector @ vector) - 1) < _NORM_TOLERANCE
