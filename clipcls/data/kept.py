"""Columns of tables of images that results repeat, such as an id or a price."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipcls.errors import ImageError, InputError

_PLAIN = (str, int, bool)


class Kept(dict[str, Any]):
    """Cells of a table's row that results repeat.

    Attributes:
        types: of the columns, as far as known: str, int, float, bool, or a type of pyarrow.
    """

    def __init__(self, cells: Mapping[str, Any], types: Mapping[str, Any]) -> None:
        super().__init__(cells)
        self.types = types

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, (dict(self), self.types)


class Keep:
    """The columns of tables that results repeat, and their types.

    Args:
        names: of the columns.
        optional: of columns that tables may lack.
        is_shared: whether a table may lack a column that another table has: its cells are empty.
        is_typed: whether values of one column have to have one type, as parquet demands.
        is_named: whether to name the classes that numbers stand for, where a table does so.
        option: that names the columns, for messages.

    Attributes:
        empty: the cells of an image that no table lists.
        is_shared: as given.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        optional: Sequence[str] = (),
        is_shared: bool = False,
        is_typed: bool = False,
        is_named: bool = False,
        option: str = "--keep",
    ) -> None:
        self._optional, self._is_typed, self._is_named = optional, is_typed, is_named
        self.is_shared, self._option = is_shared, option
        self._columns: dict[str, None] = {}  # of all tables
        self._known = {*optional}  # names of columns that a table has, or none needs
        self._classes: Mapping[str, Sequence[str]] = {}  # of the current table
        self._types: dict[str, Any] = {}
        self._first: dict[str, str] = {}  # the table that a type is from
        self.empty = Kept(dict.fromkeys(names), self._types)

    def find(
        self,
        table: str,
        columns: Sequence[str],
        types: Mapping[str, Any],
        classes: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, str]:
        """The table's columns with these names, whatever their case, by the names.

        Args:
            table: the file's name, for messages.
            columns: all of its columns.
            types: of these; None if a column is empty.
            classes: the names that the numbers in a column stand for.

        Raises:
            ImageError: one is missing (see `is_shared`), occurs twice, has bytes, or has another
                type than in an earlier table.
        """
        self._classes = (classes or {}) if self._is_named else {}
        wanted = {
            name: find_column(table, columns, name) for name in (*self.empty, *self._optional)
        }
        self._columns |= dict.fromkeys(columns)
        found = {name: column for name, column in wanted.items() if column is not None}
        if self.is_shared:
            self._known |= found.keys()
        if missing := [name for name in wanted if name not in found and name not in self._known]:
            raise ImageError(table, f"has no column {missing[0]!r}; {self._advise(columns)}")
        for name, column in found.items():
            if (kind := types[column]) is None:
                continue
            if not isinstance(kind, type) and _has_bytes(kind):
                raise ImageError(table, f"{self._option} {name}: it has bytes, no text or numbers")
            kind = str if str(kind) in ("string", "large_string") else kind
            first = self._first.setdefault(name, table)
            if kind != self._types.setdefault(name, kind) and self._is_typed:
                names = [getattr(each, "__name__", each) for each in (kind, self._types[name])]
                raise ImageError(
                    table,
                    f"{self._option} {name}: it is {names[0]} here and {names[1]} in {first}; "
                    "write csv or jsonl, or classify the two apart",
                )
        return found

    def check(self) -> None:
        """Refuse columns that none of the tables has that were looked at.

        Raises:
            InputError: there are some.
        """
        missing = [repr(name) for name in self.empty if name not in self._known]
        if missing and self._columns:
            noun = "column" if len(missing) == 1 else "columns"
            raise InputError(
                f"no table has the {noun} {', '.join(missing)}; {self._advise([*self._columns])}"
            )

    def _advise(self, columns: Sequence[str]) -> str:
        shown = ", ".join(map(repr, columns[:20]))
        return f"choose from these with {self._option}: {shown}"

    def take(self, columns: Mapping[str, str], row: Mapping[str, Any]) -> Kept | None:
        """A row's cells of the columns that `find` found; None if none are to be kept."""
        if not self.empty:
            return None
        cells = {name: _without_nan(row.get(column)) for name, column in columns.items()}
        cells = {**self.empty, **cells}
        for name, column in columns.items():
            if names := self._classes.get(column):
                cells[name] = _name_classes(cells[name], names)
        return Kept(cells, self._types)


def find_column(table: str, columns: Sequence[str], wanted: str) -> str | None:
    """The column of this name, or else the only one that differs in case alone.

    Raises:
        ImageError: several columns have the very same name.
    """
    wanted = wanted.strip()
    found = [each for each in columns if each == wanted]
    found = found or [each for each in columns if each.strip().lower() == wanted.lower()]
    if len(found) > 1 and len({*found}) == 1:
        raise ImageError(table, f"has {len(found)} columns called {found[0]!r}; rename the others")
    return found[0] if len(found) == 1 else None


def find_types(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The type of each field; str if there are several or it is nested, None if all are null."""
    found: dict[str, set[type]] = {}
    for record in records:
        for name, value in record.items():
            found.setdefault(name, set()).add(type(value))
    types: dict[str, Any] = {}
    for name, kinds in found.items():
        kinds.discard(type(None))
        one = float if kinds == {int, float} else next(iter(kinds), None)
        types[name] = one if one in (float, None) or (len(kinds) == 1 and one in _PLAIN) else str
    return types


def column_types(schema: Any) -> dict[str, Any]:
    """The types of the values in a parquet file's columns, however stored; None if all are null."""
    import pyarrow

    views = {pyarrow.string_view(): pyarrow.string(), pyarrow.binary_view(): pyarrow.binary()}
    found = {}
    for column in schema:
        kind = column.type
        while isinstance(kind, pyarrow.DictionaryType | pyarrow.BaseExtensionType):
            kind = getattr(kind, "value_type", None) or kind.storage_type
        found[column.name] = None if pyarrow.types.is_null(kind) else views.get(kind, kind)
    return found


def find_classes(schema: Any) -> dict[str, Sequence[str]]:
    """The names that numbers in the columns of a file by Hugging Face's datasets stand for."""
    found: dict[str, Sequence[str]] = {}
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        for column, feature in info["info"]["features"].items():
            while isinstance(feature, list) or "feature" in feature:  # a list of them
                feature = feature[0] if isinstance(feature, list) else feature["feature"]
            if feature.get("_type") == "ClassLabel":
                found[column] = [str(name) for name in feature["names"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return {}
    return found


def _name_classes(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_name_classes(each, names) for each in value]
    is_number = isinstance(value, int) and value < len(names)
    return value if not is_number else names[value] if value >= 0 else None  # -1: no label


def _has_bytes(kind: Any) -> bool:
    """Whether values of a type have bytes in them."""
    import pyarrow

    types = pyarrow.types
    binary = types.is_binary, types.is_large_binary, types.is_fixed_size_binary
    return any(is_kind(kind) for is_kind in binary) or any(
        _has_bytes(kind.field(number).type) for number in range(kind.num_fields)
    )


def _without_nan(value: Any) -> Any:
    """The value, with None in place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value
