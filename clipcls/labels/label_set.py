r"""Read labels from a file, a ready set or a Python value into a `LabelSet`.

The same rules hold for every format; doubts become `LabelSet.warnings`:

- A label without text, with a control character, or no label at all is an error. Blank lines and
  rows of blank cells are only spacing.
- A repeated label adds its prompts and synonyms to the first one; without any it is dropped.
- Labels that differ only in case or underscores are kept.
- `animal > dog > pug` is the label `pug` below `dog` below `animal` (see `taxonomy`). Only a `>`
  between white space divides levels; `\>` is part of a name. Labels that share a name are called by
  their whole paths, and told apart in texts as in `crane, a type of bird`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from clipcls.errors import LabelsError, format_count, raising
from clipcls.files.text import canonical, clean, decode, read_text
from clipcls.labels.entries import Entry, Item, Parsed, make_entry
from clipcls.labels.formats import parse_items
from clipcls.labels.names import (
    find_kinds,
    join_levels,
    make_distinct,
    spell_out,
    split_levels,
)
from clipcls.labels.parsers import find_level_names, parse_labels
from clipcls.labels.presets import find_set
from clipcls.predictions import UNKNOWN

if TYPE_CHECKING:
    from clipcls.labels.prompts import PromptSet

log = logging.getLogger("clipcls")

# Labels that only another file explains.
_CODES = {
    "WordNet ids": re.compile(r"n\d{8}"),
    "placeholders": re.compile(r"(?:label|class|cls|category)[_ -]?\d+", re.IGNORECASE),
}


@dataclass(frozen=True, slots=True)
class Label:
    """One class.

    Attributes:
        name: the name in answers, and the first word for the templates.
        prompts: whole texts of its own, in addition to the templates'. One `{}` in a prompt stands
            for the name; other braces are literal.
        synonyms: further words for the templates.
        parents: the names above it in a hierarchy, from the root.
        kind: what texts call it a type of, if another label has the same name; else "".
        use_templates: whether templates are filled with its words; otherwise `prompts` are all its
            texts.
    """

    name: str
    prompts: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    kind: str = ""
    use_templates: bool = True

    @property
    def words(self) -> tuple[str, ...]:
        """The words for the templates: the name, then the synonyms, spelled out."""
        name = f"{self.name}, a type of {self.kind}" if self.kind else self.name
        return tuple(map(spell_out, (name, *self.synonyms)))

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the root to the label."""
        return (*self.parents, self.name)


@dataclass(frozen=True, slots=True)
class LabelSet:
    """At least one label, in the order given, no two with the same path.

    Attributes:
        labels: the classes.
        source: a file's path, a ready set's name, or `labels`.
        levels: the names of a hierarchy's levels, from the root; () if they have none.
        warnings: doubts about the labels, one line each, which whoever makes the set shows.
    """

    labels: tuple[Label, ...]
    source: str = "labels"
    levels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels' names, in order; labels that share a name are called by their paths."""
        return make_distinct([label.path for label in self.labels])

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)


LabelsLike: TypeAlias = (
    "str | os.PathLike[str] | LabelSet | Iterable[str | Label | Mapping[str, Any]] "
    "| Mapping[str, Any]"
)


def make_labels(labels: LabelsLike) -> LabelSet:
    """Make a `LabelSet` from whatever a Python caller has.

    Args:
        labels: a path or a ready set's name (see `read_labels`); labels as strings, `Label`s or
            mappings with the keys `label`, `prompts`, `synonyms`; or a mapping from label to
            None, a prompt, a list of prompts, or a mapping with `prompts` and `synonyms`. A set is
            sorted, so that runs agree on the order of the classes.

    Raises:
        LabelsError: the labels cannot be used; the message says which and why.

    Example:
        >>> make_labels(["cat", "dog"]).names
        ('cat', 'dog')
        >>> make_labels({"cat": {"synonyms": ["kitten"]}, "dog": "my {}"}).labels[1].prompts
        ('my {}',)
        >>> make_labels(["animal > cat", "animal > dog"]).labels[1].path
        ('animal', 'dog')
    """
    if isinstance(labels, LabelSet):
        return labels
    if isinstance(labels, str | os.PathLike):
        return read_labels(labels)
    if isinstance(labels, Mapping):
        pairs = [Item(f"label {key!r}", key, value) for key, value in labels.items()]
        return _build("labels", parse_items("labels", pairs))
    if isinstance(labels, bytes) or not isinstance(labels, Iterable):
        raise LabelsError(f"labels: expected a list of labels, not {labels!r}")
    if isinstance(labels, set | frozenset):
        labels = sorted(labels, key=str)
    entries = [
        Entry(f"label {n}", x.name, x.prompts, x.synonyms, x.parents, x.use_templates)
        if isinstance(x, Label)
        else make_entry(Item(f"label {n}", None, x))
        for n, x in enumerate(labels, 1)
    ]
    return _build("labels", Parsed(entries))


