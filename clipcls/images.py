"""From a file, or bytes, or a PIL image to an upright 8-bit RGB image.

    bytes = read_bytes(path)        never hangs on a pipe, never reads without a limit
    image = decode_image(bytes)     RGB, upright, first frame, alpha over white
    image = open_image(path)        both
    image = to_rgb(pil_image)       the same rules for an image that is open already
    whole, box = whole_of(image)    the size of an image before it was decoded at a reduced scale

Everything that can be wrong with one image is an `ImageError` with a short reason, so that a run
names it and goes on. Nothing of Pillow's global state is changed or relied on, and all functions
may be called from several threads.

How pixels become 8-bit RGB:

- Orientation: EXIF (or XMP) orientation is applied; what cannot be parsed is ignored.
- Alpha, palette transparency and PNG's transparent colour: composited over white.
- 16-bit grey: value / 257, rounded (Pillow's own conversion clips at 255); 12-bit TIFF: / 16.06.
- 32-bit integers and floats have no agreed range: floats within 0..1 are scaled by 255, whole
  numbers within 0..255 are taken as they are, integers within 0..65535 as 16-bit, anything else is
  stretched from its minimum to its maximum.
- CMYK with an ICC profile goes through the profile; without one, by the plain formula.
- ICC profiles of RGB and grey images (Display P3, Adobe RGB) are not applied: CLIP models were
  trained on images converted by `Image.convert("RGB")` alone, and so see what they saw then.
"""

# Paths stay as the user wrote them; pathlib would drop a leading ./

from __future__ import annotations

import io
import logging
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from PIL import Image

from clipcls.errors import ImageError, install_command
from clipcls.inputs import os_reason

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "decode_image",
    "open_image",
    "read_bytes",
    "to_rgb",
    "whole_of",
]

logger = logging.getLogger("clipcls")

MAX_BYTES = 1 << 30
"""Largest file that is read, in bytes (1 GiB)."""

MAX_PIXELS = 178_956_970
"""Largest image that is decoded, in pixels: where Pillow by default refuses too."""

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


def read_bytes(path: str) -> bytes:
    """The bytes of one regular file.

    Args:
        path: the file. A pipe, socket or device is refused and not waited for.

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
                raise ImageError(
                    path, f"too large ({info.st_size / (1 << 30):.1f} GiB; the limit is 1 GiB)"
                )
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
        raise ImageError(path, "too large (the limit is 1 GiB)")
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
    opened: Callable[[], None] = lambda: None,
) -> Image.Image:
    """Decode the bytes of one image file.

    Args:
        data: the whole file.
        path: its name, for messages; its suffix matters for TGA alone.
        max_pixels: refuse images with more pixels than this, before decoding. By default twice
            `PIL.Image.MAX_IMAGE_PIXELS`, where Pillow refuses, or `MAX_PIXELS` if that is unset.
        least_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as neither side
            falls below this: libjpeg leaves the finer DCT coefficients out, which is much faster.
            `whole_of` then tells the size it would have had.
        opened: called when the header has been read and the size accepted, before pixels are
            decoded, which takes most of the time: from here on there likely is an image.

    Returns:
        A decoded image of mode RGB, upright.

    Raises:
        ImageError: it is no image, is damaged, or has too many pixels.
    """
    if max_pixels is None:
        max_pixels = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else MAX_PIXELS
    data = bytes(data)
    if not data:
        raise ImageError(path, "is empty")
    try:
        return _decode(data, path, max_pixels, least_side, opened)
    except _TextTooLongError:
        # Pillow refuses texts over 1 MB (image generators store such); the pixels may be fine.
        return _decode(_without_text(data), path, max_pixels, least_side, opened)


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
    data: bytes, path: str, max_pixels: int, least_side: int | None, opened: Callable[[], None]
) -> Image.Image:
    kind, opener = _identify(data, path)
    with _Reasons(path, kind, data):
        warned = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
        _check_pixels(path, _inner_sizes(kind, data), warned)
        # No file name for Pillow: given one, it maps the file and dies if the file shrinks.
        image = opener(io.BytesIO(data))
        _check_pixels(path, [image.size], max_pixels)
        whole, drafted = image.size, None
        if kind == "JPEG":
            image.decodermaxblock = len(data)  # in one piece: by 64 KB takes a tenth longer
            if least_side:
                drafted = image.draft(None, (least_side, least_side))
        if kind == "TIFF" and image.width * image.height > warned:
            # Pillow allocates these itself, with a warning on stderr.
            image.im = Image.new(image.mode, getattr(image, "_tile_size", image.size)).im
        opened()
        upright = _upright_rgb(image)
        if drafted and image.size != whole:
            number = _orientation(image)
            if number in _ON_ITS_SIDE:
                whole = whole[::-1]
            upright.info[_WHOLE] = upright.size, whole, _turned(drafted[1], image.size, number)
        return upright


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
    for magic, name in ((b"%PDF", "PDF"), (b"%!PS", "PostScript"), (b"<svg", "SVG")):
        if magic in data[:1024]:
            raise ImageError(path, f"{name} files are not read")
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


def _check_pixels(path: str, sizes: Iterable[tuple[int, int]], max_pixels: int) -> None:
    for width, height in sizes:
        if width * height > max_pixels:
            limit = f"{max_pixels // 10**6} million" if max_pixels >= 10**6 else f"{max_pixels}"
            raise ImageError(path, f"too many pixels ({width} x {height}; the limit is {limit})")


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
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    try:
        if image.mode == "La":
            image = image.convert("LA")
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    except (ValueError, TypeError):  # a transparent colour that does not fit the mode
        return image.convert("RGB")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, (0, 0), rgba)
    return white


def _grey_to_8bit(image: Image.Image) -> Image.Image:
    import numpy as np

    grey: np.ndarray[Any, Any] = np.asarray(image)
    clear = image.info.get("transparency")
    shown = grey if clear is None else np.where(grey == clear, grey.dtype.type(0), grey)
    if image.mode not in ("I", "F"):
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
        eight = _rescale(shown, 0, 4095 if bits == (12,) else 65535)
    elif not np.isfinite(shown).any():
        eight = np.zeros(shown.shape, np.uint8)
    else:
        finite = shown[np.isfinite(shown)] if image.mode == "F" else shown
        low, high = float(finite.min()), float(finite.max())
        if image.mode == "F" and low >= 0 and high <= 1:
            low, high = 0, 1
        elif low >= 0 and high <= 255 and (finite == finite.round()).all():
            low, high = 0, 255
        elif low >= 0 and high <= 65535 and image.mode == "I":
            low, high = 0, 65535
        eight = _rescale(shown, low, high)
    if clear is not None:
        eight[grey == clear] = 255
    return Image.fromarray(eight).convert("RGB")


def _rescale(values: Any, low: float, high: float) -> Any:
    """low..high to 0..255, rounded; what is not finite becomes 0 (NaN, -inf) or 255 (inf)."""
    import numpy as np

    scale = 255 / (high - low) if high > low else 0.0
    eight = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), 256):  # in strips: doubles would take eight times the image
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
