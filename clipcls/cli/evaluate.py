"""`clipcls evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, report_excluded, watching
from clipcls.cli.constraints import refuse_over
from clipcls.cli.groups import option
from clipcls.cli.label_settings import LabelSettings, calibration_option, multi_label_option
from clipcls.cli.options import ModelSettings, data_argument, run_options
from clipcls.cli.outputs import FiguresOutput
from clipcls.cli.param_types import NEW_FILE

if TYPE_CHECKING:
    from clipcls.classification.multilabel import MultiLabelClassifier
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.labels.label_set import LabelsLike

_VARIANTS = ("model", "prompts", "labels", "classifier", "calibration")


@dataclass(frozen=True)
class _Labels(LabelSettings):
    calibration: Path | None = calibration_option()


@dataclass(frozen=True)
class _Output(FiguresOutput):
    html: Path | None = option(
        type=NEW_FILE,
        metavar="FILE",
        help="Write a page with figures, confusions, telling images and the comparison to this "
        "file.",
    )


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
      clipcls evaluate --labels labels.txt -o figures.json truth.csv
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
    from clipcls.metrics.multilabel import LabelFigures
    from clipcls.metrics.single_label import ClassFigures
    from clipcls.output.writing import open_output

    form = output.choose_format()
    columns = ["label", *(("threshold",) if multi_label else ())]
    columns += [field.name for field in fields(LabelFigures if multi_label else ClassFigures)]
    columns = output.choose_columns(form, columns)
    if variants and form in ("csv", "tsv") and output.html is None:
        raise click.UsageError(
            f"a {form} has the figures per label and no comparison: with --compare write json, a "
            "table or, by --html, a page"
        )
    labelled = read_dataset(data, unlabelled=multi_label)
    kind = _kind(multi_label)
    chosen = _Chosen(labels, names, model.arguments(), multi_label)
    fitted, classifier = chosen.open_classifier()
    with watching(console, len(labelled)) as watch:
        found = kind.evaluate(fitted, labelled, watch=watch)
    report_excluded(console, found.excluded)
    record, comparisons, evaluated = found.record(), [], {}
    for name, (what, value) in variants.items():
        other, _ = chosen.change(classifier, what, value).open_classifier()
        with watching(console, len(labelled), again=True) as watch:
            evaluated[name] = kind.evaluate(other, labelled, watch=watch)
    if variants:
        comparisons = kind.compare(found, evaluated)
        record["compare"] = [comparison.record() for comparison in comparisons]
    if output.html:
        with open_output(output.html, kind.page) as writer:
            writer.write(kind.page_record(found, data, comparisons))
        console.say_written(output.html, "open it in a browser")
    if form in ("csv", "tsv"):
        _write_per_label(console, record, form, output, columns)
    else:
        with open_output(output.file, "document" if form == "json" else kind.table) as writer:
            writer.write(record)
    console.say_written(output.file)
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


@dataclass(frozen=True)
class _Chosen:
    """The options that describe one classifier."""

    labels: _Labels
    names: LabelsLike | None
    model: Mapping[str, Any]
    multi_label: bool

    def open_classifier(
        self,
    ) -> tuple[ZeroShotClassifier | MultiLabelClassifier, ZeroShotClassifier]:
        """The classifier, and the one whose texts and model it uses, perhaps itself."""
        calibration = self.labels.calibration
        if not self.multi_label:
            fitted = self.labels.open_classifier(self.names, self.model, calibration)
            return fitted, fitted
        from clipcls.classification.multilabel import MultiLabelClassifier

        fitted = self.labels.open_classifier(self.names, self.model)
        return MultiLabelClassifier(fitted, calibration=calibration).fit(), fitted

    def change(self, first: ZeroShotClassifier, what: str, value: str) -> _Chosen:
        """The same with one option another, and the model not loaded twice."""
        model = {**self.model, "model": value if what == "model" else first.encoder_}
        # A calibration belongs to the classifier that it was made for.
        changes: dict[str, Any] = {"calibration": None}
        if what != "calibration":
            changes["classifier"] = None
        if what != "model":
            changes[what] = value
        labels = replace(self.labels, **changes)
        return replace(
            self, labels=labels, names=value if what == "labels" else self.names, model=model
        )


@dataclass(frozen=True)
class _Kind:
    """What evaluates, compares and shows one kind of classifier."""

    evaluate: Callable[..., Any]
    compare: Callable[..., list[Any]]
    table: Callable[..., Any]
    page: Callable[..., Any]
    page_record: Callable[..., dict[str, Any]]


def _kind(multi_label: bool) -> _Kind:
    from clipcls.evaluation import compare, evaluate, html, multilabel, page, tables

    if multi_label:
        return _Kind(
            multilabel.evaluate_multilabel,
            compare.compare_multilabel,
            tables.MultiLabelTable,
            html.MultiLabelPage,
            page.multilabel_page_record,
        )
    return _Kind(
        evaluate.evaluate,
        compare.compare,
        tables.EvaluationTable,
        html.EvaluationPage,
        page.page_record,
    )


def _write_per_label(
    console: Console,
    record: Mapping[str, Any],
    form: str,
    output: FiguresOutput,
    columns: Sequence[str],
) -> None:
    """Write one row per label; say what is of all images together."""
    from clipcls.evaluation.tables import NAMES, number
    from clipcls.predictions import PROVENANCE

    made_by = {key: record[key] for key in PROVENANCE if key in record}
    with output.open(form, columns, made_by) as writer:
        for row in record["per_class"]:
            writer.write(row)
    figures = (f"{NAMES[n]} {number(n, f['value'])}" for n, f in record["figures"].items())
    console.remark(f"{record['images']:,} images: {', '.join(figures)}")
