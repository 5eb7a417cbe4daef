"""Comma- or tab-separated values, and the sidecar with their provenance.

The sidecar is `FILE-metadata.json`, as in the W3C's "CSV on the Web".
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from clipcls.errors import InputError, printable
from clipcls.files.jsonfiles import read_json
from clipcls.files.text import escape_bytes, guard, read_table
from clipcls.output.columns import find_further, flatten, usual_columns
from clipcls.output.writer import Writer
from clipcls.predictions import to_record
from clipcls.questions import find_questions, nest_columns, provenance_columns


class CsvWriter(Writer):
    r"""Writes a header and the rows of each record (see `columns.flatten`).

    Text that a spreadsheet would run as a formula is guarded (see `files.text.guard`). Stray bytes
    of a path that is not valid UTF-8 are written as \xNN; on a terminal control characters too.

    Args:
        stream: a text file.
        columns: the columns; default: `usual_columns` of the first row.
        delimiter: between cells.
        bom: whether to begin with a byte order mark, by which Excel recognises UTF-8.
        provenance: of the records; default: that of the first.
    """

    def __init__(
        self,
        stream: TextIO,
        columns: Sequence[str] | None = None,
        *,
        delimiter: str = ",",
        bom: bool = False,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(stream)
        self.provenance = dict(provenance or {})
        self._columns = columns
        self._delimiter = delimiter
        self._bom = bom
        self._rows: Any = None
        self._is_terminal = stream.isatty()

    def add(self, item: Any) -> None:
        """Write the row or rows of a record."""
        record = to_record(item)
        for row in flatten(record):
            if not self.provenance:
                names = provenance_columns(record.get("questions", ()))
                self.provenance = {key: row[key] for key in names if key in row}
            columns = self._columns = self._columns or usual_columns(row)
            if self._rows is None:
                self._begin(columns)
            self._rows.writerow([self._cell(row.get(name, "")) for name in columns])

    def finish(self) -> None:
        """Write the header if there was no record."""
        if self._rows is None and self._columns is not None:
            self._begin(self._columns)

    def describe(self, file: Path) -> bytes:
        """The content of the file's sidecar; b"" without provenance."""
        if not self.provenance:
            return b""
        content = {
            "@context": "http://www.w3.org/ns/csvw",
            "url": file.name,
            "dialect": {"delimiter": self._delimiter},
            "notes": [self.provenance],
        }
        return f"{json.dumps(content, indent=1, default=str)}\n".encode()

    def _begin(self, columns: Sequence[str]) -> None:
        if self._bom:
            self._stream.write("\ufeff")
        self._rows = csv.writer(self._stream, delimiter=self._delimiter, lineterminator="\n")
        self._rows.writerow(columns)

    def _cell(self, value: object) -> object:
        if not isinstance(value, str):
            return value
        # Python's writer would leave \r bare: half a row.
        value = guard(escape_bytes(value).replace("\r", "\\r"))
        return printable(value) if self._is_terminal else value


def metadata_path(file: str | os.PathLike[str]) -> Path:
    """The sidecar of a csv or tsv file; of a link, that of its target."""
    return Path(f"{os.path.realpath(file)}-metadata.json")


def read_csv(
    text: str, name: str, question: str | None = None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of results, each with its place for messages; one without a label is an error.

    Raises:
        InputError: while iterating: it is no csv, or one of something else.
    """
    table = read_table(text, name, exact=True)
    questions = find_questions(table.columns, question)
    if "path" not in table.columns or not (questions or "label" in table.columns):
        raise InputError(
            f"{name}: is neither JSON nor a csv with the columns path and "
            f"{question or 'label'}; make it with "
            "`clipcls classify -f jsonl`"
        )
    further = find_further(filter(None, table.columns), questions)
    provenance = {} if name == "stdin" else _read_provenance(name, questions)
    for where, cells in table.rows:
        row = {key: value for key, value in cells.items() if value and not _is_missing(key, value)}
        record = nest_columns({**provenance, **row}, questions)
        is_answered = "label" in record or "questions" in record
        found = record if is_answered else {"error": "has no label", **row}
        yield where, {**dict.fromkeys(further), **found}


def _read_provenance(file: str, questions: Iterable[str]) -> dict[str, Any]:
    """The provenance in the sidecar of a csv or tsv file; {} without one."""
    try:
        (notes,) = read_json(metadata_path(file))["notes"]
        columns = provenance_columns(questions)
        # A table's columns have no case.
        return {key.lower(): notes[key] for key in notes if key.lower() in columns}
    except (InputError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_missing(column: str, cell: str) -> bool:
    """Whether R or a spreadsheet left the cell blank."""
    return cell in ("NA", "#N/A") and bool(
        re.search(r"^error$|(^|_)(similarity|score)(_\d+)?$", column)
    )
