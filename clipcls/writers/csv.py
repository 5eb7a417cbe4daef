"""Comma-separated values: the same records, flat."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from clipcls.labels import written
from clipcls.predictions import UNKNOWN
from clipcls.textfiles import guard

__all__ = ["EXPLAINED", "CsvWriter"]

# Of an explanation, in a table of one row an image.
EXPLAINED = ("runner_up", "margin", "text", "text_similarity", "nearest", "nearest_similarity")


class CsvWriter:
    """Writes a header and a row a record; where an image has several labels, a row each.

    The best label's similarity and the runners-up become columns of their own (`similarity`,
    `label_2`, `score_2`, `similarity_2`, ...); a set of labels is joined by `|`, a lineage by ` > `
    as in a label file; of an explanation come the runner-up, the best text and the nearest image.
    A text that a spreadsheet would run as a formula gets a `'` in front, and one that has such a
    `'` already gets one more. Stray bytes of a path that is not valid UTF-8 are written as \\xNN.
    """

    def __init__(self, stream: TextIO, top: int, extra: tuple[str, ...] = ()) -> None:
        self._stream = stream
        self._top = top
        self._extra = extra
        self._rows: csv.DictWriter[str] | None = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds its row or rows, handed to the system at once."""
        if self._rows is None:
            self._rows = csv.DictWriter(
                self._stream, self._columns(record), restval="", lineterminator="\n"
            )
            self._rows.writeheader()
        for row in _rows(record) if "labels" in record else [_flat(record)]:
            self._rows.writerow({key: _cell(value) for key, value in row.items()})
        self._stream.flush()

    def _columns(self, record: Mapping[str, Any]) -> list[str]:
        if record.keys() & {"rank", "likelier", "labelled_by"}:
            return list(record)
        columns = ["path", "label", "score", "similarity"]
        for rank in range(2, self._top + 1):
            columns += [f"label_{rank}", f"score_{rank}", f"similarity_{rank}"]
        return [*columns, "model", "weights", "precision", "prompts", *self._extra, "error"]


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    row = {key: value for key, value in record.items() if key != "top"}
    if "set" in record:
        row["set"] = "|".join(record["set"])
    if "lineage" in record:
        row["lineage"] = " > ".join(map(written, record["lineage"]))
    if "explain" in record:
        row |= _explanation(row.pop("explain"))
    for rank, candidate in enumerate(record.get("top", ()), start=1):
        if rank == 1:
            row["similarity"] = candidate["similarity"]
        else:
            row.update({f"{key}_{rank}": value for key, value in candidate.items()})
    return row


def _explanation(explain: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `EXPLAINED`."""
    text, *_ = explain["texts"] or [{"text": "", "similarity": ""}]
    image, *_ = explain["nearest"] or [{"path": "", "similarity": ""}]
    return {
        "runner_up": explain["runner_up"],
        "margin": explain["margin"],
        "text": text["text"],
        "text_similarity": text["similarity"],
        "nearest": image["path"],
        "nearest_similarity": image["similarity"],
    }


def _rows(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a label, or one of `unknown` with the best label's score and similarity."""
    rest = {key: value for key, value in record.items() if key not in ("labels", "best")}
    for candidate in record["labels"] or [{**record["best"], "label": UNKNOWN}]:
        yield {**rest, **candidate}


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    value = value.encode(errors="surrogateescape").decode(errors="backslashreplace")
    value = value.replace("\r", "\\r")  # Python's writer would leave it bare: half a row
    return guard(value)
