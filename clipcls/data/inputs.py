"""Turn images as a Python caller passes them into named images.

Every method that takes images takes one or many of these:

- a path (str or os.PathLike),
- a PIL image,
- a NumPy array, uint8: H x W x 3 (RGB), H x W x 4 (RGBA), H x W x 1 or H x W (grey);
  N x H x W x C is many images,
- the bytes of an image file, or a binary file object, read from its start if it can seek,
- a video, which stands for a frame per second (see `clipcls.data.video`),
- a file or folder of vectors, as `clipcls embed` writes it, which stands for all of its images.

Many are a list or any other iterable except a mapping, a set or a table; anything ambiguous is a
TypeError that says what to write instead.

Names: a file is called by its path as given, a PIL image or file object by the name of its file, if
it has one, and any other image `images[3]`, by its position from 0. Predictions and errors carry
this name as `path`.

Files are read later, in threads. Everything else is read, and arrays are copied, before the next
image is requested, so a generator may close or reuse what it yielded.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipcls.data.file_kinds import FRAME_PERIOD, is_vectors, is_video
from clipcls.data.images import read_stream
from clipcls.data.pixels import to_rgb
from clipcls.data.sources import Source, find_source, find_video, read_image
from clipcls.errors import ImageError, os_reason

logger = logging.getLogger(__name__)

ImageInput: TypeAlias = (
    "str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | bytes | bytearray | memoryview"
    " | IO[bytes] | NamedImage"
)
Images: TypeAlias = "ImageInput | Iterable[ImageInput | ImageError]"

OnError = Literal["raise", "skip", "yield"]
"""How to treat an image that cannot be read: raise its `ImageError`; leave it out, with a
warning in the log; or keep its place (an iterator yields the `ImageError`)."""

_KINDS = "a path, a PIL image, a uint8 array (H x W x 3), bytes or a binary file object"
_CHANNELS = (1, 3, 4)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image to embed: a source that its name leads to, a file's bytes, or an RGB image.

    `kept` are the cells of the table that lists it, as far as results repeat them.
    """

    name: str
    source: Source | bytes | Image.Image
    kept: Mapping[str, Any] | None = field(default=None, hash=False)


Found: TypeAlias = "str | NamedImage | ImageError"
"""An item of a search for images: a path, an image with more than its path, or an error."""


def name_whole(item: Found) -> str:
    """The name of a frame's video, or of another image or its error."""
    name = item.path if isinstance(item, ImageError) else item
    return find_video(name.name if isinstance(name, NamedImage) else name)


@dataclass(frozen=True, slots=True)
class NamedVectors:
    """A file or folder of stored vectors, which stands for all of its images."""

    path: str


def name_images(images: Any) -> Iterator[NamedImage | NamedVectors | ImageError]:
    """Name one image or many, in their order; errors among them are passed on.

    Raises:
        TypeError: at once if `images` is neither an image nor an iterable; at its turn if an item
            is not an image.
    """
    many = [images] if _is_one(images) else images

    def name_each() -> Iterator[NamedImage | NamedVectors | ImageError]:
        for number, item in enumerate(many):
            if isinstance(item, str | os.PathLike) and is_video(path := os.fsdecode(item)):
                yield from name_frames(path)
            else:
                yield _name(number, item)

    return name_each()


def name_frames(path: str, every: int = FRAME_PERIOD) -> Iterator[NamedImage | ImageError]:
    """The frames of a video as images, `every` so many milliseconds."""
    from clipcls.data.video import list_frames

    for frame in list_frames(path, every):
        yield frame if isinstance(frame, ImageError) else NamedImage(frame.name, frame)


def open_input(image: ImageInput) -> Image.Image:
    """Decode one image of any kind: RGB and upright.

    Raises:
        ImageError: it cannot be read.
        TypeError: it is not an image.
    """
    if not _is_one(image):
        raise TypeError(f"give one image: {_KINDS}")
    named = _name(0, image)
    if isinstance(named, ImageError):
        raise named
    if isinstance(named, NamedVectors):
        raise ImageError(named.path, "holds vectors, not one image")
    return read_image(named.source, named.name)


def apply_on_error(
    results: Iterable[Result | ImageError], on_error: OnError
) -> Iterator[Result | ImageError]:
    """Pass on results in their order, and treat each `ImageError` as `on_error` says."""
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error is {on_error!r}; choose from {', '.join(get_args(OnError))}")

    def pass_on() -> Iterator[Result | ImageError]:
        for result in results:
            if not isinstance(result, ImageError) or on_error == "yield":
                yield result
            elif on_error == "raise":
                raise result
            else:
                logger.warning("%s: left out (%s)", result.path, result.reason)

    return pass_on()


