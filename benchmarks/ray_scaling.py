"""Measures how `clipcls classify --ray` scales from one worker of one core to two.

    python benchmarks/ray_scaling.py [--seconds 40] [--rounds 2]

Random photos of 1.9 megapixels are classified by `mini`: by one process on one core, and on a Ray
cluster whose nodes are each kept on a core of their own. The ways take turns. The rate leaves out
the start: it counts what was finished after the first file of results. Takes about five minutes on
two idle cores, and needs Linux.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import die, run_main, say
from PIL import Image

_KINDS = 60  # different photos; the others are links to them
_LONGEST = 300  # seconds; a round that may end later is not begun
_COMMAND = (sys.executable, "-m", "clipcls", "classify", "-m", "mini", "-l", "cat", "-l", "dog")
_SETTINGS = {"CLIPCLS_NO_CACHE": "1", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Measured:
    """Seconds from start to end, and images per second after the start."""

    wall: float
    rate: float


def make_photos(folder: Path) -> list[Path]:
    """Blurred noise with grain, as large as a photo's."""
    random = np.random.default_rng(0)
    folder.mkdir()
    paths = []
    for number in range(_KINDS):
        coarse = random.integers(0, 256, (12, 16, 3), np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC))
        grain = random.normal(0, 6, image.shape)
        path = folder / f"{number}.jpg"
        Image.fromarray((image + grain).clip(0, 255).astype(np.uint8)).save(path, quality=85)
        paths.append(path)
    return paths


def link(photos: list[Path], folder: Path, count: int) -> Path:
    """A folder with `count` photos."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number in range(count):
        os.link(photos[number % len(photos)], folder / f"{number:06}.jpg")
    return folder


def run(words: list[str], cores: set[int], finished: Callable[[], int]) -> Measured:
    """Run a command on some cores; `finished` counts the images that it has answered."""
    started = time.monotonic()
    process = subprocess.Popen(
        [*_COMMAND, *words],
        env=os.environ | _SETTINGS,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    seen: list[tuple[float, int]] = []  # when, and how many images were finished then
    while process.poll() is None:
        count = finished()
        if count and (not seen or count > seen[-1][1]):
            seen.append((time.monotonic(), count))
        time.sleep(0.05)
    wall = time.monotonic() - started
    if process.returncode:
        die(process.stderr.read().decode()[-500:] if process.stderr else "the command failed")
    (first, some), (last, most) = seen[0], seen[-1]
    return Measured(wall, (most - some) / (last - first))


def run_locally(images: Path, core: int, work: Path) -> Measured:
    """One process on one core, its results counted as they are written."""
    part = work / "local.jsonl.part"

    def count() -> int:
        lines = part.read_bytes().count(b"\n") if part.exists() else 0
        return lines if lines >= 100 else 0

    words = ["--workers", "1", str(images), "-o", str(work / "local.jsonl")]
    return run(words, {core}, count)


def run_on_ray(images: Path, cores: list[int], size: int, work: Path) -> Measured:
    """A worker on each of the cores; the command itself may use all cores."""
    from ray.cluster_utils import Cluster

    every = os.sched_getaffinity(0)
    results = work / "results"
    shutil.rmtree(results, ignore_errors=True)
    store = {"object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    try:
        for core in cores:
            os.sched_setaffinity(0, {core})  # which the node and its workers inherit
            cluster.add_node(num_cpus=1, **store)
        os.sched_setaffinity(0, every)
        words = [str(images), "--ray", cluster.address, "--shard-size", str(size)]
        return run(
            [*words, "-o", f"{results}/"], every, lambda: size * len([*results.glob("part-*")])
        )
    finally:
        os.sched_setaffinity(0, every)
        cluster.shutdown()


def main() -> None:
    """Prints each run and the ratios."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--seconds", type=float, default=40, help="of work for one core")
    arguments.add_argument("--rounds", type=int, default=2)
    args = arguments.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        die("needs two cores")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        photos = make_photos(work / "originals")
        rate = run_locally(link(photos, work / "few", 400), cores[0], work).rate
        size = max(20, round(rate * args.seconds / 20))  # 20 files of results
        images = link(photos, work / "photos", 20 * size)
        megabytes = sum(path.stat().st_size for path in photos) / len(photos) / 1e6
        say(f"{20 * size:,} photos of {megabytes:.1f} MB, {size} per file; load {os.getloadavg()}")
        ways: dict[str, Callable[[], Measured]] = {
            "one process": lambda: run_locally(images, cores[0], work),
            "1 worker": lambda: run_on_ray(images, cores[:1], size, work),
            "2 workers": lambda: run_on_ray(images, cores, size, work),
        }
        found: dict[str, list[Measured]] = {name: [] for name in ways}
        begun = time.monotonic()
        for _ in range(args.rounds):
            if time.monotonic() - begun > _LONGEST / 2:
                say("the machine is busy: no further round")
                break
            for name, measure in ways.items():
                found[name].append(one := measure())
                say(f"{name:12} {one.wall:6.1f} s {one.rate:7.1f} images/s")
    wall, rates = (
        {n: statistics.median(getattr(m, field) for m in runs) for n, runs in found.items()}
        for field in ("wall", "rate")
    )
    for name, values, ratio in (
        ("rate", rates, rates["2 workers"] / rates["1 worker"]),
        ("wall", wall, wall["1 worker"] / wall["2 workers"]),
    ):
        say(f"2 workers to 1, by {name}: {ratio:.2f} times ({values})")
    say(f"1 worker needs {rates['one process'] / rates['1 worker'] - 1:+.1%} time per image, and")
    say(f"{wall['1 worker'] - wall['one process']:+.1f} s in all, compared with one process")


if __name__ == "__main__":
    run_main(main)
