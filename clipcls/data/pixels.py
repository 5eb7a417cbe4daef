"""Convert pixels of every kind to an upright 8-bit RGB image.

- Orientation: EXIF (or XMP) orientation is applied; what cannot be parsed is ignored.
- Alpha, palette transparency and PNG's transparent colour: composited over white; over black if
  less than 1 % of the visible pixels stand out from white, and more do from black.
- 16-bit grey: value / 257, rounded (Pillow's own conversion clips at 255); 12-bit TIFF: / 16.06.
  If it spans a quarter of its range or less, as 10- to 14-bit sensors do, it is stretched.
- 16 bits per colour (PNG, TIFF): the higher byte.
- 32-bit integers and floats have no agreed range: floats within 0..1 are scaled by 255, whole
  numbers within 0..255 stay as they are, integers within 0..65535 are 16-bit, and anything else is
  stretched.
- Stretching maps the darkest value to 0 and the brightest to 255, ignoring 0.1 % at either end:
  sensors have dead and hot pixels. A value at an end that is farther from all others than these
  span (burnt-in text, missing data) is ignored if it has less than half the pixels.
- ICC profiles are not applied: CLIP models were trained on images converted by
  `Image.convert("RGB")` alone.
"""

from __future__ import annotations

import logging
from typing import Any

from PIL import Image, ImageChops

from clipcls.data.image_formats import image_errors
from clipcls.errors import ImageError

logger = logging.getLogger("clipcls")

_STANDS_OUT = 32  # of 255: by how much a pixel differs from its background, to be seen

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

_LEFT_RIGHT = {2, 3, 6, 7}
_TOP_BOTTOM = {3, 4, 7, 8}

_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an open image to upright 8-bit RGB, by the rules above.

    Of an animated image the current frame is taken. Converting the result again changes nothing.

    Args:
        image: of any mode; it is loaded, but not changed otherwise.

    Returns:
        An image of mode RGB: `image` itself if it needs no conversion.

    Raises:
        ImageError: its pixels cannot be loaded or converted.
    """
    name = str(getattr(image, "filename", "")) or "<image>"
    if 0 in image.size:
        raise ImageError(name, "has no pixels")
    with image_errors(name, image.format or "image"):
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Like `to_rgb`, with whatever errors Pillow raises."""
    image.load()
    turn = _UPRIGHT.get(find_orientation(image))
    rgb = _flatten(image)
    if turn is not None:
        rgb = rgb.transpose(turn)
    if rgb is not image:
        rgb.info = {}  # the orientation is spent: a second conversion must not turn it again
    return rgb


def turn_box(
    box: tuple[float, float, float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """Where a part of an image of this size is once the image is upright."""
    left, top, right, bottom = box
    width, height = size
    if is_on_its_side(orientation):
        left, top, right, bottom = top, left, bottom, right
        width, height = height, width
    if orientation in _LEFT_RIGHT:
        left, right = width - right, width - left
    if orientation in _TOP_BOTTOM:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def is_on_its_side(orientation: int) -> bool:
    """Whether an EXIF orientation swaps width and height."""
    return 5 <= orientation <= 8


def find_orientation(image: Image.Image) -> int:
    """The EXIF orientation of a loaded image; 1, upright, if none can be read.

    Only after `load`: PNG stores EXIF after the pixels, and TIFF turns itself while loading.
    """
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
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return _over_background(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_background(image: Image.Image) -> Image.Image:
    """Composite over white, or over black if the image would vanish on white."""
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
    """White, or black if what is visible vanishes on white and does less so on black."""
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
    """The values that become black and white, by the rules above."""
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


def _rescale(values: Any, low: float, high: float) -> Any:
    """Map low..high to 0..255, rounded; NaN and -inf to 0, inf to 255."""
    import numpy as np

    scale = 255 / (high - low) if high > low else 0.0
    eight = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), 256):  # in strips: doubles take eight times the memory
        with np.errstate(invalid="ignore"):
            part = (values[row : row + 256].astype(np.float64) - low) * scale
        part = np.nan_to_num(part, nan=0, posinf=255, neginf=0)
        eight[row : row + 256] = np.clip(np.rint(part), 0, 255)
    return eight
