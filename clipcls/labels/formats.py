"""Recognise the label lists of other tools in parsed JSON, YAML or Python, or a Python mapping.

Other tools hold classes as a list of texts, a list of mappings with a name, or a mapping between
numbers and names, at the top or under one of `_KEYS`. A warning says what was recognised. Anything
else is refused, so that a label file never silently means other labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from clipcls.errors import LabelsError
from clipcls.labels.entries import FIELDS, Entry, Item, Number, Parsed, make_entry

# Keys, in lower case, under which tools keep the names of classes, the preferred one first.
_KEYS = (
    *("names", "categories", "id2label", "label2id", "class_to_idx", "idx_to_class"),
    *("class_indices", "classification_categories", "detection_categories", "class_names"),
    *("classnames", "thing_classes", "label_names", "classes", "labels"),
)
# Keys of a class's name in an item of a list, and keys that tools add to it.
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
_PATH_OR_COLOUR = re.compile(r"(?:\.{0,2}[/\\]|[A-Za-z]:[\\/]|https?://)\S+|#[0-9a-fA-F]{3,8}")
_NUMERIC = re.compile(r"(?P<stem>(?:[A-Za-z]+[_-]?)?)(?P<number>-?\d+(?:\.0)?)")  # 3, LABEL_3, c3


def parse_items(source: str, items: Sequence[Item], what: str = "") -> Parsed:
    """Parse a list or mapping: labels as clipcls has them, or the classes of another tool.

    Args:
        source: the list's name, for warnings.
        items: the top level, without its brackets.
        what: what else the source was read as, such as `a list in code`.

    Raises:
        LabelsError: it is neither.
    """
    if not items:
        return Parsed([])
    where, key, below = items[0]
    keys = {str(item.key).strip().lower() for item in items}
    if "label" in keys and len(keys) > 1 and keys <= set(FIELDS):  # one entry, without its list
        return Parsed([make_entry(Item(where, None, {item.key: item.value for item in items}))])
    if (
        len(items) == 1
        and keys <= {"labels", "classes"}
        and isinstance(below, list | Mapping)
        and not (_find_classes(below) or FIELDS.keys() & set(map(str, below)))
    ):
        pairs = below.items() if isinstance(below, Mapping) else [(None, item) for item in below]
        below_key = f"what is under the key {key!r}"
        return parse_items(source, [Item(where, *pair) for pair in pairs], below_key)
    if known := _recognise(items):
        what, where, names = known
        return Parsed(
            [Entry(f"{where}, name {n}", *name) for n, name in enumerate(names, 1)]
        ).read_as(source, what)
    doubts = [] if key is None else _find_doubts(items)
    return Parsed([make_entry(item) for item in items], doubts).read_as(source, what)


_Names = list[tuple[object, None, object]]  # label, prompts and synonyms of each class


def _recognise(items: Sequence[Item]) -> tuple[str, str, _Names] | None:
    """The name of another tool's format, where its classes begin, and the classes."""
    where, key, value = items[0]
    if key is None:
        values = [item.value for item in items]
        names = _find_classes(values) if isinstance(value, Mapping) else None
        return ("a list of categories", where, names) if names else None
    mapping = {str(item.key).strip(): item.value for item in items}
    if names := _find_classes(mapping):
        return "a mapping between numbers and names", where, names
    if len(mapping) > 1 and all(map(_may_be_prompts, mapping.values())):
        return None  # `labels` or `names` among labels with prompts
    keys = {key.lower(): key for key in mapping}
    if len(mapping) == 1 and isinstance(value, list) and not _are_prompts_for(str(key), value):
        keys |= {"names": str(key).strip()} if len(value) > 1 else {}  # {"mydata": [names]}
    for known in _KEYS:
        if known in keys and (names := _find_classes(mapping[keys[known]])):
            where = next(i.where for i in items if str(i.key).strip() == keys[known])
            return f"the classes under the key {keys[known]!r}", where, names
    return None


def _find_classes(value: object) -> _Names | None:
    """The classes in a list, or in a mapping between numbers and names; None if it is neither."""
    if isinstance(value, Mapping):
        names = _order_names({str(key).strip(): item for key, item in value.items()})
        return [(name, None, None) for name in names] if names else None
    if not isinstance(value, list | tuple) or not value:
        return None
    if all(isinstance(item, str) for item in value):
        return [(item, None, None) for item in value]
    if not all(isinstance(item, Mapping) for item in value):
        return None
    keys = {str(key) for item in value for key in item}
    named = (key for key in _NAME_KEYS if all(isinstance(item.get(key), str) for item in value))
    name = next(named, "")
    others = keys - {name, "synonyms"}
    if not name or keys & {"prompt", "prompts", "use_templates"}:
        return None
    if name == "label" and not (others and others <= _ADDED_KEYS):
        return None  # an entry of a label file
    # Roboflow adds a category that is only the supercategory of the others.
    groups = [item.get("supercategory") for item in value]
    return [
        (item[name], None, item.get("synonyms"))
        for item, group in zip(value, groups, strict=True)
        if item[name] not in groups or group not in (None, "", "none")
    ]


