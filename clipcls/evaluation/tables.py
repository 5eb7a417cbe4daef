"""An evaluation as text: the metrics, the weakest classes, confusions, curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clipcls.errors import format_count, printable
from clipcls.output.table import fit
from clipcls.output.writer import Writer

NAMES = {
    "accuracy": "accuracy",
    "top5": "a right label among the top 5",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "F1, mean over classes",
    "ece": "calibration error (ECE)",
    "nll": "negative log-likelihood",
    "map_macro": "mAP, mean over labels",
    "map_micro": "mAP, all labels in one ranking",
    "f1_macro": "F1, mean over labels",
    "f1_micro": "F1, all labels together",
}
_CLASSES = 20
_PAIRS = 10

_COLUMNS = {
    "average_precision": "AP",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "threshold": "threshold",
    "support": "images",
    "answers": "given",
}
"""The metrics of a class in its record, and their headings."""


class EvaluationTable(Writer):
    """Writes an evaluation's record as text; the json holds every class, pair and point."""

    def format(self, record: Mapping[str, Any]) -> str:
        """The text of an evaluation's record."""
        return "".join(f"{line.rstrip()}\n" for line in _lines(record))


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    if question := record.get("question"):
        yield from ("", question, "-" * len(question))
    yield from _heading(record)
    yield (
        f"model {printable(record['model'])} ({record['weights']}, {record['precision']}), "
        f"prompts {printable(record['prompts'])}"
    )
    yield ""
    yield f"{'':<34}{'':>8}   95 % interval"
    for name, one in record["metrics"].items():
        yield _interval(NAMES[name], *(format_number(name, one[k]) for k in _ENDS))
    for level in record.get("levels", ()):
        name = f"right at level {level['level']}"
        if level["name"]:
            name += f" ({printable(level['name'])})"
        yield _interval(name, *(_percent(level[k]) for k in _ENDS))
    for other in record.get("compare", ()):
        yield from _comparison(other)
    yield ""
    yield from _classes(record)
    if "confused" in record:
        yield from _answers(record)


_ENDS = ("value", "low", "high")


def _heading(record: Mapping[str, Any]) -> Iterator[str]:
    shown = sum(c["support"] > 0 for c in record["per_class"])
    labels = format_count(len(record["per_class"]), "label")
    images = format_count(record["images"], "image")
    if several := record.get("with_several_labels"):
        images += f", {several:,} with several labels"
    yield f"{images}; {shown:,} of {labels} occur"
    if mean := record.get("labels_per_image"):
        yield (
            f"labels per image: {mean['right']:.2f}; given: {mean['given']:.2f}; "
            f"{format_count(record['unknown'], 'image')} given none"
        )


def _interval(name: str, value: str, low: str, high: str) -> str:
    return f"{fit(name, 34)}{value:>8}   {low:>7} to {high:>7}"


def _comparison(other: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    labels = f", {format_count(other['labels'], 'label')}" if "labels" in other else ""
    images = format_count(other["images"], "image")
    yield f"COMPARED: {printable(other['name'])}, on {images}{labels}"
    yield f"{'':<34}{'':>8}{'MORE':>10}   {'95 % interval':<16}{'p':>8}"
    for name, one in other["metrics"].items():
        more, low, high = (100 * one["difference"][key] for key in _ENDS)
        p = "-" if one["p"] is None else f"{one['p']:.2g}"
        yield (
            f"{NAMES[name]:<34}{_percent(one['value']):>8}{more:>+10.1f}   "
            f"{f'{low:+.1f} to {high:+.1f}':<16}{p:>8}"
        )


def rank_classes(record: Mapping[str, Any]) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The columns of a table of classes, key -> heading, and the classes that images have.

    The worst classes come first: by average precision with several labels per image, else by F1.
    """
    shown = [c for c in record["per_class"] if c["support"]]
    columns = {key: head for key, head in _COLUMNS.items() if key in record["per_class"][0]}
    by = "average_precision" if "average_precision" in columns else "f1"
    return columns, sorted(shown, key=lambda c: (c[by], -c["support"]))


def _classes(record: Mapping[str, Any]) -> Iterator[str]:
    columns, shown = rank_classes(record)
    first = f"LABEL ({_CLASSES} weakest)" if len(shown) > _CLASSES else "LABEL"
    yield f"{first:<28}" + "".join(f"{heading.upper():>10}" for heading in columns.values())
    for c in shown[:_CLASSES]:
        yield fit(c["label"], 28) + "".join(f"{format_number(k, c[k]):>10}" for k in columns)


def _answers(record: Mapping[str, Any]) -> Iterator[str]:
    """Confusions and curves of the scores, with one label per image."""
    if record["confused"]:
        yield ""
        yield f"{'RIGHT LABEL':<34}{'ANSWERED':<34}{'IMAGES':>10}"
        for pair in record["confused"][:_PAIRS]:
            yield fit(pair["label"], 34) + fit(pair["answer"], 34) + f"{pair['images']:>10,}"
    yield ""
    yield f"{'RELIABILITY: MEAN SCORE':<34}{'RIGHT':>10}{'IMAGES':>10}"
    for b in record["reliability"]["curve"]:
        yield f"{b['confidence']:<34.3f}{_percent(b['accuracy']):>10}{b['images']:>10,}"
    yield ""
    yield f"{'ANSWERING THE SURE ONES: SHARE':<34}{'WRONG':>10}{'MIN SCORE':>12}"
    for point in record["risk_coverage"]:
        share, wrong = _percent(point["coverage"]), _percent(point["risk"])
        yield f"{share:<34}{wrong:>10}{point['score']:>12.3f}"


def format_number(name: str, value: float | None) -> str:
    """A metric or a number of one class as people read it."""
    if value is None:
        return "-"
    if name in ("support", "answers"):
        return f"{value:,}"
    return f"{value:.3f}" if name in ("nll", "threshold") else f"{100 * value:.1f} %"


def _percent(value: float) -> str:
    return format_number("", value)
