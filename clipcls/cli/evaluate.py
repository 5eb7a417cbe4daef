"""`clipcls evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console, report_excluded, watching
from clipcls.cli.options import (
    FIGURES,
    NEW_FILE,
    cache_of,
    cache_options,
    calibration_option,
    classifier_of,
    classifier_option,
    columns_of,
    figure_output_options,
    form_of,
    label_options,
    labels_of,
    max_errors_option,
    max_megapixels_option,
    model_options,
    multi_label_option,
)
from clipcls.cli.refusals import refuse_over, refuse_with_multi_label

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.data.dataset import Dataset


@click.command("evaluate")
@click.argument("data", metavar="DATA", shell_complete=complete_files)
@label_options
@classifier_option
@multi_label_option
@calibration_option
@figure_output_options
@click.option(
    "--html",
    "page",
    type=NEW_FILE,
    help="Write a page (HTML) with figures, confusions, telling images and the comparison to this "
    "file.",
)
@click.option(
    "--compare",
    "others",
    multiple=True,
    metavar="WHAT=VALUE",
    help="Also with model=NAME, prompts=TEMPLATE|NAME|FILE, labels=FILE|NAME, classifier=FILE or "
    "calibration=FILE in place of this one, on the same images; may be repeated.",
)
@max_errors_option
@model_options
@max_megapixels_option
@cache_options
@click.pass_obj
def command(
    console: Console,
    /,
    data: str,
    label_source: str | None,
    label_list: tuple[str, ...],
    prompts: str | list[str],
    reject: bool,
    level: str | None,
    classifier: Path | None,
    multi_label: bool,
    calibration: Path | None,
    form: str | None,
    output: Path | None,
    columns: str | None,
    bom: bool,
    quiet: bool,
    page: Path | None,
    others: tuple[str, ...],
    cache_file: Path | None,
    no_cache: bool,
    **model_settings: Any,
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
    labels = labels_of(label_source, label_list, classifier)
    if multi_label:
        refuse_with_multi_label(reject=reject, level=level)
    variants = {other: _variant(other) for other in others}
    if multi_label and any(what == "classifier" for what, _ in variants.values()):
        raise click.UsageError(
            "--compare classifier= is for one label per image, not for --multi-label"
        )
    if labels is None and any(what in ("model", "prompts") for what, _ in variants.values()):
        raise click.UsageError("--compare model= and prompts= need --labels, not --classifier")
    for file in (output, page):
        read = [value for _, value in variants.values()]
        refuse_over(file, data, label_source, prompts, classifier, calibration, *read)
    if output and page and output.absolute() == page.absolute():
        raise click.UsageError("-o and --html name the same file; give each its own")
    from clipcls.data.dataset import read_dataset
    from clipcls.evaluation.evaluate import evaluate
    from clipcls.metrics.multilabel import LabelFigures
    from clipcls.metrics.single_label import ClassFigures
    from clipcls.output.writing import open_output

    console.quiet = quiet
    form = form_of(output, form, FIGURES, streamed="table")
    per_label = ["label", *(("threshold",) if multi_label else ())]
    per_label += [field.name for field in fields(LabelFigures if multi_label else ClassFigures)]
    per_label = columns_of(form, per_label, wanted=columns, bom=bom)
    if variants and form in ("csv", "tsv") and page is None:
        raise click.UsageError(
            f"a {form} has the figures per label and no comparison: with --compare write json, a "
            "table or, by --html, a page"
        )

    def write(record: Mapping[str, Any]) -> None:
        if form in ("csv", "tsv"):
            _write_table(console, record, form, output, per_label, bom)
        else:
            from clipcls.evaluation.tables import EvaluationTable, MultiLabelTable

            table = MultiLabelTable if multi_label else EvaluationTable
            with open_output(output, "document" if form == "json" else table) as writer:
                writer.write(record)
        console.say_written(output)

    labelled = read_dataset(data, unlabelled=multi_label)
    settings = {
        "classifier": classifier,
        "labels": labels,
        "prompts": prompts,
        "reject": reject,
        "level": level,
        "cache": cache_of(cache_file, no_cache) or False,
        "calibration": calibration,
        **model_settings,
    }
    if multi_label:
        return _multilabel(console, settings, variants, labelled, page, write)
    fitted = classifier_of(**settings)
    with watching(console, len(labelled)) as watch:
        found = evaluate(fitted, labelled, watch=watch)
    report_excluded(console, found.excluded)
    record = found.record()
    comparisons = []
    if variants:
        from clipcls.evaluation.compare import compare

        evaluated = {}
        for name, (what, value) in variants.items():
            other = classifier_of(**_changed(settings, fitted, what, value))
            with watching(console, len(labelled), again=True) as watch:
                evaluated[name] = evaluate(other, labelled, watch=watch)
        comparisons = compare(found, evaluated)
        record["compare"] = [c.record() for c in comparisons]
    if page:
        from clipcls.evaluation.html import EvaluationPage
        from clipcls.evaluation.page import page_record

        with open_output(page, EvaluationPage) as writer:
            writer.write(page_record(found, data, comparisons))
        console.say_written(page, "open it in a browser")
    write(record)
    return console.status(len(found.excluded.unreadable), found.images)


def _write_table(
    console: Console,
    record: Mapping[str, Any],
    form: str,
    output: Path | None,
    columns: Sequence[str],
    bom: bool,
) -> None:
    """A row per label; what is of all images together is said."""
    from clipcls.evaluation.tables import NAMES, number
    from clipcls.output.writing import open_output
    from clipcls.predictions import PROVENANCE

    made_by = {key: record[key] for key in PROVENANCE if key in record}
    with open_output(output, form, columns=columns, bom=bom, provenance=made_by) as writer:
        for row in record["per_class"]:
            writer.write(row)
    if not console.quiet:
        figures = (f"{NAMES[n]} {number(n, f['value'])}" for n, f in record["figures"].items())
        console.say(f"{record['images']:,} images: {', '.join(figures)}")


def _changed(
    settings: dict[str, Any], first: ZeroShotClassifier, what: str, value: str
) -> dict[str, Any]:
    """`classifier_of`'s settings with one of them another."""
    # The same model is not loaded twice. A calibration belongs to the classifier it was made for.
    kept = {"classifier": settings["classifier"] if what == "calibration" else None}
    return {**settings, **kept, "calibration": None, "model": first.encoder_, what: value}


