"""Filing results and writing keywords, as `sort` and `classify` do it: library calls and words."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipcls.cli.console import Console, show
from clipcls.errors import ImageError
from clipcls.predictions import Prediction, Result

if TYPE_CHECKING:
    from clipcls.organize.journal import Mode

__all__ = [
    "INTERRUPTED",
    "file_into",
    "list_plan",
    "mode_of",
    "short",
    "without_scores",
    "write_keywords",
]

INTERRUPTED = "interrupted; the same command again goes on where it stopped"


def mode_of(move: bool, link: bool) -> Mode:
    """What `--move` and `--link` ask for."""
    if move and link:
        raise click.UsageError("--move and --link exclude each other")
    return "move" if move else "link" if link else "copy"


def without_scores(result: Result) -> Result:
    """What filing and keywords need of a result, a fraction of its memory."""
    if isinstance(result, ImageError):
        return result
    return Prediction(result.path, result.label, (), None, lineages=result.label_paths)


def list_plan(
    console: Console, into: Path, mode: Mode, root: Path, results: Sequence[Result]
) -> int:
    """Says what `file_into` would do."""
    from clipcls.organize.execute import Filing
    from clipcls.organize.plan import plan

    todo = plan(results, into, mode, root=root)
    for step in todo.steps:
        for source, target in zip(step.sources, step.targets, strict=True):
            show(f"{short(source)} -> {short(target)}")
    _name(console, todo.failed)
    done = Filing(mode, todo, len(todo.steps), todo.failed)
    if not console.quiet:
        console.say(f"dry run, nothing was done: {done.summary()}")
    return done.exit_code


def file_into(
    console: Console, into: Path, mode: Mode, root: Path, results: Sequence[Result]
) -> int:
    """Files images into a folder a label; returns the exit status."""
    from clipcls.organize.execute import file_results

    try:
        with console.progress(_count(results)) as progress:
            done = file_results(results, into, mode, root=root, watch=progress)
    except KeyboardInterrupt:
        console.say(INTERRUPTED)
        return 130
    _name(console, done.failed)
    if not console.quiet:
        console.say(done.summary())
        if done.journal:
            console.say(f"to take it back: clipcls sort --undo {shlex.quote(short(done.journal))}")
    return done.exit_code


def write_keywords(
    console: Console,
    root: Path,
    results: Sequence[Result],
    *,
    embed: bool = False,
    full_name: bool = False,
    remove: bool = False,
) -> int:
    """Writes labels into sidecars, or into the images; returns the exit status."""
    from clipcls.organize.xmp_embed import embed_keywords
    from clipcls.organize.xmp_sidecar import write_sidecars

    try:
        with console.progress(_count(results)) as progress:
            if embed:
                done = embed_keywords(results, root=root, remove=remove, watch=progress)
            else:
                done = write_sidecars(
                    results, root=root, full_name=full_name, remove=remove, watch=progress
                )
    except KeyboardInterrupt:
        console.say(INTERRUPTED)
        return 130
    for error in done.failed:
        console.say(f"no keywords: {error}")
    if not console.quiet:
        console.say(done.summary())
    return done.exit_code


def _count(results: Sequence[Result]) -> int:
    """How many images could be read."""
    return sum(isinstance(result, Prediction) for result in results)


def _name(console: Console, failed: list[ImageError]) -> None:
    for error in failed:
        console.say(f"not filed: {error}")


def short(path: Path) -> str:
    """A path from here where it is below, as the user would name it."""
    try:
        text = os.path.relpath(path)
    except ValueError:  # on another drive
        return os.fspath(path)
    return os.fspath(path) if text.startswith(os.pardir) else text
