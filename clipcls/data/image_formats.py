"""Identify an image file's format, and estimate by its header what decoding will cost.

`Image.open` is not used: it warns through the process's warning filters, tries formats that start
other programs, and only says "cannot identify image file".
"""

from __future__ import annotations

import contextlib
import io
import logging
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from PIL import Image

from clipcls.errors import ImageError, install_command
from clipcls.files.magic import name_kind

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

logger = logging.getLogger("clipcls")

START_OF_SCAN = b"\xff\xda"  # of JPEG

# Raster formats with a magic number (TGA by its suffix): none that starts another program (EPS),
# draws vectors (WMF), needs a handler (HDF5, GRIB), or decodes a file inside before its size can be
# checked (ICNS, BLP, DCX).
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

# Four-byte units per pixel at the peak, measured on images of 24 megapixels: of an image's mode
# including its conversion to RGB, and in addition of a format's library.
_COPIES = {"RGB": 1.0, "L": 1.3, "P": 1.3, "1": 1.3, "RGBA": 2.0, "RGBX": 2.0, "CMYK": 2.0}
_COPIES |= {"I;16": 2.5, "I;16L": 2.5, "I;16B": 2.5, "I": 3.5, "F": 3.5}
_TRANSPARENCY_COPIES = {"RGB": 2.1, "I;16": 2.6}
_LIBRARY_COPIES = {"WEBP": 3.0, "AVIF": 1.3, "HEIF": 1.0, "JPEG2000": 3.8, "DDS": 0.8, "SGI": 0.6}

_MAX_PARTS = 100_000  # strips or tiles of a TIFF; Pillow takes 10 microseconds for each

Opener = Callable[[io.BytesIO], "ImageFile"]


@contextlib.contextmanager
def image_errors(path: str, kind: str, data: bytes = b"") -> Iterator[None]:
    """Turn whatever a Pillow plugin raises into an `ImageError` with a short reason."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # plugins let any exception out, even ZeroDivisionError
        logger.debug("%s: %s: %r", path, kind, error)
        message = str(error).lower()
        if isinstance(error, MemoryError):
            reason = "not enough memory to decode it"
        elif isinstance(error, Image.DecompressionBombError):
            reason = "too many pixels"
        elif (
            isinstance(error, EOFError)
            or "truncated" in message
            or (kind == "WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little"))
        ):
            reason = "truncated"
        else:
            reason = f"damaged or unsupported {kind} file"
        raise ImageError(path, reason) from error


def identify(data: bytes, path: str) -> tuple[str, Opener]:
    """Identify the format by its magic number, and return the plugin that opens it.

    Raises:
        ImageError: it is not an image, or its format is not supported; the reason says which.
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
            if isinstance(accepted, str):  # instead of yes or no: built without support
                raise ImageError(path, f"{kind} needs another Pillow (pip install -U pillow)")
            if opener and accepted:
                return kind, lambda file, opener=opener: opener(file, "")
    if brands & _HEIF_BRANDS:
        return "HEIF", _heif_opener(path)
    if data.count(0) == len(data):
        raise ImageError(path, "not an image: all its bytes are zero")
    kind = name_kind(data)
    raise ImageError(path, f"not a supported image: {kind}" if kind else "not an image")


def _brands(data: bytes) -> frozenset[bytes]:
    """Major and compatible brands of an ISO media file (ISO/IEC 14496-12, `ftyp`)."""
    if data[4:8] != b"ftyp":
        return frozenset()
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return frozenset(box[i : i + 4] for i in range(0, len(box), 4) if i != 4)


def _heif_opener(path: str) -> Opener:
    try:
        # Not registered, which would change what the host's Pillow opens.
        from pillow_heif import HeifImageFile
    except ImportError as error:
        reason = f"HEIC needs pillow-heif: {install_command('heic')}"
        raise ImageError(path, reason) from error
    return lambda file: HeifImageFile(file, "")


def check_pixels(path: str, size: tuple[int, int], pixels: int, max_pixels: int) -> None:
    """Refuse an image of this size that decodes to more than `max_pixels`."""
    if pixels > max_pixels:
        limit = f"{max_pixels // 10**6} million" if max_pixels >= 10**6 else f"{max_pixels}"
        raise ImageError(path, f"too many pixels ({size[0]} x {size[1]}; the limit is {limit})")


