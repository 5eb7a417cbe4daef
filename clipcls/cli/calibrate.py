"""`clipcls calibrate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console, report_excluded, watching
from clipcls.cli.options import (
    NEW_FILE,
    cache_of,
    cache_options,
    classifier_of,
    classifier_option,
    label_options,
    labels_of,
    max_errors_option,
    max_megapixels_option,
    model_options,
    multi_label_option,
    progress_options,
    repeat_options,
)
from clipcls.cli.refusals import refuse_over, refuse_with_multi_label

if TYPE_CHECKING:
    from clipcls.calibration.multilabel import MultiLabelCalibration
    from clipcls.calibration.single_label import Calibration


# What a calibration belongs to.
_REPEATED = (
    *("label_source", "label_list", "classifier", "prompts", "reject", "level"),
    *("model", "checkpoint"),
)


@click.command("calibrate")
@click.argument("data", metavar="DATA", shell_complete=complete_files)
@label_options
@classifier_option
@multi_label_option
@click.option("-o", "--output", type=NEW_FILE, required=True, help="The calibration's file (JSON).")
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
    label_list: tuple[str, ...],
    prompts: str | list[str],
    reject: bool,
    level: str | None,
    classifier: Path | None,
    multi_label: bool,
    output: Path,
    quiet: bool,
    cache_file: Path | None,
    no_cache: bool,
    **model_settings: Any,
) -> int:
    """Learn from labelled images what a score means.

    The file holds a temperature, which makes scores probabilities, and what `classify` needs for
    --coverage, --max-error and --prediction-sets. With --multi-label it is for `tag`: it makes
    each label's score a probability, and holds a threshold for each. It is for one model, its
    labels and prompts, and for images like those in DATA, which is as for `clipcls evaluate`.

    \b
    Examples:
      clipcls calibrate --labels labels.txt sorted-photos/ -o calibration.json
      clipcls classify --labels labels.txt --calibration calibration.json --max-error 0.05 photos/
      clipcls calibrate --multi-label --labels labels.txt truth.csv -o calibration.json
    """
    labels = labels_of(label_source, label_list, classifier)
    if multi_label:
        refuse_with_multi_label(reject=reject, level=level)
    refuse_over(output, data, label_source, prompts, classifier)
    from clipcls.calibration.multilabel import MultiLabelCalibration
    from clipcls.classification.multilabel import MultiLabelClassifier
    from clipcls.data.dataset import read_dataset
    from clipcls.evaluation.calibrate import calibrate, calibrate_multilabel

    console.quiet = quiet
    labelled = read_dataset(data, unlabelled=multi_label)
    fitted = classifier_of(
        classifier,
        labels=labels,
        prompts=prompts,
        cache=cache_of(cache_file, no_cache) or False,
        reject=reject,
        level=level,
        **model_settings,
    )
    found: Calibration | MultiLabelCalibration
    with watching(console, len(labelled)) as watch:
        if multi_label:
            several = MultiLabelClassifier(fitted).fit()
            found, excluded = calibrate_multilabel(several, labelled, watch=watch)
            summary = _multilabel_summary(found)
        else:
            found, excluded = calibrate(fitted, labelled, watch=watch)
            summary = _summary(found)
    report_excluded(console, excluded)
    found.save(output)
    if found.note:
        console.say(found.note)
    if not quiet:
        console.say(f"{summary} (cross-validated)")
        if not isinstance(found, MultiLabelCalibration):
            console.say(found.promises())
        command = "tag" if multi_label else "classify"
        words = ["clipcls", command, *repeat_options(*_REPEATED), "--calibration", str(output)]
        console.say_written(output, f"{shlex.join(words)} PHOTOS")
    return console.status(len(excluded.unreadable), found.images)


def _summary(found: Calibration) -> str:
    ece, nll = found.figures["ece"], found.figures["nll"]
    return (
        f"temperature {found.temperature:.3f} from {found.images:,} images; calibration error "
        f"{ece['before']:.1%} before, {ece['after']:.1%} after; negative log-likelihood "
        f"{nll['before']:.3f} before, {nll['after']:.3f} after"
    )


def _multilabel_summary(found: MultiLabelCalibration) -> str:
    macro, micro = found.figures["f1_macro"], found.figures["f1_micro"]
    return (
        f"{len(found.thresholds):,} thresholds from {found.images:,} images; F1 over labels "
        f"{macro['before']:.1%} before, {macro['after']:.1%} after; all together "
        f"{micro['before']:.1%} before, {micro['after']:.1%} after"
    )
