"""`clipcls suggest`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from clipcls.cli.completion import complete_label_sets
from clipcls.cli.console import Console, watching
from clipcls.cli.options import (
    SUGGESTIONS,
    cache_of,
    cache_options,
    columns_of,
    form_of,
    images_of,
    input_options,
    inputs_argument,
    max_errors_option,
    max_megapixels_option,
    model_options,
    suggestion_output_options,
)


@click.command("suggest")
@inputs_argument
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
    shell_complete=complete_label_sets,
    help="Take names from this label file or ready set; may be repeated. Default: about 1,500 "
    "everyday names out of the ready sets.",
)
@suggestion_output_options
@max_errors_option
@input_options
@model_options
@max_megapixels_option
@cache_options
@click.pass_obj
def command(
    console: Console,
    /,
    inputs: tuple[str, ...],
    clusters: int | None,
    sources: tuple[str, ...],
    form: str | None,
    output: Path | None,
    columns: str | None,
    bom: bool,
    quiet: bool,
    null: bool,
    cache_file: Path | None,
    no_cache: bool,
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
    if form is None and output and not output.suffix:
        form = "labels"
    form = form_of(output, form, SUGGESTIONS, streamed="labels")
    per_label = ("label", "images", "example", "merged")
    chosen = columns_of(form, per_label, wanted=columns, bom=bom)
    from clipcls.classification.suggest import TEMPLATE, VOCABULARY, read_vocabulary, suggest
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.data.file_kinds import LeftOut
    from clipcls.output.writing import open_output

    console.quiet = quiet
    left_out = LeftOut()
    images, total = images_of(inputs, null, left_out)
    classifier = ZeroShotClassifier(
        read_vocabulary(sources or VOCABULARY),
        prompts=[TEMPLATE],
        cache=cache_of(cache_file, no_cache) or False,
        **model_settings,
    ).fit()
    with watching(console, total) as watch:
        found = suggest(classifier, images, clusters=clusters, watch=watch)
    record = found.record()
    target = "document" if form == "json" else form
    made_by = found.made_by.to_dict()
    with open_output(output, target, columns=chosen, bom=bom, provenance=made_by) as writer:
        for row in record["labels"] if form in ("csv", "tsv") else [record]:
            writer.write(row)
    if not quiet:
        merged = sum(len(label.merged) for label in found.labels)
        console.say(
            f"{found.images:,} images in {found.clusters:,} clusters: {len(found.labels):,} labels"
            f"{f', {merged:,} names merged into them' if merged else ''}"
        )
        if left_out.may_be_images:
            console.say(str(left_out))
        if form == "labels" and output is not None:
            words = shlex.join(["clipcls", "classify", "--labels", str(output), *inputs])
            console.say_written(output, f"edit it, then {words}")
        else:
            console.say_written(output)
    return console.status(len(found.unreadable), found.images)
