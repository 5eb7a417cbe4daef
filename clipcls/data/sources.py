"""Where the bytes of an image are: a file of this disk, or another place that a name leads to.

Every image has a name that leads back to it: results, caches, pages and later commands open an
image by its name alone (`find_source`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image

from clipcls.data.budget import Reserve, never_wait
from clipcls.data.images import decode_image, read_bytes
from clipcls.data.video import find_frame
from clipcls.files.hashing import stamp_file


@runtime_checkable
class Source(Protocol):
    """The place of one image. Sources are small, can be pickled, and are read in threads."""

    def stamp(self) -> bytes:
        """A mark that changes with the content, found without reading it; b"" if there is none.

        A file's is its size and times, that of an object of a bucket its etag.
        """

    def read(self, reserve: Reserve = never_wait) -> bytes | Image.Image:
        """The bytes of an image file, or an upright RGB image.

        Raises:
            ImageError: it cannot be read.
        """


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this disk."""

    path: str

    def stamp(self) -> bytes:
        """Its size and times; b"" if it is missing or so young that they may not change."""
        try:
            return stamp_file(os.stat(self.path))
        except (OSError, ValueError):
            return b""  # reading it will say why

    def read(self, reserve: Reserve = never_wait) -> bytes:
        """The file's bytes."""
        return read_bytes(self.path, reserve=reserve)


def find_source(name: str) -> Source:
    """The source that an image's name leads to; a file of this very name comes first."""
    return find_frame(name) or LocalFile(name)


def open_image(name: str, *, least_side: int | None = None) -> Image.Image:
    """Decode the image that a name leads to: RGB and upright.

    Args:
        name: the image's name.
        least_side: as for `decode_image`.

    Raises:
        ImageError: it cannot be read.
    """
    found = find_source(name).read()
    if isinstance(found, Image.Image):
        return found
    return decode_image(found, name, least_side=least_side)
