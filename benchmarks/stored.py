"""How long do labels take on many images whose vectors are stored, and how much memory?

    python benchmarks/stored.py [--counts 10000,1000000] [--repeats 3]

Whole processes with the bundled model, 100 labels whose texts are in the cache too: what is
measured is finding the images, reading their vectors, matching and writing the records: from the
cache to jsonl and to parquet, and from a parquet file of vectors to parquet. The images are links
to a few files and have random vectors; nothing opens an image that has not changed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import make_inputs
from common import Run, RunError, Work, die, finish, parser, run, run_main, say, summary, work_of
from ours import check, classify, forget, search

_A_FOLDER, _A_FILE = 1000, 20_000  # images a folder; links to a file, which systems limit


def images(work: Work, count: int) -> Path:
    """A folder of so many links, a thousand to a folder."""
    root = work.root / f"linked-{count}"
    if root.is_dir():
        return root
    say(f"making {count:,} links")
    files = sorted(make_inputs.small(work, -(-count // _A_FILE)).iterdir())
    part = work.root / f"linked-{count}.part"
    for number in range(count):
        folder = part / f"{number // _A_FOLDER:04}"
        if number % _A_FOLDER == 0:
            folder.mkdir(parents=True, exist_ok=True)
        link = folder / f"{number:07}.jpg"
        if not link.exists():
            os.link(files[number // _A_FILE], link)
    return part.rename(root)


def fill(cache: Path, root: Path) -> None:
    """Puts a random vector for each image into a new cache, as if it had been encoded."""
    import numpy as np

    from clipcls import ZeroShotClassifier
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.embeddings.space import Space
    from clipcls.files.hashing import stamp_file

    time.sleep(3)  # the times of younger files are not trusted
    chance = np.random.default_rng(0)
    with EmbeddingCache(cache) as kept:
        encoder = ZeroShotClassifier(["thing"], "mini", cache=kept).fit().encoder_
        space = Space(encoder, kept, "image")
        dim = encoder.encode_texts(["thing"]).shape[1]
        for folder in sorted(root.iterdir()):
            paths = sorted(folder.iterdir())
            rows = chance.standard_normal((len(paths), dim), np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            keys = [chance.bytes(32) for _ in paths]
            space.add(
                list(zip(keys, rows, strict=True)),
                [(str(p), stamp_file(p.stat()), key) for p, key in zip(paths, keys, strict=True)],
            )


def measure(work: Work, args: argparse.Namespace) -> dict[str, Any]:
    """The answer: `--repeats` runs of each command and count."""
    try:
        counts = sorted(int(count) for count in args.counts.split(","))
    except ValueError:
        die(f"--counts {args.counts}: numbers with commas between them, e.g. 10000,1000000")
    labels = make_inputs.labels(work, 100)
    runs: list[Run] = []
    for count in counts:
        root, cache = images(work, count), work.path("scratch", f"stored-{count}.sqlite")
        if not cache.exists():
            say(f"storing {count:,} vectors")
            # In a process of its own: what this one holds would count as its children's memory.
            filler = multiprocessing.get_context("spawn").Process(target=fill, args=(cache, root))
            filler.start()
            filler.join()
            if filler.exitcode:
                forget(cache)
                die("the cache could not be filled")
        vectors = work.path("scratch", f"stored-{count}.parquet")
        if not vectors.exists():
            embed = [args.clipcls, "embed", "--model", "mini", "--precision", args.precision]
            run(work, "embed", [*embed, "--cache", cache, "--output", vectors, root])
        commands = {
            "classify": classify(args, work, "mini", labels, root, cache),
            "classify to parquet": classify(args, work, "mini", labels, root, cache, "parquet"),
            "classify a file": classify(args, work, "mini", labels, vectors, cache, "parquet"),
            "search": search(args, work, "mini", "a photo of a cat", root, cache),
        }
        for name, command in commands.items():
            title = f"{name}, {count:,} images"
            for repeat in range(-1, args.repeats):  # the first one embeds the texts
                try:
                    done = run(work, title, command, repeat=repeat)
                except RunError as error:
                    die(f"clipcls does not run: {error}")
                if repeat < 0:
                    continue
                done.images = count
                say(f"  {title}: {done.seconds:.2f} s, {done.peak_rss_mb:,.0f} MB")
                runs.append(done)
            if name == "classify":
                check(work, count)
    without = ["times as long"]
    return summary("100 labels on stored images", runs[0].runner, runs, {}, without=without)


def main() -> None:
    """The command."""
    arguments = parser(__doc__)
    arguments.add_argument("--counts", default="10000,1000000", help="numbers, by commas")
    args = arguments.parse_args()
    work = work_of(args)
    finish(work, "stored", measure(work, args), args)


if __name__ == "__main__":
    run_main(main)
