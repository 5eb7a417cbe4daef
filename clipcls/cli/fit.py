"""`clipcls fit`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, report_excluded, watching
from clipcls.cli.constraints import refuse_overwriting
from clipcls.cli.label_settings import choose_question, labels_option, prompts_option
from clipcls.cli.options import LabelledSettings, ModelSettings, data_argument, run_options
from clipcls.cli.param_types import NEW_FILE


@dataclass(frozen=True)
class _Learning(groups.Settings):
    section = "Learning"

    labels: Any = labels_option("A label file or ready set; default: the labels of DATA.")
    prompts: str | list[str] | None = prompts_option()
    no_words: tuple[str, ...] = groups.option(
        metavar="LABEL",
        help="Learn this label from images alone, since its words (a code, a number) mean nothing; "
        "may be repeated.",
    )


@groups.command("fit")
@data_argument
@click.option(
    "-o", "--output", type=NEW_FILE, required=True, help="The classifier's file (safetensors)."
)
@click.option(
    "--check-labels",
    is_flag=True,
    help="Print images whose label is likely wrong (csv), the most suspicious first.",
)
@run_options
def command(
    console: Console,
    data: str,
    output: Path,
    check_labels: bool,
    labelled: LabelledSettings,
    learning: _Learning,
    model: ModelSettings,
) -> int:
    """Learn a classifier from labelled images, few or many.

    It starts from the label text and shifts towards your images as far as the data supports it.
    DATA is as for `clipcls evaluate`; one image per label is enough.

    \b
    Examples:
      clipcls fit sorted-photos/ --labels labels.txt -o classifier.safetensors
      clipcls classify --classifier classifier.safetensors photos/
      clipcls fit truth.csv --question colour --labels colours.txt -o colours.safetensors
      clipcls fit sorted-photos/ --check-labels -o classifier.safetensors > suspects.csv
    """
    refuse_overwriting(output, data, learning.labels, learning.prompts)
    name, chosen = choose_question(learning, labelled.question)
    from clipcls.few_shot.classifier import FewShotClassifier
    from clipcls.output.writing import open_output

    images = labelled.read(data, name)
    classifier = FewShotClassifier(
        chosen.labels,
        prompts=learning.prompts,
        no_words=learning.no_words,
        **model.make_arguments([data]),
    )
    with watching(console, images.paths) as watch:
        classifier.fit(images, watch=watch)
    excluded = classifier.excluded_
    assert excluded is not None
    report_excluded(console, excluded)
    classifier.save(output)
    console.remark(classifier.learnt_.summary())
    file, question = shlex.quote(str(output)), name or labelled.question
    named = f"{question}=" if question else ""
    console.say_written(output, f"clipcls classify --classifier {named}{file} PHOTOS")
    if check_labels:
        suspects = classifier.suspects()
        with open_output(None, "csv") as writer:
            for suspect in suspects:
                writer.write(suspect)
        console.remark(f"labels that are likely wrong: {len(suspects):,}")
    read = sum(images for _, images, _ in classifier.learnt_.labels)
    return console.status(len(excluded.unreadable), read)
