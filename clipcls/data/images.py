"""From a file, or bytes, or a PIL image to an upright 8-bit RGB image.

    bytes = read_bytes(path)        never hangs on a pipe, never reads without a limit
    image = decode_image(bytes)     RGB, upright, first frame, alpha over a background
    image = open_image(path)        both
    image = to_rgb(pil_image)       the same rules for an image that is open already
    whole, box = whole_of(image)    the size of an image before it was decoded at a reduced scale

Everything that can be wrong with one image is an `ImageError` with a short reason, so that a run
names it and goes on. Nothing of Pillow's global state is changed or relied on, and all functions
may be called from several threads.

How pixels become 8-bit RGB:

- Orientation: EXIF (or XMP) orientation is applied; what cannot be parsed is ignored.
- Alpha, palette transparency and PNG's transparent colour: composited over white; over black where
  less than 1 % of the visible pixels would stand out from white, and more do from black.
- 16-bit grey: value / 257, rounded (Pillow's own conversion clips at 255); 12-bit TIFF: / 16.06.
- 16 bits per colour (PNG, TIFF): the higher byte.
- If either spans a quarter of its range or less, as sensors of 10 to 14 bits do, it is stretched.
- 32-bit integers and floats have no agreed range: floats within 0..1 are scaled by 255, whole
  numbers within 0..255 are taken as they are, integers within 0..65535 as 16-bit, anything else is
  stretched.
- Stretching maps the darkest value to 0 and the brightest to 255, without the 0.1 % at either end:
  sensors have dead and hot pixels. One value at an end that lies farther from all others than these
  span, as of burnt-in text or missing data, does not count where it has less than half the pixels.
- Raw files: the embedded preview; where it is missing or smaller than the model's input, the raw
  image developed at half its size.
- Files that end early: rows that are missing are grey. Up to `MAX_MISSING` of them cost a warning.
- CMYK with an ICC profile goes through the profile; without one, by the plain formula.
- ICC profiles of RGB and grey images (Display P3, Adobe RGB) are not applied: CLIP models were
  trained on images converted by `Image.convert("RGB")` alone, and so see what they saw then.
"""

# Paths stay as the user wrote them; pathlib would drop a leading ./

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops

from clipcls.data.budget import Budget
from clipcls.data.paths import RAW_SUFFIXES
from clipcls.errors import ImageError, install_command, os_reason

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = [
    "MAX_BYTES",
    "MAX_MISSING",
    "MAX_PIXELS",
    "decode_image",
    "missing_share",
    "open_image",
    "read_bytes",
    "to_rgb",
    "whole_of",
]

logger = logging.getLogger("clipcls")

MAX_BYTES = 1 << 29
"""Largest file that is read, in bytes (512 MiB)."""

MAX_PIXELS = 178_956_970
"""Most pixels of four bytes that all threads together decode at once, copies and what the decoding
library needs included: Pillow's own default limit, 0.7 GB."""


