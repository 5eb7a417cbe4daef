"""`clipcls suggest`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from clipcls.cli.console import Console, watching
from clipcls.cli.options import (
    RESULTS,
    images_of,
    input_options,
    max_errors_option,
    model_options,
    progress_options,
    store_of,
    store_options,
)


@click.command("suggest")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-k",
    "--clusters",
    type=click.IntRange(1),
    metavar="K",
    help="Groups to sort the images into; names that are one are merged. Default: 2 sqrt(images), "
    "200 at most.",
)
@click.option(
    "--vocabulary",
    "sources",
    multiple=True,
    metavar="FILE|NAME",
    help="Take names from this label file or ready set; may be repeated. Default: about 1,500 "
    "everyday names out of the ready sets.",
)
@click.option(
    *("-o", "--output"),
    type=RESULTS,
    help="Write the label file (.txt) to this file; - is standard output.",
)
@max_errors_option
@progress_options
@input_options
@model_options
@store_options
@click.pass_obj
def command(
    console: Console,
    /,
    inputs: tuple[str, ...],
    clusters: int | None,
    sources: tuple[str, ...],
    output: Path | None,
    quiet: bool,
    null: bool,
    store_file: Path | None,
    no_store: bool,
    **model_settings: Any,
) -> int:
    """Suggest labels for images that nobody has labelled.

    The images are clustered, each cluster is named from a vocabulary, and names that the model
    cannot tell apart are merged. What comes out is a label file to edit, those of most images
    first, with the number of images and one of them above each label.

    \b
    Examples:
      clipcls suggest photos/ -o labels.txt
      clipcls suggest --vocabulary wildlife --vocabulary own.txt -k 30 cams/
    """
    if output and output.suffix.lower() not in ("", ".txt"):
        raise click.UsageError(f"{output}: a label file with comments is a .txt file")
    from clipcls.classifier import ZeroShotClassifier
    from clipcls.suggestion import TEMPLATE, VOCABULARY, read_vocabulary, suggest
    from clipcls.writers import open_output

    console.quiet = quiet
    images, total = images_of(inputs, null)
    classifier = ZeroShotClassifier(
        read_vocabulary(sources or VOCABULARY),
        prompts=[TEMPLATE],
        store=store_of(store_file, no_store) or False,
        **model_settings,
    ).fit()
    with watching(console, total) as watch:
        found = suggest(classifier, images, clusters=clusters, watch=watch)
    with open_output(output, "labels", 1) as writer:
        writer.write(found.record())
    if not quiet:
        merged = sum(len(label.merged) for label in found.labels)
        console.say(
            f"{found.images:,} images in {found.clusters:,} clusters: {len(found.labels):,} labels"
            f"{f', {merged:,} names merged into them' if merged else ''}"
        )
    return console.status(len(found.unreadable), found.images)
