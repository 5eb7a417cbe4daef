"""An evaluation for people: the metrics, the weakest classes, what is taken for what, curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clipcls.errors import printable
from clipcls.output.table import fit
from clipcls.output.writer import Writer

__all__ = ["NAMES", "EvaluationTable", "format_cell", "format_metric", "rank_classes"]

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
    yield from _heading(record)
    yield (
        f"model {printable(record['model'])} ({record['weights']}, {record['precision']}), "
        f"prompts {printable(record['prompts'])}"
    )
    yield ""
    yield f"{'':<34}{'':>8}   95 % interval"
    for name, one in record["metrics"].items():
        yield _interval(NAMES[name], *(format_metric(name, one[k]) for k in _ENDS))
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
    images, labels = _count(record["images"], "image"), _count(len(record["per_class"]), "label")
    if "labels_per_image" in record:
        mean = record["labels_per_image"]
        yield f"{images}; {shown:,} of {labels} occur"
        yield (
            f"labels per image: {mean['right']:.2f}; given: {mean['given']:.2f}; "
            f"{_count(record['unknown'], 'image')} given none"
        )
        return
    several = record["with_several_labels"]
    extra = f", {several:,} with several labels" if several else ""
    yield f"{images} of {_count(shown, 'class', 'classes')}{extra}; {labels}"


def _interval(name: str, value: str, low: str, high: str) -> str:
    return f"{fit(name, 34)}{value:>8}   {low:>7} to {high:>7}"


def _comparison(other: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    labels = f", {_count(other['labels'], 'label')}" if "labels" in other else ""
    images = _count(other["images"], "image")
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

    The classes come worst first: by average precision where each label has its own threshold, else
    by F1.
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
        yield fit(c["label"], 28) + "".join(f"{format_cell(k, c[k]):>10}" for k in columns)


def _answers(record: Mapping[str, Any]) -> Iterator[str]:
    """What only one label per image has: confusions and curves of the scores."""
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


def format_metric(name: str, value: float) -> str:
    """A metric of an evaluation as people read it."""
    return f"{value:.3f}" if name == "nll" else _percent(value)


def format_cell(key: str, value: float | None) -> str:
    """A number of one class as people read it: counts, thresholds, else shares."""
    if key in ("support", "answers"):
        return f"{value:,}"
    return f"{value:.3f}" if key == "threshold" else _percent(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
