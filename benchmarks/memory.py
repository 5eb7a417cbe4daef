"""How much memory does clipcls take at its peak, and does that grow with the images?

    python benchmarks/memory.py [--counts 1000,20000] [--models mini,ViT-B-32]

Whole processes on small images, writing a new cache.
"""

from __future__ import annotations

import argparse
from typing import Any

import make_inputs
from common import Run, RunError, Work, die, finish, parser, run, run_main, say, summary, work_of
from ours import check, classify, forget, warm


def add_flags(arguments: argparse.ArgumentParser) -> None:
    """The flags that are memory.py's own."""
    arguments.add_argument("--counts", default="1000,20000", help="numbers of images, by commas")
    arguments.add_argument("--models", default="mini,ViT-B-32", help="mini, ViT-B-32 or both")


def measure(work: Work, args: argparse.Namespace) -> dict[str, Any]:
    """The answer: one run a model and count."""
    try:
        counts = sorted(int(count) for count in args.counts.split(","))
    except ValueError:
        die(f"--counts {args.counts}: numbers with commas between them, e.g. 1000,20000")
    models = args.models.split(",")
    if not set(models) <= {"mini", "ViT-B-32"}:
        die(f"--models {args.models}: mini, ViT-B-32 or both with a comma")
    make_inputs.models(work)
    warm(work, args, models)
    cache = work.path("scratch", "memory.sqlite")
    runs: list[Run] = []
    for model in models:
        for count in counts:
            folder = make_inputs.small(work, count)
            forget(cache)
            name = f"clipcls {model}, {count:,} images"
            command = classify(args, work, model, make_inputs.LABELS, folder, cache)
            try:
                done = run(work, name, command)
            except RunError as error:
                die(f"clipcls does not run: {error}")
            check(work, count)
            done.images = count
            say(f"  {name}: {done.peak_rss_mb:,.0f} MB, {done.seconds:.1f} s")
            runs.append(done)
    forget(cache)
    without = ["times as long"]
    return summary("Peak memory", runs[0].runner, runs, {}, without=without)


def main() -> None:
    """The command."""
    arguments = parser(__doc__)
    add_flags(arguments)
    args = arguments.parse_args()
    work = work_of(args)
    finish(work, "memory", measure(work, args), args)


if __name__ == "__main__":
    run_main(main)
