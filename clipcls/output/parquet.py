"""Parquet, for pandas, DuckDB and their like: the same records with types, one row per image."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, TextIO, get_args, get_type_hints

import numpy as np

from clipcls.errors import InputError, OutputError, require_extra
from clipcls.files.text import escape_bytes
from clipcls.output.answer_blocks import PlainAnswers
from clipcls.output.columns import find_further
from clipcls.output.json import dump_value
from clipcls.output.writer import Writer
from clipcls.predictions import COLUMNS, PROVENANCE, UNKNOWN, to_record
from clipcls.questions import find_questions, name_column, nest_columns

MAGIC = b"PAR1"
"""How a file begins."""

_ROWS = 4096  # in a row group
_BUFFER = 1 << 18  # bytes of a column that are read at a time
_FEW = 64  # answers that are written faster as records
_REPEATED = ("label", "labelled_by", *PROVENANCE)  # the same text in many rows


class ParquetWriter(Writer):
    r"""Writes all results of `classify` and `tag` in one schema, so that files can be combined.

    `label`, `score` and `similarity` belong to the answer; with several labels per image, to the
    best one, and `labels` holds all. The answers to several questions have the same columns per
    question, named as in a csv. Every 4,096 rows make a row group. Stray bytes of a path that is
    not valid UTF-8 are written as \xNN.

    Args:
        stream: a text file with the attribute `buffer`.
        questions: the questions' names, [] if there is one without a name; default: those of the
            first record that is no error.

    Raises:
        InputError: pyarrow is missing.
    """

    needs_end = True

    def __init__(self, stream: TextIO, questions: Sequence[str] | None = None) -> None:
        super().__init__(stream)
        with require_extra("parquet", "--format parquet"):
            import pyarrow.parquet  # noqa: F401

        self._questions = None if questions is None else [*questions]  # None: a record tells
        self._types: dict[str, Any] = {}  # of further fields in the first row group
        self._made: Any = None
        self._file: Any = None
        self._rows: list[dict[str, Any]] = []
        self._tables: list[Any] = []

    def add(self, item: Any) -> None:
        """Add a row."""
        record = to_record(item)
        if self._questions is None and "error" not in record:
            self._questions = list(record.get("questions", ()))
        self._find_types(record, getattr(item, "kept", None))
        self._rows.append(_row(record))
        if len(self._rows) >= _ROWS and self._questions is not None:
            self._write_group()

    def write_block(self, items: Iterable[Any]) -> None:
        """Add rows, of `PlainAnswers` without an object per row."""
        if not isinstance(items, PlainAnswers) or len(items) < _FEW:
            super().write_block(items)
            return
        self._questions = []
        for kept in items.kept or ():
            self._find_types(kept or {}, kept)
        self._write_rows()
        self._tables.append(_make_table(items, self._schema()))
        if sum(map(len, self._tables)) >= _ROWS:
            self._write_group()

    def finish(self) -> None:
        """Write the last row group, and the file's end."""
        try:
            self._write_group()
        finally:
            if self._file is not None:
                self._file.close()

    def _write_group(self) -> None:
        import pyarrow.parquet

        if self._file is None:
            self._file = pyarrow.parquet.ParquetWriter(
                self._stream.buffer,
                self._schema(),
                compression="zstd",
                use_dictionary=_repeated_columns(self._schema()),
            )
        self._write_rows()
        tables, self._tables = self._tables, []
        self._file.write_table(pyarrow.concat_tables(tables).combine_chunks())

    def _write_rows(self) -> None:
        import pyarrow

        schema = self._schema()
        rows, self._rows = self._rows, []
        if not rows and self._tables:
            return
        for name in self._types:
            if pyarrow.types.is_string(schema.field(name).type):
                rows = [{**row, name: _to_text(row.get(name))} for row in rows]
        try:
            self._tables.append(pyarrow.Table.from_pylist(rows, schema))
        except (pyarrow.ArrowException, OverflowError) as error:
            reason = " ".join(str(error).split())[:200]
            raise OutputError(
                f"parquet: a column has values of several types ({reason}); write csv or jsonl"
            ) from error

    def _find_types(self, record: Mapping[str, Any], kept: Mapping[str, Any] | None) -> None:
        """Learn further fields, and their types as far as they are known."""
        if self._made is None:
            known = getattr(kept, "types", {})
            for name in find_further(record):
                self._types[name] = known.get(name) or self._types.get(name)

    def _schema(self) -> Any:
        """The schema; the rows before the first row group decide about further fields."""
        if self._made is None:
            for name, kind in self._types.items():
                if kind is None:
                    self._types[name] = _infer_type([row.get(name) for row in self._rows])
            self._made = _make_schema(tuple(self._questions or ()), tuple(self._types.items()))
        return self._made


def read_parquet(
    source: str | io.BytesIO, name: str, question: str | None = None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The records of a file, each with its place for messages.

    Raises:
        InputError: while iterating: pyarrow is missing, or the file is cut off or damaged.
    """
    with open_parquet(source, name) as file:
        questions = find_questions(file.schema_arrow.names, question)
        further = find_further(file.schema_arrow.names, questions)
        rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            record = nest_columns({k: v for k, v in row.items() if v is not None}, questions)
            for answer in record.get("questions", {"": record}).values():
                _remove_copies(answer)
            yield f"{name}, row {number}", record | {column: row[column] for column in further}


@contextlib.contextmanager
def open_parquet(source: str | io.BytesIO, name: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`, whose errors in the block name the file.

    Raises:
        InputError: pyarrow is missing, or the file is cut off or damaged.
    """
    with require_extra("parquet", f"{name}: parquet"):
        import pyarrow.parquet

    try:
        # Without these, memory holds a row group's whole columns, and all that has been read.
        with pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER) as file:
            yield file
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: is not a whole parquet file ({reason})") from error


