"""`clipcls suggest`."""

from __future__ import annotations

import shlex

import click

from clipcls.cli import groups
from clipcls.cli.completion import complete_label_sets
from clipcls.cli.console import Console, watching
from clipcls.cli.inputs import InputSettings, inputs_argument
from clipcls.cli.options import ModelSettings, repeat_options, run_options
from clipcls.cli.outputs import SuggestionsOutput


@groups.command("suggest")
@inputs_argument
@click.option(
    "-k",
    "--clusters",
    type=click.IntRange(1),
    metavar="K",
    help="Number of clusters; clusters with the same name are merged. Default: 2 sqrt(images), at "
    "most 200.",
)
@click.option(
    "--vocabulary",
    multiple=True,
    metavar="FILE|NAME",
    shell_complete=complete_label_sets,
    help="Take names from this label file or ready set; may be repeated. Default: about 1,500 "
    "everyday names from the ready sets.",
)
@run_options
def command(
    console: Console,
    inputs: tuple[str, ...],
    clusters: int | None,
    vocabulary: tuple[str, ...],
    reading: InputSettings,
    output: SuggestionsOutput,
    model: ModelSettings,
) -> int:
    """Suggest labels for images that nobody has labelled.

    The images are clustered, each cluster is named from a vocabulary, and names that the model
    cannot tell apart are merged. The result is a label file to edit. The labels with most images
    come first; a comment above each has the number of images and an example. Clusters that no
    name fits stay without a label; comments at the end name some of their images.

    \b
    Examples:
      clipcls suggest photos/ -o labels.txt
      clipcls suggest --vocabulary wildlife --vocabulary own.txt -k 30 cams/
    """
    form = output.choose_format()
    columns = output.choose_columns(form, ("label", "images", "example", "merged"))
    from clipcls.classification.suggest import VOCABULARY, read_vocabulary, suggest
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.labels.prompts import TEMPLATE

    images, total, left_out = reading.find_images(inputs)
    classifier = ZeroShotClassifier(
        read_vocabulary(vocabulary or VOCABULARY),
        prompts=[TEMPLATE],
        **model.make_arguments(inputs),
    ).fit()
    with watching(console, total) as watch:
        found = suggest(classifier, images, clusters=clusters, watch=watch)
    record = found.to_dict()
    target = "document" if form == "json" else form
    with output.open(target, columns, found.provenance.to_dict()) as writer:
        for row in record["labels"] if form in ("csv", "tsv") else [record]:
            writer.write(row)
    merged = sum(len(label.merged) for label in found.labels)
    console.say_done(
        f"{found.images:,} images in {found.clusters:,} clusters: {len(found.labels):,} labels"
        f"{f', {merged:,} names merged into them' if merged else ''}; they fit "
        f"{found.fitted / found.images:.0%} of the images",
        left_out,
        matters=True,
    )
    if found.unnamed and form in ("csv", "tsv"):
        console.remark(
            f"{len(found.unnamed):,} clusters have no label, since no name of the vocabulary fits "
            "them: json and label files have examples"
        )
    next_step = []
    if form == "labels":
        words = ["clipcls", "classify", "--labels", str(output.file)]
        words += [*repeat_options("model", "checkpoint"), *inputs]
        next_step = [f"edit it, then {shlex.join(words)}"]
    console.say_written(output.file, *next_step)
    return console.status(len(found.unreadable), found.images)
