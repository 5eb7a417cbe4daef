"""Recognise the label lists of other tools in what JSON, YAML, Python or a Python caller holds.

A list of classes is a list of texts, a list of mappings with a name, or a mapping between numbers
and names; tools keep one at the top, under one of `_KEYS`, or deeper down under such a key. What is
recognised is said in one warning per file. What is neither known nor labels is refused: a label
file never silently means other labels than the ones in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from clipcls.errors import LabelsError
from clipcls.labels.entries import FIELDS, Entry, Item, Number, Parsed, make_entry

__all__ = ["parse_items"]

# Keys, in lower case, under which tools keep the names of classes, the one to prefer first.
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


def parse_items(source: str, items: Sequence[Item], what: str = "") -> Parsed:
    """The labels of a list or mapping: of a label file, or of another tool.

    Args:
        source: what the warning that says so begins with.
        items: the top level, without its brackets.
        what: what else it was read as, such as `a list in code`.

    Raises:
        LabelsError: it is neither.
    """
    if all(item.key is None for item in items):
        if entries := _find_classes([item.value for item in items], Mapping):
            for item, entry in zip(items, entries, strict=True):
                entry.where = item.where
            return Parsed(entries).read_as(source, "a list of categories")
        return Parsed([make_entry(item) for item in items]).read_as(source, what)
    keys = {str(item.key).strip().lower() for item in items}
    if "label" in keys and len(keys) > 1 and keys <= set(FIELDS):  # one entry, without its list
        fields = {item.key: item.value for item in items}
        return Parsed([make_entry(Item(items[0].where, None, fields))])
    if len(items) == 1 and keys <= {"labels", "classes"}:
        (where, key, below), found = items[0], None
        if isinstance(below, list) and all(isinstance(value, Mapping) for value in below):
            found, what = [Item(where, None, value) for value in below], f"a list under {key!r}"
        elif isinstance(below, Mapping) and not set(map(str, below)) & set(FIELDS):
            found, what = [Item(where, *pair) for pair in below.items()], f"a mapping under {key!r}"
        if found is not None:
            return parse_items(source, found, what)
    warnings: list[str] = []
    if known := _recognise(items, warnings):
        what, where, entries = known
        for number, entry in enumerate(entries, 1):
            entry.where = f"{where}, name {number}"
    else:
        _refuse_others(items)
        entries = [make_entry(item) for item in items]
        warnings += _describe_groups(items)
    return Parsed(entries, warnings).read_as(source, what)


def _recognise(items: Sequence[Item], warnings: list[str]) -> tuple[str, str, list[Entry]] | None:
    """The name of another tool's format, where its classes stand, and the classes."""
    where = items[0].where
    mapping = {str(item.key).strip(): item.value for item in items}
    if entries := _find_classes(mapping):
        return "a mapping between numbers and names", where, entries
    prompts_only = len(mapping) > 1 and all(map(_may_be_prompts, mapping.values()))
    lower = {str(item.key).strip().lower(): item for item in items}
    for key, what in _KEYS.items():
        if key not in lower or not (entries := _find_classes(value := lower[key].value)):
            continue
        if prompts_only and _may_be_prompts(value):
            continue  # `labels` among labels with prompts
        where = lower[key].where
        if len(kept := _without_groups(value, entries)) < len(entries):
            warnings.append(f"{where}: categories that only group others are left out")
        count = mapping.get("nc")
        if key == "names" and isinstance(count, str) and count != str(len(entries)):
            warnings.append(f"{where}: names holds {len(entries)} names, but nc is {count}")
        return what, where, kept
    if nested := [found for value in mapping.values() for found in _find_nested(value)]:
        if len(nested) > 1:
            keys = ", ".join(key for key, _ in nested[:5])
            raise LabelsError(f"{where}: has {len(nested)} lists of classes ({keys}); keep one")
        return f"a list under the key `{nested[0][0]}`", where, nested[0][1]
    key, names = next(iter(mapping.items()))
    if len(mapping) == 1 and isinstance(names, list) and len(names) > 1:
        templates = any("{" in str(name) for name in names)
        entries = _find_classes(names)
        if entries and not templates and not _are_prompts_for(key, names):
            return f"the class names of {key!r}", where, entries
    return None


def _find_classes(value: object, kind: type = object) -> list[Entry] | None:
    """The classes in a list whose items are of a kind, or in a mapping; None: it is neither."""
    if isinstance(value, Mapping):
        names = _order_names({str(key).strip(): item for key, item in value.items()})
        return [Entry("", name) for name in names] if names else None
    if not isinstance(value, list | tuple) or not value:
        return None
    if not all(isinstance(item, kind) for item in value):
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


