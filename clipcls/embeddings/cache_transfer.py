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
from clipcls.errors import CacheError, InputError, OutputError, require_extra
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


def read_blocks(path: Path) -> Iterator[tuple[list[Row], list[Row]]]:
    """The rows of an exported cache, as `EmbeddingCache.dump` gives them.

    Raises:
        InputError: it is no such file, or is cut off or damaged.
    """
    name = os.fspath(path)
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == MAGIC
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
    if not is_parquet:
        raise InputError(f"{name}: is not a parquet file by `clipcls cache export`")
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


def open_other(path: Path, cache: EmbeddingCache) -> EmbeddingCache:
    """Open another cache to take its rows.

    Raises:
        CacheError: it is missing, is no cache, or is the same one.
    """
    if not path.is_file():
        raise CacheError(f"{path}: no such file")
    if path.samefile(cache.path):
        raise CacheError(f"{path}: is the cache that it would be merged into; name another")
    with path.open("rb") as file:
        start = file.read(START)
    if start.startswith(MAGIC):
        raise CacheError(f"{path}: is parquet, not a cache; use `clipcls cache import`")
    if not start.startswith(_SQLITE):  # an empty file would be made a cache
        raise CacheError(
            f"{path}: is {name_kind(start) or 'empty or another file'}, not a cache of clipcls"
        )
    return EmbeddingCache(path)


def dump_blocks(cache: EmbeddingCache) -> Iterator[tuple[list[Row], list[Row]]]:
    """All rows of a cache, some thousands at a time."""
    yield from zip(cache.dump_vectors(_ROWS), itertools.repeat([]), strict=False)
    yield from zip(itertools.repeat([]), cache.dump_files(_ROWS), strict=False)
