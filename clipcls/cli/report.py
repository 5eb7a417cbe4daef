"""`clipcls report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipcls.cli import groups
from clipcls.cli.console import Console
from clipcls.cli.constraints import refuse_over
from clipcls.cli.options import progress_options, results_argument, root_option
from clipcls.cli.param_types import NEW_FILE
from clipcls.errors import format_count

if TYPE_CHECKING:
    from typing import TextIO

    from clipcls.output.gallery import GalleryWriter


@groups.command("report")
@results_argument
@click.option("-o", "--output", type=NEW_FILE, required=True, help="Write the page to this file.")
@root_option
@click.option(
    "--side",
    type=click.IntRange(16, 1024),
    default=160,
    show_default=True,
    metavar="PIXELS",
    help="Longer side of the small images in the page.",
)
@click.option("--title", help="The page's; default: the name of RESULTS.")
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
    `review`; - is stdin. The page is one HTML file that needs nothing else: counts and scores, and
    every image small, to be filtered by label, score and text. A missing image is shown as such.

    \b
    Examples:
      clipcls classify --labels labels.txt photos/ -o results.jsonl
      clipcls report results.jsonl -o report.html
      clipcls classify --labels labels.txt photos/ -o report.html
    """
    refuse_over(output, results)
    from clipcls.output.gallery import GalleryWriter
    from clipcls.output.reader import read_results
    from clipcls.output.writing import open_output

    found = read_results(results, root)
    name = title or ("Results" if results == "-" else Path(results).name)
    pages: list[GalleryWriter] = []

    def page(stream: TextIO) -> GalleryWriter:
        pages.append(GalleryWriter(stream, title=name, root=root, side=side))
        return pages[0]

    with open_output(output, page) as writer, console.progress(len(found)) as progress:
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
    size = output.stat().st_size / 1e6
    absent = f", {gone:,} without a picture" if gone else ""
    console.remark(f"{format_count(shown + gone, 'image')}{absent}, {size:,.1f} MB")
    console.say_written(output, "open it in a browser")
    return 0
