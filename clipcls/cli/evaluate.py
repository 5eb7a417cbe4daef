"""`clipcls evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, report_excluded, watching
from clipcls.cli.constraints import refuse_overwriting
from clipcls.cli.groups import option
from clipcls.cli.label_settings import CalibratedLabelSettings, split_questions
from clipcls.cli.options import ModelSettings, MultiLabelledSettings, data_argument, run_options
from clipcls.cli.outputs import MetricsOutput
from clipcls.cli.param_types import NEW_FILE

_GOOD = 0.8  # accuracy from which learning from images is not recommended


@dataclass(frozen=True)
class _Output(MetricsOutput):
    html: Path | None = option(
        type=NEW_FILE,
        help="Write a page with metrics, confusions, revealing images and the comparison to this "
        "file.",
    )


def _change(labels: CalibratedLabelSettings, what: str, value: str) -> CalibratedLabelSettings:
    """The labels with one option changed, and without what only fits the classifier as it was."""
    changes: dict[str, Any] = {"calibration": None}
    if what != "calibration":
        changes["classifier"] = None
    if what != "model":
        changes[what] = value
    return replace(labels, **changes)


def _parse_variant(text: str) -> tuple[str, str]:
    what, _, value = text.partition("=")
    if what not in ("model", "prompts", "labels", "classifier", "calibration") or not value:
        raise click.BadParameter(
            f"{text}: write model=NAME, prompts=NAME, labels=FILE, classifier=FILE or "
            "calibration=FILE"
        )
    return what, value


@groups.command("evaluate")
@data_argument
@click.option(
    "--compare",
    "variants",
    multiple=True,
    metavar="WHAT=VALUE",
    type=_parse_variant,
    help="Evaluate again on the same images with one thing changed: model=NAME, "
    "prompts=TEMPLATE|NAME|FILE, labels=FILE|NAME, classifier=FILE or calibration=FILE; may be "
    "repeated.",
)
@run_options
def command(
    console: Console,
    data: str,
    variants: tuple[tuple[str, str], ...],
    labelled: MultiLabelledSettings,
    labels: CalibratedLabelSettings,
    output: _Output,
    model: ModelSettings,
) -> int:
    """Measure answers and scores on images whose labels are known.

    DATA is a folder with one folder per class, named like its label (case, _ and - do not matter;
    of nested folders the deepest that names a label decides), an archive or URL of such a folder,
    shards of WebDataset with .cls files (a label or its number in --labels, from 0), or a table
    (csv, jsonl, parquet) with the columns path (relative to the file) and label. If an image has
    several labels, in rows or separated by |, any of them is right; with --multi-label it should be
    given all of them, and a blank label means none. In a reviewed table of `clipcls review` only
    the labels that a person gave count. Labels with the name of a question, such as
    colour=colours.txt, are compared with the column of that name.

    \b
    Examples:
      clipcls evaluate --labels labels.txt sorted-photos/
      clipcls evaluate --labels labels.txt -o metrics.json truth.csv
      clipcls evaluate --labels labels.txt 'train-{000..009}.tar'
      clipcls evaluate --labels labels.txt -o per-label.csv truth.csv
      clipcls evaluate --labels labels.txt --compare prompts=imagenet sorted-photos/
      clipcls evaluate --labels kind=kinds.txt --labels colour=colours.txt truth.csv
      clipcls evaluate --multi-label --labels labels.txt truth.csv
      clipcls evaluate --multi-label --labels labels.txt --compare calibration=c.json truth.csv
    """
    questions, multi_label = split_questions(labels, labelled.question), labelled.multi_label
    asked = {what for what, _ in variants}
    if multi_label and "classifier" in asked:
        raise click.UsageError(
            "--compare classifier= is for one label per image, not for --multi-label"
        )
    if labels.classifier and asked & {"model", "prompts"}:
        raise click.UsageError("--compare model= and prompts= need --labels, not --classifier")
    for file in (output.file, output.html):
        refuse_overwriting(file, data, *labels.files, *(value for _, value in variants))
    if len(questions) > 1 and (variants or output.html):
        raise click.UsageError(
            "--compare and --html are for one question at a time: choose it with --question"
        )
    if output.file and output.html and output.file.absolute() == output.html.absolute():
        raise click.UsageError("-o and --html name the same file; give each its own")
    from clipcls.evaluation.compare import compare
    from clipcls.evaluation.evaluate import evaluate
    from clipcls.evaluation.page import EvaluationPage, make_page_record
    from clipcls.metrics.single_label import ClassMetrics
    from clipcls.output.writing import open_output

    form, several = output.choose_format(), {"threshold", "average_precision"}
    columns = [n for n in ClassMetrics.__dataclass_fields__ if multi_label or n not in several]
    columns = output.choose_columns(form, columns)
    if variants and form in ("csv", "tsv") and output.html is None:
        raise click.UsageError(
            f"a {form} has the metrics per label and no comparison: with --compare write json, a "
            "table or, by --html, a page"
        )
    records: dict[str, dict[str, Any]] = {}
    status, would_gain = 0, False
    chosen = model.make_arguments([data])
    for name, settings in questions.items():
        images = labelled.read(data, name)
        if len(questions) > 1 and images.folders:
            raise click.UsageError(
                f"{data}: a folder has one label per image: choose one question with --question, "
                "or give a csv with a column for each"
            )
        classifier = settings.open_classifier(chosen, multi_label)
        chosen |= {"model": classifier.encoder_, "checkpoint": None}  # not loaded twice
        with watching(console, images.paths, again=bool(records)) as watch:
            found = evaluate(classifier, images, watch=watch)
        report_excluded(console, found.excluded)
        if not (multi_label or settings.classifier):
            would_gain |= found.metrics["accuracy"].value < _GOOD
        evaluated = {}
        for what, value in variants:
            changed = _change(settings, what, value)
            model_too = {"model": value} if what == "model" else {}
            other = changed.open_classifier(chosen | model_too, multi_label)
            with watching(console, images.paths, again=True) as watch:
                evaluated[f"{what}={value}"] = evaluate(other, images, watch=watch)
        comparisons = compare(found, evaluated)
        if output.html:
            with open_output(output.html, EvaluationPage) as writer:
                writer.write(make_page_record(found, data, comparisons))
            console.say_written(output.html, "open it in a browser")
        records[name] = found.to_dict()
        if comparisons:
            records[name]["compare"] = [comparison.to_dict() for comparison in comparisons]
        status = max(status, console.status(len(found.excluded.unreadable), found.images))
    _write(console, records, form, output, columns)
    if would_gain:
        console.remark(
            "learning from 1 to 4 images per label (`clipcls fit`) raised the accuracy of mini by "
            "about 10 to 20 points on average, more than anything else"
        )
    return status


def _write(
    console: Console,
    records: Mapping[str, Mapping[str, Any]],
    form: str,
    output: _Output,
    columns: Sequence[str],
) -> None:
    """Write the record of each question.

    A csv or tsv has one row per label, and the metrics go to stderr.
    """
    from clipcls.evaluation.tables import NAMES, EvaluationTable, format_number
    from clipcls.output.writing import open_output
    from clipcls.predictions import PROVENANCE

    several = len(records) > 1
    first = next(iter(records.values()))
    if form in ("csv", "tsv"):
        provenance = {key: first[key] for key in PROVENANCE if key in first and not several}
        columns = ["question", *columns] if several else columns
        with output.open(form, columns, provenance) as writer:
            for name, record in records.items():
                for row in record["per_class"]:
                    writer.write({"question": name, **row})
        for name, record in records.items():
            metrics = record["metrics"].items()
            said = (f"{NAMES[key]} {format_number(key, one['value'])}" for key, one in metrics)
            asked = f"{name}: " if several else ""
            console.remark(f"{asked}{record['images']:,} images: {', '.join(said)}")
    elif form == "json":
        with open_output(output.file, "document") as writer:
            writer.write({"questions": records} if several else first)
    else:
        with open_output(output.file, EvaluationTable) as writer:
            for name, record in records.items():
                writer.write({"question": name, **record} if several else record)
    console.say_written(output.file)
