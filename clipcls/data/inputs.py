"""Images as a Python caller passes them -> named images, one by one.

Every method that takes images takes one or many of these:

- a path (str or os.PathLike); a str is one path, never its letters,
- a PIL image,
- a NumPy array, uint8: H x W x 3 (RGB), H x W x 4 (RGBA), H x W x 1 or H x W (grey); one of
  N x H x W x C is many,
- the bytes of an image file, or a binary file object, read from its start where it can seek.

Many are a list or any other iterable but a mapping, a set or a table. What could be taken for two
things is a TypeError that says what to write instead.

Names: a file is called by its path as given; a PIL image or file object by the name of its file, if
it has one; any other image `images[3]`, by its position counted from 0. Predictions and errors
carry this name as `path`.

Files are read later, in threads. Everything else is read, and arrays are copied, before the next
image is asked for, so that a generator may close or reuse what it yielded.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipcls.data.augment import View
from clipcls.data.images import MAX_BYTES, decode_image, read_bytes
from clipcls.data.pixels import to_rgb
from clipcls.errors import ImageError, os_reason

__all__ = [
    "ImageInput",
    "Images",
    "NamedImage",
    "OnError",
    "apply_on_error",
    "has_no_file",
    "name_images",
    "open_input",
]

logger = logging.getLogger(__name__)

ImageInput: TypeAlias = (
    "str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | bytes | bytearray | memoryview"
    " | IO[bytes]"
)
Images: TypeAlias = "ImageInput | Iterable[ImageInput | ImageError]"

OnError = Literal["raise", "skip", "yield"]
"""What to do about an image that cannot be read: raise its `ImageError`; leave it out of the
results, with a warning in the log; or keep its place (an iterator yields the `ImageError`)."""

_KINDS = "a path, a PIL image, a uint8 array (H x W x 3), bytes or a binary file object"
_CHANNELS = (1, 3, 4)
_CHUNK = 1 << 20

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image to embed.

    Attributes:
        name: its path, or what it is called in results.
        source: None for a file at the path `name`, the bytes of a file, an RGB image, or a view of
            a file.
    """

    name: str
    source: bytes | Image.Image | View | None = None


def name_images(images: Any) -> Iterator[NamedImage | ImageError]:
    """Names one image or many, in their order.

    Args:
        images: `Images`; views and named images are taken too, and errors are handed through.

    Yields:
        a `NamedImage` for each, or the `ImageError` that says why there is none.

    Raises:
        TypeError: at once where `images` is neither an image nor an iterable of them, and at its
            turn where one of them is none.
    """
    many = [images] if _is_one(images) else images
    return (_name(number, item) for number, item in enumerate(many))


def open_input(image: ImageInput) -> Image.Image:
    """One image of any kind, decoded: RGB and upright.

    Raises:
        ImageError: it cannot be read.
        TypeError: it is no image.
    """
    if not _is_one(image):
        raise TypeError(f"give one image: {_KINDS}")
    named = _name(0, image)
    if isinstance(named, ImageError):
        raise named
    if isinstance(named.source, Image.Image):
        return named.source
    data = named.source if isinstance(named.source, bytes) else read_bytes(named.name)
    return decode_image(data, named.name)


def apply_on_error(
    results: Iterable[Result | ImageError], on_error: OnError
) -> Iterator[Result | ImageError]:
    """Results in their order, with `ImageError`s treated as `on_error` says.

    Raises:
        ValueError: at once, where `on_error` is none of its values.
        ImageError: at its turn, with "raise".
    """
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error is {on_error!r}; choose from {', '.join(get_args(OnError))}")
    return iter(results) if on_error == "yield" else _without_errors(results, on_error)


def _without_errors(
    results: Iterable[Result | ImageError], on_error: OnError
) -> Iterator[Result | ImageError]:
    for result in results:
        if not isinstance(result, ImageError):
            yield result
        elif on_error == "raise":
            raise result
        else:
            logger.warning("%s: left out (%s)", result.path, result.reason)


def has_no_file(name: str) -> bool:
    """Whether a name of a prediction is a position instead of a path."""
    return re.fullmatch(r"images\[\d+\]", name) is not None