def has_no_file(name: str) -> bool:
    """Whether the name of a prediction is a position instead of a path."""
    return re.fullmatch(r"images\[\d+\]", name) is not None


def _is_one(images: Any) -> bool:
    """Whether this is one image, not an iterable; a TypeError if it is neither."""
    if isinstance(images, np.ndarray):
        if images.ndim == 1 and images.dtype.kind in "OUS":
            return False
        if images.dtype.kind == "f" and images.ndim < 3:
            raise TypeError(
                f"an array of {images.dtype} with the shape {images.shape} holds one vector; give "
                "an array of vectors, (n, dim)"
            )
        _check_array(images, "X", "N x H x W x 3")
        return images.ndim < 4
    kinds = str, os.PathLike, Image.Image, bytes, bytearray, memoryview, NamedImage
    if isinstance(images, kinds) or hasattr(images, "read"):
        return True
    if isinstance(images, Mapping) or hasattr(images, "columns"):
        raise TypeError("a mapping or table is ambiguous; give a list, as list(X), or X['path']")
    if isinstance(images, set | frozenset):
        raise TypeError("a set has no order for the results; give a list of images")
    if not isinstance(images, Iterable) or getattr(images, "ndim", 1) != 1:
        raise TypeError(f"give {_KINDS}, or a list of them, not {type(images).__name__}")
    return False


def _name(number: int, item: Any) -> NamedImage | NamedVectors | ImageError:
    """Name one image of several, `number` being its position."""
    if isinstance(item, NamedImage | ImageError):
        return item
    if isinstance(item, str | os.PathLike):
        name = str(os.fsdecode(item))
        return NamedVectors(name) if is_vectors(name) else NamedImage(name, find_source(name))
    own = getattr(item, "name", None) or getattr(item, "filename", None)
    name = own if isinstance(own, str) and own else f"images[{number}]"
    try:
        if isinstance(item, bytes | bytearray | memoryview):
            return NamedImage(name, bytes(item))
        if hasattr(item, "read"):
            return NamedImage(name, _read(item, name))
        if isinstance(item, np.ndarray):
            return NamedImage(name, _from_array(item, name))
        if isinstance(item, Image.Image):
            return NamedImage(name, to_rgb(item))
    except ImageError as error:
        return ImageError(name, error.reason)
    except MemoryError:
        return ImageError(name, "not enough memory to read it")
    cure = "; convert it with np.asarray" if hasattr(item, "__array__") else ""
    raise TypeError(f"{name}: an image is {_KINDS}, not {type(item).__name__}{cure}")


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    _check_array(array, name, "H x W x 3")
    if array.ndim > 3:
        raise TypeError(f"{name}: an array of {array.ndim} dimensions is not a single image")
    if 0 in array.shape:
        raise ImageError(name, "has no pixels")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return to_rgb(Image.fromarray(array.copy(order="C")))


def _check_array(array: NDArray[Any], name: str, wanted: str) -> None:
    """Refuse an array that is neither an image of uint8 nor several."""
    cure = ""
    if array.dtype != np.uint8:
        if array.dtype.kind == "f":
            cure = "; if its values are 0 to 1, give (255 * array).round().astype(np.uint8)"
        raise TypeError(f"{name}: images in an array are uint8, 0 to 255, not {array.dtype}{cure}")
    if array.ndim == 2 or (array.ndim in (3, 4) and array.shape[-1] in _CHANNELS):
        return
    if array.ndim in (3, 4) and array.shape[-3] in _CHANNELS:
        cure = "; the channels come first: give np.moveaxis(array, -3, -1)"
    raise TypeError(f"{name}: an array of images is {wanted}, not {array.shape}{cure}")


def _read(file: Any, name: str) -> bytes:
    """Read a binary file object."""
    try:
        if not getattr(file, "closed", False) and hasattr(file, "seekable") and file.seekable():
            file.seek(0)  # as Pillow does: after writing to memory the position is the end
        return read_stream(file, name)
    except (ImageError, TypeError, MemoryError):
        raise
    except OSError as error:
        raise ImageError(name, os_reason(error)) from error
    except Exception as error:  # archives and network streams have errors of their own
        raise ImageError(name, f"cannot be read ({error})") from error
