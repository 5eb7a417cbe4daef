"""`clipcls classify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from clipcls.cli.console import Console
from clipcls.cli.options import (
    NumberRange,
    form_of,
    images_of,
    input_options,
    model_options,
    output_options,
    store_of,
    store_options,
)


@click.command("classify")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--labels", "label_source", metavar="FILE|NAME", help="A label file or ready set.")
@click.option("-l", "--label", "label_list", multiple=True, metavar="LABEL", help="One label.")
@click.option(
    "--prompts",
    default="photo",
    show_default=True,
    metavar="NAME|FILE",
    help="Template set, as in `clipcls prompts`.",
)
@click.option(
    "-k", "--top", type=click.IntRange(1), default=1, show_default=True, help="Labels an image."
)
@click.option(
    "--min-score",
    type=NumberRange(0, 1),
    default=0.0,
    metavar="P",
    help="Below this score the answer is `unknown`.",
)
@input_options
@output_options
@model_options
@store_options
@click.pass_obj
def command(
    console: Console,
    /,
    inputs: tuple[str, ...],
    label_source: str | None,
    label_list: tuple[str, ...],
    prompts: str,
    top: int,
    min_score: float,
    null: bool,
    form: str | None,
    output: Path | None,
    quiet: bool,
    store_file: Path | None,
    no_store: bool,
    **model_settings: Any,
) -> int:
    """Sort images into labels.

    INPUT is an image, a folder (searched through), a pattern, or - for paths on stdin. The score
    is the softmax over all labels.

    \b
    Examples:
      clipcls classify --labels labels.txt photos/
      find . -name '*.png' | clipcls classify --labels coco80 -
      clipcls classify -l cat -l dog -l "hot dog" -k 3 photo.jpg
    """
    if bool(label_source) == bool(label_list):
        raise click.UsageError("give labels by --labels FILE, or by -l for each: one of the two")
    from clipcls.classifier import ZeroShotClassifier
    from clipcls.errors import ImageError
    from clipcls.predictions import Report, error_record
    from clipcls.writers import open_output

    console.quiet = quiet
    report = Report()
    form = form_of(output, form)
    images, total = images_of(inputs, null)
    classifier = ZeroShotClassifier(
        label_source or list(label_list),
        prompts=prompts,
        store=store_of(store_file, no_store) or False,
        **model_settings,
    ).fit()
    top = min(top, len(classifier.classes_))
    with open_output(output, form, top) as writer, console.progress(total) as progress:
        for result in classifier.classify(images, top=top, min_score=min_score):
            report.count(result)
            if isinstance(result, ImageError):
                console.say(f"skipped {result}")
                record = error_record(result)
            else:
                record = result.record()
            with console.results():
                writer.write(record)
            progress(report.skipped)
    if not quiet and (report.skipped or sys.stderr.isatty()):
        console.say(report.summary())
    return report.exit_code
