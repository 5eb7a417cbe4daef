"""Recognise the label lists of other tools: what is written, as `Entry`s, and what it was read as.

Mappings and lists come from JSON, YAML, Python or a Python caller. What is recognised is said in
one warning per file. What is neither known nor labels is refused: a label file never silently means
other labels than the ones in it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
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


# Keys under which tools keep the names of classes. The names are a list of texts, a list of
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
    "class_names": "a list under the key `class_names`",
    "classnames": "a list under the key `classnames`",
    "classes": "a list under the key `classes`",
    "labels": "a list under the key `labels`",
}

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
    names = _names([item for _, item in items])
    if names is None or all(isinstance(item, str) for _, item in items):
        return None
    entries = [Entry(where, name) for (where, _), name in zip(items, names, strict=True)]
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
    if names := _indexed(mapping):
        return Known("a mapping between numbers and names", [Entry(where, n) for n in names])
    prompts_only = all(_may_be_prompts(value) for value in mapping.values())
    for key, what in _KEYS.items():
        value = mapping.get(key)
        if value is None or not (names := _names(value)):
            continue
        if prompts_only and len(mapping) > 1 and _may_be_prompts(value):
            continue  # `labels` among labels with prompts
        where = next(where for where, found, _ in items if str(found).strip() == key)
        kept = [name for name in names if name not in _groups(value)]
        if len(kept) < len(names):
            log.warning("%s: categories that only group others are left out", where)
        count = mapping.get("nc")
        if key == "names" and isinstance(count, str) and count != str(len(names)):
            log.warning("%s: there are %d names, but nc is %s", where, len(names), count)
        return Known(what, [Entry(f"{where}, name {n}", name) for n, name in enumerate(kept, 1)])
    if len(mapping) == 1:
        ((only, value),) = mapping.items()
        names = _names(value) if isinstance(value, list) and len(value) > 1 else None
        if names and not _are_prompts_for(only, names) and not any("{" in name for name in names):
            return Known(
                f"the class names of {only!r}",
                [Entry(f"{where}, name {n}", name) for n, name in enumerate(names, 1)],
            )
    for place, name, item in items:
        _refuse_settings(place, str(name).strip(), item)
    if any(map(_DATASET.match, mapping)) and all(map(_names, mapping.values())):
        shown = ", ".join([*mapping][:5])
        raise LabelsError(
            f"{where}: has the names of {len(mapping)} datasets ({shown}); keep those of one"
        )
    if all(map(str.isdecimal, mapping)):
        for number, texts in mapping.items():
            if isinstance(texts, list) and not _are_prompts_for(number, texts):
                raise LabelsError(
                    f"{where}: the keys are numbers, but the prompts of {number} do not hold it; "
                    "write the names as a plain list, or {} in the prompts of a number"
                )
    return None


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
    if key in _SETTINGS and value is not None:
        raise LabelsError(
            f"{where}: {key!r} looks like a setting, not a label; write the labels as a plain list"
        )
    texts = value if isinstance(value, list) else [value]
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


def _names(value: object) -> list[str] | None:
    """The names in a list or a mapping of classes; None: it is neither."""
    if isinstance(value, Mapping):
        return _indexed({str(key).strip(): item for key, item in value.items()})
    if not isinstance(value, list | tuple) or not value:
        return None
    if all(isinstance(item, str) for item in value):
        return list(value)
    own = {"label", "prompt", "prompts", "synonym", "synonyms", "use_templates"}
    if all(
        isinstance(item, Mapping) and isinstance(item.get("name"), str) and not own & set(item)
        for item in value
    ):
        return [item["name"] for item in value]
    return None


def _groups(value: object) -> set[str]:
    """Categories that are only the supercategory of others, as Roboflow writes them."""
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        return set()
    above = {item.get("supercategory") for item in value if item.get("supercategory")}
    return {
        item["name"]
        for item in value
        if item["name"] in above and item.get("supercategory") in (None, "", "none")
    }


def _indexed(mapping: Mapping[str, object]) -> list[str] | None:
    """The names, by number, of a mapping from name to number, or from number to name."""
    values = list(mapping.values())
    if len(mapping) > 1 and all(isinstance(n, str | int) and str(n).isdecimal() for n in values):
        numbers = {key: int(str(value)) for key, value in mapping.items()}
        first = min(numbers.values())
        if first in (0, 1) and sorted(numbers.values()) == [*range(first, first + len(numbers))]:
            return sorted(numbers, key=numbers.__getitem__)
    if not mapping or not all(key.isdecimal() for key in mapping):
        return None
    names = {}
    for key, value in mapping.items():
        if isinstance(value, list) and len(value) == 2 and _WNID.fullmatch(str(value[0])):
            value = value[1]  # Keras' index of ImageNet: {"0": ["n01440764", "tench"]}
        if (
            not isinstance(value, str)
            or isinstance(value, Number)
            or _are_prompts_for(key, [value])
        ):
            return None
        names[int(key)] = value
    return [names[number] for number in sorted(names)]


def _are_prompts_for(key: str, texts: Sequence[object]) -> bool:
    """Whether one of the texts is a prompt for the key: it has it in it, a place for it, or an
    article in front, as names of classes have not.
    """
    word = re.compile(rf"(?:an?|the|my) |.*(?:\{{\}}|(?<!\w){re.escape(key.casefold())}(?!\w))")
    return any(isinstance(text, str) and word.match(text.casefold()) for text in texts)