def _is_one(images: Any) -> bool:
    """Whether this is an image; if not, it can be iterated over.

    Raises:
        TypeError: neither.
    """
    if isinstance(images, np.ndarray):
        if images.ndim == 1 and images.dtype.kind in "OUS":
            return False
        if images.ndim == 0:
            raise TypeError("an array without dimensions is no list of images; give X.item()")
        if images.dtype.kind == "f" and images.ndim < 3:
            raise TypeError(
                f"an array of {images.dtype} with the shape {images.shape} holds vectors, not "
                "images; predict, predict_proba and decision_function take them"
            )
        if images.ndim == 1 and images.dtype == np.uint8:
            raise TypeError("a flat uint8 array is no image; for a file's bytes give X.tobytes()")
        if images.ndim == 2 and images.dtype.kind in "OUS":
            raise TypeError(f"a table of {images.shape} is no list of images; give X[:, 0]")
        _check_array(images, "X", "N x H x W x 3")
        return images.ndim < 4
    if isinstance(images, str | os.PathLike | Image.Image | bytes | bytearray | memoryview):
        return True
    if hasattr(images, "read"):
        return True
    if isinstance(images, Mapping):
        raise TypeError("a mapping is no list of images; give list(X) or list(X.values())")
    if isinstance(images, set | frozenset):
        raise TypeError("a set has no order to answer in; give a list of images")
    if hasattr(images, "columns"):
        raise TypeError("a table is no list of images; give its column of paths, as X['path']")
    if getattr(images, "ndim", 1) != 1:
        raise TypeError(
            f"{type(images).__name__} is not taken; give a uint8 array, N x H x W x 3 (np.asarray)"
        )
    if not isinstance(images, Iterable):
        raise TypeError(f"give {_KINDS}, or a list of them, not {type(images).__name__}")
    return False


def _name(number: int, item: Any) -> NamedImage | ImageError:
    """One image of several, `number` being its position."""
    if isinstance(item, NamedImage | ImageError):
        return item
    if isinstance(item, View):
        return NamedImage(item.path, item)
    if isinstance(item, str | os.PathLike):
        path = os.fspath(item)
        return NamedImage(str(path if isinstance(path, str) else os.fsdecode(path)))
    name = f"images[{number}]"
    try:
        if isinstance(item, bytes | bytearray | memoryview):
            return NamedImage(name, bytes(item))
        if hasattr(item, "read"):
            own = getattr(item, "name", None)
            name = own if isinstance(own, str) and own else name
            return NamedImage(name, _read(item, name))
        if isinstance(item, np.ndarray):
            return NamedImage(name, _from_array(item, name))
        if isinstance(item, Image.Image):
            own = getattr(item, "filename", None)
            name = own if isinstance(own, str) and own else name
            return NamedImage(name, to_rgb(item))
    except ImageError as error:
        return ImageError(name, error.reason)
    except MemoryError:
        return ImageError(name, "not enough memory to read it")
    cure = "; np.asarray makes an array of it" if hasattr(item, "__array__") else ""
    raise TypeError(f"{name}: an image is {_KINDS}, not {type(item).__name__}{cure}")


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    _check_array(array, name, "H x W x 3")
    if array.ndim > 3:
        raise TypeError(f"{name}: an array of {array.ndim} dimensions is no single image")
    if 0 in array.shape:
        raise ImageError(name, "has no pixels")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return to_rgb(Image.fromarray(array.copy(order="C")))


def _check_array(array: NDArray[Any], name: str, wanted: str) -> None:
    """Refuses an array that is no image of uint8, or none of several."""
    if array.dtype != np.uint8:
        cure = {
            "f": "; if its values are 0 to 1, give (255 * array).round().astype(np.uint8)",
            "b": "; give 255 * array.astype(np.uint8)",
            "i": "; if its values are 0 to 255, give array.astype(np.uint8)",
            "u": "; if its values are 0 to 255, give array.astype(np.uint8); if they are 0 to "
            "65535, (array // 257).astype(np.uint8)",
        }.get(array.dtype.kind, "")
        raise TypeError(f"{name}: images in an array are uint8, 0 to 255, not {array.dtype}{cure}")
    if array.ndim == 2 or (array.ndim in (3, 4) and array.shape[-1] in _CHANNELS):
        return
    cure = ""
    if array.ndim in (3, 4) and array.shape[-3] in _CHANNELS:
        cure = "; the channels are first: give np.moveaxis(array, -3, -1)"
    elif array.ndim == 3:
        cure = "; of several grey images give a list, or array[..., np.newaxis]"
    raise TypeError(f"{name}: an array of images is {wanted}, not {array.shape}{cure}")


def _read(file: Any, name: str) -> bytes:
    """The bytes of a binary file object."""
    if isinstance(file, io.TextIOBase):
        raise TypeError(f"{name}: the file is open as text; open it with the mode 'rb'")
    chunks: list[bytes] = []
    size = 0
    try:
        if not getattr(file, "closed", False) and hasattr(file, "seekable") and file.seekable():
            file.seek(0)  # as Pillow does: what was just written to memory stands at its end
        while chunk := file.read(_CHUNK):
            if not isinstance(chunk, bytes | bytearray | memoryview):
                raise TypeError(
                    f"{name}: read() of a file object gives bytes, not {type(chunk).__name__}"
                )
            size += len(chunk)
            if size > MAX_BYTES:
                raise ImageError(name, f"too large (the limit is {MAX_BYTES >> 30} GiB)")
            chunks.append(bytes(chunk))
    except (ImageError, TypeError, MemoryError):
        raise
    except OSError as error:
        raise ImageError(name, os_reason(error)) from error
    except Exception as error:  # archives and network streams have errors of their own
        raise ImageError(name, f"cannot be read ({error})") from error
    return b"".join(chunks)
