"""Recognise the label lists of other tools: what is written, as `Entry`s, and what it was read as.

Mappings and lists come from JSON, YAML, Python or a Python caller. What is recognised is said in
one warning per file. What is neither known nor labels is refused: a label file never silently means
other labels than the ones in it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clipcls.errors import LabelsError

__all__ = [
    "Entry",
    "Known",
    "Number",
    "recognise_list",
    "recognise_mapping",
    "say",
]

log = logging.getLogger("clipcls")


@dataclass(slots=True)
class Entry:
    """One label as it was written; what is not a text is still in it as it came.

    Attributes:
        where: what an error message begins with: `file:line`, or as in `label 3`.
        label: the name; without `parents` it may be a path, as in `animal > dog`.
        prompts, synonyms: a text, a list of them, or None.
        parents: the names above it, from the root; None: those in `label`.
        use_templates: whether templates make texts of it, as written; None: they do.
    """

    where: str
    label: object
    prompts: object = None
    synonyms: object = None
    parents: tuple[str, ...] | None = None
    use_templates: object = None


class Number(str):
    """A number as it was written, not between quotes."""

    __slots__ = ()


class Known(NamedTuple):
    """A list in the format of another tool: what that is, and its labels."""

    what: str
    entries: list[Entry]


# Keys, in lower case, under which tools keep the names of classes: a list of texts, a list of
# mappings with `name`, or a mapping from number to name or from name to number.
_KEYS = {
    "names": "a YOLO dataset",
    "categories": "COCO categories",
    "id2label": "a Hugging Face configuration",
    "label2id": "a Hugging Face configuration",
    "class_to_idx": "a class index",
    "idx_to_class": "a class index",
    "class_indices": "a class index",
    "classification_categories": "MegaDetector categories",
    "detection_categories": "MegaDetector categories",
} | {
    key: f"a list under the key `{key}`"
    for key in ("class_names", "classnames", "thing_classes", "label_names", "classes", "labels")
}
# What tools call a class in an item of a list, and what they add to it.
_NAME_KEYS = ("name", "title", "label", "display_name")
_ADDED_KEYS = frozenset(("id", "index", "color", "colour", "count", "value", "hotkey", "shape"))

# Not `train`, `path`, `model` or `license`, which can be seen in images.
_SETTINGS = frozenset(
    (
        *("nc", "val", "num_classes", "data_dir", "dataset_dir", "output_dir", "image_size"),
        *("imgsz", "epochs", "batch_size", "lr", "lr0", "learning_rate", "optimizer"),
        *("weight_decay", "num_workers", "model_type", "architectures"),
    )
)

# Names in CLIP_benchmark's files that no label has; `cars` and `flowers` stand there, too.
_DATASET = re.compile(r"vtab/|wds/|imagenet|cifar|mnist|voc2007|sun397|food101|fer2013|country211")
_WNID = re.compile(r"n\d{8}")
_PATH = re.compile(r"(\.{0,2}[/\\]|[A-Za-z]:[\\/]|https?://)\S+")
_COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}")
_NUMERIC = re.compile(r"(?P<stem>(?:[A-Za-z]+[_-]?)?)(?P<number>-?\d+(?:\.0)?)")  # 3, LABEL_3, c3


def say(source: str, what: str, names: Sequence[object]) -> None:
    """Say what a list was read as, on one line."""
    shown = ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
    noun = "label" if len(names) == 1 else "labels"
    log.warning("read %s as %s: %d %s: %s", source, what, len(names), noun, shown)


def recognise_list(items: Sequence[tuple[str, object]]) -> Known | None:
    """A list of categories (mappings with `name`), or None.

    Args:
        items: (what an error message begins with, item).
    """
    if not all(isinstance(item, Mapping) for _, item in items):
        return None
    entries = _classes([item for _, item in items])
    if not entries:
        return None
    for (where, _), entry in zip(items, entries, strict=True):
        entry.where = where
    return Known("a list of categories", entries)


def recognise_mapping(items: Sequence[tuple[str, object, object]]) -> Known | None:
    """A mapping that another tool writes, or None: one from labels to prompts, as of a label file.

    Args:
        items: (what an error message begins with, key, value).

    Raises:
        LabelsError: it is neither.
    """
    if not items:
        return None
    where = items[0][0]
    mapping = {str(key).strip(): value for _, key, value in items}
    places = {str(key).strip(): place for place, key, _ in items}
    if entries := _classes(mapping):
        return _known("a mapping between numbers and names", where, entries)
    prompts_only = all(_may_be_prompts(value) for value in mapping.values())
    lower = {key.lower(): key for key in mapping}
    for key, what in _KEYS.items():
        value = mapping.get(lower.get(key, ""))
        if value is None or not (entries := _classes(value)):
            continue
        if prompts_only and len(mapping) > 1 and _may_be_prompts(value):
            continue  # `labels` among labels with prompts
        where = places[lower[key]]
        if len(kept := _without_groups(value, entries)) < len(entries):
            log.warning("%s: categories that only group others are left out", where)
        count = mapping.get("nc")
        if key == "names" and isinstance(count, str) and count != str(len(entries)):
            log.warning("%s: names holds %d names, but nc is %s", where, len(entries), count)
        return _known(what, where, kept)
    if nested := [found for value in mapping.values() for found in _nested(value)]:
        if len(nested) > 1:
            keys = ", ".join(key for key, _ in nested[:5])
            raise LabelsError(f"{where}: has {len(nested)} lists of classes ({keys}); keep one")
        return _known(f"a list under the key `{nested[0][0]}`", where, nested[0][1])
    if len(mapping) == 1:
        ((only, value),) = mapping.items()
        names = value if isinstance(value, list) and len(value) > 1 and _classes(value) else []
        if names and not _are_prompts_for(only, names) and not any("{" in str(n) for n in names):
            return _known(f"the class names of {only!r}", where, _classes(value) or [])
    for place, name, item in items:
        _refuse_settings(place, str(name).strip(), item)
    if any(map(_DATASET.match, mapping)) and all(map(_classes, mapping.values())):
        shown = ", ".join([*mapping][:5])
        raise LabelsError(
            f"{where}: has the names of {len(mapping)} datasets ({shown}); keep those of one"
        )
    if all((match := _NUMERIC.fullmatch(key)) and not match["stem"] for key in mapping):
        for number, texts in mapping.items():
            if texts and not _are_prompts_for(
                number, texts if isinstance(texts, list) else [texts]
            ):
                raise LabelsError(
                    f"{where}: the keys are numbers, but the prompts of {number} do not contain it;"
                    " write the names as a plain list, or {} in the prompts of a number"
                )
    _warn_of_groups(where, mapping)
    return None


def _known(what: str, where: str, entries: list[Entry]) -> Known:
    for number, entry in enumerate(entries, 1):
        entry.where = f"{where}, name {number}"
    return Known(what, entries)


def _nested(value: object) -> Iterator[tuple[str, list[Entry]]]:
    """Lists of classes deeper down, under one of the keys that tools use."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            if str(key).lower() in _KEYS and (entries := _classes(below)):
                yield str(key), entries
            else:
                yield from _nested(below)
    elif isinstance(value, list):
        for item in value:
            yield from _nested(item)


