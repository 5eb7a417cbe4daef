"""`clipcls sort`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from clipcls.cli import groups
from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console
from clipcls.cli.filing import (
    INTERRUPTED,
    choose_mode,
    file_into,
    list_plan,
    write_keywords,
    xmp_option,
)
from clipcls.cli.groups import option
from clipcls.cli.options import progress_options, root_option
from clipcls.cli.param_types import FILE
from clipcls.errors import format_count


@dataclass(frozen=True)
class _Folders(groups.Settings):
    section = "Folders"

    into: Path | None = option(
        type=FILE, metavar="DIR", help="Make a folder for each label in DIR."
    )
    move: bool = option(is_flag=True, help="Move the images; default: copy them.")
    link: bool = option(is_flag=True, help="Make symbolic links to the images.")
    dry_run: bool = option(is_flag=True, help="Only list what would go where.")
    undo: Path | None = option(type=FILE, metavar="JOURNAL", help="Undo the run of this journal.")


@dataclass(frozen=True)
class _Keywords(groups.Settings):
    section = "Keywords"

    xmp: bool = xmp_option()
    xmp_full_name: bool = option(is_flag=True, help="Like --xmp, but write photo.jpg.xmp.")
    embed_xmp: bool = option(
        is_flag=True, help="Like --xmp, but write into the images themselves, by exiftool."
    )
    xmp_remove: bool = option(
        is_flag=True,
        help="Take out the keywords that --xmp wrote; with --embed-xmp, those in the images.",
    )

    def __bool__(self) -> bool:
        return self.xmp or self.xmp_full_name or self.embed_xmp or self.xmp_remove


@groups.command("sort", folders=_Folders, keywords=_Keywords)
@click.argument("results", required=False, metavar="[RESULTS]", shell_complete=complete_files)
@root_option
@progress_options
def command(
    console: Console, results: str | None, root: Path, folders: _Folders, keywords: _Keywords
) -> int:
    """File images into one folder per label, or write keywords.

    Nothing is overwritten: a name that is taken becomes `photo (2).jpg`. RESULTS is csv, tsv, json,
    jsonl or parquet, or the reviewed table of `clipcls review`; - is stdin. The same command
    resumes an interrupted run.

    \b
    Examples:
      clipcls classify --labels labels.txt photos/ -o results.jsonl
      clipcls sort results.jsonl --into sorted/ --dry-run
      clipcls sort results.jsonl --into sorted/ --move
      clipcls sort --undo sorted/clipcls-sort-20261125-171500.jsonl
      clipcls sort results.jsonl --xmp
    """
    if folders.undo is not None:
        if results is not None:
            raise click.UsageError("--undo JOURNAL stands alone: leave out RESULTS")
        return _undo(console, folders.undo)
    if results is None or not (folders.into or keywords):
        raise click.UsageError("what to sort, and where? clipcls sort RESULTS --into DIR")
    from clipcls.output.reader import read_results

    mode = choose_mode(folders.move, folders.link)
    found = read_results(results, root)
    if folders.into is None:
        return write_keywords(
            console,
            root,
            found,
            embed=keywords.embed_xmp,
            full_name=keywords.xmp_full_name,
            remove=keywords.xmp_remove,
        )
    if folders.dry_run:
        return list_plan(console, folders.into, mode, root, found)
    return file_into(console, folders.into, mode, root, found)


def _undo(console: Console, journal: Path) -> int:
    from clipcls.organize.execute import undo

    try:
        with console.progress() as progress:
            done = undo(journal, watch=progress)
    except KeyboardInterrupt:
        console.say(INTERRUPTED)
        return 130
    for file in done.kept:
        console.say(f"kept {file}")
    kept = f"; {len(done.kept):,} kept" if done.kept else ""
    console.remark(f"{format_count(done.undone, 'file')} restored{kept}")
    return done.exit_code