def _max_pixels() -> int:
    """Twice `PIL.Image.MAX_IMAGE_PIXELS`, where Pillow refuses; `MAX_PIXELS` if that is unset."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else MAX_PIXELS


def _max_pixels_at_once() -> int:
    return max(MAX_PIXELS, _max_pixels())


PIXELS = Budget(_max_pixels_at_once)
"""The pixels that all threads together decode at once."""

_MAX_BYTES_AT_ONCE = 1 << 28

FILES = Budget(lambda: _MAX_BYTES_AT_ONCE)
"""The bytes of image files that all threads together hold at once."""

MAX_MISSING = 1 / 3
"""Largest share of its rows that a truncated image may miss. Of 20 photos, mini labelled 18 right
whole, 17 to 18 with up to a third of the rows missing at the bottom, 15 with half, 10 with 3/4."""

# Raster formats only: nothing that starts another program (EPS), draws vectors (WMF) or needs a
# handler (HDF5, GRIB), no formats without a magic number (TGA excepted, and only by its suffix),
# and none that decode another file inside before its size can be checked (ICNS, BLP, DCX).
_COMMON = ("JPEG", "PNG", "GIF", "BMP", "PPM")  # Image.preinit() registers these
_OTHERS = (
    *("WEBP", "TIFF", "AVIF", "JPEG2000", "PSD", "ICO", "CUR", "DIB", "DDS", "QOI", "PCX", "SGI"),
    *("SUN", "XBM", "XPM", "FITS"),
)
_TGA_SUFFIXES = (".tga", ".icb", ".vda", ".vst")

_HEIF_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)
_AVIF_BRANDS = frozenset((b"avif", b"avis"))

# Key in the `info` of an image that was decoded at a reduced scale: its size then, the size it has
# when decoded whole, and the part of it that is the whole.
_WHOLE = "clipcls whole"
_MISSING = "clipcls missing"  # the share of rows that a truncated file does not hold

# What files named like images often are instead, by bytes near their beginning in lower case.
_NOT_READ = {
    b"<html": "not an image: a web page, as of a failed download",
    b"<!doctype html": "not an image: a web page, as of a failed download",
    b"version https://git-lfs": "not an image: a Git LFS pointer (run `git lfs pull`)",
    b"%pdf": "PDF files are not read",
    b"%!ps": "PostScript files are not read",
    b"<svg": "SVG files are not read",
    b"jxl \r\n\x87\n": "JPEG XL files are not read",
    b"\0\0\0\0dicm": "DICOM files are not read",
    b"\0\x05\x16\x07\0\x02": "not an image: a metadata file of macOS",
    b"ftypmp4": "not an image: a video",
    b"ftypisom": "not an image: a video",
    b"ftypqt": "not an image: a video",
}

# Formats whose rows Pillow decodes one after the other: a file that ends early has the first ones.
_ROW_BY_ROW = ("JPEG", "PNG", "BMP", "PPM")
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"  # JPEG's markers
_ZEROS = bytes(64)

_STANDS_OUT = 32  # of 255: by how much a pixel differs from its background, to be seen
_LEAST_PREVIEW = 224  # pixels, of the shorter side of a raw file's preview

_MAX_PARTS = 100_000  # strips or tiles of a TIFF; Pillow takes 10 microseconds for each

# Bytes per pixel at the peak, in fours, measured on images of 24 megapixels: of an image's mode
# with its conversion to RGB, and of what the library of a format needs besides.
_COPIES = {"RGB": 1.0, "L": 1.3, "P": 1.3, "1": 1.3, "RGBA": 2.0, "RGBX": 2.0, "CMYK": 2.0}
_COPIES |= {"I;16": 2.5, "I;16L": 2.5, "I;16B": 2.5, "I": 3.5, "F": 3.5}
_TRANSPARENCY_COPIES = {"RGB": 2.1, "I;16": 2.6}
_LIBRARY_COPIES = {"WEBP": 3.0, "AVIF": 1.3, "HEIF": 1.0, "JPEG2000": 3.8, "DDS": 0.8, "SGI": 0.6}

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_ON_ITS_SIDE = {5, 6, 7, 8}
_LEFT_RIGHT = {2, 3, 6, 7}
_TOP_BOTTOM = {3, 4, 7, 8}

_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def open_image(path: str) -> Image.Image:
    """Read and decode one file.

    Args:
        path: the file.

    Returns:
        A decoded image of mode RGB, upright.

    Raises:
        ImageError: the file cannot be read or is no image; `.reason` says why.
    """
    return decode_image(read_bytes(path), path)


def read_bytes(path: str, *, reserve: Callable[[int], None] = lambda size: None) -> bytes:
    """The bytes of one regular file.

    Args:
        path: the file. A pipe, socket or device is refused and not waited for.
        reserve: called with the file's size in bytes before it is read; may wait for memory.

    Raises:
        ImageError: it cannot be read, is empty, or is larger than `MAX_BYTES`.
    """
    # O_NONBLOCK: opening a pipe without a writer would wait for ever. Absent on Windows.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        # Looked at before it is opened: opening alone sets some devices to work.
        _refuse_unless_file(path, os.stat(path))
        with open(os.open(path, flags | getattr(os, "O_CLOEXEC", 0)), "rb") as file:
            info = os.fstat(file.fileno())  # again: it may have been replaced in between
            _refuse_unless_file(path, info)
            if info.st_size > MAX_BYTES:
                size = f"{info.st_size / (1 << 20):.0f} MiB"
                raise ImageError(path, f"too large ({size}; the limit is {MAX_BYTES >> 20} MiB)")
            reserve(info.st_size)
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImageError(path, os_reason(error)) from error
    except ValueError as error:  # a NUL byte, or characters that the file system cannot encode
        raise ImageError(path, "not a valid file name") from error
    except MemoryError as error:
        raise ImageError(path, "not enough memory to read it") from error
    if not data:
        raise ImageError(path, "is empty")
    if len(data) > MAX_BYTES:  # still growing, or a file without a size as in /proc
        raise ImageError(path, f"too large (the limit is {MAX_BYTES >> 20} MiB)")
    return data


def _refuse_unless_file(path: str, info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise ImageError(path, "is a directory")
    if not stat.S_ISREG(info.st_mode):
        raise ImageError(path, "not a regular file")


def decode_image(
    data: bytes | bytearray | memoryview,
    path: str = "<bytes>",
    *,
    max_pixels: int | None = None,
    least_side: int | None = None,
    reserve: Callable[[int], None] | None = None,
    raw: bool = True,
) -> Image.Image:
    """Decode the bytes of one image file.

    Args:
        data: the whole file.
        path: its name, for messages; its suffix matters for TGA alone.
        max_pixels: refuse images that are decoded to more pixels than this, see
            `_pixels_to_decode`; by default twice `PIL.Image.MAX_IMAGE_PIXELS`. With what a format
            and a mode need besides (copies, buffers of the library) it must also fit into `PIXELS`.
        least_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as neither side
            falls below this: libjpeg leaves the finer DCT coefficients out, which is much faster.
            `whole_of` then tells the size it would have had.
        reserve: called with the pixels of four bytes that decoding takes, when the header has been
            read and the size accepted; may wait for memory. By default they are taken from `PIXELS`
            until the image is decoded.
        raw: whether files that are named as a camera's raw files are handed to LibRaw.

    Returns:
        A decoded image of mode RGB, upright. A file that ends early is logged as a warning, and
        `missing_share` says how much of it is missing.

    Raises:
        ImageError: it is no image, is damaged, misses more than `MAX_MISSING`, or has too many
            pixels.
    """
    if reserve is None:
        with PIXELS.share() as share:
            return decode_image(
                data,
                path,
                max_pixels=max_pixels,
                least_side=least_side,
                reserve=share.fill,
                raw=raw,
            )
    if max_pixels is None:
        max_pixels = _max_pixels()
    data = bytes(data)
    if not data:
        raise ImageError(path, "is empty")
    try:
        if raw and path.lower().endswith(tuple(RAW_SUFFIXES)) and not data.startswith(b"\xff\xd8"):
            return _decode_raw(data, path, max_pixels, least_side, reserve)
        return _decode(data, path, max_pixels, least_side, reserve)
    except _TextTooLongError:
        # Pillow refuses texts over 1 MB (image generators cache such); the pixels may be fine.
        return _decode(_without_text(data), path, max_pixels, least_side, reserve)


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright 8-bit RGB image of an image that is open already; see the module for the rules.

    An animated image is taken at its current frame, which is the first one unless the caller
    moved it. Converting the result again changes nothing.

    Args:
        image: of any mode. It is loaded if it was not, and not changed otherwise.

    Returns:
        An image of mode RGB: `image` itself where there is nothing to convert.

    Raises:
        ImageError: its pixels cannot be loaded or converted.
    """
    name = str(getattr(image, "filename", "")) or "<image>"
    if 0 in image.size:
        raise ImageError(name, "has no pixels")
    with _Reasons(name, image.format or "image", b""):
        return _upright_rgb(image)


