"""clipcls as the benchmarks run it: the installed command, its own cache folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import make_inputs
from common import RunError, Work, die, run, say


def classify(
    args: argparse.Namespace,
    work: Work,
    model: str,
    labels: Path,
    images: Path,
    cache: Path | None,
    form: str = "jsonl",
) -> list[Any]:
    """The command line; `mini` is the bundled model, another name needs a checkpoint."""
    return [
        args.clipcls,
        "classify",
        *_model(args, work, model),
        *("--labels", labels),
        *("--format", form, "--output", work.path("scratch", f"clipcls.{form}")),
        *(("--cache", cache) if cache else ("--no-cache",)),
        images,
    ]


def search(
    args: argparse.Namespace, work: Work, model: str, text: str, images: Path, cache: Path
) -> list[Any]:
    """The command line of a search by text, which is what rclip does."""
    return [
        args.clipcls,
        "search",
        *_model(args, work, model),
        *("--format", "jsonl", "--output", work.path("scratch", "found.jsonl")),
        *("--cache", cache, text, images),
    ]


def _model(args: argparse.Namespace, work: Work, model: str) -> list[Any]:
    checkpoint = {"ViT-B-32": work.checkpoint, "ViT-B-32-256": work.checkpoint_256}.get(model)
    chosen = ["--model", model, "--precision", args.precision]
    return [*chosen, "--checkpoint", checkpoint] if checkpoint else chosen


def check(work: Work, count: int) -> None:
    """Ends the program if the last run left out an image."""
    path = work.path("scratch", "clipcls.jsonl")
    with path.open(encoding="utf-8") as lines:
        good = sum("label" in json.loads(line) for line in lines)
    if good != count:
        die(f"{path}: {good} of {count} images were classified: these times mean nothing")


def warm(
    work: Work,
    args: argparse.Namespace,
    models: Iterable[str],
    cache: Path | None = None,
    images: Path | None = None,
) -> None:
    """Runs clipcls once with each model, unmeasured: what it keeps of a model is made then."""
    images = images or make_inputs.small(work, 1)
    for model in models:
        say(f"  warming up clipcls with {model}")
        command = classify(args, work, model, make_inputs.LABELS, images, cache)
        try:
            run(work, "clipcls warm-up", command)
        except RunError as error:
            die(f"clipcls does not run: {error}")


def forget(cache: Path) -> None:
    """Deletes a cache."""
    for path in cache.parent.glob(f"{cache.name}*"):
        path.unlink()
