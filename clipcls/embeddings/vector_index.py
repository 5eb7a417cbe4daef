"""An index of many vectors on disk, for search.

It is a folder with

- `index.json`: what made the vectors, the kind of index, its recall, and the other files' sizes;
- `paths-TOKEN.txt` and `paths-TOKEN.ends`: all paths, and where each one ends;
- `rows-TOKEN.f32`: the vectors, all of which a search compares; or
- `rows-TOKEN.f16`, and `lists-TOKEN.faiss`, `.lists` and `.sizes`: inverted lists, of which a
  search reads a few to find candidates, whose rows it then compares.

`index.json` is written last, so an index that is not whole has none, and one that is replaced stays
whole until then. All other files are memory-mapped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.index import search_blocks
from clipcls.embeddings.inverted_lists import InvertedLists, choose_code
from clipcls.embeddings.vectors_info import VectorsInfo
from clipcls.errors import InputError, os_reason

EXACT = "exact"
RECALL = 0.95
_EXACT_UP_TO = 1_000_000  # images, if nothing else is asked for
_FEW = 10_000  # for which lists save nothing

FORMAT = "clipcls index 1"
MANIFEST = "index.json"
OWN_FILES = re.compile(r"index\.json(\.part.*)?|(paths|rows|lists)-[0-9a-f]{8}\.\w+")
K = 10  # of recall@10
_CANDIDATES = 10  # per image that is asked for


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An index's kind and contents.

    Attributes:
        kind: `exact`, or the lists' name in FAISS's index factory.
        rows: the number of vectors.
        probes: the number of lists that a search reads; 0 if exact.
        recall: recall@10 against exact search, of `images` (of the index, each without itself)
            and, if it was measured, of `texts`; empty if exact.
        files: the size of each file.
        vectors: what made the vectors.
    """

    kind: str
    rows: int
    probes: int
    recall: dict[str, float]
    files: dict[str, int]
    vectors: VectorsInfo


def choose_kind(
    rows: int, dim: int, recall: float | None = None, code_bytes: int | None = None
) -> str:
    """The kind of index for so many vectors.

    Args:
        rows, dim: the vectors.
        recall: the share of the 10 nearest images that a search has to find; 1 is exact; default: 1
            up to a million images, 0.95 above. Few images are always searched exactly.
        code_bytes: of lists, the bytes per vector that a search reads; default: `dim`.
    """
    exact = recall is None and code_bytes is None and rows <= _EXACT_UP_TO
    if exact or recall == 1 or rows < _FEW:
        return EXACT
    return choose_code(rows, dim, code_bytes or dim)


def open_index(path: str | os.PathLike[str]) -> VectorIndex:
    """Open an index that `build_index` wrote.

    Raises:
        InputError: it is not whole, or no index.
    """
    return VectorIndex(Path(path), read_manifest(Path(path)))


def open_indexes(paths: Iterable[Path]) -> list[VectorIndex]:
    """Open indexes, and all in the folders among the paths that hold several.

    Raises:
        InputError: one is not whole, or a folder holds none.
    """
    return [open_index(index) for path in paths for index in _find_indexes(path)]


def _find_indexes(path: Path) -> list[Path]:
    if (path / MANIFEST).exists():
        return [path]
    # One that is not whole has other files, and is refused.
    found = {file.parent for file in path.glob("*/*") if OWN_FILES.fullmatch(file.name)}
    return sorted(found) or [path]


