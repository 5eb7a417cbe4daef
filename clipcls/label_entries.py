"""From labels as they are written, in a file or as Python values, to an `Entry` each.

An entry says what is written and where; whether it can be a label is for `labels` to say.
Warnings go through `logging.getLogger("clipcls")`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcls.errors import LabelsError
from clipcls.textfiles import numbered, read_table

if TYPE_CHECKING:
    import yaml

__all__ = [
    "Entry",
    "entries_of_file",
    "entries_of_mapping",
    "entry_of_item",
    "levels_comment",
]

log = logging.getLogger("clipcls")

_FIELDS = {"label": "label", "prompt": "prompts", "synonym": "synonyms"} | {
    name: name for name in ("prompts", "synonyms")
}

_LEVELS = re.compile(r"^\s*#+\s*levels:(.*)$", re.MULTILINE | re.IGNORECASE)


@dataclass(slots=True)
class Entry:
    """One label as it was written; what is not a text is still in it as it came.

    Attributes:
        where: what an error message begins with: `file:line`, or as in `label 3`.
        label: the name; without `parents` it may be a path, as in `animal > dog`.
        prompts, synonyms: a text, a list of them, or None.
        parents: the names above it, from the root; None: those in `label`.
    """

    where: str
    label: object
    prompts: object = None
    synonyms: object = None
    parents: tuple[str, ...] | None = None


def entries_of_file(path: Path, text: str) -> Iterator[Entry]:
    """A label file's entries, in order; its suffix says how it is read (see `read_labels`).

    Args:
        path: the file, for its suffix and for messages; it is not opened.
        text: what it holds, with `\\n` for newlines.

    Raises:
        LabelsError: at once, if the suffix is none of a label file's; from the iterator, if the
            text does not fit the format, with file and line.
    """
    suffix = path.suffix.lower()
    readers = {"": _read_txt, ".txt": _read_txt, ".csv": _read_csv, ".tsv": _read_csv}
    readers |= {".json": _read_json, ".yaml": _read_yaml, ".yml": _read_yaml}
    if suffix not in readers:
        known = ", ".join(filter(None, readers))
        raise LabelsError(f"{path}: {suffix} is not a format of label files; use one of {known}")
    return readers[suffix](str(path), text)


def levels_comment(path: Path, text: str) -> str:
    """What follows `# levels:` in a label file; "" without it, and in formats without comments."""
    comment = _LEVELS.search(text) if path.suffix.lower() not in (".csv", ".tsv", ".json") else None
    return comment[1] if comment else ""


def _read_txt(path: str, text: str) -> Iterator[Entry]:
    for number, line in numbered(text):
        yield Entry(f"{path}:{number}", line)


def _read_csv(path: str, text: str) -> Iterator[Entry]:
    table = read_table(text, path, LabelsError)
    columns = _columns(table.where, table.columns) if table.columns else {}
    for where, row in table.rows:
        cells = {columns[name]: cell for name, cell in row.items() if name in columns}
        yield Entry(
            where,
            cells.get("label", ""),
            [text for text in cells.get("prompts", "").split("|") if text.strip()],
            [word for word in cells.get("synonyms", "").split("|") if word.strip()],
        )


def _columns(where: str, given: tuple[str, ...]) -> dict[str, str]:
    """What each of the header's columns is here, without those that mean nothing."""
    columns = {name: _FIELDS[name] for name in given if name in _FIELDS}
    if "label" not in columns.values():
        raise LabelsError(
            f"{where}: the first line of a csv file must name its columns, `label` among them; "
            "for a plain list of labels use a .txt file"
        )
    meant = [_FIELDS[name] for name in given if name in _FIELDS]
    if twice := [name for name in columns if meant.count(columns[name]) > 1]:
        raise LabelsError(f"{where}: the column {twice[0]!r} appears twice; keep one")
    if others := [name for name in given if name and name not in _FIELDS]:
        log.warning("%s: column %s is not used", where, ", ".join(map(repr, others)))
    return columns


