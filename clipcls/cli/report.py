"""`clipcls report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from clipcls.cli import groups
from clipcls.cli.console import Console
from clipcls.cli.constraints import refuse_overwriting
from clipcls.cli.options import progress_options, results_argument, root_option
from clipcls.cli.param_types import NEW_FILE
from clipcls.errors import format_count

if TYPE_CHECKING:
    from clipcls.output.gallery import GalleryWriter


@groups.command("report")
@results_argument
@click.option("-o", "--output", type=NEW_FILE, required=True, help="Write the page to this file.")
@root_option
@click.option(
    "--side",
    type=click.IntRange(16, 1024),
    default=160,
    metavar="PIXELS",
    help="Longer side of the thumbnails.",
)
@click.option("--title", help="Title of the page; default: the name of RESULTS.")
@progress_options
def command(
    console: Console,
    results: str,
    output: Path,
    root: Path,
    side: int,
    title: str | None,
) -> int:
    """Make a page of the answers of `classify` to look through.

    RESULTS is what `classify` wrote (csv, tsv, json, jsonl, parquet) or the reviewed table of
    `review`; - is stdin. The page is one self-contained HTML file: counts, scores, and a thumbnail
    of every image, which can be filtered by label, score and text. Missing images are marked.

    \b
    Examples:
      clipcls classify --labels labels.txt photos/ -o results.jsonl
      clipcls report results.jsonl -o report.html
      clipcls classify --labels labels.txt photos/ -o report.html
    """
    refuse_overwriting(output, results)
    from clipcls.output.gallery import GalleryWriter
    from clipcls.output.reader import read_results
    from clipcls.output.writing import open_output

    found = read_results(results, root)
    title = title or ("Results" if results == "-" else Path(results).name)
    pages: list[GalleryWriter] = []

    def make_page(stream: TextIO) -> GalleryWriter:
        pages.append(GalleryWriter(stream, title=title, root=root, side=side))
        return pages[0]

    with open_output(output, make_page) as writer, console.progress(len(found)) as progress:
        for result in found:
            writer.write(result)
            progress(pages[0].gone)
    shown, gone = pages[0].shown, pages[0].gone
    if gone and not shown:
        console.say(
            "none of the images exists; their paths are relative to where `classify` ran: give "
            "that folder with --root"
        )
        return 1
    absent = f", {gone:,} without a picture" if gone else ""
    size = output.stat().st_size / 1e6
    console.remark(f"{format_count(shown + gone, 'image')}{absent}, {size:,.1f} MB")
    console.say_written(output, "open it in a browser")
    return 0
