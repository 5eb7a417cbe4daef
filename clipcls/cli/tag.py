"""`clipcls tag`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clipcls.cli import groups
from clipcls.cli.cluster import ClusterSettings
from clipcls.cli.console import Console
from clipcls.cli.constraints import refuse_overwriting
from clipcls.cli.groups import option
from clipcls.cli.inputs import AnsweredInputSettings, inputs_argument
from clipcls.cli.label_settings import TextSettings, calibration_option, split_questions
from clipcls.cli.options import ModelSettings, run_options
from clipcls.cli.outputs import ResultsOutput
from clipcls.cli.param_types import COUNT, NumberRange
from clipcls.cli.run import Run
from clipcls.cli.sort import FilingSettings


@dataclass(frozen=True)
class _Labels(TextSettings):
    calibration: Any = calibration_option()


@dataclass(frozen=True)
class _Answers(groups.Settings):
    section = "Answers"

    top: int | None = option(
        "-k", "--top", type=COUNT, help="At most N labels per image; default: all."
    )
    min_score: float | None = option(
        type=NumberRange(0, 1),
        metavar="P",
        help="Give labels whose score is at least P; default: their thresholds in the calibration, "
        "else 0.5.",
    )


@groups.command("tag")
@inputs_argument
@run_options
def command(
    console: Console,
    inputs: tuple[str, ...],
    reading: AnsweredInputSettings,
    labels: _Labels,
    answers: _Answers,
    output: ResultsOutput,
    filing: FilingSettings,
    model: ModelSettings,
    cluster: ClusterSettings,
) -> int:
    """Give each image all labels that fit, or none.

    INPUT is an image, a folder (searched recursively), a pattern, an archive (zip, tar), a table
    (csv, jsonl, parquet), a URL of one of these (https, s3, gs, ...), or - for a list on stdin.
    Each label is scored on its own; `clipcls calibrate --multi-label` turns scores into
    probabilities.

    \b
    Examples:
      clipcls tag --labels labels.txt photos/
      clipcls tag --labels labels.txt --xmp photos/
      clipcls tag --labels labels.txt --calibration calibration.json photos/ -o tags.jsonl
      clipcls tag --labels things=things.txt --labels colours=colours.txt photos/
    """
    questions = split_questions(labels)
    refuse_overwriting(output.file, *labels.files, *inputs)
    run = Run(console, inputs, reading, questions, output, filing, cluster)
    from clipcls.output.columns import result_columns
    from clipcls.questions import prefix_columns

    usual = prefix_columns(dict.fromkeys(questions, result_columns(1, reading.columns)))
    columns = run.select_columns(usual)
    run.open(model, questions, answers)
    most = "top" if "" in questions else "max_labels"
    return run.answer({most: answers.top, "min_score": answers.min_score}, columns)
