"""Template sets, and the texts that they make from labels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from clipcls.errors import PromptsError, raising
from clipcls.files.text import clean, number_lines, read_text
from clipcls.labels.label_set import LabelSet, read_labels
from clipcls.labels.names import fill_template, spell_out
from clipcls.labels.presets import Kind, ReadySet, describe, find_set, list_sets
from clipcls.labels.structured import read_code

TEMPLATE = "a photo of a {}."
"""The template that stands alone where a set would only take longer."""

_LONGEST_NAME = 100  # characters, in every row of a csv
_EVERYDAY = ("imagenet", "scenes", "textures")  # ready label sets of plain names, one per line


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Templates in the order given, each with exactly one `{}` or `{c}` (see `fill_template`).

    Attributes:
        name: a ready set's name, a file's path, or the templates separated by `|` (`custom` if
            that is long).
        templates: the templates.
        warnings: doubts about how they were read, one line each.
    """

    name: str
    templates: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def fill(self, word: str) -> list[str]:
        """The templates with the word in them.

        Example:
            >>> PromptSet("two", ("a photo of a {}.", "the {} in a video game.")).fill("owl")
            ['a photo of an owl.', 'the owl in a video game.']
        """
        return [fill_template(template, word) for template in self.templates]


def make_prompts(prompts: str | os.PathLike[str] | Iterable[str] | PromptSet) -> PromptSet:
    """Make a `PromptSet` from whatever a Python caller has.

    Args:
        prompts: a template with `{}` or `{c}`, or several separated by `|`; a path or a ready set's
            name (see `read_prompts`); or templates as strings.

    Raises:
        PromptsError: the templates cannot be used; the message says which and why.
    """
    if isinstance(prompts, PromptSet):
        return prompts
    if isinstance(prompts, str) and _PLACE.search(prompts) and not os.path.exists(prompts):
        prompts = prompts.split("|")
    if isinstance(prompts, str | os.PathLike):
        return read_prompts(prompts)
    made = _build("custom", [(f"template {n}", item) for n, item in enumerate(prompts, 1)])
    name = " | ".join(made.templates)
    return replace(made, name=name) if len(name) <= _LONGEST_NAME else made


def choose_prompts(model: str) -> PromptSet:
    """The default templates of a model: the set `photo`; for `mini` only `TEMPLATE`.

    Of two templates `mini` makes nearly the same vectors (docs/evidence/labels.md, chosen on
    mini-imagenet, tiny-imagenet and fashion).
    """
    return make_prompts([TEMPLATE] if model == "mini" else "photo")


@raising(PromptsError)
def read_prompts(source: str | os.PathLike[str]) -> PromptSet:
    r"""Read a template file, or the ready set of that name.

    One template per line, with exactly one `{}` for the label, or `{c}` as in published templates,
    whose articles are kept (see `fill_template`), and no other braces. A line that begins with `#`
    is a comment (`\#` begins a template with `#`). A repeated template counts once, with a warning.
    CLIP_benchmark's JSON (`{"dataset": [templates]}`) and lists pasted from code, such as
    open_clip's lambdas, are recognised, with a warning that says so.

    Args:
        source: a path or a ready set's name; an existing file wins over a set of its name.

    Raises:
        PromptsError: no such file or set exists, or it cannot be used; the message names the line.
    """
    path, ready = find_set("templates", source)
    text = read_text(path)
    templates, what = _parse_templates(str(path), text)
    warnings = [f"read {path} as {what}: {len(templates)} templates"] if what else []
    return _build(os.fspath(source) if ready else str(path), templates, warnings)


_PLACE = re.compile(r"\{c?\}")
_BULLET = re.compile(r"[-*•]\s+(.*)")


def _parse_templates(path: str, text: str) -> tuple[list[tuple[str, object]], str]:
    """(`where`, template) of each template, and what the file was read as; "" for a plain list."""
    what, items = read_code(path, text) or ("", [])
    if not any(isinstance(item.value, str | list) for item in items):  # {} and {{}} are templates
        lines = [(f"{path}:{number}", line) for number, line in number_lines(text)]
        bare = [(where, match[1]) for where, line in lines if (match := _BULLET.fullmatch(line))]
        return (bare, "a list with bullets") if len(bare) == len(lines) > 0 else (list(lines), "")
    where, dataset, templates = items[0]
    if dataset is None:
        return [(item.where, item.value) for item in items], what
    if len(items) > 1:
        names = ", ".join(str(item.key) for item in items[:5])
        raise PromptsError(
            f"{path}: has the templates of {len(items)} datasets ({names}...); keep those of one"
        )
    found = templates if isinstance(templates, list) else [templates]
    return [(where, template) for template in found], f"the templates of {dataset!r}"


def _build(name: str, lines: Iterable[tuple[str, object]], doubts: Iterable[str] = ()) -> PromptSet:
    templates: dict[str, None] = {}
    warnings = list(doubts)
    for where, line in lines:
        if not isinstance(line, str):
            raise PromptsError(f"{where}: must be a text, not {line!r}")
        try:
            template = clean(line)
        except ValueError as e:
            raise PromptsError(f"{where}: the template {line!r} {e}") from e
        count = len(_PLACE.findall(template))
        if count != 1:
            raise PromptsError(
                f"{where}: the template {template!r} has {{}} {count or 'no'} times; "
                "write it exactly once, where the label goes"
            )
        if re.search("[{}]", _PLACE.sub("", template)):
            raise PromptsError(
                f"{where}: the template {template!r} has other braces than one {{}}; remove them"
            )
        if template in templates:
            warnings.append(f"{where}: the template {template!r} appears twice; one is dropped")
        templates[template] = None
    if not templates:
        raise PromptsError(
            f"{name}: contains no templates; write one per line, such as: a photo of a {{}}."
        )
    return PromptSet(name, tuple(templates), tuple(warnings))


def make_texts(labels: LabelSet, prompts: PromptSet) -> list[tuple[str, ...]]:
    """All texts of each class: templates x (name and synonyms), then the label's own prompts.

    A label without `use_templates` has only its prompts. Underscores in names become spaces (see
    `spell_out`).

    Returns:
        One tuple of distinct texts per label, in the labels' order.

    Example:
        >>> from clipcls.labels.label_set import make_labels
        >>> labels = make_labels({"cat": {"synonyms": "kitten"}, "dog": "my {} asleep"})
        >>> make_texts(labels, PromptSet("one", ("a photo of a {}.",)))
        [('a photo of a cat.', 'a photo of a kitten.'), ('a photo of a dog.', 'my dog asleep')]
    """
    made = []
    for label in labels:
        words = label.words if label.use_templates else ()
        texts = [text for word in words for text in prompts.fill(word)]
        name = spell_out(label.name)
        texts += [fill_template(p, name) if "{}" in p else p for p in label.prompts]
        made.append(tuple(dict.fromkeys(texts)))
    return made


def everyday_texts(every: int = 1) -> list[str]:
    """One text per everyday name, with which images and labels are compared.

    Args:
        every: take only each such name, for a sample.
    """
    files = list_sets("labels")
    names = (line for name in _EVERYDAY for _, line in number_lines(read_text(files[name])))
    return [fill_template(TEMPLATE, name) for name in [*dict.fromkeys(names)][::every]]


def list_ready_sets(kind: Kind) -> list[ReadySet]:
    """The ready sets of a kind: name, number of labels or templates, description."""

    def count(path: Path) -> int:
        return len(read_labels(path) if kind == "labels" else read_prompts(path).templates)

    return [ReadySet(name, count(path), describe(path)) for name, path in list_sets(kind).items()]
