"""Put files of vectors together: the shards of one run, or runs on several folders."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from clipcls.embeddings.vector_files import DType, VectorFile, open_vectors
from clipcls.embeddings.vectors_info import VectorBlock, VectorsInfo
from clipcls.output.merge import Comparison

logger = logging.getLogger(__name__)


@dataclass
class VectorMerge(Comparison):
    """The vectors in all files of a merge."""

    content: ClassVar[str] = "contents"

    _opened: list[VectorFile] = field(default_factory=list)

    @classmethod
    def read(cls, files: Sequence[str]) -> VectorMerge:
        """Compare the images in files and folders of vectors.

        Raises:
            InputError: one cannot be read, or is of another model, of images that were prepared
                otherwise, or of shards of another size.
        """
        merge = cls(files)
        for name in files:
            file = open_vectors(name)
            merge._opened.append(file)
            merge.precisions.add(file.info.precision)
            if file.extra:
                columns = ", ".join(file.extra)
                logger.warning("%s: the columns %s are left out", file.path, columns)
            first = merge._opened[0]
            file.info.check_same(file.path, first.info, first.path)
            merge.add_shards(name, file.info.shard)
            for path, content in file.labels("hash"):
                merge.add_image(path, content or "")
        merge.finish(
            lambda: ((file.path, path) for file in merge._opened for path, _ in file.labels("hash"))
        )
        return merge

    @property
    def dtype(self) -> DType:
        """The narrowest type that holds the numbers of all files."""
        return "float16" if {file.dtype.name for file in self._opened} == {"float16"} else "float32"

    def make_info(self, dim: int) -> VectorsInfo:
        """The info of the whole; it names the shards only while some are missing."""
        shards = " ".join(f"{number}/{self.of}" for number in sorted(self.shards))
        return replace(self._opened[0].info, shard=shards if self.missing else "")

    def blocks(self) -> Iterator[VectorBlock]:
        """The rows of all files, each image once.

        Raises:
            InputError: while iterating: a file is cut off or damaged.
        """
        start = 0
        for file in self._opened:
            for block in file.blocks():
                count = len(block.paths)
                kept = [n for n in range(count) if start + n not in self.left_out]
                start += count
                hashes, sizes = block.hashes or [""] * count, block.sizes or [0] * count
                yield VectorBlock(
                    [block.paths[n] for n in kept],
                    block.vectors if len(kept) == count else block.vectors[kept],
                    [hashes[n] for n in kept],
                    [sizes[n] for n in kept],
                )
