"""Boxes that a detector or a person drew, and the crops of images that they make.

Three forms are read:

- MegaDetector's JSON: shares of the image's sides ("batch output format" of
  https://github.com/agentmorris/MegaDetector);
- COCO's JSON: pixels (https://cocodataset.org/#format-data);
- csv with the columns path, x, y, w, h: shares if no number is above 1, else pixels.

All boxes are those of the upright image, as detectors and annotation tools show it.
"""

from __future__ import annotations

import math
import os
import posixpath
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from clipcls.data.budget import Reserve, never_wait
from clipcls.data.images import decode_image, find_whole
from clipcls.data.inputs import NamedImage
from clipcls.data.sources import Source, find_source
from clipcls.errors import EmptyError, ImageError, InputError
from clipcls.files.jsonfiles import parse_json
from clipcls.files.text import parse_number, read_table, read_text

MIN_CONFIDENCE = 0.2
"""MegaDetector's usual threshold (its README, for version 5)."""

_LEAST_SIDE = 512  # pixels of a crop, if the photo has them: no model looks at more
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


@dataclass(slots=True)
class _Photo:
    """An image that several crops share: decoded by the first, and dropped after the last."""

    name: str
    source: Source | bytes | Image.Image
    least_share: float  # of the image's shorter side that a crop shows
    waiting: int
    _image: Image.Image | None = None
    _lock: Any = field(default_factory=threading.Lock)

    def __reduce__(self) -> Any:
        return _Photo, (self.name, self.source, self.least_share, self.waiting)

    def take(self, reserve: Reserve) -> Image.Image:
        """The decoded image, for one of its crops."""
        with self._lock:
            self.waiting -= 1
            image = self._image or self._open(reserve)
            self._image = image if self.waiting > 0 else None
            return image

    def _open(self, reserve: Reserve) -> Image.Image:
        found = self.source.read(reserve) if isinstance(self.source, Source) else self.source
        if isinstance(found, Image.Image):
            return found
        return decode_image(found, self.name, least_side=round(_LEAST_SIDE / self.least_share))


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of an image that a box shows, with a margin, made square within the image."""

    photo: _Photo
    box: Box
    margin: float

    def stamp(self) -> bytes:
        """The image's stamp and the box."""
        source = self.photo.source
        stamp = source.stamp() if isinstance(source, Source) else b""
        return stamp and b"%s box %s" % (stamp, repr((self.box, self.margin)).encode())

    def read(self, reserve: Reserve = never_wait) -> Image.Image:
        """The crop; `ImageError` if the image cannot be read, or the box shows nothing of it."""
        name = f"{self.photo.name}#{self.box.number}"
        try:
            image = self.photo.take(reserve)
        except ImageError as error:
            raise ImageError(name, error.reason) from error
        size, _ = find_whole(image)
        left, top, right, bottom = self.box.relative(size)
        if not (left < right and top < bottom):
            raise ImageError(name, "its box has no area")
        if not (left < 1 and top < 1 and right > 0 and bottom > 0):
            raise ImageError(name, "its box lies outside the image")
        edges = max(0, left), max(0, top), min(1, right), min(1, bottom)
        return image.crop(_make_square(edges, image.size, self.margin))


def _make_square(
    edges: tuple[float, float, float, float], size: tuple[int, int], margin: float
) -> tuple[int, int, int, int]:
    """The pixels of a square around a box, moved and cut to lie within the image.

    Models take squares: one that cuts the longer side off would lose an animal's head.
    """
    left, top, right, bottom = (edge * size[n % 2] for n, edge in enumerate(edges))
    side = max(right - left, bottom - top) * (1 + 2 * margin)
    found = []
    for middle, whole in (((left + right) / 2, size[0]), ((top + bottom) / 2, size[1])):
        length = min(max(side, 1), whole)
        start = min(max(0, middle - length / 2), whole - length)
        found.append((math.floor(start), min(whole, math.ceil(start + length))))
    (left, right), (top, bottom) = found
    return int(left), int(top), int(right), int(bottom)


