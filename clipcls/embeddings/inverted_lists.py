"""FAISS's inverted lists in files: trained on a sample, filled part by part, memory-mapped.

`NAME.faiss` holds what was trained, and `NAME.lists` per list the codes and then the row numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROWS_PER_LIST = 40  # in training; FAISS asks for 39
_TRAINING_BYTES = 512 << 20
_PART_BYTES = 256 << 20  # of codes and row numbers that memory holds
# Above, a graph finds the nearest lists: faster, but it misses a fourth of them.
_FLAT_LISTS = 16_384
_CODES = 256  # per byte, each trained as a list is
_ROTATIONS = 10  # of OPQ; FAISS's 50 take five times as long
_ID_BYTES = 8


def choose_code(rows: int, dim: int, code_bytes: int) -> str:
    """The name that FAISS's index factory has for lists of codes of that many bytes.

    There are about as many lists as rows in a list. A code of `dim` bytes or more has 8 bits per
    number; shorter ones are product-quantised after a rotation.
    """
    lists = 2 ** round(math.log2(math.sqrt(rows)))
    graph = "_HNSW32" if lists > _FLAT_LISTS else ""
    if code_bytes >= dim:
        return f"IVF{lists}{graph},SQ8"
    rotated = code_bytes * (dim // code_bytes)
    return f"OPQ{code_bytes}_{rotated},IVF{lists}{graph},PQ{code_bytes}"


class InvertedLists:
    """Lists that `write_lists` wrote.

    Args:
        name: the files' name without suffix.
        sizes: the number of rows of each list.

    Attributes:
        count: the number of lists.

    Raises:
        RuntimeError: FAISS cannot read them.
    """

    def __init__(self, name: Path, sizes: NDArray[np.uint64]) -> None:
        import faiss

        self._index: Any = faiss.read_index(f"{name}.faiss")
        self._ivf = faiss.extract_index_ivf(self._index)
        self.count = int(self._ivf.nlist)
        if len(sizes) != self.count:
            raise RuntimeError("another number of lists")
        size = int(sizes.sum()) * (self._ivf.code_size + _ID_BYTES)
        if size != Path(f"{name}.lists").stat().st_size:
            raise RuntimeError("lists of another size")
        # Set up by hand: FAISS's own reader prints to stdout and wants its file's former place.
        on_disk: Any = faiss.OnDiskInvertedLists(self.count, self._ivf.code_size, f"{name}.lists")
        on_disk.read_only = True
        on_disk.set_all_lists_sizes(faiss.swig_ptr(sizes))
        on_disk.totsize = size
        on_disk.do_mmap()
        on_disk.this.disown()
        self._ivf.replace_invlists(on_disk, True)
        self._index.ntotal = self._ivf.ntotal = int(sizes.sum())

    def search(self, queries: NDArray[np.float32], k: int, probes: int) -> NDArray[np.int64]:
        """Row numbers of about the k nearest rows per query, in any order.

        Args:
            queries: float32 (m, dim).
            k: how many.
            probes: how many lists to compare with; more if they hold fewer than k rows.
        """
        self._ivf.nprobe = min(probes, self.count)
        found: NDArray[np.int64] = self._index.search(np.ascontiguousarray(queries), k)[1]
        short = found[:, -1] < 0
        if probes < self.count and short.any():
            found[short] = self.search(queries[short], k, 2 * probes)
        return found


def write_lists(
    name: Path, code: str, sample: NDArray[np.float32], blocks: Iterable[NDArray[np.float32]]
) -> NDArray[np.uint64]:
    """Train lists on a sample, and write all rows into them; returns each list's size.

    Args:
        name: the files' name without suffix.
        code: by `choose_code`.
        sample: float32 (n, dim), at most `sample_size(...)` rows.
        blocks: float32 (n_i, dim) each; rows are numbered across blocks.

    Raises:
        OSError, RuntimeError: the files cannot be written.
    """
    import faiss

    index: Any = faiss.index_factory(sample.shape[1], code, faiss.METRIC_INNER_PRODUCT)
    ivf = faiss.extract_index_ivf(index)
    ivf.cp.min_points_per_centroid = 1  # with fewer than 39 it warns on stderr
    if code.startswith("OPQ"):
        rotation: Any = faiss.downcast_VectorTransform(index.chain.at(0))
        rotation.niter = _ROTATIONS
    index.train(sample)
    faiss.write_index(index, f"{name}.faiss")
    parts: list[str] = []

    def flush() -> None:
        parts.append(f"{name}.{len(parts)}")
        faiss.write_index(index, parts[-1])
        index.reset()

    start = 0
    for block in blocks:
        index.add_with_ids(block, np.arange(start, start + len(block)))
        start += len(block)
        if index.ntotal * (ivf.code_size + _ID_BYTES) >= _PART_BYTES:
            flush()
    flush()
    return _merge([Path(part) for part in parts], Path(f"{name}.lists"))


def _merge(parts: list[Path], place: Path) -> NDArray[np.uint64]:
    """Put the lists of parts together; the parts are removed."""
    import faiss

    indexes = [faiss.read_index(str(part), faiss.IO_FLAG_MMAP) for part in parts]
    lists: list[Any] = [faiss.extract_index_ivf(index).invlists for index in indexes]
    sizes = np.zeros(lists[0].nlist, np.uint64)
    with place.open("xb") as file:
        for number in range(len(sizes)):
            filled = [each for each in lists if each.list_size(number)]
            for each in filled:
                size = each.list_size(number)
                sizes[number] += size
                codes = faiss.rev_swig_ptr(each.get_codes(number), size * each.code_size)
                file.write(codes.data)
            for each in filled:
                rows = faiss.rev_swig_ptr(each.get_ids(number), each.list_size(number))
                file.write(rows.data)
    del indexes, lists
    for part in parts:
        part.unlink()
    return sizes


def sample_size(code: str, dim: int) -> int:
    """How many rows training needs; bounds memory."""
    lists = int("".join(itertools.takewhile(str.isdecimal, code.partition("IVF")[2])))
    return min(_ROWS_PER_LIST * max(lists, _CODES), _TRAINING_BYTES // (4 * dim))
