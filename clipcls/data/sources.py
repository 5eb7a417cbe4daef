"""Where the bytes of an image are: a file of this disk, or another place that a name leads to.

Every image has a name that leads back to it: results, caches, pages and later commands open an
image by its name alone (`find_source`).
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image

from clipcls.data.budget import Reserve, never_wait
from clipcls.data.file_kinds import is_video
from clipcls.data.images import decode_image, read_bytes
from clipcls.errors import ImageError
from clipcls.files.hashing import hash_file, stamp_file
from clipcls.files.on_disk import is_url

_SIGN = re.compile("[!#@:]")  # in every name that leads to a part of a file, or to a server


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
    if found := find_part(name):
        return found
    if is_url(name) and not os.path.lexists(name):
        from clipcls.data.remote import RemoteFile

        return RemoteFile(name)
    return LocalFile(name)


def find_part(name: str) -> Source | None:
    """The part of an archive, table or video that a name leads to; None if it leads to a file."""
    found: Source | None = None
    if "!" in name:
        from clipcls.data.archives import find_member

        found = find_member(name)
    if not found and "#" in name:
        from clipcls.data.tables import find_cell

        found = find_cell(name)
    if not found and "@" in name:
        from clipcls.data.video import find_frame

        found = find_frame(name)
    return found


def needs_request(source: object) -> bool:
    """Whether even telling that an image has not changed takes a request to a server."""
    return bool(getattr(source, "needs_request", False))


def is_download(source: object) -> bool:
    """Whether a server sends the image as a file of its own."""
    return hasattr(source, "url")


def load_ahead(source: Source | bytes | Image.Image) -> Source | bytes | Image.Image:
    """The same source, with its bytes if these are read best in the order of the images."""
    return source.load() if hasattr(source, "load") and isinstance(source, Source) else source


def find_whole(name: str) -> str:
    """The name of the image that a crop called `photo.jpg#3` is of; other names as they are."""
    from clipcls.data.tables import find_cell

    found = re.fullmatch(r"(.+)#\d+", name, re.DOTALL)
    return name if not found or find_cell(name) or os.path.lexists(name) else found[1]


def find_video(name: str) -> str:
    """The video that a frame called `clip.mp4@00:01:05.000` is of; other names as they are."""
    if "@" not in name:
        return name
    from clipcls.data.video import find_frame

    frame = find_frame(name)
    return frame.path if frame else name


def find_file(name: str) -> str:
    """The file of this disk that has an image, whole or in it; "" if the image is elsewhere."""
    if not _SIGN.search(name):  # nearly all names; each image's is looked up in the cache
        return name
    name = find_whole(name)
    path = str(getattr(find_source(name), "path", name))
    return "" if is_url(path) and not os.path.lexists(path) else path


def absolute_name(name: str) -> str:
    """A name that leads to the same image from every working directory."""
    file = find_file(name)
    return os.path.abspath(file) + name.removeprefix(file) if file else name


def hash_source(name: str) -> str:
    """The SHA-256 of the image's file, as hex.

    Raises:
        ImageError, OSError: it cannot be read, or has no bytes of its own.
    """
    source = find_source(name)
    if isinstance(source, LocalFile):
        return hash_file(name)
    if not isinstance(data := source.read(), bytes):
        raise ImageError(name, "has no file of its own")
    return hashlib.sha256(data).hexdigest()


def open_image(name: str, *, least_side: int | None = None) -> Image.Image:
    """Decode the image that a name leads to, or a video's first frame: RGB and upright.

    Args:
        name: the image's name.
        least_side: as for `decode_image`.

    Raises:
        ImageError: it cannot be read.
    """
    if is_video(name):
        from clipcls.data.video import VideoFrame

        return VideoFrame(name, b"", 0).read()
    return read_image(find_source(name), name, least_side=least_side)


def read_image(
    source: Source | bytes | Image.Image,
    name: str,
    *,
    least_side: int | None = None,
    reserve: Reserve = never_wait,
) -> Image.Image:
    """The decoded image of a source; `name`, `least_side` and errors are those of `open_image`.

    `reserve` waits for the memory of the source's bytes.
    """
    found = source.read(reserve) if isinstance(source, Source) else source
    if isinstance(found, Image.Image):
        return found
    return decode_image(found, name, least_side=least_side)
