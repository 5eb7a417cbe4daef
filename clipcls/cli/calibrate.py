"""`clipcls calibrate`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, report_excluded, watching
from clipcls.cli.constraints import refuse_overwriting
from clipcls.cli.label_settings import LabelSettings, choose_question
from clipcls.cli.options import (
    ModelSettings,
    MultiLabelledSettings,
    data_argument,
    repeat_options,
    run_options,
)
from clipcls.cli.param_types import NEW_FILE

_REPEATED = ("labels", "label", "classifier", "prompts", "level", "model", "checkpoint")


@groups.command("calibrate")
@data_argument
@click.option("-o", "--output", type=NEW_FILE, required=True, help="The calibration's file (JSON).")
@run_options
def command(
    console: Console,
    data: str,
    output: Path,
    labelled: MultiLabelledSettings,
    labels: LabelSettings,
    model: ModelSettings,
) -> int:
    """Learn from labelled images what a score means.

    The file holds a temperature, which turns scores into probabilities, and what `classify` needs
    for --coverage, --max-error and --prediction-sets. With --multi-label it is for `tag`: it turns
    each label's score into a probability, and holds a threshold per label. It is valid for
    one model, its labels and prompts, and images like those in DATA. DATA is as for `clipcls
    evaluate`.

    \b
    Examples:
      clipcls calibrate --labels labels.txt sorted-photos/ -o calibration.json
      clipcls classify --labels labels.txt --calibration calibration.json --max-error 0.05 photos/
      clipcls calibrate --multi-label --labels labels.txt truth.csv -o calibration.json
      clipcls calibrate --labels colour=colours.txt truth.csv -o colours.json
    """
    name, chosen = choose_question(labels, labelled.question)
    refuse_overwriting(output, data, *labels.files)
    from clipcls.evaluation.calibrate import calibrate

    images = labelled.read(data, name)
    fitted = chosen.open_classifier(model.make_arguments([data]), labelled.multi_label)
    with watching(console, images.paths) as watch:
        found, excluded = calibrate(fitted, images, watch=watch)
    report_excluded(console, excluded)
    found.save(output)
    if found.note:
        console.say(found.note)
    if found.worsens_loss:
        before, after = (f"{found.metrics['nll'][when]:.3f}" for when in ("before", "after"))
        console.say(
            f"warning: on held-out images the calibrated scores have a log loss of {after}, the "
            f"model's own {before}; calibrate with more images than these {found.images:,}"
        )
    console.remark(f"{found.summary()} (cross-validated)")
    if promises := found.promises():
        console.remark(promises)
    command = "tag" if labelled.multi_label else "classify"
    file = f"{name}={output}" if name else str(output)
    words = ["clipcls", command, *repeat_options(*_REPEATED), "--calibration", file]
    console.say_written(output, f"{shlex.join(words)} PHOTOS")
    return console.status(len(excluded.unreadable), found.images)
