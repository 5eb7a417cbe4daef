"""A cache's content in a parquet file, and the content of another cache or such a file in a cache.

Rows go in and out with their checksums. A row is of a vector (`space`, `content`, `vector`) or of a
file with this content (`path`, `stamp`, `content`); the other columns are null.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from clipcls.data.file_kinds import is_vectors
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.cache_file import compute_checksum
from clipcls.embeddings.space import is_probe, translate
from clipcls.errors import InputError, OutputError, require_extra
from clipcls.files.magic import START, name_kind
from clipcls.output.parquet import MAGIC, open_parquet
from clipcls.output.writer import Writer

KEY = b"clipcls.cache"
FORMAT = b"clipcls cache 1"
_SQLITE = b"SQLite format 3\0"
_ROWS = 4096  # in a row group and in a transaction

Row = tuple[Any, ...]


class CacheWriter(Writer):
    """Writes blocks of a cache's rows (see `EmbeddingCache.dump`) as parquet.

    Raises:
        InputError: pyarrow is missing.
    """

    needs_end = True

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        with require_extra("parquet", "parquet"):
            import pyarrow as pa
            import pyarrow.parquet
        fields = {
            "space": pa.dictionary(pa.int32(), pa.string()),
            "content": pa.binary(32),
            "vector": pa.list_(pa.float32()),
            "path": pa.binary(),
            "stamp": pa.binary(),
            "checksum": pa.int64(),
        }
        self._schema = pa.schema(list(fields.items()), {KEY: FORMAT})
        self._file = pyarrow.parquet.ParquetWriter(
            stream.buffer, self._schema, compression="zstd", use_dictionary=["space"]
        )

    def add(self, item: tuple[list[Row], list[Row]]) -> None:
        """Add rows of vectors and of files."""
        import pyarrow as pa

        vectors, files = item
        rows = [
            {
                "space": space,
                "content": content,
                "vector": np.frombuffer(vector, np.float32),
                "checksum": checksum,
            }
            for space, content, vector, checksum in vectors
        ]
        names = ("path", "stamp", "content", "checksum")
        rows += [dict(zip(names, row, strict=True)) for row in files]
        self._file.write_table(pa.Table.from_pylist(rows, self._schema))

    def finish(self) -> None:
        """Write the file's end."""
        self._file.close()


def read_blocks(path: Path, cache: EmbeddingCache) -> Iterator[tuple[list[Row], list[Row]]]:
    """The rows of an exported cache or of another cache, as `dump_blocks` gives them.

    Args:
        path: the file.
        cache: the cache that takes the rows.

    Raises:
        InputError: it is missing, no such file, cut off or damaged, or it is `cache` itself.
    """
    name = os.fspath(path)
    try:
        with path.open("rb") as file:
            start = file.read(START)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
    if start.startswith(MAGIC):
        yield from _read_exported(name)
    elif not start.startswith(_SQLITE):  # an empty file would be made a cache
        kind = name_kind(start) or "empty or another file"
        raise InputError(f"{name}: is {kind}, not a cache, nor by `clipcls cache export`")
    elif path.samefile(cache.path):
        raise InputError(f"{name}: is the cache that it would be added to; name another")
    else:
        with EmbeddingCache(path) as other:
            yield from dump_blocks(other)


def _read_exported(name: str) -> Iterator[tuple[list[Row], list[Row]]]:
    with open_parquet(name, name) as file:
        if (file.schema_arrow.metadata or {}).get(KEY) != FORMAT:
            hint = "; name it in place of the images" if is_vectors(name) else ""
            raise InputError(f"{name}: was not made by `clipcls cache export`{hint}")
        for batch in file.iter_batches(_ROWS):
            vectors, files = [], []
            for row in batch.to_pylist():
                if row["path"] is None:
                    vector = np.array(row["vector"] or (), np.float32).tobytes()
                    vectors.append((row["space"] or "", row["content"], vector, row["checksum"]))
                else:
                    files.append((row["path"], row["stamp"], row["content"], row["checksum"]))
            yield vectors, files


def absorb(cache: EmbeddingCache, blocks: Iterable[tuple[list[Row], list[Row]]]) -> tuple[int, int]:
    """Add the rows that a cache does not have.

    Returns:
        how many vectors were new, and how many there were.

    Raises:
        CacheError: the rows could not be written.
    """
    new = total = 0
    names: dict[str, str] = {}
    for rows, files in blocks:
        # First, since they decide where vectors by another version of open_clip belong.
        cache.absorb([row for row in rows if is_probe(row[0])], ())
        vectors = [_translate(row, names, cache) for row in rows if not is_probe(row[0])]
        added = cache.absorb(vectors, files)
        if added is None:
            raise OutputError(f"{cache.path}: cannot be written; check its disk")
        new, total = new + added, total + len(vectors)
    return new, total


def _translate(row: Row, names: dict[str, str], cache: EmbeddingCache) -> Row:
    """The row of a vector with the space's name in `cache`; `names` holds the known ones."""
    space, *key, checksum = row
    if space not in names:
        names[space] = translate(cache, space)
    if names[space] == space or checksum != compute_checksum(space.encode(), *key):
        return row
    return names[space], *key, compute_checksum(names[space].encode(), *key)


def dump_blocks(cache: EmbeddingCache) -> Iterator[tuple[list[Row], list[Row]]]:
    """All rows of a cache, some thousands at a time."""
    yield from zip(cache.dump_vectors(_ROWS), itertools.repeat([]), strict=False)
    yield from zip(itertools.repeat([]), cache.dump_files(_ROWS), strict=False)
