"""From labels as they are written, in a file or as Python values, to an `Entry` each.

An entry says what is written and where; whether it can be a label is for `labels` to say.
Warnings go through `logging.getLogger("clipcls")`.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcls.errors import LabelsError
from clipcls.files.jsonfiles import check_depth
from clipcls.files.text import numbered, read_table
from clipcls.labels.formats import Entry, Number, recognise_list, recognise_mapping, say
from clipcls.labels.pasted_lists import find_doubt, python_values, recognise_lines

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
    name: name for name in ("prompts", "synonyms", "use_templates")
}

# What other tools call the column of labels, the best first.
_LABEL_COLUMNS = (
    *("display_name", "displayname", "class_name", "classname", "label_name", "name", "labels"),
    *("class", "category", "species", "keyword", "tag", "title"),
)
_NUMBER = re.compile(r"[-+]?\d[\d_]*(?:\.\d*)?(?:[eE][-+]?\d+)?")
_LEVELS = re.compile(r"^\s*#+\s*levels:(.*)$", re.MULTILINE | re.IGNORECASE)


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
    readers = dict.fromkeys(("", ".txt", ".names", ".labels"), _read_txt) | {".pbtxt": _read_pbtxt}
    readers |= {".csv": _read_csv, ".tsv": _read_csv}
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
    lines = list(numbered(text))
    first = lines[0][1] if lines else ""
    cells = [cell.strip(' "').lower() for cell in re.split("[,;\t]", first)]
    if any(map(_RULE.fullmatch, text.split("\n"))) and "|" in first:
        cells = [line.strip("| ").split("|") for _, line in lines if not _RULE.fullmatch(line)]
        written = "\n".join("\t".join(map(str.strip, row)) for row in cells)
        yield from _say_and_give(path, "a table", _read_csv(path, written))
        return
    if re.search(r"^\t+\S", text, re.MULTILINE) and not text.startswith("\t"):
        yield from _say_and_give(path, "a hierarchy indented by tabs", _read_indented(path, text))
        return
    if re.match('"?sep=', first, re.IGNORECASE) or (len(cells) > 1 and set(cells) <= set(_FIELDS)):
        yield from _say_and_give(path, "a table", _read_csv(path, text))
        return
    if _YAML.search(text) or re.match(r"item\s*\{", first):
        yield from (_read_pbtxt if first.startswith("item") else _read_yaml)(path, text)
        return
    what, kept = recognise_lines(lines)
    if "quotes" not in what and _CODE.match(first):
        found = _pasted(path, text, first)
        if found is not None:
            yield from found
            return
    if what:
        say(path, what, [line for _, line in kept])
    try:
        doubt = find_doubt(kept)
    except ValueError as e:
        raise LabelsError(f"{path}: {e}") from e
    if doubt:
        log.warning("%s:%d: %r %s", path, *doubt)
    for number, line in kept:
        yield Entry(f"{path}:{number}", line)


_RULE = re.compile(r"(?=.*--)[-+|: ]+")  # below a table's header, in Markdown and databases


def _read_indented(path: str, text: str) -> Iterator[Entry]:
    """Keywords as Lightroom exports them: indented by tabs, `{synonym}`, `[only a group]`."""
    above: list[str] = []
    found: list[Entry] = []
    parents: set[tuple[str, ...]] = set()
    for number, line in enumerate(text.split("\n"), 1):
        name = line.strip()
        depth = min(len(line) - len(line.lstrip("\t")), len(above))
        if name.startswith("{") and name.endswith("}") and found:
            found[-1].synonyms = [*(found[-1].synonyms or ()), name[1:-1]]  # type: ignore[misc]
        elif name and not name.startswith("#"):
            name = name[1:-1] if name.startswith("[") and name.endswith("]") else name
            above[depth:] = [name]
            parents.add(tuple(above[:depth]))
            found.append(Entry(f"{path}:{number}", name, parents=tuple(above[:depth])))
    return (entry for entry in found if (*(entry.parents or ()), entry.label) not in parents)


# How a list that was pasted from code begins: with a bracket, a quote, `NAMES = [`, `array([` or
# `export const NAMES: string[] = [`.
_CODE = re.compile(r"""[\[{("'“‘]|[\w.]+\s*(?:=\s*)?[\[{(]|[^"'“‘]*[\[{(]\s*(?:["'“‘]|$)""")
_CODE_ONLY = re.compile(r"""[^"'“‘]*(?:=|=>|\w!?(?=\S))\s*[\[{(]\s*(?:["'“‘]|$)|[\[({]\s*["'“‘]""")
# Keys of label files and of YOLO's data.yaml, in text that came by another name or on stdin.
_YAML = re.compile(
    r"^\s*-?\s*(?:label|prompts?|synonyms?):\s|^[^#\n]*:\s*\{\s*(?:prompts?|synonyms?):|"
    r"\A(?=(?s:.*\n)?names:)(?=(?s:.*\n)?(?:nc|train|val|path):)",
    re.MULTILINE,
)


def _pasted(path: str, text: str, first: str) -> Iterator[Entry] | None:
    """Entries of JSON or Python that stands in a text file; None: these are plain lines."""
    import json

    if first[0] in "[{":
        check_depth(text, path, LabelsError)
        with contextlib.suppress(ValueError):
            json.loads(text, parse_int=str)
            return _read_json(path, text, "JSON")
    if (values := python_values(text, path)) is not None:
        return _of_python(path, values)
    if _CODE_ONLY.match(first):
        raise LabelsError(
            f"{path}: begins like a list in code or JSON but is none (a bracket, a quote or a "
            "comma may be missing); write one label per line"
        )
    if first[0] == "[" and text.rstrip().endswith("]") and "," in text:
        return _read_yaml(path, text)  # [cat, hot dog]
    return None


def _of_python(path: str, values: list[tuple[int, Any, Any]]) -> Iterator[Entry]:
    if any(key is not None for _, key, _ in values):
        items = [(f"{path}:{line}", key, value) for line, key, value in values]
        return _of_mapping(path, items, "a mapping in code")
    return _of_list(
        path, [(f"{path}:{line}", value) for line, _, value in values], "a list in code"
    )


def _of_list(path: str, items: Sequence[tuple[str, object]], what: str = "") -> Iterator[Entry]:
    if known := recognise_list(items):
        return _say_and_give(path, known.what, known.entries)
    return _say_and_give(path, what, (entry_of_item(where, item) for where, item in items))


def _of_mapping(
    path: str, items: Sequence[tuple[str, object, object]], what: str = ""
) -> Iterator[Entry]:
    keys = {str(key).strip().lower() for _, key, _ in items}
    if "label" in keys and len(keys) > 1 and keys <= set(_FIELDS):  # one entry, without its list
        return iter([entry_of_item(items[0][0], {key: value for _, key, value in items})])
    if len(items) == 1 and str(items[0][1]).strip().lower() in ("labels", "classes"):
        where, key, below = items[0]
        if isinstance(below, list) and all(isinstance(item, Mapping) for item in below):
            return _of_list(path, [(where, item) for item in below], f"a list under {key!r}")
        if isinstance(below, Mapping) and not set(map(str, below)) & set(_FIELDS):
            pairs = [(where, name, item) for name, item in below.items()]
            return _of_mapping(path, pairs, f"a mapping under {key!r}")
    if known := recognise_mapping(items):
        return _say_and_give(path, known.what, known.entries)
    return _say_and_give(path, what, _labels_with_prompts(items))


def _say_and_give(path: str, what: str, entries: Iterable[Entry]) -> Iterator[Entry]:
    if what:
        entries = list(entries)
        say(path, what, [entry.label for entry in entries])
    return iter(entries)


def _read_pbtxt(path: str, text: str) -> Iterator[Entry]:
    """TensorFlow's label maps: `item { id: 1 name: 'cat' }`, perhaps with a display_name."""
    items = re.findall(r"item\s*\{(.*?)\}", text, re.DOTALL)
    names = [dict(re.findall(r"(\w*name)\s*:\s*[\"'](.*?)[\"']", item)) for item in items]
    found = [Entry(path, known.get("display_name") or known.get("name")) for known in names]
    return _say_and_give(path, "a TensorFlow label map", found)


def _read_csv(path: str, text: str) -> Iterator[Entry]:
    table = read_table(text, path, LabelsError)
    columns = _columns(table.where, table.columns) if table.columns else {}
    for where, row in table.rows:
        cells = {columns[name]: cell for name, cell in row.items() if name in columns}
        label = cells.get("label", "")
        yield Entry(
            where,
            label,
            _divided(where, "prompts", cells.get("prompts", ""), label),
            _divided(where, "synonyms", cells.get("synonyms", "")),
            use_templates=cells.get("use_templates", "").strip() or None,
        )


def _divided(where: str, what: str, cell: str, label: str = "") -> list[str]:
    """The texts of a cell, divided by `|`.

    Raises:
        LabelsError: it seems to be divided by commas or semicolons. Prompts have commas of their
            own: theirs divide where each part mentions the label.
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


def _columns(where: str, given: tuple[str, ...]) -> dict[str, str]:
    """What each of the header's columns is here, without those that mean nothing."""
    columns = {name: _FIELDS[name] for name in given if name in _FIELDS}
    if "label" not in columns.values():
        known = next((name for name in _LABEL_COLUMNS if name in given), None)
        if known is None:
            raise LabelsError(
                f"{where}: no column is named `label`: the first line has "
                f"{', '.join(map(repr, filter(None, given[:5])))}; rename the one that holds the "
                "labels, or write a plain list as a .txt file"
            )
        log.warning("%s: the labels are read from the column %r", where, known)
        columns[known] = "label"
    meant = list(columns.values())
    if twice := [name for name in columns if meant.count(columns[name]) > 1] or [
        name for name in _FIELDS if given.count(name) > 1
    ]:
        raise LabelsError(f"{where}: the column {twice[0]!r} appears twice; keep one")
    if others := [name for name in given if name and name not in columns]:
        log.warning("%s: columns that are not used: %s", where, ", ".join(map(repr, others)))
    return columns


def _read_json(path: str, text: str, what: str = "") -> Iterator[Entry]:
    import json

    check_depth(text, path, LabelsError)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r} is twice in one entry; keep one")
        return found

    # Numbers come back as they were written: 1.50 is the label "1.50".
    decoder = json.JSONDecoder(
        object_pairs_hook=pairs, parse_int=Number, parse_float=Number, parse_constant=Number
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
            yield from _of_list(path, list(items()), what)
        elif isinstance(top, dict):
            walk = items()
            pairs_found = [(where, key, next(walk)[1]) for where, key in walk]
            yield from _of_mapping(path, pairs_found, what)
        else:
            raise LabelsError(f"{path}: must be a list of labels, or a mapping from label to texts")
    except json.JSONDecodeError as e:
        if (values := python_values(text, path)) is not None:
            yield from _of_python(path, values)
            return
        raise LabelsError(f"{path}:{e.lineno}: is not JSON: {e.msg} (column {e.colno})") from e


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
            if self.depth > 20:
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
        if getattr(node, "style", None) is None:
            if node.value.lower() in ("", "~", "null"):
                return None
            if _NUMBER.fullmatch(node.value):
                return Number(node.value)
        return node.value

    try:
        try:
            top = yaml.compose(text, Loader)
        except (ValueError, OverflowError) as e:  # of an escape beyond Unicode, or a huge version
            raise LabelsError(f"{path}: is not YAML: {e}") from e
        if top is None:
            return
        if isinstance(top, yaml.SequenceNode):
            yield from _of_list(path, [(where(node), value(node)) for node in top.value])
        elif isinstance(top, yaml.MappingNode):
            pairs = [
                (where(k), k.value if isinstance(k, yaml.ScalarNode) else value(k), value(v))
                for k, v in top.value
            ]
            yield from _of_mapping(path, pairs)
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
    """Entries of a caller's mapping: from label to nothing, prompts, or prompts and synonyms; or
    one that another tool made, as `class_to_idx`.

    Args:
        items: (what an error message begins with, label, what the mapping has for it).

    Raises:
        LabelsError: a mapping for a label has the key `label`, or one that is not known, or the
            mapping holds settings.
    """
    return _of_mapping("labels", list(items))


def _labels_with_prompts(items: Iterable[tuple[str, object, object]]) -> Iterator[Entry]:
    for where, label, item in items:
        if isinstance(item, Mapping):
            fields = _fields(where, item)
            if "label" in fields:
                raise LabelsError(f"{where}: `label` is given by the key already; leave one out")
            yield Entry(where, label, **fields)
        else:
            yield Entry(where, label, item)


def _fields(where: str, item: Mapping[Any, Any]) -> dict[str, Any]:
    fields = {}
    for key, value in item.items():
        name = _FIELDS.get(str(key).strip().lower())
        if name is None or name in fields:
            what = "appears twice" if name else "is not known"
            known = "label, prompts, synonyms, use_templates"
            raise LabelsError(f"{where}: the key {key!r} {what}; use {known}")
        if name == "synonyms" and isinstance(value, str):
            value = _divided(where, name, value)
        fields[name] = value
    return fields