def _multilabel(
    console: Console,
    settings: dict[str, Any],
    variants: dict[str, tuple[str, str]],
    labelled: Dataset,
    page: Path | None,
    write: Callable[[Mapping[str, Any]], None],
) -> int:
    from clipcls.classification.multilabel import MultiLabelClassifier
    from clipcls.evaluation.multilabel import evaluate_multilabel
    from clipcls.output.writing import open_output

    def fitted(settings: dict[str, Any]) -> MultiLabelClassifier:
        alone = classifier_of(**{**settings, "calibration": None})
        return MultiLabelClassifier(alone, calibration=settings["calibration"]).fit()

    first = fitted(settings)
    with watching(console, len(labelled)) as watch:
        found = evaluate_multilabel(first, labelled, watch=watch)
    report_excluded(console, found.excluded)
    record = found.record()
    comparisons = []
    if variants:
        from clipcls.evaluation.compare import compare_multilabel

        evaluated = {}
        for name, (what, value) in variants.items():
            other = fitted(_changed(settings, first.classifier, what, value))
            with watching(console, len(labelled), again=True) as watch:
                evaluated[name] = evaluate_multilabel(other, labelled, watch=watch)
        comparisons = compare_multilabel(found, evaluated)
        record["compare"] = [c.record() for c in comparisons]
    if page:
        from clipcls.evaluation.html import MultiLabelPage
        from clipcls.evaluation.page import multilabel_page_record

        with open_output(page, MultiLabelPage) as writer:
            writer.write(multilabel_page_record(found, labelled.source, comparisons))
        console.say_written(page, "open it in a browser")
    write(record)
    return console.status(len(found.excluded.unreadable), found.images)


_VARIANTS = ("model", "prompts", "labels", "classifier", "calibration")


def _variant(text: str) -> tuple[str, str]:
    what, _, value = text.partition("=")
    if what not in _VARIANTS or not value:
        raise click.UsageError(
            f"--compare {text}: write model=NAME, prompts=NAME, labels=FILE, classifier=FILE or "
            "calibration=FILE"
        )
    return what, value
