"""Builds an index of many vectors: copies them, trains and fills lists, measures the recall."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.index import search_blocks
from clipcls.embeddings.inverted_lists import sample_size, write_lists
from clipcls.embeddings.vector_files import VectorFile
from clipcls.embeddings.vector_index import (
    EXACT,
    FORMAT,
    MANIFEST,
    OWN_FILES,
    RECALL,
    IndexInfo,
    K,
    VectorIndex,
    read_manifest,
)
from clipcls.embeddings.vectors_info import is_unit
from clipcls.errors import InputError
from clipcls.files.atomic import writing
from clipcls.files.folders import sync_folder
from clipcls.files.partial import Part
from clipcls.files.text import escape_bytes

logger = logging.getLogger(__name__)

_QUERIES = 512  # images to measure the recall with
_BLOCK = 16_384  # rows
_ROUNDING = 1e-5  # of similarities, by float16


def build_index(
    files: Sequence[VectorFile],
    folder: str | os.PathLike[str],
    kind: str = EXACT,
    *,
    recall: float | None = None,
    texts: NDArray[np.float32] | None = None,
    on_rows: Callable[[int], object] = lambda count: None,
) -> IndexInfo:
    """Write an index of all vectors of these files; memory holds a part of them.

    Rows that are no unit vectors are left out.

    Args:
        files: vectors by one model.
        folder: is made, or holds an index, which is replaced at the end.
        kind: by `choose_kind`.
        recall: of lists; as many are read as reach it. Default: 0.95.
        texts: unit vectors float32 (n, dim) of texts to measure the recall with, besides images.
        on_rows: called with the number of vectors that have just been done.

    Raises:
        InputError: the vectors are of several models, none, or damaged.
        OutputError: the index cannot be written.
    """
    info, place = files[0].info, Path(folder)
    for file in files[1:]:
        file.info.check_same(file.path, info, files[0].path)
    with _open_folder(place) as manifest:
        token = secrets.token_hex(4)
        rows = place / f"rows-{token}.{'f32' if kind == EXACT else 'f16'}"
        logger.info("copying vectors", extra={"is_preparing": True})
        count = _copy(files, rows, place / f"paths-{token}", on_rows if kind == EXACT else None)
        if not count:
            raise InputError(f"{files[0].path}: holds no vectors to index")
        if count < sum(map(len, files)) / 2:  # mostly damaged: too few for the kind
            kind = EXACT
        if kind != EXACT:
            name = place / f"lists-{token}"
            memory = np.memmap(rows, "<f2", "r", shape=(count, info.dim))
            logger.info("training %s", kind, extra={"is_preparing": True})
            own = _spread(count, _QUERIES)  # which have no part in the training
            sample = np.setdiff1d(_spread(count, sample_size(kind, info.dim)), own)
            blocks = _read_blocks(rows, info.dim, on_rows)
            sizes = write_lists(name, kind, memory[sample].astype(np.float32), blocks)
            sizes.tofile(f"{name}.sizes")
        written = sorted(each for each in place.iterdir() if token in each.name)
        for each in written:
            with open(each, "rb") as done:
                os.fsync(done.fileno())
        lengths = {each.name: each.stat().st_size for each in written}
        found = IndexInfo(kind, count, 0, {}, lengths, info)
        if kind != EXACT:
            logger.info("measuring the recall", extra={"is_preparing": True})
            found = _measure(VectorIndex(place, found), files, own, texts, recall or RECALL)
        whole = {"format": FORMAT, **asdict(found), "vectors": json.loads(info.to_json())}
        manifest.write(f"{json.dumps(whole, indent=1)}\n")
    return found


def _copy(
    files: Sequence[VectorFile], rows: Path, paths: Path, on_rows: Callable[[int], object] | None
) -> int:
    """Write all unit vectors and their paths; returns their number."""
    count, end = 0, 0
    number = f"<{rows.suffix[1:].replace('32', '4').replace('16', '2')}"
    with (
        rows.open("xb") as vectors,
        paths.with_suffix(".txt").open("xb") as names,
        paths.with_suffix(".ends").open("xb") as ends,
    ):
        for block in (block for file in files for block in file.blocks()):
            whole = is_unit(block.vectors)
            kept = [
                escape_bytes(path).encode()
                for path, is_whole in zip(block.paths, whole, strict=True)
                if is_whole
            ]
            block.vectors[whole].astype(number).tofile(vectors)
            names.write(b"".join(kept))
            lengths = np.cumsum([len(name) for name in kept], dtype="<u8") + np.uint64(end)
            lengths.tofile(ends)
            end += sum(map(len, kept))
            count += len(kept)
            if on_rows:
                on_rows(len(kept))
    return count


def _read_blocks(
    rows: Path, dim: int, on_rows: Callable[[int], object]
) -> Iterator[NDArray[np.float32]]:
    with rows.open("rb") as file:
        while len(block := np.fromfile(file, "<f2", _BLOCK * dim)):
            yield block.reshape(-1, dim).astype(np.float32)
            on_rows(len(block) // dim)


def _spread(rows: int, count: int) -> NDArray[np.int64]:
    """As many row numbers at most, evenly spaced."""
    return np.linspace(0, rows - 1, min(rows, count)).astype(np.int64)


def _measure(
    index: VectorIndex,
    files: Sequence[VectorFile],
    own: NDArray[np.int64],
    texts: NDArray[np.float32] | None,
    wanted: float,
) -> IndexInfo:
    """Choose how many lists to read by one half of the queries; the recall is the other half's."""
    groups = {"images": index.read_rows(own)}
    if texts is not None and len(texts):
        groups["texts"] = texts
        own = np.concatenate([own, np.full(len(texts), -1)])
    queries = np.concatenate([*groups.values()])
    kinds = np.repeat([*groups], [*map(len, groups.values())])
    units = (block.vectors[is_unit(block.vectors)] for file in files for block in file.blocks())
    similarities, exact = search_blocks(units, queries, K + 1)

    def measure(probes: int, half: int) -> dict[str, NDArray[np.float64]]:
        found = index.find_rows(queries[half::2], K + 1, probes)
        nearest = zip(similarities[half::2], exact[half::2], own[half::2], strict=True)
        each = np.array([_count_hits(*one, *two) for one, two in zip(found, nearest, strict=True)])
        return {name: each[kinds[half::2] == name] / K for name in groups}

    tried: dict[int, float] = {}  # by lists, the recall beyond chance
    for probes in _list_counts(index.count_lists()):
        parts = measure(probes, 0).values()
        tried[probes] = min(part.mean() - 2 * part.std() / math.sqrt(len(part)) for part in parts)
        before = [*tried.values()][-3] if len(tried) > 2 else -1.0  # at half as many
        is_flat = wanted / 2 < tried[probes] < before + 0.002
        if tried[probes] >= wanted or is_flat:
            break
    best = max(tried.values())
    enough = wanted if best >= wanted else best - 0.005
    probes = next(probes for probes, reached in tried.items() if reached >= enough)
    recall = {name: round(float(part.mean()), 4) for name, part in measure(probes, 1).items()}
    return replace(index.info, probes=probes, recall=recall)