def check_header(kind: str, data: bytes, path: str, max_pixels: int) -> None:
    """Refuse what Pillow acts on before it tells of it.

    Raises:
        ImageError: a picture in an icon has too many pixels, or a TIFF too many parts.
    """
    with contextlib.suppress(IndexError, struct.error):  # the plugin refuses a truncated header
        if kind == "TIFF" and (parts := _tiff_parts(data)) > _MAX_PARTS:
            raise ImageError(path, f"too many strips or tiles ({parts}; the limit is {_MAX_PARTS})")
        for size in _ico_images(data) if kind == "ICO" else ():
            check_pixels(path, size, size[0] * size[1], max_pixels)


def _ico_images(data: bytes) -> Iterator[tuple[int, int]]:
    for i in range(int.from_bytes(data[4:6], "little")):
        (at,) = struct.unpack_from("<I", data, 18 + 16 * i)
        if data[at : at + 8] == b"\x89PNG\r\n\x1a\n":
            yield struct.unpack_from(">II", data, at + 16)
        elif data[at : at + 4] == b"\x28\0\0\0":  # BITMAPINFOHEADER
            width, height = struct.unpack_from("<ii", data, at + 4)
            yield abs(width), abs(height)


def strip_text(data: bytes) -> bytes:
    """A PNG without its texts and colour profile (PNG 1.2, chapter 3); other data as it is."""
    if not data.startswith(b"\x89PNG"):
        return data
    kept, at = bytearray(data[:8]), 8  # no list: a file may be millions of chunks
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept += data[at:end]
        at = end
    return bytes(kept)


def _tiff_parts(data: bytes) -> int:
    """The number of strips or tiles of a TIFF's first image (TIFF 6.0, section 2)."""
    order = "<" if data[:1] == b"I" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43  # BigTIFF
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    start, step, entry = (at + 8, 20, "HHQ") if big else (at + 2, 12, "HHI")
    found = [
        struct.unpack_from(order + entry, data, start + step * number)
        for number in range(min(entries, 65535))
    ]
    return max((count for tag, _, count in found if tag in (273, 324)), default=0)


def estimate_cost(
    image: ImageFile, whole: tuple[int, int], data: bytes, header: bytes
) -> tuple[int, int, int]:
    """Estimate the cost of an image, open at its reduced scale but not decoded yet.

    Of a JPEG with several scans (a progressive one) libjpeg keeps all coefficients, two bytes each,
    at any scale, and visits them once per scan. A few formats are decoded in Python.

    Args:
        whole: the full size.
        header: the part of the file read so far.

    Returns:
        The pixels it decodes to; the pixels of four bytes it takes at the peak, including copies
        and the library's buffers; the pixels of a usual image that takes as long (1e9 take about a
        minute).
    """
    full, pixels, effort = whole[0] * whole[1], image.width * image.height, 0
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    if layers and image.size != whole:
        # The first scan, whose header was just read, is the only one if it has all layers.
        start = START_OF_SCAN + struct.pack(">HB", 6 + 2 * len(layers), len(layers))
        if "progressive" in image.info or not header[: -2 * len(layers) - 3].endswith(start):
            largest = max(h for _, h, _, _ in layers) * max(v for _, _, v, _ in layers)
            samples = sum(h * v for _, h, v, _ in layers) / max(largest, 1)
            pixels += int(full * samples / 2)
    if image.format in ("JPEG", "MPO"):
        if "progressive" in image.info:
            effort = full * data.count(START_OF_SCAN) // 16
    elif any(tile.codec_name in Image.DECODERS for tile in image.tile):
        effort = 15 * full
    copies = _COPIES.get(image.mode, 3.0) + _LIBRARY_COPIES.get(image.format or "", 0.0)
    if "transparency" in image.info:
        copies += _TRANSPARENCY_COPIES.get(image.mode, 1.0)
    copies += "exif" in image.info or image.format == "TIFF"  # it may have to be turned
    # Pillow keeps an address of eight bytes per row, and decoders up to two rows.
    rows = 2 * (image.width + image.height)
    return pixels, int(pixels * copies) + rows, effort
