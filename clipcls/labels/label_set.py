r"""From a label file, a ready set's name or a Python object to a `LabelSet`.

What happens to doubtful lists, in every format (a warning is one of `LabelSet.warnings`):

- blank label, control character in a label, no label at all: `LabelsError` with file and line
  (blank lines of a text file and rows of empty csv cells are only spacing);
- a label given again adds its prompts and synonyms to the first; if it brings none, it is dropped
  with a warning. Labels are compared after Unicode NFC and without outer white space;
- labels that differ in upper and lower case or underscores only are kept, with a warning;
- a single label is kept, with a warning: the softmax over one label is 1 for every image;
- the label `unknown` is kept, with a warning: it is also the answer below the least score;
- `animal > dog > pug` is the label `pug` below `dog` below `animal` (see `taxonomy`). Only a `>`
  with white space on both sides divides; `\>` there is a `>` that does not; one at an end is part
  of a name, with a warning. A blank level is an error. The same name
  may stand in several places; labels that share one are named by their whole paths and told apart
  in texts as in `crane, a type of bird`. That a name is above another in one place and below it
  in another is kept, with a warning.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from clipcls.errors import LabelsError
from clipcls.files.text import canonical, clean, decode, describe_change, read_text
from clipcls.labels.entries import Entry, Item, Parsed, make_entry
from clipcls.labels.formats import parse_items
from clipcls.labels.names import (
    find_kinds,
    join_levels,
    make_distinct,
    spell_out,
    split_unescaped,
    unescape,
)
from clipcls.labels.parsers import find_level_names, parse_labels
from clipcls.labels.presets import find_set
from clipcls.predictions import UNKNOWN

if TYPE_CHECKING:
    from clipcls.labels.prompts import PromptSet

__all__ = ["Label", "LabelSet", "LabelsLike", "log_warnings", "make_labels", "read_labels"]

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
        name: what the answer says, and the first word for the templates.
        prompts: whole texts of its own, beside the templates'. One `{}` in a prompt stands for
            the name; other braces are themselves.
        synonyms: further words for the templates.
        parents: the names above it in a hierarchy, from the root; () where there is none.
        kind: what texts say it is a type of, where another label has the same name; else "".
        use_templates: whether templates are filled with its words; if not, `prompts` are all its
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
        """The names from the root, its own the last."""
        return (*self.parents, self.name)


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels in the order given, no two with the same path, at least one.

    Attributes:
        labels: the classes.
        source: where they are from: a file's path, a ready set's name, or `labels`.
        levels: the names of a hierarchy's levels, from the root; () where they have none.
        warnings: what is doubtful about the labels and how they were read, one line each. Whoever
            makes the set tells the user (see `log_warnings`); classifiers take it as it is.
    """

    labels: tuple[Label, ...]
    source: str = "labels"
    levels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels' names, in order; those that share one are named by their paths."""
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
    """Log what is doubtful about labels or templates, unless they were `given` as they are."""
    if made is not given:
        for warning in made.warnings:
            log.warning("%s", warning)


def read_labels(source: str | os.PathLike[str]) -> LabelSet:
    r"""Reads a label file, or the ready set of that name.

    - `.txt` (or `.names`, `.labels`, or no suffix): one label per line. A line that begins with `#`
      is a comment; `#` elsewhere is part of the label; `\#` begins a label with `#`.
    - `.csv`: the first line names the columns: `label` and, optionally, `prompts`, `synonyms`
      (several in a cell separated by `|`) and `use_templates`. Comma, semicolon or tab between
      cells (`.tsv` too).
    - `.json`, `.yaml`, `.yml`: a list of labels (or of mappings with `label`, `prompts`,
      `synonyms`, `use_templates`), or a mapping from label to nothing, a prompt, a list of prompts,
      or a mapping with the others of these keys. Numbers, `yes`, `no` and their like are taken as
      written.

    `use_templates: no` leaves a label with its own prompts alone.

    Lists of other tools are read as what they are, with a warning that says so: YOLO's `data.yaml`,
    COCO's and CVAT's categories, class indices (number -> name, name -> number), `id2label`, class
    names per dataset, Lightroom's keywords (indented by tabs), tables, numbered lists, and lists
    pasted from code or JSON. Settings and lists of image files are refused.

    In all of them `animal > dog > pug` is a label in a hierarchy, whose levels a comment line
    `# levels: kind > species > breed` can name in a text or YAML file.

    Args:
        source: a path or a ready set's name. A file that exists wins over a set of its name. `-` is
            standard input.

    Raises:
        LabelsError: there is no such file or set, or it cannot be used; file and line are named.
    """
    if source == "-":
        path, ready = Path("standard input"), False
        text = decode(sys.stdin.buffer.read(), str(path), LabelsError)
    else:
        path, ready = find_set("labels", source)
        text = read_text(path, LabelsError)
    name = os.fspath(source) if ready else str(path)
    return _build(name, parse_labels(path, text), find_level_names(path, text))


