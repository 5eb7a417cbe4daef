"""Template sets, and the texts that they make of labels."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clipcls.errors import PromptsError
from clipcls.labels import LabelSet, read_labels
from clipcls.ready import ReadySet, describe, find_set, ready_sets
from clipcls.textfiles import clean, numbered, read_text

__all__ = [
    "NONE_TEXTS",
    "PromptSet",
    "class_texts",
    "list_label_sets",
    "list_prompts",
    "make_prompts",
    "read_prompts",
]

log = logging.getLogger("clipcls")

NONE_TEXTS = (
    "a photo.",
    "an image.",
    "a picture of something.",
    "a photo of an object.",
    "a photo of a thing.",
    "a photo of a scene.",
    "a photo of a place.",
    "a photo of a person.",
    "a photo of an animal.",
    "a photo of a plant.",
    "a photo of a texture.",
    "a photo of a building.",
    "a photo of a vehicle.",
    "a photo of food.",
    "a photo of a tool.",
    "a photo of furniture.",
    "a photo of clothing.",
    "a photo of a landscape.",
    "a photo of the background.",
    "a blurry photo.",
    "a drawing.",
    "a document.",
    "a screenshot.",
    "a photo of nothing in particular.",
    "a pattern.",
)
"""What an image may show that has none of the labels: the texts of the class `none of these`."""


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Templates in the order given, each with exactly one `{}`.

    Attributes:
        name: a ready set's name, a file's path as it was given, or `custom`.
        templates: the templates.
    """

    name: str
    templates: tuple[str, ...]

    def fill(self, word: str) -> list[str]:
        """The templates with the word in them.

        Example:
            >>> PromptSet("two", ("a photo of a {}.", "a {} in a video game.")).fill("cat")
            ['a photo of a cat.', 'a cat in a video game.']
        """
        return [template.replace("{}", word) for template in self.templates]


def make_prompts(prompts: str | os.PathLike[str] | Iterable[str] | PromptSet) -> PromptSet:
    """A `PromptSet` from whatever a Python caller has.

    Args:
        prompts: a path or a ready set's name (see `read_prompts`), or templates as strings.

    Raises:
        PromptsError: the templates cannot be used; the message says which and why.
    """
    if isinstance(prompts, PromptSet):
        return prompts
    if isinstance(prompts, str | os.PathLike):
        return read_prompts(prompts)
    items = enumerate(prompts, 1)
    return _build("custom", ((f"template {number}", item) for number, item in items))


def read_prompts(source: str | os.PathLike[str]) -> PromptSet:
    r"""Reads a template file, or the ready set of that name.

    One template a line with exactly one `{}` for the label and no other braces; a line that begins
    with `#` is a comment (`\#` begins a template with `#`). A template given twice counts once,
    with a warning through `logging`.

    Args:
        source: a path or a ready set's name. A file that exists wins over a set of its name.

    Raises:
        PromptsError: there is no such file or set, or it cannot be used; file and line are named.
    """
    path, ready = find_set("templates", source)
    lines = numbered(read_text(path, PromptsError))
    name = os.fspath(source) if ready else str(path)
    return _build(name, ((f"{path}:{number}", line) for number, line in lines))


def _build(name: str, lines: Iterable[tuple[str, str]]) -> PromptSet:
    templates: dict[str, None] = {}
    for where, line in lines:
        if not isinstance(line, str):
            raise PromptsError(f"{where}: must be a text, not {line!r}")
        try:
            template = clean(line)
        except ValueError as e:
            raise PromptsError(f"{where}: the template {line!r} {e}") from e
        count = template.count("{}")
        if count != 1:
            raise PromptsError(
                f"{where}: the template {template!r} has {{}} {count or 'no'} times; "
                "write it exactly once, where the label goes"
            )
        if re.search("[{}]", template.replace("{}", "")):
            raise PromptsError(
                f"{where}: the template {template!r} has other braces than one {{}}; remove them"
            )
        if template in templates:
            log.warning("%s: the template %r is there already; dropped", where, template)
        templates[template] = None
    if not templates:
        raise PromptsError(
            f"{name}: there are no templates in it; write one a line, such as: a photo of a {{}}."
        )
    return PromptSet(name, tuple(templates))


def class_texts(labels: LabelSet, prompts: PromptSet) -> list[tuple[str, ...]]:
    """All texts of each class: templates x (name and synonyms), then the label's own prompts.

    Returns:
        One tuple of texts a label, in the labels' order; no text twice in one class.

    Example:
        >>> from clipcls.labels import make_labels
        >>> labels = make_labels({"cat": {"synonyms": "kitten"}, "dog": "my {} asleep"})
        >>> class_texts(labels, PromptSet("one", ("a photo of a {}.",)))
        [('a photo of a cat.', 'a photo of a kitten.'), ('a photo of a dog.', 'my dog asleep')]
    """
    return [
        tuple(
            dict.fromkeys(
                [
                    *(text for word in label.words for text in prompts.fill(word)),
                    *(prompt.replace("{}", label.name) for prompt in label.prompts),
                ]
            )
        )
        for label in labels
    ]


def list_prompts() -> list[ReadySet]:
    """The ready template sets: name, number of templates, description."""
    return [
        ReadySet(name, len(read_prompts(path).templates), _description(path))
        for name, path in ready_sets("templates").items()
    ]


def list_label_sets() -> list[ReadySet]:
    """The ready label sets: name, number of labels, description."""
    return [
        ReadySet(name, len(read_labels(path)), _description(path))
        for name, path in ready_sets("labels").items()
    ]


def _description(path: Path) -> str:
    return describe(path.read_text(encoding="utf-8"))
