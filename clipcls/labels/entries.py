"""`Entry`: one label as written in a file or a Python value, unchecked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from clipcls.errors import LabelsError, format_count

FIELDS = {"label": "label", "prompt": "prompts", "synonym": "synonyms"} | {
    name: name for name in ("prompts", "synonyms", "use_templates", "group")
}
"""The keys and columns of a label file, in lower case -> the fields of an `Entry`."""


class Number(str):
    """A number as it was written, without quotes."""

    __slots__ = ()


class Item(NamedTuple):
    """An item of a list, whose key is None, or a pair of a mapping.

    A value is made of strings, lists, mappings, None, bools and `Number`s.
    """

    where: str
    key: object
    value: object


@dataclass(slots=True)
class Entry:
    """One label as it was written; see `Label`.

    Attributes:
        where: the beginning of error messages: `file:line`, or `label 3`.
        label: the name; without `parents` it may be a path, as in `animal > dog`.
        prompts, synonyms: a text, a list of texts, or None.
        group: the question that it is a label of, or None.
    """

    where: str
    label: object
    prompts: object = None
    synonyms: object = None
    parents: tuple[str, ...] | None = None
    use_templates: object = None
    group: object = None


@dataclass(slots=True)
class Parsed:
    """The labels of one file or Python value, and doubts about how they were read."""

    entries: list[Entry]
    warnings: list[str] = field(default_factory=list)

    def read_as(self, source: str, what: str) -> Parsed:
        """Add a warning that says what kind of list the source was read as, if any."""
        if what:
            names = [str(entry.label) for entry in self.entries]
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            count = format_count(len(names), "label")
            self.warnings.insert(0, f"read {source} as {what}: {count}: {shown}")
        return self


def make_entry(item: Item) -> Entry:
    """Make the entry of a list's item (a label or a mapping) or of a `label: prompts` pair.

    Raises:
        LabelsError: the mapping has no label or two, or an unknown key.
    """
    where, key, value = item
    if not isinstance(value, Mapping):
        return Entry(where, value) if key is None else Entry(where, key, value)
    fields = _fields(where, value)
    if key is None and "label" not in fields:
        raise LabelsError(
            f"{where}: an entry of a list needs the key `label`; "
            "for `label: prompt` pairs use a mapping instead of a list"
        )
    if key is not None and "label" in fields:
        raise LabelsError(f"{where}: the key already gives the `label`; leave one out")
    return Entry(where, **(fields if key is None else {"label": key, **fields}))


def _fields(where: str, item: Mapping[Any, Any]) -> dict[str, Any]:
    fields = {}
    for key, value in item.items():
        name = FIELDS.get(str(key).strip().lower())
        if name is None or name in fields:
            problem = "appears twice" if name else "is unknown"
            known = "label, prompts, synonyms, use_templates, group"
            raise LabelsError(f"{where}: the key {key!r} {problem}; use {known}")
        if name == "synonyms" and isinstance(value, str):
            value = split_cell(where, name, value)
        fields[name] = value
    return fields


def split_cell(where: str, what: str, cell: str, label: str = "") -> Sequence[str]:
    """Split a cell at `|`.

    Raises:
        LabelsError: commas or semicolons seem to separate the texts. Prompts may contain commas,
            so in those each part must mention the label.
    """
    if "|" not in cell:
        for mark in ",;":
            parts = [part.strip() for part in cell.split(mark) if part.strip()]
            if len(parts) > 1 and (
                what == "synonyms" or all("{}" in part or label in part for part in parts)
            ):
                raise LabelsError(
                    f"{where}: {cell!r}: {len(parts)} {what}, or one with a {mark} in it? "
                    f"Write {' | '.join(parts)!r} for {len(parts)}, or {cell + '|'!r} for one"
                )
    return [part for part in cell.split("|") if part.strip()]
