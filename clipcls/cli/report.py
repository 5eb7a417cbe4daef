"""`clipcls report`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console
from clipcls.cli.constraints import refuse_overwriting
from clipcls.cli.options import progress_options, question_option, results_argument, root_option
from clipcls.cli.param_types import NEW_FILE
from clipcls.errors import format_count


@groups.command("report")
@results_argument
@click.option("-o", "--output", type=NEW_FILE, required=True, help="Write the page to this file.")
@question_option
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
    question: str | None,
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
    from clipcls.output.reader import read_answers, read_results
    from clipcls.output.writing import open_output

    if question is None:
        found = read_answers(results, root)
    else:
        found = read_results(results, root, question)
    title = title or ("Results" if results == "-" else Path(results).name)
    make_page = partial(GalleryWriter, title=title, root=root, side=side)
    with open_output(output, make_page) as writer, console.progress(len(found)) as progress:
        page: Any = writer.writer
        for result in found:
            writer.write(result)
            progress(page.gone)
    shown, gone = page.shown, page.gone
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