def _count_hits(
    similarities: NDArray[np.float64],
    rows: NDArray[np.int64],
    exact_similarities: NDArray[np.float64],
    exact: NDArray[np.int64],
    itself: int,
) -> int:
    """How many of the K nearest were found; equally near ones, such as copies, count as well."""
    true = exact != itself
    least = exact_similarities[true][K - 1] - _ROUNDING
    is_hit = (similarities >= least) | np.isin(rows, exact[true][:K])
    return int(np.sum(is_hit[rows != itself][:K]))


def _list_counts(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12 and so on."""
    for power in range(most.bit_length()):
        for probes in (2**power, 3 * 2 ** (power - 1)) if power else (1,):
            if probes < most:
                yield probes
    yield most


@contextlib.contextmanager
def _open_folder(place: Path) -> Iterator[TextIO]:
    """An index's manifest, to be written; at the end the folder holds only what it names."""
    with writing(place):
        place.mkdir(exist_ok=True)
        if other := next((n for n in os.listdir(place) if not OWN_FILES.fullmatch(n)), None):
            raise InputError(f"{place}: holds {other}, so it is no index; name another folder")
        manifest = Part(place / MANIFEST)
        try:
            with manifest.file as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            manifest.rename()
            sync_folder(place)
        except RuntimeError as error:  # FAISS's
            raise OSError(None, "the disk may be full") from error
        finally:
            manifest.remove()
            _remove_leftovers(place)
            manifest.release()


def _remove_leftovers(place: Path) -> None:
    """Remove all files of indexes that the manifest does not name."""
    named: set[str] = set()
    with contextlib.suppress(InputError):
        named = {MANIFEST, *read_manifest(place).files}
    with contextlib.suppress(OSError):
        for each in place.iterdir():
            if each.name not in named:
                each.unlink(missing_ok=True)
        if not named:
            place.rmdir()
