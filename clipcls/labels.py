"""From a label file, a ready set's name or a Python object to a `LabelSet`.

What happens to doubtful lists, in every format:

- blank label, control character in a label, no label at all: `LabelsError` with file and line
  (blank lines of a text file and rows of empty csv cells are only spacing);
- a label given again adds its prompts and synonyms to the first; if it brings none, it is dropped
  with a warning. Labels are compared after Unicode NFC and without outer white space;
- labels that differ in upper and lower case only are kept, with a warning;
- a single label is kept, with a warning: the softmax over one label is 1 for every image;
- the label `unknown` is kept, with a warning: it is also the answer below the least score.

Warnings go through `logging.getLogger("clipcls")`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from clipcls.errors import LabelsError
from clipcls.predictions import UNKNOWN
from clipcls.ready import clean, find_set, numbered, read_text

if TYPE_CHECKING:
    import yaml

__all__ = ["Label", "LabelSet", "make_labels", "read_labels"]

log = logging.getLogger("clipcls")

FIELDS = {"label": "label", "prompt": "prompts", "synonym": "synonyms"} | {
    name: name for name in ("prompts", "synonyms")
}


@dataclass(frozen=True, slots=True)
class Label:
    """One class.

    Attributes:
        name: what the answer says, and the first word for the templates.
        prompts: whole texts of its own, beside the templates'. One `{}` in a prompt stands for
            the name; other braces are themselves.
        synonyms: further words for the templates.
    """

    name: str
    prompts: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """What the templates are filled with: the name, then the synonyms."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels in the order given, no two with the same name, at least one.

    Attributes:
        labels: the classes.
        source: where they are from: a file's path, a ready set's name, or `labels`.
    """

    labels: tuple[Label, ...]
    source: str = "labels"

    @property
    def names(self) -> tuple[str, ...]:
        """The labels' names, in order."""
        return tuple(label.name for label in self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)


@dataclass(slots=True)
class _Entry:
    """One label as it was written: `where` is what an error message begins with."""

    where: str
    label: object
    prompts: object = None
    synonyms: object = None


LabelsLike: TypeAlias = (
    "str | os.PathLike[str] | LabelSet | Iterable[str | Label | Mapping[str, Any]] "
    "| Mapping[str, Any]"
)


def make_labels(labels: LabelsLike) -> LabelSet:
    """A `LabelSet` from whatever a Python caller has.

    Args:
        labels: a path or a ready set's name (see `read_labels`); labels as strings, `Label`s or
            mappings with the keys `label`, `prompts`, `synonyms`; or a mapping from label to
            None, a prompt, a list of prompts, or a mapping with `prompts` and `synonyms`.
            A set is sorted, so that the order of the classes does not change from run to run.

    Raises:
        LabelsError: the labels cannot be used; the message says which and why.

    Example:
        >>> make_labels(["cat", "dog"]).names
        ('cat', 'dog')
        >>> make_labels({"cat": {"synonyms": ["kitten"]}, "dog": "my {} in the park"}).labels[1]
        Label(name='dog', prompts=('my {} in the park',), synonyms=())
    """
    if isinstance(labels, LabelSet):
        return labels
    if isinstance(labels, str | os.PathLike):
        return read_labels(labels)
    if isinstance(labels, Mapping):
        return _build("labels", _from_mapping((f"label {k!r}", k, v) for k, v in labels.items()))
    if isinstance(labels, bytes) or not isinstance(labels, Iterable):
        raise LabelsError(f"labels: expected a list of labels, not {labels!r}")
    if isinstance(labels, set | frozenset):
        labels = sorted(labels, key=str)
    items = enumerate(labels, 1)
    return _build("labels", _from_list((f"label {number}", item) for number, item in items))