def _warn_of_groups(where: str, mapping: Mapping[str, object]) -> None:
    """A hierarchy that is written as a mapping would be read as labels with prompts."""
    for key, texts in mapping.items():
        if (
            not isinstance(texts, list)
            or not texts
            or _are_prompts_for(key, texts)
            or any("{" in str(text) or len(str(text).split()) > 3 for text in texts)
        ):
            return
    key, texts = next(iter(mapping.items()))
    log.warning(
        "%s: read as labels with their prompts: %r has the prompt %r; if %r is a label below %r, "
        "write it as '%s > %s'",
        *(where, key, texts[0], texts[0], key, key, texts[0]),  # type: ignore[index]
    )


def _refuse_settings(where: str, key: str, value: object) -> None:
    if isinstance(value, Number) or (isinstance(value, int | float) and value not in (True, False)):
        raise LabelsError(
            f"{where}: the value of {key!r} is the number {value}, which is neither a prompt nor "
            "part of a class index (0, 1, 2, ...); write the labels as a plain list"
        )
    if isinstance(value, str) and _PATH.fullmatch(value):
        raise LabelsError(
            f"{where}: the value of {key!r} is the path {value}, which looks like a setting; write "
            "the labels as a plain list"
        )
    if isinstance(value, str) and _COLOUR.fullmatch(value):
        raise LabelsError(
            f"{where}: the value of {key!r} is the colour {value}, not a prompt; write the labels "
            "as a plain list"
        )
    if key in _SETTINGS and value is not None:
        raise LabelsError(
            f"{where}: {key!r} looks like a setting, not a label; write the labels as a plain list"
        )
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, Number) for text in texts):
        raise LabelsError(
            f"{where}: {key!r} has the numbers {', '.join(map(str, texts))}, not prompts; write "
            "the labels as a plain list"
        )
    if any(isinstance(text, str) and "{c}" in text for text in texts):
        raise LabelsError(
            f"{where}: the values of {key!r} are templates: use --prompts for this file"
        )


