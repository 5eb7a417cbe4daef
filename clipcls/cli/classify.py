"""`clipcls classify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, watching
from clipcls.cli.constraints import refuse_inside, refuse_over
from clipcls.cli.filing import FilingSettings
from clipcls.cli.groups import option
from clipcls.cli.label_settings import LabelSettings, calibration_option
from clipcls.cli.options import ModelSettings, inputs_argument, null_option, run_options
from clipcls.cli.outputs import ResultsOutput
from clipcls.cli.param_types import NEW_FOLDER, NumberRange
from clipcls.cli.run import Run

if TYPE_CHECKING:
    from clipcls.classification.decision import Abstain
    from clipcls.classification.image_classifier import ImageClassifier


@dataclass(frozen=True)
class _Answers(groups.Settings):
    section = "Answers"

    top: int = option(
        *("-k", "--top"),
        type=click.IntRange(1),
        default=1,
        show_default=True,
        metavar="N",
        help="Labels per image.",
    )
    refine: bool = option(
        is_flag=True,
        help="Let all images decide together: better answers from some 40 images on. Records come "
        "when the last image is embedded.",
    )
    explain: bool = option(
        is_flag=True,
        help="Add what each answer rests on: the label's texts, the margin to the runner-up, and "
        "the nearest images that were in the cache.",
    )
    heatmap: Path | None = option(
        type=NEW_FOLDER,
        metavar="DIR",
        help="Draw into DIR where in each image its answer lies, by 50 passes of the model per "
        "image.",
    )


@dataclass(frozen=True)
class _Doubt(groups.Settings):
    section = "Doubt"

    min_score: float = option(
        type=NumberRange(0, 1),
        metavar="P",
        default=0.0,
        help="Answer `unknown` below this score, or in a hierarchy the node above that reaches it.",
    )
    min_margin: float = option(
        type=NumberRange(0, 1),
        default=0.0,
        metavar="M",
        help="Answer `unknown` when the best score leads the second by less than M.",
    )
    calibration: Path | None = calibration_option()
    coverage: float | None = option(
        type=NumberRange(0, 1, min_open=True),
        metavar="C",
        help="Answer the surest images, a share of C; the others are `unknown`. Needs "
        "--calibration.",
    )
    max_error: float | None = option(
        type=NumberRange(0, 1, min_open=True, max_open=True),
        metavar="E",
        help="Answer as many images as possible while at most a share of E is wrong, with 95 % "
        "confidence. Needs --calibration.",
    )
    prediction_sets: float | None = option(
        type=NumberRange(0, 1, min_open=True, max_open=True),
        metavar="ALPHA",
        help="Add the set of labels that holds a right one for all but a share ALPHA of the "
        "images. Needs --calibration.",
    )

    def abstain(self) -> Abstain:
        """When images are `unknown`."""
        from clipcls.classification.decision import Abstain

        return Abstain(self.min_score, self.min_margin, self.coverage, self.max_error)

    def announce(self, console: Console, fitted: ImageClassifier) -> None:
        """Say what `--coverage` or `--max-error` means for images like the calibration's."""
        if threshold := self.abstain().threshold(fitted.calibration_):
            console.remark(
                f"of the calibration's images {threshold.coverage:.1%} would be answered, "
                f"{threshold.risk:.1%} of these wrong"
            )


@groups.command(
    "classify",
    labels=LabelSettings,
    answers=_Answers,
    doubt=_Doubt,
    output=ResultsOutput,
    filing=FilingSettings,
    model=ModelSettings,
)
@inputs_argument
@null_option
@run_options
def command(
    console: Console,
    inputs: tuple[str, ...],
    null: bool,
    labels: LabelSettings,
    answers: _Answers,
    doubt: _Doubt,
    output: ResultsOutput,
    filing: FilingSettings,
    model: ModelSettings,
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
    names = labels.read_unless_learnt()
    if answers.heatmap:
        refuse_inside(answers.heatmap, inputs, mirrored=True)
    refuse_over(
        output.file, labels.labels, labels.prompts, labels.classifier, doubt.calibration, *inputs
    )
    run = Run(console, inputs, null, output, filing)
    from clipcls.output.columns import EXPLAINED, result_columns

    extra = [
        *(["set"] if doubt.prediction_sets is not None else []),
        *(EXPLAINED if answers.explain else []),
        *(["heatmap"] if answers.heatmap else []),
        *(["labelled_by"] if labels.classifier else []),
    ]
    every = result_columns(answers.top, ["lineage", *extra])
    run.select_columns((), every)  # refuses before the work
    images, total = run.find_images()
    fitted = labels.open_classifier(names, model.arguments(), doubt.calibration)
    top = min(answers.top, len(fitted.classes_))
    usual = result_columns(top, ["lineage", *extra] if fitted.hierarchy_ else extra)
    with watching(console, total) as watch:
        results = fitted.classify(
            images,
            top=top,
            abstain=doubt.abstain(),
            prediction_sets=doubt.prediction_sets,
            refine=answers.refine,
            explain=answers.explain,
            heatmaps=answers.heatmap,
            watch=watch if answers.refine else None,
        )
        doubt.announce(console, fitted)
        run.write(
            results,
            run.select_columns(usual, every),
            calibration=fitted.calibration_,
            cache=fitted.cache_,
            watch=None if answers.refine else watch,  # refining reports images as it embeds them
        )
    if answers.heatmap:
        console.remark(f"wrote heat maps into {answers.heatmap}")
    return run.finish(reviewable=True)
