"""`clipcls calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from clipcls.cli.console import Console
from clipcls.cli.options import (
    FILE,
    label_options,
    labels_of,
    model_options,
    say_what_was_set_aside,
    store_of,
    store_options,
    watching,
)


@click.command("calibrate")
@click.argument("data", metavar="DATA")
@label_options
@click.option("-o", "--output", type=FILE, required=True, help="The calibration's file (JSON).")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
@model_options
@store_options
@click.pass_obj
def command(
    console: Console,
    /,
    data: str,
    label_source: str | None,
    label_list: tuple[str, ...],
    prompts: str,
    none: bool,
    rank: str | None,
    output: Path,
    quiet: bool,
    store_file: Path | None,
    no_store: bool,
    **model_settings: Any,
) -> int:
    """Learn from labelled images what a score means.

    The file holds a temperature, which makes scores probabilities, and what `classify` needs for
    --coverage, --error and --conformal. It is for one model, its labels and prompts, and for
    images like those in DATA, which is as for `clipcls evaluate`.

    \b
    Examples:
      clipcls calibrate --labels labels.txt sorted-photos/ -o calibration.json
      clipcls classify --labels labels.txt --calibration calibration.json --error 0.05 photos/
    """
    labels = labels_of(label_source, label_list)
    from clipcls.calibration import calibrate
    from clipcls.classifier import ZeroShotClassifier
    from clipcls.labelled import read_labelled

    console.quiet = quiet
    labelled = read_labelled(data)
    classifier = ZeroShotClassifier(
        labels,
        prompts=prompts,
        store=store_of(store_file, no_store) or False,
        none=none,
        rank=rank,
        **model_settings,
    ).fit()
    with watching(console, len(labelled)) as watch:
        found, aside = calibrate(classifier, labelled, watch=watch)
    say_what_was_set_aside(console, aside)
    found.save(output)
    if found.note:
        console.say(found.note)
    if not quiet:
        ece, nll = found.figures["ece"], found.figures["nll"]
        console.say(
            f"temperature {found.temperature:.3f} from {found.images:,} images; calibration error "
            f"{ece['before']:.1%} before, {ece['after']:.1%} after; negative log-likelihood "
            f"{nll['before']:.3f} before, {nll['after']:.3f} after (cross-validated)"
        )
    return 1 if aside.unreadable else 0
