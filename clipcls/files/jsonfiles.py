"""Read JSON that anyone may have written, edited or damaged, and build dataclasses from it.

Every JSON file that a user can hand over goes through `parse_json`. It refuses in one line what
`json` accepts beyond the standard (NaN, keys given twice, half surrogate pairs) and what would
otherwise fail later with an error of its own (numbers that overflow, nesting that exhausts the
stack).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from clipcls.errors import ClipclsError, InputError
from clipcls.files.text import read_text

__all__ = ["build", "check_depth", "parse_json", "read_json", "unique_keys"]

_DEEPEST = 50  # what clipcls reads has 5 levels at most
_LARGEST_INTEGER = 2**63  # what NumPy, SQLite and Parquet hold

# One that is not closed goes on to the end, so that this takes linear time.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+\\?(?:"|\Z)', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

T = TypeVar("T")


def read_json(path: str | os.PathLike[str], error: type[ClipclsError] = InputError) -> Any:
    """Read a JSON file; see `parse_json`.

    Raises:
        error: the file cannot be read, or is not JSON; the message names file and reason.
    """
    return parse_json(read_text(Path(path), error), os.fspath(path), error)


def parse_json(
    text: str, name: str, error: type[ClipclsError] = InputError, *, has_paths: bool = False
) -> Any:
    """Parse JSON as RFC 8259 has it, without keys given twice and without huge numbers.

    Args:
        text: the whole text.
        name: what messages begin with.
        error: what to raise.
        has_paths: allow half surrogate pairs, which stand for bytes in names of files
            (`os.fsdecode`).

    Raises:
        error: the text is something else; the message names the reason.
    """
    check_depth(text, name, error)
    try:
        found = json.loads(
            text,
            object_pairs_hook=unique_keys,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
        if not has_paths and _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except json.JSONDecodeError as e:
        line = f":{e.lineno}" if "\n" in text.rstrip() else ""
        raise error(f"{name}{line}: is not JSON: {e.msg} (column {e.colno})") from e
    except UnicodeEncodeError as e:
        half = e.object[e.start]
        raise error(f"{name}: holds half a surrogate pair, {half!r}, which is no character") from e
    except ValueError as e:
        raise error(f"{name}: {e}") from e
    return found


def check_depth(text: str, name: str, error: type[ClipclsError] = InputError) -> None:
    """Refuse JSON that is nested so deeply that to walk through it exhausts the stack.

    Raises:
        error: it is.
    """
    if text.count("[") + text.count("{") <= _DEEPEST:
        return
    depth = 0
    for bracket in re.finditer(r"[\[{\]}]", _STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > _DEEPEST:
            raise error(f"{name}: is nested too deeply (more than {_DEEPEST} levels)")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of these pairs, as an `object_pairs_hook` of `json`.

    Raises:
        ValueError: a key appears twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} appears twice in one object; keep one")
    return found


def _integer(text: str) -> int:
    # Python refuses to convert many digits, and takes long to convert fewer.
    if len(text) > 20 or abs(number := int(text)) > _LARGEST_INTEGER:
        raise ValueError(f"the number {_shorten(text)} is too large")
    return number


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {_shorten(text)} is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null for a missing number")


def _shorten(text: str) -> str:
    return text if len(text) <= 25 else f"{text[:20]}..."


def build(kind: type[T], data: object) -> T:
    """Build a dataclass from parsed JSON, checking each field's type.

    Lists become tuples where the field is one. Keys that are no fields are ignored; fields with a
    default may be missing. A float may be an int, so that what is written again is the same text.

    Args:
        kind: a dataclass whose fields are str, int, float, bool, Any, dataclasses, or tuples and
            dicts of these.
        data: what the JSON holds.

    Raises:
        ValueError: a field is missing or has another type; the message names it.

    Example:
        >>> from clipcls.predictions import Candidate
        >>> build(Candidate, {"label": "cat", "score": 1, "similarity": 0.3})
        Candidate(label='cat', score=1, similarity=0.3)
    """
    if not isinstance(data, Mapping):
        raise ValueError("expected an object")
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in data:
            values[field.name] = _converted(hints[field.name], data[field.name], field.name)
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"`{field.name}` is missing")
    return kind(**values)


def _converted(kind: Any, value: Any, key: str) -> Any:
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind) or kind
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(arguments) == len(value):
            return tuple(_converted(a, v, key) for a, v in zip(arguments, value, strict=True))
    elif origin is dict and isinstance(value, Mapping):
        return {k: _converted(arguments[1], v, f"{key}.{k}") for k, v in value.items()}
    elif dataclasses.is_dataclass(origin) and isinstance(value, Mapping):
        return build(typing.cast(type, origin), value)
    elif kind is Any or type(value) is kind or (kind is float and type(value) is int):
        return value
    raise ValueError(f"`{key}` is no {_NAMES.get(origin, 'object')}")


_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"} | {
    tuple: "list of the right length or types",
    dict: "object",
}
