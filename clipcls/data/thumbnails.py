"""Make small upright JPEGs of images, for pages that show them."""

from __future__ import annotations

import base64
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from clipcls.data.images import decode_image, read_bytes
from clipcls.errors import ImageError

__all__ = ["make_data_uri", "make_thumbnail", "make_thumbnails"]


def make_thumbnail(path: str | os.PathLike[str], side: int, *, quality: int = 80) -> bytes:
    """Make a JPEG of an image: upright, RGB, without metadata.

    Args:
        path: the image file.
        side: the thumbnail's longer side in pixels; a smaller image keeps its size.
        quality: the JPEG's, 1 to 95.

    Raises:
        ImageError: the file cannot be read or is not an image; `.reason` says why.
    """
    name = os.fspath(path)
    try:
        image = decode_image(read_bytes(name), name, least_side=2 * side)
        image.thumbnail((side, side))
        stream = io.BytesIO()
        image.info.clear()  # otherwise Pillow would write its comment or profile
        image.save(stream, "JPEG", quality=quality)
    except MemoryError as error:
        raise ImageError(name, "not enough memory to decode it") from error
    return stream.getvalue()


def make_thumbnails(
    paths: Iterable[str], side: int, *, quality: int = 80, workers: int | None = None
) -> Iterator[bytes | ImageError]:
    """Yield thumbnails in the order of the paths, made ahead in threads with bounded memory.

    Args:
        paths: image files, requested as they are needed.
        side, quality: as for `make_thumbnail`.
        workers: threads; None: one per CPU core, at most 8.

    Yields:
        A JPEG's bytes, or the `ImageError` that says why it could not be made.
    """

    def make(path: str) -> bytes | ImageError:
        try:
            return make_thumbnail(path, side, quality=quality)
        except ImageError as error:
            return error.without_frames()

    workers = workers or min(8, os.cpu_count() or 1)
    names = iter(paths)
    with ThreadPoolExecutor(workers, thread_name_prefix="clipcls-thumbnail") as pool:
        queue: deque[Future[bytes | ImageError]] = deque()
        try:
            queue.extend(pool.submit(make, path) for path in islice(names, 4 * workers))
            while queue:
                done = queue.popleft().result()
                queue.extend(pool.submit(make, path) for path in islice(names, 1))
                yield done
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def make_data_uri(jpeg: bytes) -> str:
    """Encode a JPEG as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
