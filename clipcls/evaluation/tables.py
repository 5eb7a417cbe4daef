"""An evaluation for people: the figures, the weakest classes, what is taken for what, curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from clipcls.errors import printable
from clipcls.output.table import fit

__all__ = ["NAMES", "EvaluationTable", "MultiLabelTable", "number"]

NAMES = {
    "accuracy": "accuracy",
    "top5": "a right label among the top 5",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "F1, mean over classes",
    "ece": "calibration error (ECE)",
    "nll": "negative log-likelihood",
    "aurc": "area under risk-coverage",
    "map_macro": "mAP, mean over labels",
    "map_micro": "mAP, all labels in one ranking",
    "f1_macro": "F1, mean over labels",
    "f1_micro": "F1, all labels together",
}
_PLAIN = ("nll", "aurc")  # not shares of images

_CLASSES = 20
_PAIRS = 10


class EvaluationTable:
    """Writes an `Evaluation`'s record as text; the json holds every class, pair and point."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes it, handed to the system at once."""
        for line in _lines(record):
            self._stream.write(line.rstrip() + "\n")
        self._stream.flush()


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    shown = [c for c in record["per_class"] if c["support"]]
    several = record["with_several_labels"]
    yield (
        f"{_count(record['images'], 'image')} of {_count(len(shown), 'class', 'classes')}"
        f"{f', {several:,} with several labels' if several else ''}"
        f"; {_count(len(record['per_class']), 'label')}"
    )
    yield (
        f"model {printable(record['model'])} ({record['weights']}, {record['precision']}), "
        f"prompts {printable(record['prompts'])}"
    )
    yield ""
    yield f"{'':<34}{'':>8}   95 % interval"
    for name, figure in record["figures"].items():
        one, low, high = (number(name, figure[key]) for key in ("value", "low", "high"))
        yield f"{NAMES[name]:<34}{one:>8}   {low:>7} to {high:>7}"

    for level in record.get("levels", ()):
        name = f"right at level {level['level']}"
        if level["name"]:
            name += f" ({printable(level['name'])})"
        one, low, high = (_percent(level[key]) for key in ("value", "low", "high"))
        yield f"{fit(name, 34)}{one:>8}   {low:>7} to {high:>7}"

    if record.get("compare"):
        yield ""
        yield f"{'COMPARED':<34}{'RIGHT':>8}{'MORE':>10}   95 % interval{'p':>10}{'ECE':>9}"
    for other in record.get("compare", ()):
        more, low, high = (100 * other["difference"][key] for key in ("value", "low", "high"))
        yield (
            f"{fit(other['name'], 34)}{_percent(other['accuracy']):>8}{more:>+10.1f}   "
            f"{f'{low:+.1f} to {high:+.1f}':<13}{other['p']:>10.2g}{_percent(other['ece']):>9}"
        )

    yield ""
    shown.sort(key=lambda c: (c["f1"], -c["support"]))
    first = f"LABEL ({_CLASSES} of lowest F1)" if len(shown) > _CLASSES else "LABEL"
    yield f"{first:<34}{'PRECISION':>10}{'RECALL':>10}{'F1':>10}{'IMAGES':>10}"
    for c in shown[:_CLASSES]:
        cells = [_percent(c[key]) for key in ("precision", "recall", "f1")]
        yield (
            fit(c["label"], 34) + "".join(f"{cell:>10}" for cell in cells) + f"{c['support']:>10,}"
        )

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


class MultiLabelTable(EvaluationTable):
    """Writes a `MultiLabelEvaluation`'s record as text; the json holds every label."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes it, handed to the system at once."""
        for line in _multilabel_lines(record):
            self._stream.write(line.rstrip() + "\n")
        self._stream.flush()


def _multilabel_lines(record: Mapping[str, Any]) -> Iterator[str]:
    shown = [c for c in record["per_class"] if c["support"]]
    mean = record["labels_an_image"]
    yield (
        f"{_count(record['images'], 'image')}; {len(shown):,} of "
        f"{_count(len(record['per_class']), 'label')} occur"
    )
    yield (
        f"labels an image: {mean['right']:.2f}; given: {mean['given']:.2f}; "
        f"{_count(record['unknown'], 'image')} given none"
    )
    yield (
        f"model {printable(record['model'])} ({record['weights']}, {record['precision']}), "
        f"prompts {printable(record['prompts'])}"
    )
    yield ""
    yield f"{'':<34}{'':>8}   95 % interval"
    for name, figure in record["figures"].items():
        one, low, high = (_percent(figure[key]) for key in ("value", "low", "high"))
        yield f"{NAMES[name]:<34}{one:>8}   {low:>7} to {high:>7}"

    for other in record.get("compare", ()):
        yield ""
        over = f"{_count(other['images'], 'image')}, {_count(other['labels'], 'label')}"
        yield f"COMPARED: {printable(other['name'])}, on {over}"
        yield f"{'':<34}{'':>8}{'MORE':>10}   {'95 % interval':<16}{'p':>8}"
        for name, one in other["figures"].items():
            more, low, high = (100 * one["difference"][key] for key in ("value", "low", "high"))
            yield (
                f"{NAMES[name]:<34}{_percent(one['value']):>8}{more:>+10.1f}   "
                f"{f'{low:+.1f} to {high:+.1f}':<16}{one['p']:>8.2g}"
            )

    yield ""
    shown.sort(key=lambda c: (c["average_precision"], -c["support"]))
    first = f"LABEL ({_CLASSES} of lowest AP)" if len(shown) > _CLASSES else "LABEL"
    heads = ("AP", "PRECISION", "RECALL", "F1", "THRESHOLD", "IMAGES", "GIVEN")
    yield f"{first:<28}" + "".join(f"{head:>10}" for head in heads)
    for c in shown[:_CLASSES]:
        cells = [_percent(c[key]) for key in ("average_precision", "precision", "recall", "f1")]
        cells += [f"{c['threshold']:.3f}", f"{c['support']:,}", f"{c['answers']:,}"]
        yield fit(c["label"], 28) + "".join(f"{cell:>10}" for cell in cells)


def number(name: str, value: float) -> str:
    """A figure of an evaluation as people read it."""
    return f"{value:.3f}" if name in _PLAIN else _percent(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
