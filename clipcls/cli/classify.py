"""`clipcls classify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from clipcls.cli.console import Console, watching
from clipcls.cli.options import (
    NEW_FOLDER,
    NumberRange,
    cache_of,
    cache_options,
    calibration_option,
    classifier_of,
    classifier_option,
    filing_options,
    input_options,
    inputs_argument,
    label_options,
    labels_of,
    max_errors_option,
    max_megapixels_option,
    model_options,
    result_output_options,
)
from clipcls.cli.refusals import refuse_inside, refuse_over, refuse_with_refine
from clipcls.cli.run import Run


@click.command("classify")
@inputs_argument
@label_options
@classifier_option
@click.option(
    "-k",
    "--top",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Labels per image.",
)
@click.option(
    "--min-score",
    type=NumberRange(0, 1),
    metavar="P",
    default=0.0,
    help="Below this score the answer is `unknown`, or in a hierarchy the node above that reaches "
    "it.",
)
@click.option(
    "--min-margin",
    type=NumberRange(0, 1),
    default=0.0,
    metavar="M",
    help="So is one whose score is less than M above the second.",
)
@calibration_option
@click.option(
    "--coverage",
    type=NumberRange(0, 1, min_open=True),
    metavar="C",
    help="Answer the surest images, a share of C; the others are `unknown`. Needs --calibration.",
)
@click.option(
    "--max-error",
    type=NumberRange(0, 1, min_open=True, max_open=True),
    metavar="E",
    help="Answer as many as can be while at most a share of E is wrong, with 95 % confidence. "
    "Needs --calibration.",
)
@click.option(
    "--prediction-sets",
    type=NumberRange(0, 1, min_open=True, max_open=True),
    metavar="ALPHA",
    help="Add the set of labels that holds a right one for all but a share ALPHA of the images. "
    "Needs --calibration.",
)
@click.option(
    "--refine",
    is_flag=True,
    help="Let all images together decide, without labels: better answers for some 40 images and "
    "more. Records come when the last image is embedded.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Add what each answer rests on: the label's texts, the margin to the runner-up, and the "
    "nearest images that were in the cache.",
)
@click.option(
    "--heatmap",
    "heatmaps",
    type=NEW_FOLDER,
    metavar="DIR",
    help="Draw into DIR where in each image its answer lies. Takes 50 passes of the model an "
    "image, also of images seen before.",
)
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
    reject: bool,
    level: str | None,
    classifier: Path | None,
    top: int,
    min_score: float,
    min_margin: float,
    calibration: Path | None,
    coverage: float | None,
    max_error: float | None,
    prediction_sets: float | None,
    refine: bool,
    explain: bool,
    heatmaps: Path | None,
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
    """Sort images into labels.

    INPUT is an image, a folder (searched through), a pattern, or - for paths on stdin. The score
    is the softmax over all labels; `clipcls tag` scores each label on its own.

    \b
    Examples:
      clipcls classify --labels labels.txt photos/
      find . -name '*.png' | clipcls classify --labels coco80 -
      clipcls classify -l cat -l dog -l "hot dog" -k 3 photo.jpg
      clipcls classify --classifier classifier.safetensors photos/
      clipcls classify --labels labels.txt --sort-into sorted/ --move photos/
    """
    labels = labels_of(label_source, label_list, classifier)
    if heatmaps:
        refuse_inside(heatmaps, inputs, mirrored=True)
    refuse_over(output, label_source, prompts, classifier, calibration, *inputs)
    for name, value in (
        ("coverage", coverage),
        ("max-error", max_error),
        ("prediction-sets", prediction_sets),
    ):
        if value is not None and calibration is None:
            raise click.UsageError(f"--{name} needs --calibration FILE, from `clipcls calibrate`")
    if coverage is not None and max_error is not None:
        raise click.UsageError("--coverage and --max-error exclude each other")
    if refine:
        refuse_with_refine(classifier=classifier, calibration=calibration, level=level)
    run = Run(console, inputs, null, form, output, columns, bom, sort_into, move, link, xmp)
    from clipcls.output.columns import EXPLAINED, result_columns

    console.quiet = quiet
    extra = [
        *(["set"] if prediction_sets is not None else []),
        *(EXPLAINED if explain else []),
        *(["heatmap"] if heatmaps else []),
        *(["labelled_by"] if classifier else []),
    ]
    every = result_columns(top, ["lineage", *extra])
    run.select_columns((), every)  # refuses before the work
    images, total = run.find_images()
    fitted = classifier_of(
        classifier,
        labels=labels,
        prompts=prompts,
        cache=cache_of(cache_file, no_cache) or False,
        reject=reject,
        level=level,
        calibration=calibration,
        **model_settings,
    )
    shown = min(top, len(fitted.classes_))
    usual = result_columns(shown, ["lineage", *extra] if fitted.hierarchy_ else extra)
    with watching(console, total) as watch:
        results = fitted.classify(
            images,
            top=shown,
            min_score=min_score,
            min_margin=min_margin,
            coverage=coverage,
            max_error=max_error,
            prediction_sets=prediction_sets,
            refine=refine,
            explain=explain,
            heatmaps=heatmaps,
            watch=watch if refine else None,
        )
        if not quiet and (coverage is not None or max_error is not None):
            threshold = fitted.threshold(coverage, max_error)
            console.say(
                f"of the calibration's images {threshold.coverage:.1%} would be answered, "
                f"{threshold.risk:.1%} of these wrong"
            )
        run.write(
            results,
            run.select_columns(usual, every),
            calibration=fitted.calibration_,
            hash_image=fitted.hash_image,
            watch=None if refine else watch,  # with refine, embedding reports the images
        )
    if heatmaps and not quiet:
        console.say(f"wrote heat maps into {heatmaps}")
    return run.finish(reviewable=True)
