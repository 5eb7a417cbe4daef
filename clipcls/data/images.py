"""Read and decode image files within limits: a file or its bytes -> an upright 8-bit RGB image.

Any trouble with an image is an `ImageError` with a short reason, so a run reports it and goes on.
Pillow's global state is neither changed nor relied on, and several threads may call any of the
functions.

- Raw files: the embedded preview; if it is missing or smaller than the model's input, the raw image
  developed at half its size.
- Truncated files: missing rows are grey. Up to `MAX_MISSING` of them cost a warning.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
from typing import IO, TYPE_CHECKING

from PIL import Image

from clipcls.data.budget import Budget, Reserve, never_wait
from clipcls.data.file_kinds import RAW_SUFFIXES
from clipcls.data.image_formats import (
    START_OF_SCAN,
    check_header,
    check_pixels,
    estimate_cost,
    identify,
    image_errors,
    strip_text,
)
from clipcls.data.pixels import (
    find_orientation,
    is_on_its_side,
    turn_box,
    upright_rgb,
)
from clipcls.errors import ImageError, install_command, os_reason

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

logger = logging.getLogger("clipcls")

MAX_BYTES = 1 << 29
"""Largest file that is read, in bytes (512 MiB)."""

MAX_PIXELS = 178_956_970
"""Most pixels of four bytes that all threads together decode at once, including copies and what
the decoding library needs: Pillow's own default limit, 0.7 GB."""


def _max_pixels() -> int:
    """Twice `PIL.Image.MAX_IMAGE_PIXELS`, at which Pillow refuses; `MAX_PIXELS` if it is unset."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else MAX_PIXELS


def _max_pixels_at_once() -> int:
    return max(MAX_PIXELS, _max_pixels())


_MAX_BYTES_AT_ONCE = 1 << 28

FILES = Budget(lambda: _MAX_BYTES_AT_ONCE)
"""The bytes of image files that all threads together hold at once."""

PIXELS = Budget(lambda: _max_pixels_at_once() - FILES.taken // 4)
"""The pixels of four bytes that all threads together decode at once, besides their files."""

MAX_MISSING = 1 / 3
"""Largest share of its rows that a truncated image may miss. Of 20 photos, mini labelled 18 right
whole, 17 to 18 with up to a third of the rows missing at the bottom, 15 with half, 10 with 3/4."""

# Keys in the `info` of a decoded image.
_WHOLE = "clipcls whole"  # at a reduced scale: its size, the full size, the box that shows it
_MISSING = "clipcls missing"  # of a truncated file: the share of rows that are missing

# Formats whose rows Pillow decodes one after the other, so a truncated file has the first ones.
_ROW_BY_ROW = ("JPEG", "PNG", "BMP", "PPM")
_END_OF_IMAGE = b"\xff\xd9"  # of JPEG
_ZEROS = bytes(64)
_CHUNK = 1 << 20

_LEAST_PREVIEW = 224  # pixels, of the shorter side of a raw file's preview


def read_bytes(path: str, *, reserve: Reserve = never_wait) -> bytes:
    """Read one regular file; pipes, sockets and devices are refused without waiting for them.

    Args:
        path: the file.
        reserve: called with the file's size in bytes before it is read; may wait for memory.

    Raises:
        ImageError: it cannot be read, is empty, or is larger than `MAX_BYTES`.
    """
    # O_NONBLOCK: opening a pipe without a writer would wait for ever. Absent on Windows.
    flags = sum(getattr(os, f"O_{name}", 0) for name in ("NONBLOCK", "BINARY", "CLOEXEC"))
    try:
        # stat() first: merely opening some device files has side effects.
        refuse_unless_file(path, os.stat(path))
        with open(os.open(path, os.O_RDONLY | flags), "rb") as file:
            info = os.fstat(file.fileno())  # again: it may have been replaced in between
            refuse_unless_file(path, info)
            if info.st_size > MAX_BYTES:
                size = f"{info.st_size / (1 << 20):.0f} MiB"
                raise ImageError(path, f"too large ({size}; the limit is {MAX_BYTES >> 20} MiB)")
            reserve(info.st_size)
            data = file.read()  # without a number: that would be allocated at once
    except OSError as error:
        raise ImageError(path, os_reason(error)) from error
    except ValueError as error:  # a NUL byte, or characters that the file system cannot encode
        raise ImageError(path, "not a valid file name") from error
    except MemoryError as error:
        raise ImageError(path, "not enough memory to read it") from error
    if not data:
        raise ImageError(path, "is empty")
    check_bytes(path, len(data))  # it may grow, or have no size, as in /proc
    return data


def read_stream(file: IO[bytes], name: str) -> bytes:
    """The rest of a binary file whose size is not known.

    Raises:
        ImageError: it is larger than `MAX_BYTES`.
        TypeError: it is open as text.
    """
    data = bytearray()
    while chunk := file.read(_CHUNK):
        if isinstance(chunk, str):
            raise TypeError(f"{name}: the file is open as text; open it with the mode 'rb'")
        data += chunk
        check_bytes(name, len(data))
    return bytes(data)


def check_bytes(name: str, size: int) -> None:
    """Raise `ImageError` if a file of this size is larger than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise ImageError(name, f"too large (the limit is {MAX_BYTES >> 20} MiB)")


