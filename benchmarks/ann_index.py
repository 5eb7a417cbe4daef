"""Time, memory, size and recall of `clipcls index` on random vectors in clusters.

    python benchmarks/ann_index.py 1000000 --dim 512 --folder /tmp/ann

Writes `ROWS / 500` clusters block by block to FOLDER/vectors, builds an index of them in a process
of its own and searches it. Nothing is removed from FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.index_build import build_index
from clipcls.embeddings.vector_files import open_vectors
from clipcls.embeddings.vector_folder import VectorFolder
from clipcls.embeddings.vector_index import choose_kind, open_index
from clipcls.embeddings.vectors_info import VectorBlock, VectorsInfo
from clipcls.numerics import unit_rows

BLOCK = 16_384
SPREAD = 0.7  # of a cluster; the cosine of two of its vectors is about 0.67
LATENT = 64  # dimensions of the variation, as in images far fewer than the vectors have


def make_blocks(rows: int, dim: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Unit rows, float32 (n, dim); the same clusters for each seed."""
    shared, chance = np.random.default_rng(0), np.random.default_rng(seed)
    centres = shared.standard_normal((max(1, rows // 500), LATENT), np.float32)
    directions = shared.standard_normal((LATENT, dim), np.float32)
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        noise = chance.standard_normal((count, LATENT), np.float32)
        place = centres[chance.integers(len(centres), size=count)] + SPREAD * noise
        yield unit_rows(place @ directions)


def write_vectors(folder: Path, rows: int, dim: int) -> None:
    """Write the vectors as `clipcls embed --dtype float16` would."""
    info = VectorsInfo("random", "0" * 64, "fp32", {}, "random", dim)
    with VectorFolder(str(folder), lambda _: info, "float16", BLOCK) as writer:
        for number, block in enumerate(make_blocks(rows, dim, 1)):
            start = number * BLOCK
            paths = [
                f"photos/{row // 1000:06}/{row:09}.jpg" for row in range(start, start + len(block))
            ]
            writer.write(VectorBlock(paths, block, [""] * len(block), [0] * len(block)))


def build(folder: Path, recall: float | None, code_bytes: int | None) -> None:
    """Build the index and print a record; run in a process of its own."""
    files = [open_vectors(str(folder / "vectors"))]
    kind = choose_kind(len(files[0]), files[0].info.dim, recall, code_bytes)
    info = build_index(files, folder / "index", kind, recall=recall)
    size = sum(info.files.values())
    print(
        json.dumps(
            {"kind": kind, "lists_read": info.probes, "recall": info.recall, "GB": size / 1e9}
        )
    )


def measure(folder: Path, rows: int, dim: int) -> dict[str, float]:
    """Milliseconds to open the index and of 100 single queries, of new vectors."""
    start = time.perf_counter()
    index = open_index(folder / "index")
    opened = time.perf_counter() - start
    queries = next(make_blocks(rows, dim, 2))[:100]
    times = []
    for query in queries:
        start = time.perf_counter()
        index.search(query, 10)
        times.append(time.perf_counter() - start)
    first, median, slowest = times[0], np.median(times), max(times[1:])
    names = ("open", "first", "median", "slowest")
    return {
        name: round(1000 * float(t), 1)
        for name, t in zip(names, (opened, first, median, slowest), strict=True)
    }


def watch_memory(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """The most memory in GB: of its own, and with what it maps of files."""
    own, all_ = 0, 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        found = {
            line.split(":")[0]: int(line.split()[1])
            for line in lines
            if line.startswith("Rss") or line.startswith("VmRSS")
        }
        own, all_ = max(own, found.get("RssAnon", 0)), max(all_, found.get("VmRSS", 0))
        time.sleep(0.5)
    return {"own_GB": own / 1e6, "with_files_GB": all_ / 1e6}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rows", type=int)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--recall", type=float)
    parser.add_argument("--code-bytes", type=int)
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.build:
        build(given.folder, given.recall, given.code_bytes)
        return
    given.folder.mkdir(exist_ok=True)
    if not (given.folder / "vectors").exists():
        start = time.perf_counter()
        write_vectors(given.folder / "vectors", given.rows, given.dim)
        print(f"vectors written in {time.perf_counter() - start:.0f} s", flush=True)
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *sys.argv, "--build"]) as process:
        memory = watch_memory(process)
    print(f"built in {time.perf_counter() - start:.0f} s, load {os.getloadavg()[0]:.1f}", memory)
    print("milliseconds:", measure(given.folder, given.rows, given.dim))


if __name__ == "__main__":
    main()
