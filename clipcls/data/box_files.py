"""Read the boxes that a detector or a person drew.

Three forms are read:

- MegaDetector's JSON: shares of the image's sides ("batch output format" of
  https://github.com/agentmorris/MegaDetector);
- COCO's JSON: pixels (https://cocodataset.org/#format-data);
- csv with the columns path, x, y, w, h: shares if no number is above 1, else pixels.

All boxes are those of the upright image, as detectors and annotation tools show it.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from clipcls.errors import InputError, format_count
from clipcls.files.jsonfiles import parse_json
from clipcls.files.text import parse_number, read_table, read_text

log = logging.getLogger("clipcls")

_LARGEST_SHARE = 2  # of an image's side: detectors' boxes go a little beyond it
_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "image"),
    "x": ("x", "xmin", "x_min", "left"),
    "y": ("y", "ymin", "y_min", "top"),
    "w": ("w", "width"),
    "h": ("h", "height"),
    "confidence": ("confidence", "conf", "score"),
    "category": ("category", "class"),
}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in an image.

    Attributes:
        number: its place among all boxes of its image in the file, from 1.
        x, y: the upper left corner.
        width, height: the sides.
        whole: the image's width and height in the same units; (1, 1) if they are shares of its
            sides, (0, 0) if the units are its own pixels.
    """

    number: int
    x: float
    y: float
    width: float
    height: float
    whole: tuple[float, float] = (1, 1)

    def relative(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Its left, top, right and bottom as shares of an image of this size."""
        wide, high = (float(whole or side) for whole, side in zip(self.whole, size, strict=True))
        return (
            self.x / wide,
            self.y / high,
            (self.x + self.width) / wide,
            (self.y + self.height) / high,
        )


Detections: TypeAlias = "list[tuple[Box, float, str]]"
"""The boxes of an image, each with its confidence and category."""


def read_boxes(path: str) -> list[tuple[str, Detections | str]]:
    """Each image's path, and its boxes or why there are none.

    Raises:
        InputError: the file cannot be read, or is of another form.
    """
    text = read_text(Path(path))
    if not text.strip():
        raise InputError(f"{path}: is empty")
    if text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        found = parse_json(text, path)
        try:
            boxes = list(_read_json(found))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"without {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(
                f"{path}: is not as MegaDetector or COCO writes boxes ({reason})"
            ) from error
        if not boxes:
            raise InputError(
                f"{path}: has no boxes; give MegaDetector's or COCO's JSON, or csv with "
                "the columns path, x, y, w, h"
            )
        return boxes
    return list(_read_csv(text, path))


def _read_csv(text: str, path: str) -> Iterator[tuple[str, Detections]]:
    table = read_table(text, path, exact=True)
    names = {
        field: next((name for name in known if name in table.columns), "")
        for field, known in _COLUMNS.items()
    }
    if missing := [field for field in ("path", *"xywh") if not names[field]]:
        raise InputError(
            f"{table.where}: has no column {missing[0]!r}; boxes need a header: path, x, y, w, h"
        )
    rows: dict[str, list[tuple[list[float], float, str]]] = defaultdict(list)
    for where, cells in table.rows:
        given = {field: cells[name].strip() for field, name in names.items() if name}
        rows[given["path"]]  # an image without a box has a row without numbers
        if not any(given[side] for side in "xywh"):
            continue
        try:
            if not all(given[side] for side in "xywh"):
                raise ValueError("a box is not four finite numbers")
            sides = [parse_number(given[side]) for side in "xywh"]
            confidence = parse_number(given.get("confidence") or "1")
            _make_box(1, sides, (1, 1))
        except ValueError as error:
            raise InputError(f"{where}: {error}; write numbers") from error
        rows[given["path"]].append((sides, confidence, given.get("category", "")))
    if not rows:
        raise InputError(f"{path}: has no boxes")
    are_shares = {
        all(side <= 1 for side in sides) for boxes in rows.values() for sides, _, _ in boxes
    }
    if len(are_shares) > 1:
        raise InputError(
            f"{path}: has boxes in pixels and in shares of the image; write one of these"
        )
    whole = (1.0, 1.0) if True in are_shares else (0.0, 0.0)
    for name, boxes in rows.items():
        made = [
            (_make_box(number, sides, whole), confidence, category)
            for number, (sides, confidence, category) in enumerate(boxes, 1)
        ]
        yield name, made


def _read_json(found: Any) -> Iterator[tuple[str, Detections | str]]:
    if isinstance(found, list) and any("image_id" in each for each in found[:1]):
        raise ValueError("COCO's results have no paths; add them to the file with the images")
    if isinstance(found, dict) and isinstance(found.get("annotations"), list):
        return _read_coco(found)
    if isinstance(found, dict) and isinstance(found.get("images"), list):
        return _read_megadetector(found)
    return iter(())


def _read_megadetector(found: Mapping[str, Any]) -> Iterator[tuple[str, Detections | str]]:
    names = found.get("detection_categories") or {}
    for image in found["images"]:
        if image.get("detections") is None:
            yield str(image["file"]), str(image.get("failure") or "no reason is given")
            continue
        yield (
            str(image["file"]),
            [
                (
                    _make_share(number, each["bbox"]),
                    float(each["conf"]),
                    str(names.get(str(each.get("category")), each.get("category", ""))),
                )
                for number, each in enumerate(image["detections"], 1)
            ],
        )


def _read_coco(found: Mapping[str, Any]) -> Iterator[tuple[str, Detections]]:
    names = {each["id"]: str(each["name"]) for each in found.get("categories") or ()}
    boxes: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    known = {image["id"] for image in found["images"]}
    for each in found["annotations"]:
        if each["image_id"] not in known:
            raise ValueError(f"the image {each['image_id']} of an annotation is missing")
        if each.get("bbox"):
            boxes[each["image_id"]].append(each)
    if without := len(found["annotations"]) - sum(map(len, boxes.values())):
        log.warning("%s of COCO without a box left out", format_count(without, "annotation"))
    for image in found["images"]:
        whole = float(image.get("width") or 0), float(image.get("height") or 0)
        yield (
            str(image["file_name"]),
            [
                (
                    _make_box(number, each["bbox"], whole),
                    float(each.get("score", 1)),
                    names.get(each.get("category_id"), ""),
                )
                for number, each in enumerate(boxes[image["id"]], 1)
            ],
        )


def _make_box(number: int, sides: Any, whole: tuple[float, float]) -> Box:
    if len(sides) != 4 or not all(map(math.isfinite, sides := [float(side) for side in sides])):
        raise ValueError("a box is not four finite numbers")
    x, y, width, height = sides
    return Box(number, x, y, width, height, whole if all(whole) else (0, 0))


def _make_share(number: int, sides: Any) -> Box:
    box = _make_box(number, sides, (1, 1))
    if max(box.x, box.y, box.width, box.height) > _LARGEST_SHARE:
        raise ValueError(f"the box {sides} is in pixels, not in shares of the image")
    return box
