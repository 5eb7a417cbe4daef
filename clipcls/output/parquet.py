"""Parquet, for pandas, DuckDB and their like: the same records with types, a row an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from clipcls.errors import InputError, install_command
from clipcls.files.text import escape_bytes
from clipcls.predictions import UNKNOWN

__all__ = ["ParquetWriter", "need_pyarrow"]

_ROWS = 4096  # in a row group


class ParquetWriter:
    """Writes every kind of results of `classify` in one schema, so that files can be read as one.

    `label`, `score` and `similarity` are the answer's. Of several labels an image they are the best
    one's, and `labels` holds all. A row group is written when 4,096 rows have gathered; the file is
    whole only with its end. Stray bytes of a path that is not valid UTF-8 are written as \\xNN.

    Raises:
        InputError: pyarrow is missing.
    """

    needs_end = True

    def __init__(self, stream: TextIO) -> None:
        need_pyarrow()
        self._stream = stream
        self._schema = _schema()
        self._file: Any = None
        self._rows: list[dict[str, Any]] = []

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a row."""
        self._rows.append(_row(record))
        if len(self._rows) == _ROWS:
            self._write_group()

    def finish(self) -> None:
        """Writes the last row group, and the file's end."""
        self._write_group()
        self._file.close()

    def _write_group(self) -> None:
        import pyarrow.parquet

        if self._file is None:
            self._file = pyarrow.parquet.ParquetWriter(
                self._stream.buffer, self._schema, compression="zstd"
            )
        rows, self._rows = self._rows, []
        self._file.write_table(pyarrow.Table.from_pylist(rows, self._schema))


def need_pyarrow() -> None:
    """Says before the work whether it can be done.

    Raises:
        InputError: pyarrow is missing.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InputError(f"--format parquet needs pyarrow: {install_command('parquet')}") from error


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    name = pa.dictionary(pa.int32(), text)
    candidate = pa.struct([("label", text), ("score", number), ("similarity", number)])
    alike = [("similarity", number)]
    explain = pa.struct(
        [
            ("texts", pa.list_(pa.struct([("text", text), *alike]))),
            ("runner_up", text),
            ("margin", number),
            ("nearest", pa.list_(pa.struct([("path", text), *alike]))),
        ]
    )
    return pa.schema(
        [
            pa.field("path", text, nullable=False),
            ("label", name),
            ("score", number),
            ("similarity", number),
            ("top", pa.list_(candidate)),
            ("labels", pa.list_(candidate)),
            ("best", candidate),
            ("lineage", pa.list_(text)),
            ("set", pa.list_(text)),
            ("explain", explain),
            ("heatmap", text),
            ("labelled_by", name),
            *((key, name) for key in ("model", "weights", "precision", "prompts")),
            *((key, name) for key in ("calibration", "classifier")),
            ("refined", pa.bool_()),
            ("error", text),
        ]
    )


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    row = dict(_valid(record))
    if "labels" in row:
        best = row["labels"][0] if row["labels"] else {**row["best"], "label": UNKNOWN}
        row |= best
    elif "top" in row:
        row["similarity"] = row["top"][0]["similarity"]
    return row


def _valid(value: Any) -> Any:
    """The same with texts that are UTF-8."""
    if isinstance(value, str):
        return escape_bytes(value)
    if isinstance(value, Mapping):
        return {key: _valid(item) for key, item in value.items()}
    return [_valid(item) for item in value] if isinstance(value, list) else value