def log_warnings(made: LabelSet | PromptSet, given: object = None) -> None:
    """Log the warnings about labels or templates, unless they were `given` ready-made."""
    if made is not given:
        for warning in made.warnings:
            log.warning("%s", warning)


def read_labels(source: str | os.PathLike[str]) -> LabelSet:
    r"""Read a label file, or the ready set of that name.

    - `.txt` (or `.names`, `.labels`, or no suffix): one label per line. A line that begins with `#`
      is a comment; `#` elsewhere is part of the label; `\#` begins a label with `#`.
    - `.csv`, `.tsv`: the first line names the columns: `label` and, optionally, `prompts`,
      `synonyms` (several per cell separated by `|`), `use_templates` and `group` (see
      `read_label_groups`). Cells are separated by comma, semicolon or tab.
    - `.json`, `.yaml`, `.yml`: a list of labels (or of mappings with `label`, `prompts`,
      `synonyms`, `use_templates`), or a mapping from label to nothing, a prompt, a list of prompts,
      or a mapping with the other keys. Numbers and words such as `yes` are taken as written.

    With `use_templates: no` a label has no texts but its own prompts. `animal > dog > pug` is a
    label in a hierarchy, whose levels a comment `# levels: kind > species > breed` can name in a
    text or YAML file.

    Lists of other tools are recognised, with a warning that says so: YOLO's `data.yaml`, COCO's and
    CVAT's categories, class indices (number -> name, name -> number), `id2label`, class names per
    data set, Lightroom's keywords (indented by tabs), TensorFlow's label maps, numbered lists, and
    lists pasted from code or JSON. Settings and lists of image files are refused.

    Args:
        source: a path or a ready set's name; an existing file wins over a set of its name. `-` is
            standard input.

    Raises:
        LabelsError: no such file or set exists, or it cannot be used; the message names the line.
    """
    groups = read_label_groups(source)
    if len(groups) > 1:
        shown = ", ".join(map(repr, groups))
        raise LabelsError(
            f"{next(iter(groups.values())).source}: has labels of the groups {shown}, each a "
            "question of its own, and one is needed; make a file for each, or remove the groups"
        )
    return next(iter(groups.values()))


@raising(LabelsError)
def read_label_groups(source: str | os.PathLike[str]) -> dict[str, LabelSet]:
    """Read a label file as `read_labels`, in which labels may belong to groups.

    A column or key `group` names the question that a label answers.

    Returns:
        the labels of each group, by its name; "" if the labels have none.

    Raises:
        LabelsError: as `read_labels`, or a label has no group while others have one.
    """
    if source == "-":
        path, ready = Path("standard input"), False
        text = decode(sys.stdin.buffer.read(), str(path))
    else:
        path, ready = find_set("labels", source)
        text = read_text(path)
    name = os.fspath(source) if ready else str(path)
    parsed, levels = parse_labels(path, text), find_level_names(path, text)
    groups: dict[str, Parsed] = {}
    for entry in parsed.entries:
        group = canonical(entry.group) if isinstance(entry.group, str) else ""
        if group not in groups:
            groups[group] = Parsed([], [] if groups else parsed.warnings)
        groups[group].entries.append(entry)
    if len(groups) > 1 and "" in groups:
        where = groups[""].entries[0].where
        raise LabelsError(f"{where}: the label has no group, and others have one; name it")
    groups = groups or {"": parsed}
    return {group: _build(name, part, levels) for group, part in groups.items()}


def _build(source: str, parsed: Parsed, levels: str = "") -> LabelSet:
    """Check and merge the entries by the rules in the module's docstring."""
    warnings = parsed.warnings
    found: dict[tuple[str, ...], tuple[dict[str, None], dict[str, None]]] = {}
    places: dict[tuple[str, ...], str] = {}  # where each node was first written
    alone: dict[tuple[str, ...], str] = {}  # labels without templates, and where
    changes: list[str] = []
    for entry in parsed.entries:
        where = entry.where
        path = _clean_path(entry)
        prompts = _clean_texts(where, "prompt", entry.prompts)
        synonyms = _clean_texts(where, "synonym", entry.synonyms)
        for prompt in prompts:
            if prompt.count("{}") > 1:
                raise LabelsError(
                    f"{where}: the prompt {prompt!r} has {{}} more than once; use it once"
                )
        changes += _describe_changes(entry)
        if not _is_yes(where, entry.use_templates):
            alone[path] = where
        if path in found and not prompts and not synonyms:
            name = join_levels(path)
            warnings.append(f"{where}: the label {name!r} appears twice; one is dropped")
        for depth in range(1, len(path) + 1):
            places.setdefault(path[:depth], where)
        known = found.setdefault(path, ({}, {}))
        known[0].update(dict.fromkeys(prompts))
        known[1].update(dict.fromkeys(word for word in synonyms if word != path[-1]))
    if not found:
        raise LabelsError(
            f"{source}: contains no labels; write at least two (a line that begins with # is a "
            "comment, unless it is written \\#)"
        )
    for path, where in alone.items():
        if not found[path][0]:
            raise LabelsError(f"{where}: without templates {path[-1]!r} needs prompts of its own")
    labels = tuple(
        Label(path[-1], tuple(prompts), tuple(words), path[:-1], kind, path not in alone)
        for (path, (prompts, words)), kind in zip(
            found.items(), find_kinds(list(found)), strict=True
        )
    )
    level_names = _read_level_names(source, levels, max(map(len, found)))
    if changes:
        more = f"; {format_count(len(changes) - 1, 'more text')} likewise" * (len(changes) > 1)
        warnings.append(changes[0] + more)
    warnings += _describe_doubts(source, labels, places)
    return LabelSet(labels, source, level_names, tuple(warnings))


