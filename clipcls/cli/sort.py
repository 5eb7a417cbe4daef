"""`clipcls sort`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipcls.cli.console import Console
from clipcls.cli.options import FILE

if TYPE_CHECKING:
    from clipcls.errors import ImageError
    from clipcls.journal import Mode
    from clipcls.results import Result

_INTERRUPTED = "interrupted; the same command again goes on where it stopped"


@click.command("sort")
@click.argument("results", required=False, metavar="[RESULTS]")
@click.option("--into", type=FILE, metavar="DIR", help="Make a folder for each label in DIR.")
@click.option("--move", is_flag=True, help="Move the images; default: copy them.")
@click.option("--link", is_flag=True, help="Make symbolic links to the images.")
@click.option(
    "--root",
    type=FILE,
    default=".",
    metavar="DIR",
    help="The folder that `classify` ran in; default: this one.",
)
@click.option(
    "--xmp",
    is_flag=True,
    help="Write the labels as keywords into XMP sidecars (photo.xmp) beside the images.",
)
@click.option("--xmp-full-name", is_flag=True, help="So, but into photo.jpg.xmp.")
@click.option("--xmp-remove", is_flag=True, help="Take out the keywords that --xmp wrote.")
@click.option("--dry-run", is_flag=True, help="Only list what would go where.")
@click.option(
    "--undo", "journal", type=FILE, metavar="JOURNAL", help="Take back what this journal tells of."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
@click.pass_obj
def command(
    console: Console,
    /,
    results: str | None,
    into: Path | None,
    move: bool,
    link: bool,
    root: Path,
    xmp: bool,
    xmp_full_name: bool,
    xmp_remove: bool,
    dry_run: bool,
    journal: Path | None,
    quiet: bool,
) -> int:
    """File images into a folder a label, or write keywords, from what `classify` wrote.

    RESULTS is jsonl, csv or parquet of `clipcls classify`, or - for stdin. Nothing is overwritten:
    a name that is taken becomes `photo (2).jpg`. The same command again goes on where one was
    interrupted.

    \b
    Examples:
      clipcls classify --labels labels.txt photos/ -o results.jsonl
      clipcls sort results.jsonl --into sorted/ --dry-run
      clipcls sort results.jsonl --into sorted/ --move
      clipcls sort --undo sorted/clipcls-sort-20261125-171500.jsonl
      clipcls sort results.jsonl --xmp
    """
    console.quiet = quiet
    keywords = xmp or xmp_full_name or xmp_remove
    if journal is not None:
        if results is not None or into or move or link or dry_run or keywords:
            raise click.UsageError("--undo JOURNAL stands alone")
        return _undo(console, journal)
    if keywords and (into or move or link or dry_run):
        raise click.UsageError(
            "keywords are written beside the images where they are; sort them with --into after "
            "that, and the sidecars go with them"
        )
    if results is None or (into is None and not keywords):
        raise click.UsageError("what to sort, and where? clipcls sort RESULTS --into DIR")
    if move and link:
        raise click.UsageError("--move and --link exclude each other")
    from clipcls.results import read_results

    mode: Mode = "move" if move else "link" if link else "copy"
    found = read_results(results)
    if into is None:
        return _keywords(console, root, found, xmp_full_name, xmp_remove)
    if dry_run:
        return _list(console, Path(into), mode, root, found)
    return _file(console, Path(into), mode, root, found)


def _list(console: Console, into: Path, mode: Mode, root: Path, results: tuple[Result, ...]) -> int:
    from clipcls.filing import Filing, plan
    from clipcls.writers.table import printable

    todo = plan(results, into, mode, root=root)
    for step in todo.steps:
        for source, target in zip(step.sources, step.targets, strict=True):
            click.echo(f"{printable(_short(source))} -> {printable(_short(target))}")
    _name(console, todo.failed)
    done = Filing(mode, todo, len(todo.steps), todo.failed)
    if not console.quiet:
        console.say(f"dry run, nothing was done: {done.summary()}")
    return done.exit_code


def _file(console: Console, into: Path, mode: Mode, root: Path, results: tuple[Result, ...]) -> int:
    from clipcls.filing import file_results

    try:
        with console.progress(sum(not result.error for result in results)) as progress:
            done = file_results(results, into, mode, root=root, watch=progress)
    except KeyboardInterrupt:
        console.say(_INTERRUPTED)
        return 130
    _name(console, done.failed)
    if not console.quiet:
        console.say(done.summary())
        if done.journal:
            console.say(f"to take it back: clipcls sort --undo {shlex.quote(_short(done.journal))}")
    return done.exit_code


def _keywords(
    console: Console, root: Path, results: tuple[Result, ...], full_name: bool, remove: bool
) -> int:
    from clipcls.sidecar import write_sidecars

    try:
        with console.progress(sum(not result.error for result in results)) as progress:
            done = write_sidecars(
                results, root=root, full_name=full_name, remove=remove, watch=progress
            )
    except KeyboardInterrupt:
        console.say(_INTERRUPTED)
        return 130
    for error in done.failed:
        console.say(f"no keywords: {error}")
    if not console.quiet:
        console.say(done.summary())
    return done.exit_code


def _undo(console: Console, journal: Path) -> int:
    from clipcls.filing import undo

    try:
        with console.progress() as progress:
            done = undo(journal, watch=progress)
    except KeyboardInterrupt:
        console.say(_INTERRUPTED)
        return 130
    for file in done.kept:
        console.say(f"kept {file}")
    if not console.quiet:
        kept = f"; {len(done.kept):,} kept" if done.kept else ""
        console.say(f"{done.undone:,} files taken back{kept}")
    return done.exit_code


def _name(console: Console, failed: list[ImageError]) -> None:
    for error in failed:
        console.say(f"not filed: {error}")


def _short(path: Path) -> str:
    """From here where it is below, as the user would name it."""
    text = os.path.relpath(path)
    return os.fspath(path) if text.startswith(os.pardir) else text