def refuse_unless_file(path: str, info: os.stat_result) -> None:
    """Raise `ImageError` unless this is a regular file."""
    if stat.S_ISDIR(info.st_mode):
        raise ImageError(path, "is a directory")
    if not stat.S_ISREG(info.st_mode):
        raise ImageError(path, "not a regular file")


def check_size(path: str, size: tuple[int, int]) -> None:
    """Raise `ImageError` if an image of this size has more pixels than Pillow decodes."""
    check_pixels(path, size, size[0] * size[1], _max_pixels())


def decode_image(
    data: bytes | bytearray | memoryview,
    path: str = "<bytes>",
    *,
    max_pixels: int | None = None,
    least_side: int | None = None,
    reserve: Reserve | None = None,
    raw: bool = True,
) -> Image.Image:
    """Decode the bytes of one image file to an upright image of mode RGB.

    A truncated file is logged as a warning; `find_missing_share` tells how much of it is missing.

    Args:
        data: the whole file.
        path: its name, for messages; the suffix matters only for TGA and raw files.
        max_pixels: refuse images that decode to more pixels (see `estimate_cost`); by default twice
            `PIL.Image.MAX_IMAGE_PIXELS`. Including copies and the library's buffers an image must
            also fit into `PIXELS`.
        least_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as neither side
            falls below this; libjpeg then skips the finer DCT coefficients, which is much faster.
            `find_whole` tells its full size.
        reserve: called with the pixels of four bytes that decoding takes, once the header has been
            read and the size accepted; may wait for memory. By default they are taken from `PIXELS`
            until the image is decoded.
        raw: whether LibRaw reads files that are named as a camera's raw files.

    Raises:
        ImageError: it is not an image, is damaged, misses more than `MAX_MISSING`, or has too many
            pixels.
    """
    with contextlib.ExitStack() as stack:
        if max_pixels is None:
            max_pixels = _max_pixels()
        reserve = reserve or stack.enter_context(PIXELS.share())
        data = bytes(data)
        if not data:
            raise ImageError(path, "is empty")
        if raw and path.lower().endswith(tuple(RAW_SUFFIXES)) and not data.startswith(b"\xff\xd8"):
            preview = _read_raw(data, path, max_pixels, least_side, reserve)
            if isinstance(preview, Image.Image):
                return preview
            data = preview
        try:
            return _decode(data, path, max_pixels, least_side, reserve)
        except ImageError:
            # Pillow refuses PNGs with much text, such as an image generator's workflow.
            bare = strip_text(data)
            if len(bare) == len(data):
                raise
            return _decode(bare, path, max_pixels, least_side, reserve)


def find_whole(image: Image.Image) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """The full size of an image from `decode_image`, and the part of it that has this size.

    Returns:
        The width and height at full scale; and the left, top, right and bottom of the image, which
        ends within a pixel if its scale does not divide a side. A crop is a whole image.
    """
    size, whole, box = image.info.get(_WHOLE, (None, None, None))
    if size != image.size:
        return image.size, (0, 0, image.width, image.height)
    return whole, box


def find_missing_share(image: Image.Image) -> float:
    """The share of rows that the file of an image from `decode_image` misses; usually 0."""
    share: float = image.info.get(_MISSING, 0.0)
    return share


