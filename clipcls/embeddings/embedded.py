"""Embedded images: one by one, or a block of a file of vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcls.data.inputs import NamedVectors
from clipcls.embeddings.vectors_info import VectorBlock, is_unit
from clipcls.errors import ImageError, InputError
from clipcls.models.encoder import Encoder


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
    """A block of a file of vectors: as many `Embedded`, which are made only if asked for.

    Attributes:
        paths: the images' names.
        vectors: float32 (n, dim).
    """

    def __init__(self, block: VectorBlock) -> None:
        self.paths, self.vectors = block.paths, block.vectors
        self._hashes, self._sizes = block.hashes, block.sizes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: Any) -> Any:
        content = bytes.fromhex(self._hashes[number]) if self._hashes else b""
        size = self._sizes[number] if self._sizes else 0
        return Embedded(self.paths[number], self.vectors[number], True, False, content, size)


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