def whole_of(image: Image.Image) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """What an image from `decode_image` shows.

    Args:
        image: decoded at a reduced scale or not; what was cut out of one counts as whole.

    Returns:
        the width and height it has when it is decoded whole; and the part of `image` that this
        is: left, top, right, bottom. Where the scale does not divide a side, that part ends within
        a pixel.
    """
    size, whole, box = image.info.get(_WHOLE, (None, None, None))
    if size != image.size:
        return image.size, (0, 0, image.width, image.height)
    return whole, box


def missing_share(image: Image.Image) -> float:
    """The share of rows that the file of an image from `decode_image` did not hold; mostly 0."""
    share: float = image.info.get(_MISSING, 0.0)
    return share


class _TextTooLongError(ImageError):
    """A PNG's compressed text or profile is beyond Pillow's limits."""


class _Reasons:
    """Turns whatever a Pillow plugin raises into an `ImageError` with a short reason."""

    def __init__(self, path: str, kind: str, data: bytes) -> None:
        self.path, self.kind, self.data = path, kind, data

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # Plugins parse untrusted bytes and let any exception out, struct.error and
        # ZeroDivisionError among them; only what is not about the image passes.
        if not isinstance(error, Exception) or isinstance(error, ImageError):
            return
        logger.debug("%s: %s: %r", self.path, self.kind, error)
        raise ImageError(self.path, self._reason(error)) from error

    def _reason(self, error: Exception) -> str:
        message = str(error).lower()
        if isinstance(error, MemoryError):
            return "not enough memory to decode it"
        if isinstance(error, Image.DecompressionBombError):
            return "too many pixels"
        if self.kind == "PNG" and ("too large" in message or "too much memory" in message):
            raise _TextTooLongError(self.path, "holds too much text") from error
        if isinstance(error, EOFError) or "truncated" in message or self._riff_cut():
            return "truncated"
        return f"damaged or unsupported {self.kind} file"

    def _riff_cut(self) -> bool:
        return self.kind == "WEBP" and len(self.data) < 8 + _u32(self.data[4:8])


