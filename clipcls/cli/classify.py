"""`clipcls classify`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli.console import Console, watching
from clipcls.cli.filing import file_into, mode_of, write_keywords
from clipcls.cli.options import (
    NEW_FOLDER,
    RESULTS_FORMS,
    NumberRange,
    cache_of,
    cache_options,
    calibration_option,
    classifier_of,
    classifier_option,
    columns_of,
    filing_options,
    form_of,
    images_of,
    input_options,
    inputs_argument,
    label_options,
    labels_of,
    max_errors_option,
    max_megapixels_option,
    model_options,
    multi_option,
    result_output_options,
)
from clipcls.cli.progress import format_rate
from clipcls.cli.refusals import refuse_inside, refuse_over, refuse_with_multi, refuse_with_refine

if TYPE_CHECKING:
    from clipcls.errors import ImageError
    from clipcls.predictions import MultiLabelPrediction, Prediction


@click.command("classify")
@inputs_argument
@label_options
@classifier_option
@multi_option
@click.option(
    "-k",
    "--top",
    type=click.IntRange(1),
    help="Labels an image; default: 1. With --multi at most; default: all.",
)
@click.option(
    "--min-score",
    type=NumberRange(0, 1),
    metavar="P",
    help="Below this score the answer is `unknown`, or in a hierarchy the node above that reaches "
    "it. With --multi a label is given from this score on; default: its threshold in the "
    "calibration, else 0.08.",
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
    multi: bool,
    top: int | None,
    min_score: float | None,
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
    is the softmax over all labels; with --multi each label is scored on its own.

    \b
    Examples:
      clipcls classify --labels labels.txt photos/
      find . -name '*.png' | clipcls classify --labels coco80 -
      clipcls classify -l cat -l dog -l "hot dog" -k 3 photo.jpg
      clipcls classify --multi --labels labels.txt photos/
      clipcls classify --classifier classifier.safetensors photos/
      clipcls classify --labels labels.txt --sort-into sorted/ --move photos/
    """
    labels = labels_of(label_source, label_list, classifier)
    if multi:
        refuse_with_multi(
            reject=reject,
            level=level,
            min_margin=min_margin,
            coverage=coverage is not None,
            max_error=max_error is not None,
            prediction_sets=prediction_sets is not None,
            explain=explain,
            heatmap=heatmaps is not None,
        )
    if heatmaps:
        refuse_inside(heatmaps, inputs, mirrored=True)
    if sort_into:
        refuse_inside(sort_into, inputs)
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
        refuse_with_refine(multi=multi, classifier=classifier, calibration=calibration, level=level)
    if (move or link) and sort_into is None:
        raise click.UsageError("--move and --link say how to sort: give --sort-into DIR")
    mode = mode_of(move, link)
    if xmp:
        from clipcls.organize.xmp_sidecar import need_lxml

        need_lxml()
    from clipcls.classification.multilabel import MultiLabelClassifier
    from clipcls.data.file_kinds import LeftOut
    from clipcls.errors import ImageError
    from clipcls.output import open_output
    from clipcls.output.columns import EXPLAINED, PROVENANCE, result_columns
    from clipcls.output.reader import Result, result_of, without_scores
    from clipcls.predictions import Report, error_record

    console.quiet = quiet
    left_out = LeftOut()
    report = Report(left_out=left_out)
    form = form_of(output, form, RESULTS_FORMS)
    if form == "parquet":
        from clipcls.output.parquet import need_pyarrow

        need_pyarrow()
    extra = [
        *(["set"] if prediction_sets is not None else []),
        *(EXPLAINED if explain else []),
        *(["heatmap"] if heatmaps else []),
        *(["labelled_by"] if classifier else []),
    ]
    every = result_columns(1 if multi else top or 1, extra if multi else ["lineage", *extra])
    every += PROVENANCE
    columns_of(form, (), every, wanted=columns, bom=bom)  # refuses before the work
    images, total = images_of(inputs, null, left_out)
    fitted = classifier_of(
        classifier,
        labels=labels,
        prompts=prompts,
        cache=cache_of(cache_file, no_cache) or False,
        reject=reject,
        level=level,
        calibration=None if multi else calibration,
        **model_settings,
    )
    shown = 1 if multi else min(top or 1, len(fitted.classes_))
    usual = result_columns(shown, ["lineage", *extra] if fitted.hierarchy_ and not multi else extra)
    chosen = columns_of(form, usual, every, wanted=columns, bom=bom)
    results: Iterator[Prediction | MultiLabelPrediction | ImageError]
    with watching(console, total) as watch:
        if multi:
            several = MultiLabelClassifier(fitted, calibration=calibration).fit()
            results = several.classify(images, top=top, min_score=min_score)
        else:
            results = fitted.classify(
                images,
                top=shown,
                min_score=min_score or 0.0,
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
        made_for = several.calibration_ if multi else fitted.calibration_
        seen = 0  # images that the calibration was made from
        to_file: list[Result] = []
        with open_output(output, form, columns=chosen, bom=bom) as writer:
            for result in results:
                report.count(result)
                failure = None
                if isinstance(result, ImageError):
                    failure, record = result, error_record(result)
                else:
                    record = result.record()
                    seen += bool(made_for and made_for.knows(fitted.hash_image(result.path)))
                if sort_into or xmp:
                    to_file.append(without_scores(result_of(record)))
                with console.results(output):
                    writer.write(record)
                if not refine:  # which has told of them while it embedded them
                    watch(failure)
    if seen:
        console.say(
            f"warning: the calibration was made from {seen:,} of these images; what it promises "
            "holds for other images like them"
        )
    rate = console.pace.rate if console.pace else None
    console.say_done(
        report.summary(format_rate(rate) if rate else ""),
        matters=report.skipped > 0 or left_out.may_be_images or output is not None,
    )
    if form == "html":
        console.say_written(output, "open it in a browser")
    elif output is not None:
        file = shlex.quote(str(output))
        review = [] if multi else [f"clipcls review {file}"]
        is_final = form in ("table", "json") or sort_into or xmp
        console.say_written(
            output, *([] if is_final else [*review, f"clipcls sort {file} --into sorted"])
        )
    if heatmaps and not quiet:
        console.say(f"wrote heat maps into {heatmaps}")
    # Only now: a run that stops earlier has moved nothing that the next one would have to find.
    status = console.status(report.skipped, report.classified)
    if xmp:
        status = max(status, write_keywords(console, Path("."), to_file))
    if sort_into and status != 130:
        status = max(status, file_into(console, sort_into, mode, Path("."), to_file))
    return status