def _read_json(path: str, text: str) -> Iterator[Entry]:
    import json

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r} is twice in one entry; keep one")
        return found

    # Numbers come back as they were written: 1.50 is the label "1.50".
    decoder = json.JSONDecoder(
        object_pairs_hook=pairs, parse_int=str, parse_float=str, parse_constant=str
    )
    space = re.compile(r"[\s,:]*")

    def items() -> Iterator[tuple[str, Any]]:
        """(`where`, value) of each value of the top level; the text is known to be right."""
        at = space.match(text).end() + 1  # type: ignore[union-attr]
        while text[at := space.match(text, at).end()] not in "]}":  # type: ignore[union-attr]
            where = f"{path}:{text.count(chr(10), 0, at) + 1}"
            try:
                value, at = decoder.raw_decode(text, at)
            except ValueError as e:
                raise LabelsError(f"{where}: {e}") from e
            yield where, value

    if not text.strip():
        return
    try:
        # Only for its errors, with line and column; then value by value, to know each one's line
        # and to see keys that are there twice.
        top = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
        if isinstance(top, list):
            for where, value in items():
                yield entry_of_item(where, value)
        elif isinstance(top, dict):
            walk = items()
            yield from entries_of_mapping((where, key, next(walk)[1]) for where, key in walk)
        else:
            raise LabelsError(f"{path}: must be a list of labels, or a mapping from label to texts")
    except json.JSONDecodeError as e:
        raise LabelsError(f"{path}:{e.lineno}: is not JSON: {e.msg} (column {e.colno})") from e
    except RecursionError as e:
        raise LabelsError(f"{path}: is nested too deeply for a list of labels") from e


def _read_yaml(path: str, text: str) -> Iterator[Entry]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Makes nodes only: they keep what was written, line by line, and keys that come twice.

        Aliases are refused, since a few of them can stand for a billion texts.
        """

        depth = 0

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            if self.check_event(yaml.AliasEvent):
                raise yaml.MarkedYAMLError(None, None, "aliases (*name) are not supported", mark)
            if self.depth > 4:
                raise yaml.MarkedYAMLError(None, None, "too deeply nested for labels", mark)
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    def where(node: yaml.Node) -> str:
        return f"{path}:{node.start_mark.line + 1}"

    def value(node: yaml.Node) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [value(item) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            found = {
                value(key) if isinstance(key, yaml.ScalarNode) else "": item
                for key, item in node.value
            }
            if len(found) < len(node.value):
                raise LabelsError(f"{where(node)}: a key is twice in one entry; keep one")
            return {key: value(item) for key, item in found.items()}
        empty = getattr(node, "style", None) is None and node.value.lower() in ("", "~", "null")
        return None if empty else node.value

    try:
        top = yaml.compose(text, Loader)
        if top is None:
            return
        if isinstance(top, yaml.SequenceNode):
            for node in top.value:
                yield entry_of_item(where(node), value(node))
        elif isinstance(top, yaml.MappingNode):
            yield from entries_of_mapping(
                (
                    where(key),
                    key.value if isinstance(key, yaml.ScalarNode) else value(key),
                    value(v),
                )
                for key, v in top.value
            )
        else:
            raise LabelsError(
                f"{where(top)}: must be a list of labels, or a mapping from label to texts"
            )
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f":{mark.line + 1}" if mark else ""
        column = f" (column {mark.column + 1})" if mark else ""
        raise LabelsError(f"{path}{line}: is not YAML for labels: {e.problem}{column}") from e
    except yaml.reader.ReaderError as e:
        number = text.count("\n", 0, e.position) + 1
        raise LabelsError(
            f"{path}:{number}: is not YAML: it has the character {chr(e.character)!r}"
        ) from e


def entry_of_item(where: str, item: object) -> Entry:
    """The entry of an item of a list: a label, or a mapping that holds one.

    Raises:
        LabelsError: the mapping has no label, or a key that is not known.
    """
    if not isinstance(item, Mapping):
        return Entry(where, item)
    fields = _fields(where, item)
    if "label" not in fields:
        raise LabelsError(
            f"{where}: an entry of a list needs the key `label`; "
            "for `label: prompt` pairs use a mapping instead of a list"
        )
    return Entry(where, **fields)


def entries_of_mapping(items: Iterable[tuple[str, object, object]]) -> Iterator[Entry]:
    """Entries of a mapping from label to nothing, prompts, or prompts and synonyms.

    Args:
        items: (what an error message begins with, label, what the mapping has for it).

    Raises:
        LabelsError: a mapping for a label has the key `label`, or one that is not known.
    """
    numbers = True
    entry = None
    for where, label, item in items:
        if isinstance(item, Mapping):
            fields = _fields(where, item)
            if "label" in fields:
                raise LabelsError(f"{where}: `label` is given by the key already; leave one out")
            entry = Entry(where, label, **fields)
        else:
            entry = Entry(where, label, item)
        numbers = numbers and str(label).strip().isdecimal() and isinstance(item, str)
        yield entry
    if entry and numbers:
        log.warning(
            "%s: the labels are numbers and the names beside them are taken for prompts; "
            "write a plain list of the names to have them as labels",
            entry.where,
        )


def _fields(where: str, item: Mapping[Any, Any]) -> dict[str, Any]:
    fields = {}
    for key, value in item.items():
        name = _FIELDS.get(str(key).strip().lower())
        if name is None or name in fields:
            what = "is there twice" if name else "is not known"
            raise LabelsError(f"{where}: the key {key!r} {what}; use label, prompts, synonyms")
        fields[name] = value
    return fields
