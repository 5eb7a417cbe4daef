"""Make small upright JPEGs of images, for pages that show them."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from clipcls.data.sources import find_whole, open_image
from clipcls.errors import ImageError

_AHEAD = 64  # images whose thumbnails are made ahead of the reader


def make_thumbnail(path: str | os.PathLike[str], side: int, *, quality: int = 80) -> bytes:
    """Make an upright RGB JPEG without metadata, with at most `side` pixels per side.

    Raises:
        ImageError: the file cannot be read or is not an image.
    """
    name = find_whole(os.fspath(path))  # of a crop, whose box is not known
    try:
        image = open_image(name, least_side=2 * side)
        image.thumbnail((side, side))
        stream = io.BytesIO()
        image.info.clear()  # otherwise Pillow would write its comment or profile
        image.save(stream, "JPEG", quality=quality)
    except MemoryError as error:
        raise ImageError(name, "not enough memory to decode it") from error
    return stream.getvalue()


def make_thumbnails(
    paths: Sequence[str], side: int, *, quality: int = 80
) -> Iterator[bytes | ImageError]:
    """Make thumbnails in threads; yield each one, or the reason why there is none, in order."""

    def make(path: str) -> bytes | ImageError:
        try:
            return make_thumbnail(path, side, quality=quality)
        except ImageError as error:
            return error.without_frames()

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for start in range(0, len(paths), _AHEAD):
            yield from pool.map(make, paths[start : start + _AHEAD])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def make_data_uri(jpeg: bytes) -> str:
    """Encode a JPEG as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
