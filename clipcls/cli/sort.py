"""`clipcls sort`."""

from __future__ import annotations

from pathlib import Path

import click

from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console
from clipcls.cli.filing import INTERRUPTED, file_into, list_plan, mode_of, write_keywords
from clipcls.cli.options import FILE, progress_options


@click.command("sort")
@click.argument("results", required=False, metavar="[RESULTS]", shell_complete=complete_files)
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
    help="Write the labels as keywords into XMP sidecars: photo.xmp, or photo.jpg.xmp where "
    "another file, such as a raw one, has the name photo.",
)
@click.option("--xmp-full-name", is_flag=True, help="Like --xmp, but write photo.jpg.xmp.")
@click.option(
    "--embed-xmp",
    is_flag=True,
    help="Like --xmp, but write into the images themselves, by exiftool.",
)
@click.option(
    "--xmp-remove",
    is_flag=True,
    help="Take out the keywords that --xmp wrote; with --embed-xmp, those in the images.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would go where.")
@click.option(
    "--undo", "journal", type=FILE, metavar="JOURNAL", help="Take back what this journal tells of."
)
@progress_options
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
    embed_xmp: bool,
    xmp_remove: bool,
    dry_run: bool,
    journal: Path | None,
    quiet: bool,
) -> int:
    """File images into one folder per label, or write keywords.

    Nothing is overwritten: a name that is taken becomes `photo (2).jpg`. RESULTS is csv, tsv, json,
    jsonl or parquet, or the reviewed table of `clipcls review`; - is stdin. The same command again
    goes on where one was interrupted.

    \b
    Examples:
      clipcls classify --labels labels.txt photos/ -o results.jsonl
      clipcls sort results.jsonl --into sorted/ --dry-run
      clipcls sort results.jsonl --into sorted/ --move
      clipcls sort --undo sorted/clipcls-sort-20261125-171500.jsonl
      clipcls sort results.jsonl --xmp
    """
    console.quiet = quiet
    keywords = xmp or xmp_full_name or embed_xmp or xmp_remove
    if journal is not None:
        if results is not None or into or move or link or dry_run or keywords:
            raise click.UsageError("--undo JOURNAL stands alone")
        return _undo(console, journal)
    if keywords and (into or move or link or dry_run):
        raise click.UsageError(
            "keywords are written beside the images where they are; sort them with --into after "
            "that, and the sidecars go with them"
        )
    if embed_xmp and (xmp or xmp_full_name):
        raise click.UsageError("--embed-xmp and --xmp exclude each other; run sort for each")
    if results is None or (into is None and not keywords):
        raise click.UsageError("what to sort, and where? clipcls sort RESULTS --into DIR")
    from clipcls.output.reader import read_results

    mode = mode_of(move, link)
    found = read_results(results, root)
    if into is None:
        return write_keywords(
            console,
            root,
            found,
            embed=embed_xmp,
            full_name=xmp_full_name,
            remove=xmp_remove,
        )
    if dry_run:
        return list_plan(console, Path(into), mode, root, found)
    return file_into(console, Path(into), mode, root, found)


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
    if not console.quiet:
        kept = f"; {len(done.kept):,} kept" if done.kept else ""
        console.say(f"{done.undone:,} files taken back{kept}")
    return done.exit_code