def _order_names(mapping: Mapping[str, object]) -> list[str] | None:
    """The names, by number, of a mapping from name to number or from number to name."""
    values = list(map(str, mapping.values()))
    if len(mapping) > 1 and all(value.isdecimal() and len(value) < 9 for value in values):
        numbers = dict(zip(mapping, map(int, values), strict=True))
        first = min(numbers.values())
        if first in (0, 1) and sorted(numbers.values()) == [*range(first, first + len(numbers))]:
            return sorted(numbers, key=numbers.__getitem__)
    names: dict[float, str] = {}
    stems = set()
    for key, value in mapping.items():
        match = _NUMERIC.fullmatch(key)
        if isinstance(value, list) and len(value) == 2 and _WNID.fullmatch(str(value[0])):
            value = value[1]  # Keras' index of ImageNet: {"0": ["n01440764", "tench"]}
        if isinstance(value, Mapping):
            value = value.get("name")
        is_name = isinstance(value, str) and not isinstance(value, Number)
        if not match or not is_name or _are_prompts_for(key, [value]):
            return None
        stems.add(match["stem"])
        names[float(match["number"])] = str(value)
    return [names[number] for number in sorted(names)] if len(stems) == 1 else None


def _may_be_prompts(value: object) -> bool:
    """Whether a label file can have this value for a label."""
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    is_text = isinstance(value, str) and not isinstance(value, Number)
    return value is None or (is_text and not re.fullmatch(r"\S*/\S*", str(value)))


def _are_prompts_for(key: str, texts: Sequence[object]) -> bool:
    """Whether one of the texts is a prompt for the key, not the name of a class.

    A prompt contains the key or braces, or begins with an article.
    """
    word = re.compile(rf"(?:an?|the|my) |.*(?:\{{|(?<!\w){re.escape(key.casefold())}(?!\w))")
    return any(isinstance(text, str) and word.match(text.casefold()) for text in texts)


def _find_doubts(items: Sequence[Item]) -> list[str]:
    """Refuse settings and lists of names; warn about what may be groups of labels."""
    for where, key, value in items:
        if _is_setting(str(key).strip(), value):
            raise LabelsError(
                f"{where}: `{key}: {value}` looks like a setting, not like a label with its "
                "prompts; write the labels as a plain list"
            )
        if any("{c}" in str(text) for text in _list_texts(value)):
            raise LabelsError(f"{where}: {key!r} has templates: use --prompts for this file")
    texts = [(str(item.key).strip(), _list_texts(item.value)) for item in items]
    foreign = [key for key, given in texts if given and not _are_prompts_for(key, given)]
    is_grouped = len(foreign) == len(items) and all(isinstance(item.value, list) for item in items)
    numbers = [
        match for key, _ in texts if (match := _NUMERIC.fullmatch(key)) and not match["stem"]
    ]
    where, key, value = items[0]
    if (foreign and len(numbers) == len(items)) or (
        is_grouped and any(map(_DATASET.match, foreign))
    ):
        raise LabelsError(
            f"{where}: the texts under {', '.join(map(repr, foreign[:3]))} look like names, not "
            "like prompts, which mention their label; write the names of one data set as a plain "
            "list, or {} in the prompts of a number"
        )
    if is_grouped and all(len(text.split()) <= 3 for _, given in texts for text in given):
        first = _list_texts(value)[0]
        return [
            f"{where}: read as labels with their prompts: {key!r} has the prompt {first!r}; if "
            f"{first!r} is a label below {key!r}, write it as '{key} > {first}'"
        ]
    return []


def _list_texts(value: object) -> list[str]:
    return [
        text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)
    ]


def _is_setting(key: str, value: object) -> bool:
    if isinstance(value, str) and _PATH_OR_COLOUR.fullmatch(value):
        return True
    given = value if isinstance(value, list) else [value]
    return (key in _SETTINGS and value is not None) or any(
        isinstance(text, Number | int | float) and not isinstance(text, bool) for text in given
    )