class Boxes:
    """The boxes of images, from a file.

    Args:
        path: the file (see above).
        min_confidence: leave out boxes of which the detector was less sure.
        categories: leave out boxes of other categories, by their names; (): none.
        margin: the part of a box's longer side to add on each side of it.

    Raises:
        InputError: the file cannot be read, or holds no boxes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        min_confidence: float = MIN_CONFIDENCE,
        categories: Collection[str] = (),
        margin: float = 0.1,
    ) -> None:
        self.path = os.fspath(path)
        self._margin = margin
        self._entries: dict[tuple[str, ...], list[Box]] = {}
        self._failures: dict[tuple[str, ...], str] = {}
        self._by_name: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        self._matched = 0
        wanted = {category.casefold() for category in categories}
        known = set()
        for name, boxes in self._read():
            key = _parts(name)
            if key in self._entries:
                raise InputError(f"{self.path}: has {name} twice; keep one")
            if isinstance(boxes, str):
                self._failures[key], boxes = boxes, []
            known |= {category for _, _, category in boxes}
            self._entries[key] = [
                box
                for box, confidence, category in boxes
                if not confidence < min_confidence and (not wanted or category.casefold() in wanted)
            ]
            self._by_name[key[-1]].append(key)
        if missing := sorted(wanted - {category.casefold() for category in known}):
            names = ", ".join(sorted(filter(None, known))) or "none"
            raise InputError(f"{self.path}: no box has the category {missing[0]!r}; it has {names}")

    def crop_each(
        self, images: Iterable[str | NamedImage | ImageError], empty: str = "empty"
    ) -> Iterator[NamedImage | ImageError]:
        """The crops of each image, in the order of the images and of their boxes.

        Args:
            images: as `find_images` yields them.
            empty: the label of images without boxes.

        Yields:
            a crop, called `photo.jpg#3` by the number of its box; an `EmptyError` for an image
            without boxes; another `ImageError` for one that the file does not know.

        Raises:
            InputError: after the last image, if the file knows none of them.
        """
        seen = 0
        for image in images:
            if isinstance(image, ImageError):
                yield image
                continue
            seen += 1
            if isinstance(image, str):
                image = NamedImage(image, find_source(image))
            key = self._find(image.name)
            if key is None:
                reason = f"is not in {self.path}; run the detector on it"
                yield ImageError(image.name, reason, image.kept)
            elif key in self._failures:
                reason = f"the detector failed on it ({self._failures[key]})"
                yield ImageError(image.name, reason, image.kept)
            elif boxes := self._entries[key]:
                yield from self._crop(image, boxes)
            else:
                yield EmptyError(image.name, empty, image.kept)
        if seen and not self._matched:
            raise InputError(
                f"{self.path}: knows none of the images; its paths have to end like theirs "
                f"(it begins with {'/'.join(next(iter(self._entries)))})"
            )

    def _crop(self, image: NamedImage, boxes: list[Box]) -> Iterator[NamedImage]:
        shares = [
            max(box.width / box.whole[0], box.height / box.whole[1]) if box.whole[0] else 0
            for box in boxes
        ]
        photo = _Photo(image.name, image.source, max(min(shares), 1e-3), len(boxes))
        for box in boxes:
            crop = Crop(photo, box, self._margin)
            yield NamedImage(f"{image.name}#{box.number}", crop, image.kept)

    def _find(self, name: str) -> tuple[str, ...] | None:
        """The entry of an image: of those whose path ends like the image's, the longest."""
        own = _parts(name)
        found = [
            key for key in self._by_name.get(own[-1], ()) if key[-len(own) :] == own[-len(key) :]
        ]
        if not found:
            return None
        longest = max(map(len, found))
        best = [key for key in found if len(key) == min(longest, len(own))] or found
        if len(best) > 1:
            raise InputError(
                f"{self.path}: {name} may be {'/'.join(best[0])} or {'/'.join(best[1])}; run "
                "clipcls in the folder that the detector's paths begin in"
            )
        self._matched += 1
        return best[0]

    # -- formats --------------------------------------------------------------------------------

    def _read(self) -> Iterator[tuple[str, list[tuple[Box, float, str]] | str]]:
        """Each image's path; its boxes with confidence and category, or why there are none."""
        text = read_text(Path(self.path))
        if text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
            found = parse_json(text, self.path)
            try:
                if isinstance(found, dict) and isinstance(found.get("annotations"), list):
                    yield from _read_coco(found)
                    return
                if isinstance(found, dict) and isinstance(found.get("images"), list):
                    yield from _read_megadetector(found)
                    return
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                reason = f"without {error}" if isinstance(error, KeyError) else str(error)
                raise InputError(
                    f"{self.path}: is not as MegaDetector or COCO writes boxes ({reason})"
                ) from error
            raise InputError(
                f"{self.path}: has no boxes; give MegaDetector's or COCO's JSON, or csv with the "
                "columns path, x, y, w, h"
            )
        yield from self._read_csv(text)

    def _read_csv(self, text: str) -> Iterator[tuple[str, list[tuple[Box, float, str]]]]:
        table = read_table(text, self.path, exact=True)
        names = {
            field: next((name for name in known if name in table.columns), "")
            for field, known in _COLUMNS.items()
        }
        if missing := [field for field in ("path", *"xywh") if not names[field]]:
            raise InputError(
                f"{table.where}: has no column {missing[0]!r}; boxes need path, x, y, w, h"
            )
        rows: dict[str, list[tuple[list[float], float, str]]] = defaultdict(list)
        for where, cells in table.rows:
            given = {field: cells[name].strip() for field, name in names.items() if name}
            rows[given["path"]]  # an image without a box has a row without numbers
            if not any(given[side] for side in "xywh"):
                continue
            try:
                sides = [parse_number(given[side]) for side in "xywh"]
                confidence = parse_number(given.get("confidence") or "1")
                _make_box(1, sides, (1, 1))
            except ValueError as error:
                raise InputError(f"{where}: {error}; write numbers") from error
            rows[given["path"]].append((sides, confidence, given.get("category", "")))
        if not rows:
            raise InputError(f"{self.path}: has no boxes")
        every = [side for boxes in rows.values() for sides, _, _ in boxes for side in sides]
        whole = (1.0, 1.0) if all(side <= 1 for side in every) else (0.0, 0.0)
        for path, boxes in rows.items():
            yield (
                path,
                [
                    (_make_box(number, sides, whole), confidence, category)
                    for number, (sides, confidence, category) in enumerate(boxes, 1)
                ],
            )


def _read_megadetector(
    found: Mapping[str, Any],
) -> Iterator[tuple[str, list[tuple[Box, float, str]] | str]]:
    names = found.get("detection_categories") or {}
    for image in found["images"]:
        if image.get("detections") is None:
            yield str(image["file"]), str(image.get("failure") or "no reason is given")
            continue
        yield (
            str(image["file"]),
            [
                (
                    _make_box(number, each["bbox"], (1, 1)),
                    float(each["conf"]),
                    str(names.get(str(each.get("category")), each.get("category", ""))),
                )
                for number, each in enumerate(image["detections"], 1)
            ],
        )


def _read_coco(found: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[Box, float, str]]]]:
    names = {each["id"]: str(each["name"]) for each in found.get("categories") or ()}
    boxes: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for each in found["annotations"]:
        boxes[each["image_id"]].append(each)
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


def _parts(path: str) -> tuple[str, ...]:
    """A path's folders and name; those of Windows' detectors too."""
    return tuple(posixpath.normpath(path.replace("\\", "/")).lstrip("/").split("/"))