def _find_nested(value: object) -> Iterator[tuple[str, list[Entry]]]:
    """Lists of classes deeper down, under one of the keys that tools use."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            if str(key).lower() in _KEYS and (entries := _find_classes(below)):
                yield str(key), entries
            else:
                yield from _find_nested(below)
    elif isinstance(value, list):
        for item in value:
            yield from _find_nested(item)


def _order_names(mapping: Mapping[str, object]) -> list[str] | None:
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
        if not isinstance(value, str) or isinstance(value, Number):
            return None
        if _are_prompts_for(key, [value]):
            return None
        names[float(match["number"])] = value  # type: ignore[index]
    return [names[number] for number in sorted(names)]


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


def _may_be_prompts(value: object) -> bool:
    """Whether a label file can have this value for a label."""
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return value is None or (
        isinstance(value, str)
        and not isinstance(value, Number)
        and not re.fullmatch(r"\S*/\S*", value)
    )


def _are_prompts_for(key: str, texts: Sequence[object]) -> bool:
    """Whether one of the texts is a prompt for the key and not the name of a class.

    A prompt contains the key or a `{}`, or begins with an article.
    """
    word = re.compile(rf"(?:an?|the|my) |.*(?:\{{\}}|(?<!\w){re.escape(key.casefold())}(?!\w))")
    return any(isinstance(text, str) and word.match(text.casefold()) for text in texts)


def _refuse_others(items: Sequence[Item]) -> None:
    """Refuse a mapping of settings, class names of several datasets, and numbers with names."""
    where = items[0].where
    mapping = {str(item.key).strip(): item.value for item in items}
    for item in items:
        if problem := _find_setting(str(item.key).strip(), item.value):
            raise LabelsError(f"{item.where}: {problem}")
    if any(map(_DATASET.match, mapping)) and all(map(_find_classes, mapping.values())):
        shown = ", ".join([*mapping][:5])
        raise LabelsError(
            f"{where}: has the names of {len(mapping)} datasets ({shown}); keep those of one"
        )
    if all((match := _NUMERIC.fullmatch(key)) and not match["stem"] for key in mapping):
        for number, texts in mapping.items():
            given = texts if isinstance(texts, list) else [texts]
            if texts and not _are_prompts_for(number, given):
                raise LabelsError(
                    f"{where}: the keys are numbers, but the prompts of {number} do not contain it;"
                    " write the names as a plain list, or {} in the prompts of a number"
                )


def _find_setting(key: str, value: object) -> str:
    """Why a key and its value are not a label with its prompts; "" where they may be."""
    texts = value if isinstance(value, list) else [value]
    if isinstance(value, Number) or (isinstance(value, int | float) and value not in (True, False)):
        problem = (
            f"the value of {key!r} is the number {value}, which is neither a prompt nor part of a "
            "class index (0, 1, 2, ...)"
        )
    elif isinstance(value, str) and _PATH.fullmatch(value):
        problem = f"the value of {key!r} is the path {value}, which looks like a setting"
    elif isinstance(value, str) and _COLOUR.fullmatch(value):
        problem = f"the value of {key!r} is the colour {value}, not a prompt"
    elif key in _SETTINGS and value is not None:
        problem = f"{key!r} looks like a setting, not a label"
    elif any(isinstance(text, Number) for text in texts):
        problem = f"{key!r} has the numbers {', '.join(map(str, texts))}, not prompts"
    elif any(isinstance(text, str) and "{c}" in text for text in texts):
        return f"the values of {key!r} are templates: use --prompts for this file"
    else:
        return ""
    return f"{problem}; write the labels as a plain list"


def _describe_groups(items: Sequence[Item]) -> Iterator[str]:
    """A hierarchy that is written as a mapping would be read as labels with prompts."""
    for _, key, texts in items:
        if (
            not isinstance(texts, list)
            or not texts
            or _are_prompts_for(str(key), texts)
            or any("{" in str(text) or len(str(text).split()) > 3 for text in texts)
        ):
            return
    where, key, texts = items[0]
    first = texts[0]  # type: ignore[index]
    yield (
        f"{where}: read as labels with their prompts: {key!r} has the prompt {first!r}; if "
        f"{first!r} is a label below {key!r}, write it as '{key} > {first}'"
    )
