"""Read JSON that anyone may have written, edited or damaged, and build dataclasses from it.

Every JSON file that a user can supply goes through `parse_json`, which refuses in one line what
`json` accepts beyond the standard (NaN, repeated keys, half surrogate pairs) and what would fail
later (numbers that overflow, nesting that exhausts the stack).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from clipcls.errors import InputError
from clipcls.files.text import read_text

_DEEPEST = 50  # what clipcls reads has 5 levels at most
_LARGEST_INTEGER = 2**63  # the largest of NumPy, SQLite and Parquet

# An unclosed string extends to the end, which keeps this linear.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+\\?(?:"|\Z)', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

T = TypeVar("T")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; see `parse_json` and `read_text`."""
    return parse_json(read_text(Path(path)), os.fspath(path))


def parse_json(text: str, name: str, *, has_paths: bool = False) -> Any:
    """Parse JSON by RFC 8259, without repeated keys and huge numbers.

    Args:
        text: the whole text.
        name: the file's name, for messages.
        has_paths: allow half surrogate pairs, which stand for bytes in file names (`os.fsdecode`).

    Raises:
        InputError: the text is something else; the message names the reason.
    """
    check_depth(text, name)
    try:
        found = json.loads(
            text,
            object_pairs_hook=unique_keys,
            parse_int=_parse_number,
            parse_float=_parse_number,
            parse_constant=_refuse_constant,
        )
        if not has_paths and _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except json.JSONDecodeError as e:
        line = f":{e.lineno}" if "\n" in text.rstrip() else ""
        raise InputError(f"{name}{line}: is not JSON: {e.msg} (column {e.colno})") from e
    except UnicodeEncodeError as e:
        half = f"half a surrogate pair, {e.object[e.start]!r}"
        raise InputError(f"{name}: has {half}, which is no character") from e
    except ValueError as e:
        raise InputError(f"{name}: {e}") from e
    return found


def check_depth(text: str, name: str) -> None:
    """Refuse JSON whose nesting would exhaust the stack."""
    depth = 0
    if text.count("[") + text.count("{") > _DEEPEST:
        for bracket in re.finditer(r"[\[{\]}]", _STRING.sub("", text)):
            depth += 1 if bracket[0] in "[{" else -1
            if depth > _DEEPEST:
                raise InputError(f"{name}: is nested too deeply (more than {_DEEPEST} levels)")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of pairs, as an `object_pairs_hook` of `json`, but refuse a repeated key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} appears twice in one object; keep one")
    return found


def _parse_number(text: str) -> float:
    is_whole = text.lstrip("-").isdigit()
    # int() is slow for many digits, and refuses thousands.
    number = int(text) if is_whole and len(text) <= 20 else float(text)
    if not abs(number) <= (_LARGEST_INTEGER if is_whole else sys.float_info.max):
        raise ValueError(f"the number {text[:20]}{'...' * (len(text) > 20)} is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null for a missing number")


def build(kind: type[T], data: object) -> T:
    """Build a dataclass from parsed JSON, checking each field's type.

    Fields are str, int, float, bool, Any, dataclasses, or tuples and dicts of these. Unknown keys
    are ignored; fields with a default may be missing. A float may be an int, so that writing it
    again gives the same text.

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
            values[field.name] = _convert(hints[field.name], data[field.name], field.name)
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"`{field.name}` is missing")
    return kind(**values)


def _convert(kind: Any, value: Any, key: str) -> Any:
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind) or kind
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(arguments) == len(value):
            return tuple(_convert(a, v, key) for a, v in zip(arguments, value, strict=True))
    elif origin is dict and isinstance(value, Mapping):
        return {k: _convert(arguments[1], v, f"{key}.{k}") for k, v in value.items()}
    elif dataclasses.is_dataclass(origin) and isinstance(value, Mapping):
        return build(typing.cast(type, origin), value)
    elif kind is Any or type(value) is kind or (kind is float and type(value) is int):
        return value
    raise ValueError(f"`{key}` is not a {_NAMES.get(origin, 'mapping')}")


_NAMES = {str: "text", int: "whole number", float: "number", bool: "boolean"} | {
    tuple: "list of the right length or types"
}
