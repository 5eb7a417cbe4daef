"""Filing results and writing keywords, as `sort` and `classify` do it: library calls and words."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli.console import Console, show
from clipcls.cli.groups import Settings, option
from clipcls.errors import ImageError
from clipcls.predictions import Prediction, Result

if TYPE_CHECKING:
    from clipcls.organize.journal import Mode

__all__ = [
    "INTERRUPTED",
    "FilingSettings",
    "choose_mode",
    "file_into",
    "list_plan",
    "shorten_path",
    "without_scores",
    "write_keywords",
    "xmp_option",
]

INTERRUPTED = "interrupted; the same command resumes where it stopped"


def xmp_option() -> Any:
    """`--xmp`, a field of a group."""
    return option(
        is_flag=True,
        help="Write the labels as keywords into XMP sidecars: photo.xmp, or photo.jpg.xmp where "
        "another file, such as a raw one, has the name photo.",
    )


@dataclass(frozen=True)
class FilingSettings(Settings):
    """What happens to the images themselves after a run."""

    section = "Filing"

    sort_into: Path | None = option(
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Then copy the images into DIR, one folder per label, as `clipcls sort` does.",
    )
    move: bool = option(is_flag=True, help="Move the images instead of copying them.")
    link: bool = option(is_flag=True, help="Make symbolic links instead of copying.")
    xmp: bool = xmp_option()


def choose_mode(move: bool, link: bool) -> Mode:
    """What `--move` and `--link` ask for."""
    return "move" if move else "link" if link else "copy"


def without_scores(result: Result) -> Result:
    """What filing and keywords need of a result, a fraction of its memory."""
    if isinstance(result, ImageError):
        return result
    return Prediction(result.path, result.label, (), None, lineages=result.label_paths)


def list_plan(
    console: Console, into: Path, mode: Mode, root: Path, results: Sequence[Result]
) -> int:
    """Say what `file_into` would do."""
    from clipcls.organize.execute import Filing
    from clipcls.organize.plan import make_plan

    todo = make_plan(results, into, mode, root=root)
    for step in todo.steps:
        for source, target in zip(step.sources, step.targets, strict=True):
            show(f"{shorten_path(source)} -> {shorten_path(target)}")
    _name(console, todo.failed)
    done = Filing(mode, todo, len(todo.steps), todo.failed)
    console.remark(f"dry run; without --dry-run: {done.summary()}")
    return done.exit_code


def file_into(
    console: Console, into: Path, mode: Mode, root: Path, results: Sequence[Result]
) -> int:
    """Files images into one folder per label; returns the exit status."""
    from clipcls.organize.execute import file_results

    try:
        with console.progress(_count(results)) as progress:
            done = file_results(results, into, mode, root=root, watch=progress)
    except KeyboardInterrupt:
        console.say(INTERRUPTED)
        return 130
    _name(console, done.failed)
    console.remark(done.summary())
    if done.journal:
        console.remark(f"to undo it: clipcls sort --undo {shlex.quote(shorten_path(done.journal))}")
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
    from clipcls.organize import keywords

    try:
        with console.progress(_count(results)) as progress:
            done = keywords.write_keywords(
                results,
                root=root,
                embed=embed,
                full_name=full_name,
                remove=remove,
                watch=progress,
            )
    except KeyboardInterrupt:
        console.say(INTERRUPTED)
        return 130
    for error in done.failed:
        console.say(f"no keywords: {error}")
    console.remark(done.summary())
    return done.exit_code


def _name(console: Console, failed: list[ImageError]) -> None:
    for error in failed:
        console.say(f"not filed: {error}")


def _count(results: Sequence[Result]) -> int:
    """How many images could be read."""
    return sum(isinstance(result, Prediction) for result in results)


def shorten_path(path: Path) -> str:
    """A path from here where it is below, as the user would name it."""
    try:
        text = os.path.relpath(path)
    except ValueError:  # on another drive
        return os.fspath(path)
    return os.fspath(path) if text.startswith(os.pardir) else text