def read_labels(source: str | os.PathLike[str]) -> LabelSet:
    r"""Reads a label file, or the ready set of that name.

    - `.txt` (or no suffix): one label a line. A line that begins with `#` is a comment; `#`
      elsewhere is part of the label; `\#` begins a label with `#`.
    - `.csv`: the first line names the columns: `label` and, optionally, `prompt` and `synonyms`,
      several in a cell separated by `|`. Comma, semicolon or tab between cells (`.tsv` too).
    - `.json`, `.yaml`, `.yml`: a list of labels (or of mappings with `label`, `prompts`,
      `synonyms`), or a mapping from label to nothing, a prompt, a list of prompts, or a mapping
      with `prompts` and `synonyms`. Numbers, `yes`, `no` and their like are taken as written.

    Args:
        source: a path or a ready set's name. A file that exists wins over a set of its name.

    Raises:
        LabelsError: there is no such file or set, or it cannot be used; file and line are named.
    """
    path, ready = find_set("labels", source)
    text = read_text(path, "labels")
    suffix = path.suffix.lower()
    readers = {"": _read_txt, ".txt": _read_txt, ".csv": _read_csv, ".tsv": _read_csv}
    readers |= {".json": _read_json, ".yaml": _read_yaml, ".yml": _read_yaml}
    if suffix not in readers:
        known = ", ".join(filter(None, readers))
        raise LabelsError(f"{path}: {suffix} is not a format of label files; use one of {known}")
    name = os.fspath(source) if ready else str(path)
    return _build(name, readers[suffix](str(path), text))


def _read_txt(path: str, text: str) -> Iterator[_Entry]:
    for number, line in numbered(text):
        yield _Entry(f"{path}:{number}", line)


def _read_csv(path: str, text: str) -> Iterator[_Entry]:
    import csv
    import io

    start = len(text) - len(text.lstrip("\n"))
    header = text[start:].partition("\n")[0]
    # Spreadsheets write semicolons where the decimal point is a comma.
    delimiter = max(",;\t", key=header.count)
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True, skipinitialspace=True)
    columns: list[str] = []
    number = 1
    try:
        for row in rows:
            where, number = f"{path}:{number}", rows.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                columns = _columns(where, row)
                continue
            if any(cell.strip() for cell in row[len(columns) :]):
                raise LabelsError(
                    f"{where}: has {len(row)} cells for {len(columns)} columns; "
                    'put a text with a comma in it between " quotes'
                )
            cells = dict(zip(columns, row, strict=False))
            yield _Entry(
                where,
                cells.get("label", ""),
                [text for text in cells.get("prompts", "").split("|") if text.strip()],
                [word for word in cells.get("synonyms", "").split("|") if word.strip()],
            )
    except csv.Error as e:
        raise LabelsError(f"{path}:{number}: is not a csv line: {e}") from e


def _columns(where: str, row: list[str]) -> list[str]:
    """The header's columns by their names here; those that mean nothing keep their own."""
    given = [cell.strip().lower() for cell in row]
    columns = [FIELDS.get(name, f" {name}") for name in given]
    if "label" not in columns:
        raise LabelsError(
            f"{where}: the first line of a csv file must name its columns, `label` among them; "
            "for a plain list of labels use a .txt file"
        )
    if twice := [name for name in given if columns.count(FIELDS.get(name, "")) > 1]:
        raise LabelsError(f"{where}: the column {twice[0]!r} is there twice; keep one")
    if others := [name for name in given if name and name not in FIELDS]:
        log.warning("%s: column %s is not used", where, ", ".join(map(repr, others)))
    return columns


def _read_json(path: str, text: str) -> Iterator[_Entry]:
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
            yield from _from_list(items())
        elif isinstance(top, dict):
            walk = items()
            yield from _from_mapping((where, key, next(walk)[1]) for where, key in walk)
        else:
            raise LabelsError(f"{path}: must be a list of labels, or a mapping from label to texts")
    except json.JSONDecodeError as e:
        raise LabelsError(f"{path}:{e.lineno}: is not JSON: {e.msg} (column {e.colno})") from e
    except RecursionError as e:
        raise LabelsError(f"{path}: is nested too deeply for a list of labels") from e


