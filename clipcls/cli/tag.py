"""`clipcls tag`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from clipcls.cli.console import Console, watching
from clipcls.cli.options import (
    NumberRange,
    cache_of,
    cache_options,
    calibration_option,
    classifier_of,
    filing_options,
    input_options,
    inputs_argument,
    labels_of,
    max_errors_option,
    max_megapixels_option,
    model_options,
    result_output_options,
    text_options,
)
from clipcls.cli.refusals import refuse_over
from clipcls.cli.run import Run


@click.command("tag")
@inputs_argument
@text_options
@click.option("-k", "--top", type=click.IntRange(1), help="Labels per image at most; default: all.")
@click.option(
    "--min-score",
    type=NumberRange(0, 1),
    metavar="P",
    help="Give a label from this score on; default: its threshold in the calibration, else 0.08.",
)
@calibration_option
@input_options
@result_output_options
@max_errors_option
@filing_options
@model_options
@max_megapixels_option
@cache_options
@click.pass_obj
def command(
    console: Console,
    /,
    inputs: tuple[str, ...],
    label_source: str | None,
    label_list: tuple[str, ...],
    prompts: str | list[str],
    top: int | None,
    min_score: float | None,
    calibration: Path | None,
    null: bool,
    form: str | None,
    output: Path | None,
    columns: str | None,
    bom: bool,
    quiet: bool,
    sort_into: Path | None,
    move: bool,
    link: bool,
    xmp: bool,
    cache_file: Path | None,
    no_cache: bool,
    **model_settings: Any,
) -> int:
    """Give images all labels that fit, or none.

    INPUT is an image, a folder (searched through), a pattern, or - for paths on stdin. Each label
    is scored on its own; `clipcls calibrate --multi-label` makes scores probabilities.

    \b
    Examples:
      clipcls tag --labels labels.txt photos/
      clipcls tag --labels labels.txt --xmp photos/
      clipcls tag --labels labels.txt --calibration calibration.json photos/ -o tags.jsonl
    """
    labels = labels_of(label_source, label_list)
    refuse_over(output, label_source, prompts, calibration, *inputs)
    run = Run(console, inputs, null, form, output, columns, bom, sort_into, move, link, xmp)
    from clipcls.classification.multilabel import MultiLabelClassifier
    from clipcls.output.columns import result_columns

    console.quiet = quiet
    chosen = run.select_columns(result_columns())
    images, total = run.find_images()
    cache = cache_of(cache_file, no_cache) or False
    texts = classifier_of(
        None,
        labels=labels,
        prompts=prompts,
        reject=False,
        level=None,
        cache=cache,
        **model_settings,
    )
    fitted = MultiLabelClassifier(texts, calibration=calibration).fit()
    with watching(console, total) as watch:
        run.write(
            fitted.classify(images, top=top, min_score=min_score),
            chosen,
            calibration=fitted.calibration_,
            hash_image=texts.hash_image,
            watch=watch,
        )
    return run.finish(reviewable=False)
