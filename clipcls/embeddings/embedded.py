"""Embedded images: one by one, or as blocks of stored vectors, of a file or the cache."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

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

    Attributes:
        paths: the images' names.
        vectors: float32 (n, dim).
        kept: of each image, as in `Embedded`; () if none has any.
    """

    def __init__(
        self,
        block: VectorBlock,
        is_file: bool = False,
        kept: Sequence[Mapping[str, Any] | None] = (),
    ) -> None:
        self.paths, self.vectors, self.kept = block.paths, block.vectors, kept
        self._hashes, self._sizes, self._is_file = block.hashes, block.sizes, is_file

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: Any) -> Any:
        content = bytes.fromhex(self._hashes[number]) if self._hashes else b""
        size = self._sizes[number] if self._sizes else 0
        kept = self.kept[number] if self.kept else None
        path, vector = self.paths[number], self.vectors[number]
        return Embedded(path, vector, True, self._is_file, content, size, kept)


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
        (image, image.source.stamp())
        for image in images
        if space
        and isinstance(image, NamedImage)
        and isinstance(image.source, LocalFile | Source)
        and (by_request or not needs_request(image.source))
    ]
    known = {}
    if space and asked:
        found = space.get_files([(image.name, stamp) for image, stamp in asked])
        pairs = zip(asked, found, strict=True)
        known = {id(image): (image, stamp, row) for (image, stamp), row in pairs if row}
    for is_known, group in itertools.groupby(images, lambda image: id(image) in known):
        run = [*group]
        if not is_known:
            yield from run
            continue
        each, stamps, stored = zip(*(known[id(image)] for image in run), strict=True)
        contents, vectors = zip(*stored, strict=True)
        rows = np.concatenate(vectors).reshape(len(vectors), -1)
        if not is_unit(rows).all():  # of a cache that was imported: they are computed anew
            yield from run
            continue
        kept = [image.kept for image in each]
        block = VectorBlock(
            [image.name for image in each],
            rows,
            [content.hex() for content in contents],
            [*map(read_size, stamps)],
        )
        yield StoredRows(block, True, kept if any(kept) else ())


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