def _may_be_prompts(value: object) -> bool:
    """Whether it can stand beside a label in a label file."""
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return value is None or (
        isinstance(value, str)
        and not isinstance(value, Number)
        and not re.fullmatch(r"\S*/\S*", value)
    )


def _classes(value: object) -> list[Entry] | None:
    """The classes in a list, or in a mapping between numbers and names; None: it is neither."""
    if isinstance(value, Mapping):
        names = _indexed({str(key).strip(): item for key, item in value.items()})
        return [Entry("", name) for name in names] if names else None
    if not isinstance(value, list | tuple) or not value:
        return None
    if all(isinstance(item, str) for item in value):
        return [Entry("", item) for item in value]
    if not all(isinstance(item, Mapping) for item in value):
        return None
    others = {str(key) for item in value for key in item}
    if others & {"prompt", "prompts", "use_templates"}:
        return None
    for key in _NAME_KEYS:
        if not all(isinstance(item.get(key), str) for item in value):
            continue
        others -= {key, "synonyms"}
        if key == "label" and not (others and others <= _ADDED_KEYS):
            return None  # an entry of a label file
        return [Entry("", item[key], synonyms=item.get("synonyms")) for item in value]
    return None


def _without_groups(value: object, entries: list[Entry]) -> list[Entry]:
    """Without categories that are only the supercategory of others, as Roboflow writes them."""
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        return entries
    groups = (item.get("supercategory") for item in value)
    above = {name for name in groups if isinstance(name, str) and name}
    return [
        entry
        for entry, item in zip(entries, value, strict=True)
        if entry.label not in above or item.get("supercategory") not in (None, "", "none")
    ]


def _indexed(mapping: Mapping[str, object]) -> list[str] | None:
    """The names, by number, of a mapping from name to number, or from number to name."""
    values = list(mapping.values())
    if len(mapping) > 1 and all(isinstance(n, str | int) and str(n).isdecimal() for n in values):
        numbers = {key: int(str(value)) for key, value in mapping.items()}
        first = min(numbers.values())
        if first in (0, 1) and sorted(numbers.values()) == [*range(first, first + len(numbers))]:
            return sorted(numbers, key=numbers.__getitem__)
    keys = [_NUMERIC.fullmatch(key) for key in mapping]
    if not mapping or not all(keys) or len({key["stem"] for key in keys if key}) > 1:
        return None
    names = {}
    for match, (key, value) in zip(keys, mapping.items(), strict=True):
        if isinstance(value, list) and len(value) == 2 and _WNID.fullmatch(str(value[0])):
            value = value[1]  # Keras' index of ImageNet: {"0": ["n01440764", "tench"]}
        if isinstance(value, Mapping):
            value = value.get("name")
        if (
            not isinstance(value, str)
            or isinstance(value, Number)
            or _are_prompts_for(key, [value])
        ):
            return None
        names[float(match["number"])] = value  # type: ignore[index]
    return [names[number] for number in sorted(names)]


def _are_prompts_for(key: str, texts: Sequence[object]) -> bool:
    """Whether one of the texts is a prompt for the key: it has it in it, a place for it, or an
    article in front, as names of classes have not.
    """
    word = re.compile(rf"(?:an?|the|my) |.*(?:\{{\}}|(?<!\w){re.escape(key.casefold())}(?!\w))")
    return any(isinstance(text, str) and word.match(text.casefold()) for text in texts)
