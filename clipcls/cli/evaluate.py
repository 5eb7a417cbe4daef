"""`clipcls evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, report_excluded, watching
from clipcls.cli.constraints import refuse_over
from clipcls.cli.groups import option
from clipcls.cli.label_settings import CalibratedLabelSettings, multi_label_option
from clipcls.cli.options import ModelSettings, data_argument, run_options
from clipcls.cli.outputs import MetricsOutput
from clipcls.cli.param_types import NEW_FILE

if TYPE_CHECKING:
    from clipcls.classification.image_classifier import ImageClassifier
    from clipcls.classification.multilabel import MultiLabelClassifier
    from clipcls.data.dataset import Dataset
    from clipcls.evaluation.compare import Comparison
    from clipcls.evaluation.evaluate import Evaluation
    from clipcls.labels.label_set import LabelsLike

_VARIANTS = ("model", "prompts", "labels", "classifier", "calibration")


@dataclass(frozen=True)
class _Labels(CalibratedLabelSettings):
    def open_kind(
        self, names: LabelsLike | None, model: Mapping[str, Any], multi_label: bool
    ) -> ImageClassifier | MultiLabelClassifier:
        """The classifier of one label or several per image, fitted; see `open_classifier`."""
        if multi_label:
            return self.open_multi_label(names, model, self.calibration)
        return self.open_classifier(names, model, self.calibration)

    def change(self, what: str, value: str) -> _Labels:
        """The same with one option another, and without what belongs to this classifier."""
        changes: dict[str, Any] = {"calibration": None}
        if what != "calibration":
            changes["classifier"] = None
        if what != "model":
            changes[what] = value
        return replace(self, **changes)


@dataclass(frozen=True)
class _Output(MetricsOutput):
    html: Path | None = option(
        type=NEW_FILE,
        metavar="FILE",
        help="Write a page with metrics, confusions, telling images and the comparison to this "
        "file.",
    )

    def choose_form(self, multi_label: bool) -> tuple[str, list[str]]:
        """The format, and the columns of one row per label."""
        from clipcls.metrics.single_label import ClassMetrics

        form = self.choose_format()
        several = set() if multi_label else {"threshold", "average_precision"}
        columns = [name for name in ClassMetrics.__dataclass_fields__ if name not in several]
        return form, self.choose_columns(form, columns)


def _parse_variants(
    _context: click.Context, _param: click.Parameter, texts: Sequence[str]
) -> dict[str, tuple[str, str]]:
    variants = {}
    for text in texts:
        what, _, value = text.partition("=")
        if what not in _VARIANTS or not value:
            raise click.UsageError(
                f"--compare {text}: write model=NAME, prompts=NAME, labels=FILE, classifier=FILE "
                "or calibration=FILE"
            )
        variants[text] = (what, value)
    return variants


@groups.command("evaluate", labels=_Labels, output=_Output, model=ModelSettings)
@data_argument
@multi_label_option
@click.option(
    "--compare",
    "variants",
    multiple=True,
    metavar="WHAT=VALUE",
    callback=_parse_variants,
    help="Also with model=NAME, prompts=TEMPLATE|NAME|FILE, labels=FILE|NAME, classifier=FILE or "
    "calibration=FILE in place of this one, on the same images; may be repeated.",
)
@run_options
def command(
    console: Console,
    data: str,
    multi_label: bool,
    variants: dict[str, tuple[str, str]],
    labels: _Labels,
    output: _Output,
    model: ModelSettings,
) -> int:
    """Measure answers and scores on images whose labels are known.

    DATA is a folder with a folder per class, named like its label (case, _ and - do not matter;
    of folders inside each other the deepest that names a label decides), or a csv file with the
    columns path (relative to the file) and label. Several labels of an image, in rows or separated
    by |, are several right answers; with --multi-label they are the labels it should be given, and
    a blank one says that it has none of them. Of the reviewed table of `clipcls review` only the
    labels that a person gave count.

    \b
    Examples:
      clipcls evaluate --labels labels.txt sorted-photos/
      clipcls evaluate --labels labels.txt -o metrics.json truth.csv
      clipcls evaluate --labels labels.txt -o per-label.csv truth.csv
      clipcls evaluate --labels labels.txt --compare prompts=imagenet sorted-photos/
      clipcls evaluate --multi-label --labels labels.txt truth.csv
      clipcls evaluate --multi-label --labels labels.txt --compare calibration=c.json truth.csv
    """
    names = labels.read_unless_learnt()
    _check_variants(variants, names, multi_label)
    for file in (output.file, output.html):
        read = [labels.labels, labels.prompts, labels.classifier, labels.calibration]
        refuse_over(file, data, *read, *(value for _, value in variants.values()))
    if output.file and output.html and output.file.absolute() == output.html.absolute():
        raise click.UsageError("-o and --html name the same file; give each its own")
    from clipcls.data.dataset import read_dataset
    from clipcls.evaluation.compare import compare

    form, columns = output.choose_form(multi_label)
    if variants and form in ("csv", "tsv") and output.html is None:
        raise click.UsageError(
            f"a {form} has the metrics per label and no comparison: with --compare write json, a "
            "table or, by --html, a page"
        )
    labelled = read_dataset(data, unlabelled=multi_label)
    chosen = model.arguments()
    classifier = labels.open_kind(names, chosen, multi_label)
    found = _evaluate(console, classifier, labelled)
    report_excluded(console, found.excluded)
    evaluated = {}
    for name, (what, value) in variants.items():
        texts = value if what == "labels" else names
        chosen["model"] = value if what == "model" else classifier.encoder_  # not loaded twice
        other = labels.change(what, value).open_kind(texts, chosen, multi_label)
        evaluated[name] = _evaluate(console, other, labelled, again=True)
    comparisons = compare(found, evaluated)
    if output.html:
        _write_page(console, output.html, found, data, comparisons)
    record = found.to_dict()
    if comparisons:
        record["compare"] = [comparison.to_dict() for comparison in comparisons]
    _write(console, record, form, output, columns)
    return console.status(len(found.excluded.unreadable), found.images)


def _check_variants(
    variants: Mapping[str, tuple[str, str]], names: LabelsLike | None, multi_label: bool
) -> None:
    asked = {what for what, _ in variants.values()}
    if multi_label and "classifier" in asked:
        raise click.UsageError(
            "--compare classifier= is for one label per image, not for --multi-label"
        )
    if names is None and asked & {"model", "prompts"}:
        raise click.UsageError("--compare model= and prompts= need --labels, not --classifier")


def _evaluate(
    console: Console, classifier: Any, labelled: Dataset, *, again: bool = False
) -> Evaluation:
    from clipcls.evaluation.evaluate import evaluate

    with watching(console, len(labelled), again=again) as watch:
        found: Evaluation = evaluate(classifier, labelled, watch=watch)
    return found


def _write_page(
    console: Console,
    file: Path,
    found: Evaluation,
    source: str,
    comparisons: Sequence[Comparison],
) -> None:
    from clipcls.evaluation.page import EvaluationPage, page_record
    from clipcls.output.writing import open_output

    with open_output(file, EvaluationPage) as writer:
        writer.write(page_record(found, source, comparisons))
    console.say_written(file, "open it in a browser")


def _write(
    console: Console, record: Mapping[str, Any], form: str, output: _Output, columns: Sequence[str]
) -> None:
    """Write the record; in a csv or tsv one row per label, and the rest is said."""
    from clipcls.evaluation.tables import NAMES, EvaluationTable, format_metric
    from clipcls.output.writing import open_output
    from clipcls.predictions import PROVENANCE

    if form in ("csv", "tsv"):
        provenance = {key: record[key] for key in PROVENANCE if key in record}
        with output.open(form, columns, provenance) as writer:
            for row in record["per_class"]:
                writer.write(row)
        metrics = record["metrics"].items()
        said = (f"{NAMES[name]} {format_metric(name, one['value'])}" for name, one in metrics)
        console.remark(f"{record['images']:,} images: {', '.join(said)}")
    else:
        with open_output(output.file, "document" if form == "json" else EvaluationTable) as writer:
            writer.write(record)
    console.say_written(output.file)