def _describe_doubts(
    source: str, labels: tuple[Label, ...], places: Mapping[tuple[str, ...], str]
) -> Iterator[str]:
    """Warnings about the labels as a whole."""
    spelled: dict[tuple[str, ...], tuple[str, ...]] = {}
    for node, where in places.items():
        first = spelled.setdefault(tuple(spell_out(name).casefold() for name in node), node)
        if first[:-1] == node[:-1] and first != node:
            how = "case" if first[-1].casefold() == node[-1].casefold() else "case or underscores"
            yield f"{where}: {join_levels(first)!r} and {join_levels(node)!r} differ only in {how}"
    if len(labels) == 1:
        yield (
            f"{source}: {labels[0].name!r} is the only label; where one label per image is given, "
            "every image gets it"
        )
    for what, pattern in _CODES.items():
        if not any(la.prompts or la.synonyms or not pattern.fullmatch(la.name) for la in labels):
            cure = "which mean nothing to a model; write their names"
            yield f"{source}: the labels are {what}, {cure}"
    if any(UNKNOWN in label.path for label in labels):
        yield f"{source}: the label {UNKNOWN!r} is also the answer for images with a low score"


def _describe_changes(entry: Entry) -> Iterator[str]:
    """A warning per text of an entry that is read in another spelling."""
    for value in (entry.label, entry.prompts, entry.synonyms):
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and canonical(text) != text.strip():
                yield f"{entry.where}: {text.strip()!a} is read as {canonical(text)!r}"


def _is_yes(where: str, value: object) -> bool:
    """The value of `use_templates`; yes by default."""
    answer = "yes" if value is None else str(value).strip().lower()
    if answer not in ("yes", "true", "1", "y", "no", "false", "0", "n"):
        raise LabelsError(f"{where}: use_templates is yes or no, not {value!r}")
    return answer in ("yes", "true", "1", "y")


def _clean_path(entry: Entry) -> tuple[str, ...]:
    """The names from the root to the label."""
    if entry.parents is not None:
        return tuple(_clean_texts(entry.where, "label", (*entry.parents, entry.label)))
    parts = split_levels(_clean_text(entry.where, "label", entry.label))
    if not all(map(str.strip, parts)):
        raise LabelsError(
            f"{entry.where}: the label {entry.label!r} has a blank level next to a >; "
            "write \\> for a > that is part of a name"
        )
    return tuple(_clean_texts(entry.where, "label", parts))


def _read_level_names(source: str, levels: str, depth: int) -> tuple[str, ...]:
    """The names that a comment gives to the levels of a hierarchy."""
    if not levels or depth == 1:
        return ()
    names = tuple(map(str.strip, split_levels(levels)))
    if len(names) != depth:
        raise LabelsError(
            f"{source}: the comment `levels:` names {len(names)} of {depth} levels; name all"
        )
    if len({name.casefold() for name in names} - {""}) < depth or any(map(str.isdecimal, names)):
        raise LabelsError(
            f"{source}: the comment `levels:` needs a different name for each level, no number"
        )
    return names


def _clean_texts(where: str, what: str, value: object) -> list[str]:
    if isinstance(value, list | tuple):
        return [_clean_text(where, what, item) for item in value]
    return [] if value is None else [_clean_text(where, what, value)]


def _clean_text(where: str, what: str, value: object) -> str:
    if not isinstance(value, str):
        shown = "nothing" if value is None else repr(value)
        raise LabelsError(f"{where}: a {what} must be a text, not {shown}; put it in quotes")
    try:
        text = clean(value)
    except ValueError as e:
        raise LabelsError(f"{where}: the {what} {value!r} {e}") from e
    if not text:
        raise LabelsError(f"{where}: the {what} is blank; write one or remove the entry")
    return text
