"""Crops of images: what boxes in a file (see `box_files`) show of them."""

from __future__ import annotations

import math
import os
import posixpath
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from clipcls.data.box_files import Box, read_boxes
from clipcls.data.budget import Reserve, never_wait
from clipcls.data.file_kinds import is_video
from clipcls.data.images import find_whole
from clipcls.data.inputs import Found, NamedImage
from clipcls.data.sources import Source, find_source, needs_request, read_image
from clipcls.errors import EmptyError, ImageError, InputError

MIN_CONFIDENCE = 0.2
"""MegaDetector's usual threshold (its README, for version 5)."""

_LEAST_SIDE = 512  # pixels of a crop, if the photo has them: no model looks at more


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
            image = self._image or read_image(
                self.source,
                self.name,
                least_side=round(_LEAST_SIDE / self.least_share),
                reserve=reserve,
            )
            self._image = image if self.waiting > 0 else None
            return image


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of an image that a box shows, with a margin, made square within the image."""

    photo: _Photo
    box: Box
    margin: float

    @property
    def needs_request(self) -> bool:
        """Whether even its stamp takes a request to a server."""
        return needs_request(self.photo.source)

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
        for name, boxes in read_boxes(self.path):
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
        self, images: Iterable[Found], empty: str = "empty"
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
            first = "/".join(next(iter(self._entries)))
            cure = "its paths have to end like theirs"
            if is_video(first):
                cure = "boxes in frames of videos are not read; run the detector on images"
            raise InputError(
                f"{self.path}: knows none of the images; {cure} (it begins with {first})"
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


def _parts(path: str) -> tuple[str, ...]:
    """A path's folders and name; those of Windows' detectors too."""
    return tuple(posixpath.normpath(path.replace("\\", "/")).lstrip("/").split("/"))