def _build(source: str, parsed: Parsed, levels: str = "") -> LabelSet:
    """Cleans and merges the entries; the rules are in the module's docstring."""
    warnings = parsed.warnings
    found: dict[tuple[str, ...], tuple[dict[str, None], dict[str, None]]] = {}
    folded: dict[tuple[str, ...], tuple[str, ...]] = {}
    above: set[tuple[str, str]] = set()
    changed: list[str] = []
    alone: dict[tuple[str, ...], str] = {}  # labels without templates, and where they are
    for entry in parsed.entries:
        path = _clean_path(entry, warnings)
        prompts = _clean_texts(entry.where, "prompt", entry.prompts)
        synonyms = _clean_texts(entry.where, "synonym", entry.synonyms)
        for prompt in prompts:
            if prompt.count("{}") > 1:
                raise LabelsError(
                    f"{entry.where}: the prompt {prompt!r} has {{}} more than once; use it once"
                )
        changed += _describe_changes(entry)
        if not _is_yes(entry.where, entry.use_templates):
            alone[path] = entry.where
        warnings += _describe_slips(entry.where, path, folded, above)
        if path in found and not prompts and not synonyms:
            name = join_levels(path)
            warnings.append(f"{entry.where}: the label {name!r} appears twice; one is dropped")
        known = found.setdefault(path, ({}, {}))
        known[0].update(dict.fromkeys(prompts))
        known[1].update(dict.fromkeys(word for word in synonyms if word != path[-1]))
    if not found:
        raise LabelsError(
            f"{source}: contains no labels; write at least two (a line that begins with # is a "
            "comment, unless it is written \\#)"
        )
    if changed:
        count = len(changed) - 1
        more = f"; {count:,} more text{'s' * (count > 1)} likewise" if count else ""
        warnings.append(changed[0] + more)
    for path, where in alone.items():
        if not found[path][0]:
            raise LabelsError(f"{where}: without templates {path[-1]!r} needs prompts of its own")
    labels = tuple(
        Label(path[-1], tuple(prompts), tuple(words), path[:-1], kind, path not in alone)
        for (path, (prompts, words)), kind in zip(
            found.items(), find_kinds(list(found)), strict=True
        )
    )
    level_names = _level_names(source, levels, max(map(len, found)))
    warnings += _describe_doubts(source, labels)
    return LabelSet(labels, source, level_names, tuple(warnings))


def _describe_doubts(source: str, labels: tuple[Label, ...]) -> Iterator[str]:
    """Warnings about the list as a whole."""
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
        yield (
            f"{source}: the label {UNKNOWN!r} is also the answer for images below the least score"
        )


def _describe_changes(entry: Entry) -> Iterator[str]:
    """A warning per text of an entry that is read in another spelling."""
    for value in (entry.label, entry.prompts, entry.synonyms):
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and (change := describe_change(text)):
                yield f"{entry.where}: {text.strip()!r} is read as {canonical(text)!r} ({change})"


def _is_yes(where: str, value: object) -> bool:
    """The value of `use_templates`; yes by default."""
    said = "yes" if value is None else str(value).strip().lower()
    if said in ("yes", "true", "1", "y"):
        return True
    if said in ("no", "false", "0", "n"):
        return False
    raise LabelsError(f"{where}: use_templates is yes or no, not {value!r}")


def _clean_path(entry: Entry, warnings: list[str]) -> tuple[str, ...]:
    """The names from the root to the label."""
    if entry.parents is not None:
        return tuple(_clean_texts(entry.where, "label", (*entry.parents, entry.label)))
    text = _clean_text(entry.where, "label", entry.label)
    parts = split_unescaped(text)
    if text.startswith("> ") or text.endswith(" >"):
        warnings.append(f"{entry.where}: the > at an end of {text!r} is taken for part of a name")
    if not all(part.strip() for part in parts):
        raise LabelsError(
            f"{entry.where}: the label {entry.label!r} has a blank level beside a >; "
            "write \\> for a > that is part of a name"
        )
    return tuple(unescape(_clean_text(entry.where, "label", part)) for part in parts)


def _describe_slips(
    where: str,
    path: tuple[str, ...],
    folded: dict[tuple[str, ...], tuple[str, ...]],
    above: set[tuple[str, str]],
) -> Iterator[str]:
    """Nodes that differ in case only, and names that are above and below each other."""
    for depth in range(1, len(path) + 1):
        node = path[:depth]
        first = folded.setdefault(tuple(spell_out(name).casefold() for name in node), node)
        if first != node:
            one, other = join_levels(first), join_levels(node)
            how = "case" if one.casefold() == other.casefold() else "case or underscores"
            yield f"{where}: {one!r} and {other!r} differ in {how} only"
            break
    for upper, lower in itertools.combinations(path, 2):
        if upper != lower and (upper, lower) not in above:
            above.add((upper, lower))
            if (lower, upper) in above:
                yield f"{where}: {upper!r} is above {lower!r} here and below it before"


def _level_names(source: str, levels: str, depth: int) -> tuple[str, ...]:
    """The names that a comment gives to the levels of a hierarchy."""
    if not levels or depth == 1:
        return ()
    names = tuple(name.strip() for name in split_unescaped(levels))
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
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [_clean_text(where, what, item) for item in value]
    return [_clean_text(where, what, value)]


def _clean_text(where: str, what: str, value: object) -> str:
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