def _decode(
    data: bytes,
    path: str,
    max_pixels: int,
    least_side: int | None,
    reserve: Callable[[int], None],
) -> Image.Image:
    kind, opener = _identify(data, path)
    with _Reasons(path, kind, data):
        warned = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
        for size in _inner_sizes(kind, data):
            _check_pixels(path, size, size[0] * size[1], warned)
        if kind == "TIFF" and (parts := _tiff_parts(data)) > _MAX_PARTS:
            raise ImageError(path, f"too many strips or tiles ({parts}; the limit is {_MAX_PARTS})")

        if kind == "JPEG" and data.endswith(bytes(16)):
            data = data.rstrip(b"\0")  # of unfinished downloads, which would be decoded

        def reopen(data: bytes) -> ImageFile:
            # No file name for Pillow: given one, it maps the file and dies if the file shrinks.
            image = opener(io.BytesIO(data))
            if kind == "JPEG":
                image.decodermaxblock = len(data)  # in one piece: by 64 KB takes a tenth longer
            return image

        # Copies of the file that Pillow makes to open it, and what `FILES` let pass alone.
        file_in_memory = 2 * len(data) if kind == "WEBP" else max(0, len(data) - _MAX_BYTES_AT_ONCE)
        if file_in_memory:
            reserve(file_in_memory // 4)
        image = reopen(data)
        whole, header_end = image.size, image.fp.tell() if image.fp else 0
        box = _draft(image, least_side)
        low_bytes = _find_low_bytes(image)
        decoded = _pixels_to_decode(image, whole, data[:header_end])
        _check_pixels(path, whole, decoded, max_pixels)
        in_memory = int(decoded * _copies(image, bool(low_bytes))) + file_in_memory // 4
        effort = _effort_to_decode(image, whole, data)
        if max(in_memory, effort) > _max_pixels_at_once():
            what = "memory" if in_memory > effort else "time"
            raise ImageError(
                path, f"takes too much {what} to decode ({whole[0]} x {whole[1]} pixels, {kind})"
            )
        if kind == "TIFF" and image.width * image.height > warned:
            # Pillow allocates these itself, with a warning on stderr.
            image.im = Image.new(image.mode, getattr(image, "_tile_size", image.size)).im
        reserve(max(in_memory, effort))
        missing = 0.0
        try:
            image.load()
        except OSError as error:
            if "truncated" not in str(error) or kind not in _ROW_BY_ROW:
                raise
            if 2 * decoded > max_pixels:  # for it is decoded twice, and compared
                raise
            first, image = reopen(data + _ZEROS), reopen(data + _END_OF_IMAGE)
            _draft(first, least_side)
            _draft(image, least_side)
            # Once a second scan has begun, all rows of a progressive JPEG are there, if coarse.
            if kind != "JPEG" or data.find(_START_OF_SCAN, header_end) < 0:
                missing = _find_missing(path, first, image)
        if low_bytes and not missing:
            _stretch_colour(image, reopen(data), low_bytes)
        upright = _upright_rgb(image)
        if box and image.size != whole:
            number = _orientation(image)
            if number in _ON_ITS_SIDE:
                whole = whole[::-1]
            upright.info[_WHOLE] = upright.size, whole, _turned(box, image.size, number)
        if missing:
            upright.info[_MISSING] = missing
        return upright


def _draft(image: ImageFile, least_side: int | None) -> tuple[float, float, float, float] | None:
    """Has a JPEG decoded at a reduced scale; returns the part of it that is the whole."""
    if least_side and image.format in ("JPEG", "MPO"):
        drafted = image.draft(None, (least_side, least_side))
        return drafted and drafted[1]
    return None


def _copies(image: ImageFile, low_bytes: bool) -> float:
    """Peak memory of an image that is open, in multiples of four bytes per decoded pixel.

    Args:
        image: the image, not decoded yet.
        low_bytes: whether it has 16 bits per colour.
    """
    copies = _COPIES.get(image.mode, 3.0) + _LIBRARY_COPIES.get(image.format or "", 0.0)
    if "transparency" in image.info:
        copies += _TRANSPARENCY_COPIES.get(image.mode, 1.0)
    if "exif" in image.info or image.format == "TIFF":  # it may have to be turned
        copies += 1
    return copies + 5 if low_bytes else copies


def _pixels_to_decode(image: ImageFile, whole: tuple[int, int], header: bytes) -> int:
    """How many pixels, of four bytes each, an image is decoded to.

    The only place that knows. `image` is open and has its reduced scale, if any; `whole` is its
    full size; `header` the file as far as it has been read. libjpeg keeps all coefficients of a
    JPEG with several scans (a progressive one), two bytes each, whatever the scale.
    """
    pixels = image.width * image.height
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    if layers and image.size != whole:
        # The first scan, whose header has been read, is the only one if it holds all layers.
        start = _START_OF_SCAN + struct.pack(">HB", 6 + 2 * len(layers), len(layers))
        if "progressive" in image.info or not header[: -2 * len(layers) - 3].endswith(start):
            largest = max(h for _, h, _, _ in layers) * max(v for _, _, v, _ in layers)
            samples = sum(h * v for _, h, v, _ in layers) / max(largest, 1)
            pixels += int(whole[0] * whole[1] * samples / 2)
    return pixels


def _effort_to_decode(image: ImageFile, whole: tuple[int, int], data: bytes) -> int:
    """How many pixels a usual image has that takes as long to decode; a minute for 1e9 or so.

    libjpeg goes through all coefficients once per scan, and a few formats are decoded in Python.
    """
    pixels = whole[0] * whole[1]
    if image.format in ("JPEG", "MPO"):
        return pixels * data.count(_START_OF_SCAN) // 16 if "progressive" in image.info else 0
    in_python = any(tile.codec_name in Image.DECODERS for tile in image.tile)
    return 15 * pixels if in_python else 0


def _tiff_parts(data: bytes) -> int:
    """Number of strips or tiles of a TIFF's first image (TIFF 6.0, section 2), 0 if unreadable."""
    order = "<" if data[:1] == b"I" else ">"
    try:
        if struct.unpack_from(order + "H", data, 2)[0] == 43:  # BigTIFF
            (at,) = struct.unpack_from(order + "Q", data, 8)
            (entries,) = struct.unpack_from(order + "Q", data, at)
            start, step, entry = at + 8, 20, "HHQ"
        else:
            (at,) = struct.unpack_from(order + "I", data, 4)
            (entries,) = struct.unpack_from(order + "H", data, at)
            start, step, entry = at + 2, 12, "HHI"
        found = (
            struct.unpack_from(order + entry, data, start + step * number)
            for number in range(min(entries, 65535))
        )
        return max((count for tag, _, count in found if tag in (273, 324)), default=0)
    except struct.error:
        return 0


def _find_missing(path: str, first: ImageFile, second: ImageFile) -> float:
    """Loads the rows that a truncated file holds; those that it does not hold are made grey.

    Args:
        path: the file, for messages.
        first, second: it, opened with different bytes at its end: zeros, which make up other
            pixels than grey, and an end marker, upon which libjpeg makes up grey. `second` is
            loaded.

    Returns:
        the share of rows that are missing.

    Raises:
        ImageError: more than `MAX_MISSING` are.
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


def _decode_raw(
    data: bytes,
    path: str,
    max_pixels: int,
    least_side: int | None,
    reserve: Callable[[int], None],
) -> Image.Image:
    try:
        import rawpy
    except ImportError as error:
        raise ImageError(path, f"raw files need rawpy: {install_command('raw')}") from error
    with _Reasons(path, "raw", data), rawpy.imread(io.BytesIO(data)) as raw:
        least = least_side // 2 if least_side else _LEAST_PREVIEW
        try:
            preview = raw.extract_thumb()
        except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
            preview = None
        # LibRaw puts the orientation into a preview without one. Bitmaps are tiny and have none.
        if preview and preview.format == rawpy.ThumbFormat.JPEG:
            with Image.open(io.BytesIO(preview.data)) as image:
                size = image.size
            if min(size) >= least:
                return _decode(preview.data, path, max_pixels, least_side, reserve)
        size = raw.sizes.width, raw.sizes.height
        _check_pixels(path, size, size[0] * size[1], max_pixels)
        reserve(size[0] * size[1])
        return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))


_Opener = Callable[[io.BytesIO], "ImageFile"]


def _identify(data: bytes, path: str) -> tuple[str, _Opener]:
    """The format by its magic number, and the plugin that opens it.

    In place of `Image.open`, which warns through the process-wide warning filters of the program
    that imports us, tries formats that start other programs, and says no more than "cannot
    identify image file".
    """
    prefix = data[:16].ljust(16, b"\0")
    brands = _brands(data)
    Image.preinit()
    for kinds in (_COMMON, _OTHERS):
        if kinds is _OTHERS:
            Image.init()
            # Before the others: a usual TGA starts with the magic number of CUR.
            if path.lower().endswith(_TGA_SUFFIXES):
                return "TGA", lambda file: Image.OPEN["TGA"][0](file, "")
        for kind in kinds:
            if kind == "AVIF" and not brands & _AVIF_BRANDS:
                continue  # Pillow's plugin would take any HEIF by its first brand
            opener, accept = Image.OPEN.get(kind, (None, None))
            accepted = accept and accept(prefix)
            if isinstance(accepted, str):  # in place of yes or no: built without support for it
                raise ImageError(path, f"{kind} needs another Pillow (pip install -U pillow)")
            if opener and accepted:
                return kind, lambda file, opener=opener: opener(file, "")
    if brands & _AVIF_BRANDS and "AVIF" not in Image.OPEN:
        raise ImageError(path, "AVIF needs a newer Pillow (pip install -U pillow)")
    if brands & _HEIF_BRANDS:
        return "HEIF", _heif_opener(path)
    start = data[:1024].lower()
    for magic, reason in _NOT_READ.items():
        if magic in start:
            raise ImageError(path, reason)
    if data.count(0) == len(data):
        raise ImageError(path, "not an image: all its bytes are zero")
    raise ImageError(path, "not an image")


def _brands(data: bytes) -> frozenset[bytes]:
    """Major and compatible brands of an ISO media file (ISO/IEC 14496-12, `ftyp`)."""
    if data[4:8] != b"ftyp":
        return frozenset()
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return frozenset(box[i : i + 4] for i in range(0, len(box), 4) if i != 4)


def _heif_opener(path: str) -> _Opener:
    try:
        # Used directly and not registered: registering would change what the host's Pillow opens.
        from pillow_heif import HeifImageFile
    except ImportError as error:
        reason = f"HEIC needs pillow-heif: {install_command('heic')}"
        raise ImageError(path, reason) from error
    return lambda file: HeifImageFile(file, "")


def _check_pixels(path: str, size: tuple[int, int], pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        limit = f"{max_pixels // 10**6} million" if max_pixels >= 10**6 else f"{max_pixels}"
        raise ImageError(path, f"too many pixels ({size[0]} x {size[1]}; the limit is {limit})")


def _inner_sizes(kind: str, data: bytes) -> Iterator[tuple[int, int]]:
    """Sizes that Pillow acts on (and warns about) before it tells any."""
    try:
        if kind == "GIF":
            yield from _gif_overhang(data)
        elif kind == "ICO":
            yield from _ico_images(data)
    except (IndexError, struct.error):
        return  # cut off; the plugin will say so


def _gif_overhang(data: bytes) -> Iterator[tuple[int, int]]:
    """Size of a first frame that is larger than the screen (GIF89a, sections 17 to 26)."""
    screen = struct.unpack_from("<2H", data, 6)
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[at : at + 1] not in (b",", b";", b""):
        if data[at] == ord("!"):
            at += 2
            while data[at]:
                at += 1 + data[at]
        at += 1
    x, y, width, height = struct.unpack_from("<4H", data, at + 1)
    if x + width > screen[0] or y + height > screen[1]:
        yield max(x + width, screen[0]), max(y + height, screen[1])


def _ico_images(data: bytes) -> Iterator[tuple[int, int]]:
    for i in range(int.from_bytes(data[4:6], "little")):
        (at,) = struct.unpack_from("<I", data, 18 + 16 * i)
        if data[at : at + 8] == b"\x89PNG\r\n\x1a\n":
            yield struct.unpack_from(">II", data, at + 16)
        elif data[at : at + 4] == b"\x28\0\0\0":  # BITMAPINFOHEADER
            width, height = struct.unpack_from("<ii", data, at + 4)
            yield abs(width), abs(height)


def _without_text(data: bytes) -> bytes:
    """A PNG without its texts and colour profile (PNG 1.2, chapter 3)."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _u32(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    rgb = _flatten(image)
    if turn is not None:
        rgb = rgb.transpose(turn)
    if rgb is not image:
        rgb.info = {}  # the orientation is spent: a second conversion must not turn it again
    return rgb


def _turned(
    box: tuple[float, float, float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """Where a part of an image of this size lies once the image is upright."""
    left, top, right, bottom = box
    width, height = size
    if orientation in _ON_ITS_SIDE:
        left, top, right, bottom = top, left, bottom, right
        width, height = height, width
    if orientation in _LEFT_RIGHT:
        left, right = width - right, width - left
    if orientation in _TOP_BOTTOM:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _orientation(image: Image.Image) -> int:
    # After load(): PNG keeps EXIF behind the pixels, and TIFF turns itself while loading.
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return value if isinstance(value, int) else 1
    except Exception as error:  # EXIF is written by every kind of device; pixels matter more
        logger.debug("EXIF ignored: %r", error)
        return 1


def _flatten(image: Image.Image) -> Image.Image:
    """8-bit RGB without alpha."""
    if image.mode in _WIDE_MODES:
        return _grey_to_8bit(image)
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return _over_background(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_background(image: Image.Image) -> Image.Image:
    """Lays what is visible over white; over black where it would vanish on white."""
    try:
        if image.mode == "La":
            image = image.convert("LA")
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    except (ValueError, TypeError):  # a transparent colour that does not fit the mode
        return image.convert("RGB")
    background = Image.new("RGB", rgba.size, _choose_background(rgba))
    background.paste(rgba, (0, 0), rgba)
    return background


def _choose_background(rgba: Image.Image) -> str:
    """White; but black where what is visible would vanish on white and does less so on black."""
    side = 512
    sample = rgba.resize((min(side, rgba.width), min(side, rgba.height)), Image.Resampling.NEAREST)
    shares = {}
    for colour in ("white", "black"):
        background = Image.new("RGB", sample.size, colour)
        laid = background.copy()
        laid.paste(sample, (0, 0), sample)
        red, green, blue = ImageChops.difference(laid, background).split()
        largest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
        counts = largest.histogram(sample.getchannel("A"))  # without wholly transparent pixels
        shares[colour] = sum(counts[_STANDS_OUT:]) / max(1, sum(counts))
    return "black" if shares["white"] < min(0.01, shares["black"]) else "white"


def _grey_to_8bit(image: Image.Image) -> Image.Image:
    import numpy as np

    grey: np.ndarray[Any, Any] = np.asarray(image)
    clear = image.info.get("transparency")
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    full = 4095 if bits == (12,) else 65535
    shown = grey if clear is None else grey[grey != clear]
    eight = Image.fromarray(_rescale(grey, *_range(image.mode, shown, full)))
    if clear is None:
        return eight.convert("RGB")
    alpha = Image.fromarray(np.where(grey == clear, 0, 255).astype(np.uint8))
    return _over_background(Image.merge("LA", (eight, alpha)))


def _range(mode: str, values: Any, full: int) -> tuple[float, float]:
    """The values that become black and white; see the module for the rules."""
    import numpy as np

    finite = values[np.isfinite(values)] if mode == "F" else values
    if not finite.size:
        return 0, 0
    low, high = float(finite.min()), float(finite.max())
    if mode == "F" and low >= 0 and high <= 1:
        return 0, 1
    if mode in ("I", "F") and low >= 0 and high <= 255 and (finite == finite.round()).all():
        return 0, 255
    sample = finite.ravel()[:: 1 + finite.size // 1_000_000]
    for value in (sample.min(), sample.max()):
        others = sample[sample != value]
        if 2 * others.size > sample.size:
            first, last = float(others.min()), float(others.max())
            if 0 < last - first < max(first - value, value - last):
                sample = others
    end = len(sample) // 1000
    ordered = np.partition(sample, (end, len(sample) - 1 - end))
    darkest, brightest = float(ordered[end]), float(ordered[-1 - end])
    if darkest == brightest:
        darkest, brightest = low, high
    is_16_bit = mode not in ("I", "F") or (mode == "I" and low >= 0 and high <= full)
    if is_16_bit and not 0 < brightest - darkest <= full / 4:
        return 0, full
    return darkest, brightest


def _find_low_bytes(image: ImageFile) -> list[Any]:
    """The tiles that decode the lower bytes of an image of 16 bits per colour; [] for others.

    Pillow has no mode for such images and decodes the higher bytes; with the other byte order, the
    lower ones.
    """
    tiles = []
    for tile in image.tile:
        mode, *more = [tile.args] if isinstance(tile.args, str) else tile.args or [""]
        if mode not in ("RGB;16B", "RGB;16L", "RGB;16N", "RGBA;16B", "RGBA;16L", "RGBA;16N"):
            return []
        is_little = mode[-1] == "L" or (mode[-1] == "N" and sys.byteorder == "little")
        mode = mode[:-1] + ("B" if is_little else "L")
        tiles.append(tile._replace(args=(mode, *more) if more else mode))
    return tiles


def _stretch_colour(image: Image.Image, low: ImageFile, low_bytes: list[Any]) -> None:
    """Stretches, in place, an image of 16 bits per colour that spans little of its range."""
    import numpy as np

    high = np.asarray(image)[..., :3]
    if int(high.max()) - int(high.min()) > 64:  # spares most images the second decoding
        return
    low.tile = low_bytes
    low.load()
    colours = (high.astype(np.uint16) << 8) + np.asarray(low)[..., :3]
    darkest, brightest = _range("RGB;16", colours, 65535)
    if (darkest, brightest) != (0, 65535):
        stretched = Image.fromarray(_rescale(colours, darkest, brightest))
        if image.mode == "RGBA":
            stretched.putalpha(image.getchannel("A"))
        image.paste(stretched)


def _rescale(values: Any, low: float, high: float) -> Any:
    """low..high to 0..255, rounded; what is not finite becomes 0 (NaN, -inf) or 255 (inf)."""
    import numpy as np

    scale = 255 / (high - low) if high > low else 0.0
    eight = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), 256):  # in strips: doubles would take eight times the image
        with np.errstate(invalid="ignore"):
            part = (values[row : row + 256].astype(np.float64) - low) * scale
        part = np.nan_to_num(part, nan=0, posinf=255, neginf=0)
        eight[row : row + 256] = np.clip(np.rint(part), 0, 255)
    return eight


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    # The plain formula knows no ink: process cyan comes out as (0, 255, 255) in place of about
    # (0, 160, 220). Print files nearly always carry their profile.
    profile = image.info.get("icc_profile")
    if profile:
        try:
            from PIL import ImageCms

            inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if inks.profile.xcolor_space.strip() == "CMYK":
                rgb = ImageCms.profileToProfile(
                    image,
                    inks,
                    ImageCms.createProfile("sRGB"),
                    # As image editors do by default; "perceptual" tints LittleCMS's blacks.
                    renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                    outputMode="RGB",
                    flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
                )
                if rgb is not None:
                    return rgb
        except Exception as error:  # a broken profile, or a Pillow without LittleCMS
            logger.debug("ICC profile ignored: %r", error)
    return image.convert("RGB")
