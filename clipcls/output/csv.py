"""Comma- or tab-separated values: a record's rows, as `tables.flatten` makes them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from clipcls.errors import printable
from clipcls.files.text import escape_bytes, guard
from clipcls.output.columns import PROVENANCE, describe_provenance, flatten, usual_columns

__all__ = ["CsvWriter"]


class CsvWriter:
    r"""Writes a header and the rows of each record.

    A text that a spreadsheet would run as a formula is guarded (see `textfiles.guard`). Stray bytes
    of a path that is not valid UTF-8 are written as \xNN; on a terminal control characters too.

    Args:
        stream: a text file.
        columns: the columns; default: `usual_columns` of the first row.
        delimiter: between cells.
        bom: whether to begin with a byte order mark, by which Excel knows UTF-8.
        provenance: what made the records; default: what the first of them says.
    """

    needs_end = False

    def __init__(
        self,
        stream: TextIO,
        columns: Sequence[str] | None = None,
        *,
        delimiter: str = ",",
        bom: bool = False,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.provenance = dict(provenance or {})
        self._stream = stream
        self._columns = columns
        self._delimiter = delimiter
        self._bom = bom
        self._rows: csv.DictWriter[str] | None = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds its row or rows, handed to the system at once."""
        if not self.provenance:
            self.provenance = {key: record[key] for key in PROVENANCE if key in record}
        for row in flatten(record):
            if self._rows is None:
                self._rows = self._begin(self._columns or usual_columns(row))
            cells = {key: _cell(value) for key, value in row.items()}
            if self._stream.isatty():
                cells = {
                    key: printable(value) if isinstance(value, str) else value
                    for key, value in cells.items()
                }
            self._rows.writerow(cells)
        self._stream.flush()

    def finish(self) -> None:
        """Writes the header where there was no record."""
        if self._rows is None and self._columns is not None:
            self._begin(self._columns)

    def describe(self, file: Path) -> bytes:
        """What the sidecar of the file says; b"" where there is nothing to say."""
        if not self.provenance:
            return b""
        return describe_provenance(file, self.provenance, self._delimiter)

    def _begin(self, columns: Sequence[str]) -> csv.DictWriter[str]:
        if self._bom:
            self._stream.write("\ufeff")
        rows = csv.DictWriter(
            self._stream,
            columns,
            restval="",
            extrasaction="ignore",
            delimiter=self._delimiter,
            lineterminator="\n",
        )
        rows.writeheader()
        return rows


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    value = escape_bytes(value)
    value = value.replace("\r", "\\r")  # Python's writer would leave it bare: half a row
    return guard(value)
