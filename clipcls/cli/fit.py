"""`clipcls fit`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from clipcls.cli.completion import complete_files, complete_label_sets
from clipcls.cli.console import Console, report_excluded, watching
from clipcls.cli.options import (
    NEW_FILE,
    cache_of,
    cache_options,
    max_errors_option,
    max_megapixels_option,
    model_options,
    progress_options,
    prompts_option,
)
from clipcls.cli.refusals import refuse_over


@click.command("fit")
@click.argument("data", metavar="DATA", shell_complete=complete_files)
@click.option(
    "--labels",
    "label_source",
    metavar="FILE|NAME",
    shell_complete=complete_label_sets,
    help="A label file or ready set; default: the labels of DATA.",
)
@prompts_option
@click.option(
    "--no-words",
    multiple=True,
    metavar="LABEL",
    help="A label whose words say nothing (a code, a number): learn it from images alone; may be "
    "repeated.",
)
@click.option(
    "--augment",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Learn from N views (crop, flip, colour) of each image too.",
)
@click.option(
    "-o", "--output", type=NEW_FILE, required=True, help="The classifier's file (safetensors)."
)
@click.option(
    "--check-labels",
    is_flag=True,
    help="List images whose label is likely wrong (csv), the likeliest first.",
)
@max_errors_option
@progress_options
@model_options
@max_megapixels_option
@cache_options
@click.pass_obj
def command(
    console: Console,
    /,
    data: str,
    label_source: str | None,
    prompts: str | list[str],
    no_words: tuple[str, ...],
    augment: int,
    output: Path,
    check_labels: bool,
    quiet: bool,
    cache_file: Path | None,
    no_cache: bool,
    **model_settings: Any,
) -> int:
    """Learn a classifier from labelled images, few or many.

    It starts from the labels' words and moves to the images as far as these bear it out. DATA is
    as for `clipcls evaluate`; one image a label is enough.

    \b
    Examples:
      clipcls fit sorted-photos/ --labels labels.txt -o classifier.safetensors
      clipcls classify --classifier classifier.safetensors photos/
      clipcls fit sorted-photos/ --check-labels -o classifier.safetensors > suspects.csv
    """
    refuse_over(output, data, label_source, prompts)
    from clipcls.data.dataset import read_dataset
    from clipcls.few_shot.classifier import FewShotClassifier
    from clipcls.output.writing import open_output

    console.quiet = quiet
    labelled = read_dataset(data)
    classifier = FewShotClassifier(
        label_source,
        prompts=prompts,
        no_words=no_words,
        augment=augment,
        cache=cache_of(cache_file, no_cache) or False,
        **model_settings,
    )
    with watching(console, len(labelled)) as watch:
        classifier.fit(labelled, watch=watch)
    excluded = classifier.excluded_
    assert excluded is not None
    report_excluded(console, excluded)
    classifier.save(output)
    if not quiet:
        console.say(classifier.learnt_.summary())
        file = shlex.quote(str(output))
        console.say_written(output, f"clipcls classify --classifier {file} PHOTOS")
    if check_labels:
        suspects = classifier.suspects()
        with open_output(None, "csv") as writer:
            for suspect in suspects:
                writer.write(suspect.record())
        if not quiet:
            console.say(f"labels that are likely wrong: {len(suspects):,}")
    read = sum(images for _, images, _ in classifier.learnt_.labels)
    return console.status(len(excluded.unreadable), read)