def _decode(
    data: bytes, path: str, max_pixels: int, least_side: int | None, reserve: Reserve
) -> Image.Image:
    kind, opener = identify(data, path)
    with image_errors(path, kind, data):
        warned = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
        check_header(kind, data, path, warned)
        if kind == "JPEG" and data.endswith(bytes(16)):
            data = data.rstrip(b"\0")  # of unfinished downloads, which would be decoded

        def reopen(data: bytes) -> ImageFile:
            # Without a file name, which would let Pillow map a file that may shrink.
            image = opener(io.BytesIO(data))
            if kind == "JPEG":
                image.decodermaxblock = len(data)  # in one piece: by 64 KB takes a tenth longer
            return image

        # Pillow's copies of the file, and what `FILES` admits beyond its limit.
        file_in_memory = 2 * len(data) if kind == "WEBP" else max(0, len(data) - _MAX_BYTES_AT_ONCE)
        if file_in_memory:
            reserve(file_in_memory // 4)
        image = reopen(data)
        whole, header_end = image.size, image.fp.tell() if image.fp else 0
        box = _draft(image, least_side)
        pixels, memory, effort = estimate_cost(image, whole, data, data[:header_end])
        check_pixels(path, whole, pixels, max_pixels)
        memory += file_in_memory // 4
        if max(memory, effort) > _max_pixels_at_once():
            what = "memory" if memory > effort else "time"
            raise ImageError(
                path, f"takes too much {what} to decode ({whole[0]} x {whole[1]} pixels, {kind})"
            )
        if kind == "TIFF" and image.width * image.height > warned:
            # Pillow would allocate this with a warning on stderr.
            image.im = Image.new(image.mode, getattr(image, "_tile_size", image.size)).im
        reserve(max(memory, effort))
        missing = 0.0
        try:
            image.load()
        except OSError as error:
            is_truncated = "truncated" in str(error) and kind in _ROW_BY_ROW
            if not is_truncated or 2 * pixels > max_pixels:  # it is decoded twice
                raise
            first, image = reopen(data + _ZEROS), reopen(data + _END_OF_IMAGE)
            _draft(first, least_side)
            _draft(image, least_side)
            # After its first scan a progressive JPEG has all rows, if coarse ones.
            if kind != "JPEG" or data.find(START_OF_SCAN, header_end) < 0:
                missing = _find_missing(path, first, image)
        upright = upright_rgb(image)
        if box and image.size != whole:
            number = find_orientation(image)
            if is_on_its_side(number):
                whole = whole[::-1]
            upright.info[_WHOLE] = upright.size, whole, turn_box(box, image.size, number)
        if missing:
            upright.info[_MISSING] = missing
        return upright


def _draft(image: ImageFile, least_side: int | None) -> tuple[float, float, float, float] | None:
    """Let a JPEG be decoded at a reduced scale; return the part of it that shows the image."""
    if least_side and image.format in ("JPEG", "MPO"):
        drafted = image.draft(None, (least_side, least_side))
        return drafted and drafted[1]
    return None


def _find_missing(path: str, first: ImageFile, second: ImageFile) -> float:
    """Load a truncated file, with grey for missing rows, and return the share of these.

    `first` is the file followed by zeros, which never decode to grey; `second` is followed by an
    end marker, after which libjpeg fills in grey, and keeps the pixels.
    """
    import numpy as np

    for image, fill in ((first, 0), (second, 128)):
        bands = len(image.getbands())
        image.im = Image.new(image.mode, image.size, (fill,) * bands if bands > 1 else fill).im
        with contextlib.suppress(OSError, SyntaxError):
            image.load()
        image.tile = []
    count = 0
    for top in range(0, first.height, 256):  # in strips: whole copies may fill the memory
        box = 0, top, first.width, min(top + 256, first.height)
        one, other = (
            np.asarray(image.crop(box)).reshape(box[3] - top, -1) for image in (first, second)
        )
        missing = (one != other).any(axis=1)
        if first.format in ("JPEG", "MPO"):
            missing &= ((other == 128) | (other == 127)).all(axis=1)
        count += int(missing.sum())
    share = count / first.height
    if share > MAX_MISSING:
        raise ImageError(path, f"truncated, {100 * share:.0f} % missing")
    if share:
        logger.warning("%s: truncated, %.0f %% missing", path, max(1, 100 * share))
    return share


def _read_raw(
    data: bytes, path: str, max_pixels: int, least_side: int | None, reserve: Reserve
) -> Image.Image | bytes:
    """A raw file's preview, a JPEG; or the raw image, developed, if the preview is too small."""
    try:
        import rawpy
    except ImportError as error:
        raise ImageError(path, f"raw files need rawpy: {install_command('raw')}") from error
    with image_errors(path, "raw"), rawpy.imread(io.BytesIO(data)) as raw:
        try:
            preview = raw.extract_thumb()
        except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
            preview = None
        # LibRaw adds the orientation to a JPEG without one. Bitmaps are tiny and have none.
        if preview and preview.format == rawpy.ThumbFormat.JPEG:
            with Image.open(io.BytesIO(preview.data)) as image:
                if min(image.size) >= (least_side // 2 if least_side else _LEAST_PREVIEW):
                    return bytes(preview.data)
        size = raw.sizes.width, raw.sizes.height
        check_pixels(path, size, size[0] * size[1], max_pixels)
        reserve(size[0] * size[1])
        return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))