def _read_yaml(path: str, text: str) -> Iterator[_Entry]:
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
            yield from _from_list((where(node), value(node)) for node in top.value)
        elif isinstance(top, yaml.MappingNode):
            yield from _from_mapping(
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


def _from_list(items: Iterable[tuple[str, object]]) -> Iterator[_Entry]:
    """Entries of a list: each a label, or a mapping that holds one."""
    for where, item in items:
        if isinstance(item, Label):
            yield _Entry(where, item.name, item.prompts, item.synonyms)
        elif isinstance(item, Mapping):
            fields = _fields(where, item)
            if "label" not in fields:
                raise LabelsError(
                    f"{where}: an entry of a list needs the key `label`; "
                    "for `label: prompt` pairs use a mapping instead of a list"
                )
            yield _Entry(where, **fields)
        else:
            yield _Entry(where, item)


def _from_mapping(items: Iterable[tuple[str, object, object]]) -> Iterator[_Entry]:
    """Entries of a mapping from label to nothing, prompts, or prompts and synonyms."""
    numbers = True
    entry = None
    for where, label, item in items:
        if isinstance(item, Mapping):
            fields = _fields(where, item)
            if "label" in fields:
                raise LabelsError(f"{where}: `label` is given by the key already; leave one out")
            entry = _Entry(where, label, **fields)
        else:
            entry = _Entry(where, label, item)
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
        name = FIELDS.get(str(key).strip().lower())
        if name is None or name in fields:
            what = "is there twice" if name else "is not known"
            raise LabelsError(f"{where}: the key {key!r} {what}; use label, prompts, synonyms")
        fields[name] = value
    return fields


def _build(source: str, entries: Iterable[_Entry]) -> LabelSet:
    """Cleans and merges the entries; the rules are in the module's docstring."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    folded: dict[str, str] = {}
    for entry in entries:
        name = _text(entry.where, "label", entry.label)
        prompts = _texts(entry.where, "prompt", entry.prompts)
        synonyms = _texts(entry.where, "synonym", entry.synonyms)
        for prompt in prompts:
            if prompt.count("{}") > 1:
                raise LabelsError(
                    f"{entry.where}: the prompt {prompt!r} has {{}} more than once; use it once"
                )
        first = folded.setdefault(name.casefold(), name)
        if name not in found and first != name:
            log.warning("%s: %r and %r differ in case only", entry.where, first, name)
        if name in found and not prompts and not synonyms:
            log.warning("%s: the label %r is there already; dropped", entry.where, name)
        known = found.setdefault(name, ({}, {}))
        known[0].update(dict.fromkeys(prompts))
        known[1].update(dict.fromkeys(word for word in synonyms if word != name))
    if not found:
        raise LabelsError(f"{source}: there are no labels in it; write at least two")
    if len(found) == 1:
        log.warning("%s: %r is the only label, so every image gets it", source, *found)
    if UNKNOWN in found:
        log.warning(
            "%s: the label %r is also the answer for images below the least score", source, UNKNOWN
        )
    return LabelSet(
        tuple(Label(name, tuple(texts), tuple(words)) for name, (texts, words) in found.items()),
        source,
    )


def _texts(where: str, what: str, value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [_text(where, what, item) for item in value]
    return [_text(where, what, value)]


def _text(where: str, what: str, value: object) -> str:
    if not isinstance(value, str):
        shown = (
            {True: "true", False: "false", None: "nothing"}.get(value)
            if (value is None or isinstance(value, bool))
            else repr(value)
        )
        raise LabelsError(f"{where}: a {what} must be a text, not {shown}; put it between quotes")
    try:
        text = clean(value)
    except ValueError as e:
        raise LabelsError(f"{where}: the {what} {value!r} {e}") from e
    if not text:
        raise LabelsError(f"{where}: the {what} is blank; write one or remove the entry")
    return text
