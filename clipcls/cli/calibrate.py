"""`clipcls calibrate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, report_excluded, watching
from clipcls.cli.constraints import refuse_over
from clipcls.cli.label_settings import LabelSettings, multi_label_option
from clipcls.cli.options import ModelSettings, data_argument, repeat_options, run_options
from clipcls.cli.param_types import NEW_FILE

if TYPE_CHECKING:
    from clipcls.calibration.multilabel import MultiLabelCalibration
    from clipcls.calibration.single_label import Calibration


# What a calibration belongs to.
_REPEATED = (
    *("labels", "label", "classifier", "prompts", "reject", "level"),
    *("model", "checkpoint"),
)


@groups.command("calibrate", labels=LabelSettings, model=ModelSettings)
@data_argument
@multi_label_option
@click.option("-o", "--output", type=NEW_FILE, required=True, help="The calibration's file (JSON).")
@run_options
def command(
    console: Console,
    data: str,
    multi_label: bool,
    output: Path,
    labels: LabelSettings,
    model: ModelSettings,
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
    names = labels.read_unless_learnt()
    refuse_over(output, data, labels.labels, labels.prompts, labels.classifier)
    from clipcls.calibration.multilabel import MultiLabelCalibration
    from clipcls.classification.multilabel import MultiLabelClassifier
    from clipcls.data.dataset import read_dataset
    from clipcls.evaluation.calibrate import calibrate, calibrate_multilabel

    labelled = read_dataset(data, unlabelled=multi_label)
    fitted = labels.open_classifier(names, model.arguments())
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
    console.remark(f"{summary} (cross-validated)")
    if not isinstance(found, MultiLabelCalibration):
        console.remark(found.promises())
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
