"""Embedded images: one by one, or as blocks of stored vectors, of a file or the cache."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from clipcls.data.inputs import NamedImage, NamedVectors
from clipcls.data.sources import LocalFile, Source, needs_request
from clipcls.embeddings.space import Space
from clipcls.embeddings.vectors_info import VectorBlock, is_unit
from clipcls.errors import ImageError, InputError
from clipcls.files.hashing import read_size
from clipcls.models.encoder import Encoder

_BLOCK, _SECONDS = 1024, 0.05  # most images that are looked up together, and the wait for more


@dataclass(frozen=True, slots=True)
class Embedded:
    """One image's unit vector, float32 (dim,).

    Attributes:
        path: the image's name.
        vector: the vector.
        stored: whether it came from the cache or a file of vectors.
        is_file: whether `path` leads to the image, and is not just a name that came with data.
        content: the SHA-256 of the image file's content; b"" if it is not known.
        size: the size of the file in bytes; 0 if it is not known.
        kept: the cells of the table that lists the image, as far as results repeat them; or None.
    """

    path: str
    vector: NDArray[np.float32]
    stored: bool = False
    is_file: bool = False
    content: bytes = b""
    size: int = 0
    kept: Mapping[str, Any] | None = None


class StoredRows(Sequence[Embedded]):
    """Stored vectors of a file or the cache: as many `Embedded`, which are made only if asked for.

    Args:
        block: of a file of vectors, or of the cache, which gives paths and vectors alone.
        kept: of each image, as in `Embedded`; () if none has any.
        contents, stamps: of each image that the cache knows.

    Attributes:
        paths: the images' names.
        vectors: float32 (n, dim).
        kept: as given.
    """

    def __init__(
        self,
        block: VectorBlock,
        kept: Sequence[Mapping[str, Any] | None] = (),
        contents: Sequence[bytes] = (),
        stamps: Sequence[bytes] = (),
    ) -> None:
        self.paths, self.vectors, self.kept = block.paths, block.vectors, kept
        self._hashes, self._sizes = block.hashes, block.sizes
        self._contents, self._stamps = contents, stamps

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: Any) -> Any:
        path, vector = self.paths[number], self.vectors[number]
        kept = self.kept[number] if self.kept else None
        if self._contents:
            content, size = self._contents[number], read_size(self._stamps[number])
        else:
            content = bytes.fromhex(self._hashes[number]) if self._hashes else b""
            size = self._sizes[number] if self._sizes else 0
        return Embedded(path, vector, True, bool(self._contents), content, size, kept)


def gather(
    images: Iterable[NamedImage | ImageError],
) -> Iterator[list[NamedImage | ImageError]]:
    """Some images at a time, to be looked up together.

    The next image is not awaited for long, and not before one that comes with its data, or has to
    be read as the next of a stream, is taken.
    """
    block: list[NamedImage | ImageError] = []
    iterator, began = iter(images), 0.0
    while True:
        try:
            image = next(iterator)
        except StopIteration:
            break
        except Exception:
            if block:
                yield block
            raise
        began = began if block else time.monotonic()
        block.append(image)
        source = getattr(image, "source", None)
        has_to_be_taken = isinstance(source, bytes | Image) or hasattr(source, "load")
        if has_to_be_taken or len(block) == _BLOCK or time.monotonic() > began + _SECONDS:
            yield block
            block = []
    if block:
        yield block


def find_known(
    images: Sequence[NamedImage | ImageError], space: Space | None, *, by_request: bool = False
) -> Iterator[NamedImage | ImageError | StoredRows]:
    """The images in their order; rows in place of those that are stored and have not changed.

    Args:
        images: the images.
        space: the cache; None: nothing is stored.
        by_request: also look for images whose stamps take a request to a server.
    """
    asked = [
        (number, image, image.source.stamp())
        for number, image in enumerate(images)
        if space and isinstance(image, NamedImage) and _can_be_asked(image.source, by_request)
    ]
    contents: list[bytes | None] = [None] * len(images)
    stamps = [b""] * len(images)
    if space and asked:
        found, vectors = space.get_files([(image.name, stamp) for _, image, stamp in asked])
        for (number, _, stamp), content in zip(asked, found, strict=True):
            contents[number], stamps[number] = content, stamp
    edges = np.flatnonzero(np.diff([content is not None for content in contents])) + 1
    for start, end in itertools.pairwise([0, *edges.tolist(), len(images)]):
        run: Sequence[Any] = images[start:end]
        if contents[start] is None:
            yield from run
            continue
        rows, vectors = np.split(vectors, [len(run)])
        if not is_unit(rows).all():  # of a cache that was imported: they are computed anew
            yield from run
            continue
        kept = [image.kept for image in run]
        block = VectorBlock([image.name for image in run], rows)
        known = cast("list[bytes]", contents[start:end])
        yield StoredRows(block, kept if any(kept) else (), known, stamps[start:end])


def _can_be_asked(source: object, by_request: bool) -> TypeGuard[Source]:
    """Whether the cache may know a source's content by its name."""
    return isinstance(source, LocalFile) or (
        isinstance(source, Source) and (by_request or not needs_request(source))
    )


def read_vectors(
    encoder: Encoder, named: Iterable[NamedVectors]
) -> Iterator[Embedded | ImageError | StoredRows]:
    """The vectors of files, checked: whole blocks, or image by image where some are damaged.

    Raises:
        InputError: at its turn, a file is another model's.
    """
    from clipcls.embeddings.vector_files import open_vectors  # few runs read any

    for each in named:
        try:
            file = open_vectors(each.path)
            blocks = _read_ahead(file.blocks())
        except InputError as error:
            yield _fail(each, error)
            continue
        file.info.check(encoder, each.path)
        while True:
            try:
                block = next(blocks, None)
            except InputError as error:  # cut off or damaged from here on
                yield _fail(each, error)
                break
            if block is None:
                break
            whole = is_unit(block.vectors)
            if whole.all():
                yield StoredRows(block)
                continue
            for item, is_whole in zip(StoredRows(block), whole, strict=True):
                reason = "its stored vector is damaged; embed it anew"
                yield item if is_whole else ImageError(item.path, reason)


def _fail(named: NamedVectors, error: InputError) -> ImageError:
    return ImageError(named.path, str(error).removeprefix(f"{named.path}: "))


def _read_ahead(blocks: Iterator[VectorBlock]) -> Iterator[VectorBlock]:
    """The blocks, of which the next one is read in a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="clipcls-read") as pool:
        block = next(blocks, None)
        while block is not None:
            ahead = pool.submit(next, blocks, None)
            yield block
            block = ahead.result()
