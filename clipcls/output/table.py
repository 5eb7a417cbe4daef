"""A table for people: one line per image, columns in line, written as the results come."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import click

from clipcls.errors import printable
from clipcls.output.writer import Writer
from clipcls.predictions import UNKNOWN

_SHOWN = 5  # labels of a set


class TableWriter(Writer):
    """Writes path, label, score and the runners-up; in colour on a terminal, unless NO_COLOR.

    Inputs that could not be read have no line here: they are reported on stderr.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        is_terminal = stream.isatty()
        columns = shutil.get_terminal_size().columns if is_terminal else 100
        self._width = max(20, min(60, columns // 2))
        self._has_colour = is_terminal and not os.environ.get("NO_COLOR")

    def format(self, record: Mapping[str, Any]) -> str:
        """One line, and more for an explanation."""
        if "error" in record:
            return ""
        path = fit(record["path"], self._width)
        if "rank" in record:
            return f"{record['rank']:>4}  {path}  {record['similarity']:.3f}\n"
        if "questions" not in record:
            return "\n".join([f"{path}  {self._format_answer(record)}", *_explain(record)]) + "\n"
        answers = record["questions"].items()
        line = "  ".join(f"{name}: {self._format_answer(answer)}" for name, answer in answers)
        reasons = (f"    {q}{text}" for q, answer in answers for text in _explain(answer))
        return "\n".join([f"{path}  {line}", *reasons]) + "\n"

    def _format_answer(self, record: Mapping[str, Any]) -> str:
        """The labels of one answer, those that it might have been, and the prediction set."""
        if "labels" in record:
            return self._format_labels(record)
        names = record.get("lineage") or [record["label"]]
        label = fit(" > ".join(names), 30 if "lineage" in record else 20)
        line = _add_score(self._colour(label, record["label"]), record, "  ")
        top = record.get("top", ())
        others = [_add_score(printable(c["label"]), c) for c in top[record["label"] != UNKNOWN :]]
        line += f"  ({', '.join(others)})" if others else ""
        if "set" in record:
            shown = [printable(name) for name in record["set"]]
            more = [f"{len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
            line += f"  {{{', '.join([*shown[:_SHOWN], *more])}}}"
        return line

    def _format_labels(self, record: Mapping[str, Any]) -> str:
        """The labels with their scores; if there are none, the best one in brackets."""
        if not record["labels"]:
            best = record.get("best")
            nearest = f"  ({_add_score(printable(best['label']), best)})" if best else ""
            return self._colour(UNKNOWN, UNKNOWN) + nearest
        return ", ".join(
            _add_score(self._colour(printable(c["label"]), c["label"]), c) for c in record["labels"]
        )

    def _colour(self, text: str, label: str) -> str:
        colour = "yellow" if label == UNKNOWN else "green"
        return click.style(text, fg=colour) if self._has_colour else text


def _add_score(text: str, record: Mapping[str, Any], gap: str = " ") -> str:
    """The text, then the record's score if that is known."""
    score = record.get("score")
    return text if score is None else f"{text}{gap}{score:.2f}"


def _explain(record: Mapping[str, Any]) -> Iterator[str]:
    """Lines below an answer: the texts, the runner-up, the nearest images, the heat map."""

    def listed(entries: Sequence[Mapping[str, Any]], key: str) -> str:
        return ", ".join(f"{printable(entry[key])} {entry['similarity']:.2f}" for entry in entries)

    if explain := record.get("explain"):
        if explain["texts"]:
            yield f"    texts    {listed(explain['texts'], 'text')}"
        if explain["runner_up"]:
            yield f"    margin   {explain['margin']:.2f} above {printable(explain['runner_up'])}"
        if explain["nearest"]:
            yield f"    nearest  {listed(explain['nearest'], 'path')}"
    if record.get("heatmap"):
        yield f"    heatmap  {printable(record['heatmap'])}"


def fit(text: str, width: int) -> str:
    """Text as exactly `width` columns; a longer one loses its beginning."""
    text = printable(text)
    if len(text) > 4 * width:  # so long that its beginning goes in any case
        text = "…" + text[-3 * width :]
    while _columns(text) > width:
        text = "…" + text[2:]
    return text + " " * (width - _columns(text))


def _columns(text: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
