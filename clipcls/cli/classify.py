"""`clipcls classify`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli import groups
from clipcls.cli.cluster import ClusterSettings
from clipcls.cli.console import Console
from clipcls.cli.constraints import refuse_inside, refuse_overwriting
from clipcls.cli.groups import option
from clipcls.cli.inputs import AnsweredInputSettings, inputs_argument
from clipcls.cli.label_settings import AnsweredLabelSettings, split_questions
from clipcls.cli.options import ModelSettings, run_options
from clipcls.cli.outputs import ResultsOutput
from clipcls.cli.param_types import COUNT, FOLDER, NumberRange
from clipcls.cli.run import Run
from clipcls.cli.sort import FilingSettings
from clipcls.questions import prefix_columns

if TYPE_CHECKING:
    from clipcls.classification.decision import Abstain


@dataclass(frozen=True)
class _Answers(groups.Settings):
    section = "Answers"

    top: int = option(*("-k", "--top"), type=COUNT, default=1, help="Labels per image.")
    refine: bool = option(
        help="Decide about all images together, which corrects some answers in runs of several "
        "hundred images. Records are written after the last image is embedded."
    )
    explain: bool = option(
        rare=True,
        help="Add the reasons for each answer: the label's texts, the margin over the runner-up, "
        "and the nearest images in the cache.",
    )
    heatmap: Path | None = option(
        type=FOLDER,
        metavar="DIR",
        rare=True,
        help="Draw pictures into DIR, in a folder per question, that show which part of each image "
        "led to the answer; takes 50 passes of the model per image.",
    )


@dataclass(frozen=True)
class _Doubt(groups.Settings):
    section = "Doubt"

    min_score: float = option(
        type=NumberRange(0, 1),
        metavar="P",
        default=0.0,
        help="Answer `unknown` below this score; in a hierarchy, the nearest node above that "
        "reaches it.",
    )
    min_margin: float = option(
        type=NumberRange(0, 1),
        default=0.0,
        metavar="M",
        rare=True,
        help="Answer `unknown` when the best score leads the second by less than M.",
    )
    min_similarity: float | None = option(
        type=NumberRange(-100, 100),
        metavar="Z",
        help="Answer `unknown` when the image's similarity to the label is less than Z standard "
        "deviations above its similarity to everyday names (column nearness). Start with 2; 3 "
        "turns away more images of other things, and more of your labels.",
    )
    coverage: float | None = option(
        type=NumberRange(0, 1, min_open=True),
        metavar="C",
        rare=True,
        help="Answer only the share C of images whose scores are highest. Needs --calibration.",
    )
    max_error: float | None = option(
        type=NumberRange(0, 1, min_open=True, max_open=True),
        metavar="E",
        help="Answer as many images as possible while, with 95 % confidence, at most a share E of "
        "the answers is wrong. Needs --calibration.",
    )
    prediction_sets: float | None = option(
        type=NumberRange(0, 1, min_open=True, max_open=True),
        metavar="ALPHA",
        rare=True,
        help="Add a set of labels per image; for all but a share ALPHA of the images it contains "
        "a right one. Needs --calibration.",
    )

    def abstain(self) -> Abstain:
        """When images are `unknown`."""
        from clipcls.classification.decision import Abstain

        return Abstain(
            self.min_score,
            self.min_margin,
            -math.inf if self.min_similarity is None else self.min_similarity,
            coverage=self.coverage,
            max_error=self.max_error,
        )


@groups.command("classify")
@inputs_argument
@run_options
def command(
    console: Console,
    inputs: tuple[str, ...],
    reading: AnsweredInputSettings,
    labels: AnsweredLabelSettings,
    answers: _Answers,
    doubt: _Doubt,
    output: ResultsOutput,
    filing: FilingSettings,
    model: ModelSettings,
    cluster: ClusterSettings,
) -> int:
    """Give each image the label that fits best.

    INPUT is an image, a folder (searched recursively), a pattern, an archive (zip, tar), a table
    (csv, jsonl, parquet), a URL of one of these (https, s3, gs, ...), or - for a list on stdin.
    Scores are the softmax over all labels; `clipcls tag` scores each label on its own.

    \b
    Examples:
      clipcls classify --labels labels.txt photos/
      find . -name '*.png' | clipcls classify --labels coco80 -
      clipcls classify -l cat -l dog -l "hot dog" -k 3 photo.jpg
      clipcls classify --classifier classifier.safetensors photos/
      clipcls classify --labels labels.txt --sort-into sorted/ --move photos/
      clipcls classify --labels labels.txt --ray s3://bucket/photos/ -o s3://bucket/results/
      clipcls classify --labels kind=kinds.txt --labels colour=colours.txt photos/
    """
    questions = split_questions(labels)
    tagged = labels.find_tagged(questions)
    if answers.heatmap and reading.per_file:
        raise click.UsageError("--heatmap draws on one frame: leave out --per-file")
    if answers.heatmap:
        for name in questions:
            refuse_inside(answers.heatmap / name, inputs, mirrored=True)
    refuse_overwriting(output.file, *labels.files, *inputs)
    run = Run(console, inputs, reading, questions, output, filing, cluster)
    from clipcls.classification.doubt import LEAST_IMAGES, Doubt
    from clipcls.output.columns import EXPLAINED, result_columns

    def list_columns(name: str, top: int, has_levels: bool) -> list[str]:
        if name in tagged:
            return result_columns(1, reading.columns)
        extra = [
            *(["lineage"] if has_levels else []),
            *(["set"] if doubt.prediction_sets is not None else []),
            *(EXPLAINED if answers.explain else []),
            *(["heatmap"] if answers.heatmap else []),
            *(["nearness"] if keep_nearness else []),
            *(["labelled_by"] if questions[name].classifier else []),
            *reading.columns,
        ]
        return result_columns(top, extra)

    keep_nearness = doubt.min_similarity is not None
    every = prefix_columns({q: list_columns(q, answers.top, True) for q in questions})
    run.select_columns((), every)  # refuses before the work
    run.open(model, tagged, answers, doubt, labels.level, labels.tag)
    asked = {name: fitted for name, fitted in run.opened.items() if name not in tagged}
    tops = {name: min(answers.top, len(fitted.classes_)) for name, fitted in asked.items()}
    usual = prefix_columns(
        {q: list_columns(q, tops.get(q, 1), q in asked and asked[q].hierarchy_) for q in questions}
    )
    doubts = {
        name: Doubt(len(fitted.classes_))
        for name, fitted in asked.items()
        if not fitted.provenance_.classifier
    }
    run.report.labels = {name: len(fitted.classes_) for name, fitted in asked.items()}
    options: dict[str, Any] = {
        "top": max(tops.values(), default=1),
        "abstain": doubt.abstain(),
        "prediction_sets": doubt.prediction_sets,
        "refine": answers.refine,
        "explain": answers.explain,
        "heatmaps": answers.heatmap,
    }
    if "" not in questions:
        options["min_score"] = doubt.min_score or None
    if doubts and (cluster.is_used or not reading.is_few(inputs, LEAST_IMAGES)):
        from clipcls.classification.nearness import Nearness

        encoder = next(iter(asked.values())).encoder_
        options["nearness"] = Nearness(encoder, run.cache, is_sampled=not keep_nearness)
    status = run.answer(
        options,
        run.select_columns(usual, every),
        doubts=doubts,
        keep_nearness=keep_nearness,
        review=labels.labels or {},
    )
    for name, fitted in asked.items():
        if threshold := doubt.abstain().threshold(fitted.calibration_):
            console.remark(
                f"{name}{': ' if name else ''}of the calibration's images "
                f"{threshold.coverage:.1%} would be answered, {threshold.risk:.1%} of these wrong"
            )
    if answers.heatmap:
        console.remark(f"wrote heat maps into {answers.heatmap}")
    return status