def _to_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else dump_value(value)


def _infer_type(values: Sequence[Any]) -> Any:
    """The type of a column by its first values; text if they have several."""
    import pyarrow

    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {Decimal}:
        return pyarrow.decimal128(38, max(-v.as_tuple().exponent for v in values if v is not None))
    if len(kinds) == 1 or kinds == {int, float}:
        with contextlib.suppress(pyarrow.ArrowException, OverflowError):
            kind = pyarrow.array(values).type
            return kind if "struct<>" not in str(kind) else str  # which parquet cannot hold
    return str


@functools.cache
def _make_schema(questions: tuple[str, ...], types: tuple[tuple[str, Any], ...]) -> Any:
    import pyarrow as pa

    def typed(kind: Any) -> Any:
        if arguments := get_args(kind):
            return pa.list_(typed(arguments[0]))
        if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
            return pa.struct([(name, typed(hint)) for name, hint in get_type_hints(kind).items()])
        return {str: pa.string(), float: pa.float64(), bool: pa.bool_(), int: pa.int64()}[kind]

    def column(name: str) -> Any:
        kind = typed(COLUMNS[name])
        is_name = name in _REPEATED and COLUMNS[name] is str
        return pa.dictionary(pa.int32(), kind) if is_name else kind

    fields = [pa.field(name, column(name), nullable=name != "path") for name in COLUMNS]
    further = [
        pa.field(name, typed(kind) if isinstance(kind, type) else kind) for name, kind in types
    ]
    if not questions:
        return pa.schema([*fields, *further])
    shared = [field for field in fields if field.name in ("path", "error", *PROVENANCE)]
    own = [
        pa.field(name_column(question, field.name), field.type)
        for question in questions
        for field in fields
        if field.name not in ("path", "error")
    ]
    return pa.schema([shared[0], *own, *shared[1:], *further])


def _repeated_columns(schema: Any) -> list[str]:
    """The columns whose texts repeat; a dictionary of the others would only take time."""
    import pyarrow as pa

    return [
        field.name if pa.types.is_dictionary(field.type) else f"{field.name}.list.element.label"
        for field in schema
    ]


def _make_table(answers: PlainAnswers, schema: Any) -> Any:
    """The rows of plain answers."""
    import pyarrow as pa

    n, k = answers.classes.shape
    scores, similarities = np.round(answers.scores, 6), np.round(answers.similarities, 6)
    names = pa.array([*map(str, answers.names), UNKNOWN])
    labels = np.where(answers.sure, answers.classes[:, 0], len(names) - 1)
    top = [names.take(pa.array(answers.classes.ravel())), scores.ravel(), similarities.ravel()]
    found = {
        "path": _make_texts(answers.paths),
        "label": pa.DictionaryArray.from_arrays(pa.array(labels, pa.int32()), names),
        "score": pa.array(scores[:, 0]),
        "similarity": pa.array(similarities[:, 0]),
        "top": pa.ListArray.from_arrays(
            pa.array(np.arange(0, n * k + 1, k), pa.int32()),
            pa.StructArray.from_arrays(list(map(pa.array, top)), ["label", "score", "similarity"]),
        ),
    }
    if answers.nearness is not None:
        found["nearness"] = pa.array(np.round(answers.nearness, 6))
    for name, value in answers.provenance.to_dict().items():
        column = pa.array([value], schema.field(name).type)
        found[name] = column.take(pa.array(np.zeros(n, np.int32)))
    for name in find_further(schema.names) if answers.kept else ():
        cells = [_valid((kept or {}).get(name)) for kept in answers.kept or ()]
        kind = schema.field(name).type
        found[name] = pa.array([*map(_to_text, cells)] if pa.types.is_string(kind) else cells, kind)
    columns = [
        found[field.name].cast(field.type) if field.name in found else pa.nulls(n, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _make_texts(texts: Sequence[str]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return pa.array(map(escape_bytes, texts), pa.string())


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    row = dict(_valid(record))
    for question, answer in row.pop("questions", {}).items():
        row |= {name_column(question, key): value for key, value in _row(answer).items()}
    if "labels" in row:
        row |= row["labels"][0] if row["labels"] else {**row.get("best", {}), "label": UNKNOWN}
    elif row.get("top"):
        row["similarity"] = row["top"][0].get("similarity")
    return row


def _remove_copies(answer: dict[str, Any]) -> None:
    """Remove what `_row` repeats from the labels."""
    copies = ("label", "score", "similarity") if "labels" in answer else ("similarity",)
    if "labels" in answer or "top" in answer:
        for name in copies:
            answer.pop(name, None)


def _valid(value: Any) -> Any:
    """A value with texts that are UTF-8."""
    if isinstance(value, str):
        return escape_bytes(value)
    if isinstance(value, Mapping):
        return {key: _valid(item) for key, item in value.items()}
    return [_valid(item) for item in value] if isinstance(value, list) else value