class VectorIndex:
    """The files of an index.

    Attributes:
        path: their folder.
        info: their kind and contents.

    Raises:
        InputError: they are damaged.
    """

    def __init__(self, path: Path, info: IndexInfo) -> None:
        self.path, self.info = path, info
        self._files = {Path(name).suffix: self.path / name for name in info.files}
        for name, size in info.files.items():
            with contextlib.suppress(OSError):
                if (self.path / name).stat().st_size == size:
                    continue
            raise _damaged(self.path / name, "is missing or cut off")
        try:
            self._ends = np.memmap(self._files[".ends"], "<u8", "r", shape=(info.rows,))
            self._paths = np.memmap(self._files[".txt"], np.uint8, "r")
            rows = self._files.get(".f16") or self._files[".f32"]
            number = "<f2" if ".f16" in self._files else "<f4"
            self._rows = np.memmap(rows, number, "r", shape=(info.rows, info.vectors.dim))
            self._lists = None
            if info.kind != EXACT:
                sizes = np.fromfile(self._files[".sizes"], "<u8")
                self._lists = InvertedLists(self._files[".faiss"].with_suffix(""), sizes)
        except (OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
            raise _damaged(self.path) from error

    def search(self, query: NDArray[np.float32], k: int) -> tuple[NDArray[np.float64], list[str]]:
        """The similarities and paths of the k nearest images to a unit vector float32 (dim,).

        Those of lists are right to four decimals, and the nearest ones may be missed.
        """
        ((similarities, rows),) = self.find_rows(query[np.newaxis], k, self.info.probes)
        return similarities, [self._read_path(int(row)) for row in rows]

    def find_rows(
        self, queries: NDArray[np.float32], k: int, probes: int
    ) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Similarities and row numbers of the k nearest rows per query, at that many lists."""
        k = min(k, self.info.rows)
        if self._lists is None:
            blocks = (self._rows[start : start + 1024] for start in range(0, len(self._rows), 1024))
            return list(zip(*search_blocks(blocks, queries, k), strict=True))
        found, wanted = [], min(max(k, K) * _CANDIDATES, self.info.rows)
        for query, rows in zip(queries, self._lists.search(queries, wanted, probes), strict=True):
            rows = np.sort(rows[(rows >= 0) & (rows < self.info.rows)])
            similarities = self._rows[rows].astype(np.float64) @ query.astype(np.float64)
            best = np.argsort(-similarities, kind="stable")[:k]
            found.append((similarities[best], rows[best]))
        return found

    def read_rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some vectors, float32 (n, dim)."""
        return np.asarray(self._rows[rows], np.float32)

    def count_lists(self) -> int:
        """The number of lists."""
        return self._lists.count if self._lists else 0

    def _read_path(self, row: int) -> str:
        start, end = int(self._ends[row - 1]) if row else 0, int(self._ends[row])
        try:
            if path := self._paths[start:end].tobytes().decode():
                return path
        except UnicodeDecodeError as error:
            raise _damaged(self._files[".txt"]) from error
        raise _damaged(self._files[".ends"])


def read_manifest(path: Path) -> IndexInfo:
    """The kind and contents of the index in a folder.

    Raises:
        InputError: it is not whole, or no index.
    """
    name = path / MANIFEST
    try:
        given = json.loads(name.read_bytes())
        if not isinstance(given, dict) or given.pop("format", None) != FORMAT:
            raise InputError(f"{path}: is no index by this version of clipcls; build it anew")
        given["vectors"] = VectorsInfo.from_json(json.dumps(given["vectors"]), os.fspath(name))
        info = IndexInfo(**given)
        numbers = info.rows, *info.files.values(), *([] if info.kind == EXACT else [info.probes])
        if not all(type(number) is int and number > 0 for number in numbers):
            raise _damaged(name)
        if not all(map(OWN_FILES.fullmatch, info.files)):
            raise _damaged(name)
    except OSError as error:
        if path.is_dir() and isinstance(error, FileNotFoundError):
            raise InputError(
                f"{path}: holds no index, or one that is not whole; build it with `clipcls index`"
            ) from error
        raise InputError(f"{path}: {os_reason(error)}; name a folder of `clipcls index`") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(name) from error
    return info


def _damaged(path: Path, how: str = "is damaged") -> InputError:
    return InputError(f"{path}: {how}; build the index anew with `clipcls index`")
