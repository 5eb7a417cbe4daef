"""Files that hold several images: opened, stamped, and explained where they are damaged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import IO, Any

from clipcls.data.budget import Budget
from clipcls.data.images import refuse_unless_file
from clipcls.data.remote import Info, explain, find_info, is_refusal, open_remote, stamp_info
from clipcls.errors import ImageError, InputError, os_reason
from clipcls.files.hashing import stamp_file
from clipcls.files.magic import START, name_kind
from clipcls.files.on_disk import is_url

_COMPRESSED = ("a gzip file", "a bzip2 file", "an xz file", "a tar archive")
_SUFFIXES = {
    "a zip archive": ".zip",
    "a tar archive": ".tar",
    "a gzip file": ".tar.gz",
    "a bzip2 file": ".tar.bz2",
    "an xz file": ".tar.xz",
    "a parquet file": ".parquet",
    "a NumPy file": ".npy",
}

_AHEAD = Budget(lambda: 1 << 28)
"""The bytes of images read in their order that wait for a thread to decode them."""


@dataclass(frozen=True, slots=True)
class Contained:
    """An image in a file that holds several.

    Attributes:
        container: the file's path or URL.
        mark: the file's stamp, as listed; b"" if it is not known.
    """

    container: str
    mark: bytes

    def __reduce__(self) -> tuple[Any, ...]:
        names = (each.name for each in fields(self) if not each.name.startswith("_"))
        return type(self), tuple(getattr(self, name) for name in names)

    @property
    def path(self) -> str:
        """The file, if it is on this disk; else ""."""
        return "" if is_url(self.container) else self.container

    @property
    def needs_request(self) -> bool:
        """Whether even its stamp takes a request to a server."""
        return not self.mark and is_url(self.container)

    def stamp_place(self, place: bytes) -> bytes:
        """The file's stamp and a mark of the place in it; b"" if the file has none."""
        mark = self.mark or stamp_container(self.container)
        return mark and mark + place


class Waiting:
    """Bytes of an image, which count in `_AHEAD` until they are taken or forgotten."""

    def __init__(self, size: int, data: bytes = b"") -> None:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_AHEAD.share())(size)
        self.data = data

    def take(self) -> bytes:
        """The bytes, which no longer count."""
        self._stack.close()
        return self.data

    def __del__(self) -> None:
        self._stack.close()


def open_container(container: str) -> IO[bytes]:
    """Open a file of this disk or behind a URL."""
    if is_url(container):
        return open_remote(container)
    try:
        refuse_unless_file(container, os.stat(container))  # opening a pipe would wait
    except ValueError as error:  # a NUL byte, or characters that the file system cannot encode
        raise ImageError(container, "not a valid file name") from error
    return open(container, "rb")


def stamp_container(container: str, info: Info | None = None) -> bytes:
    """The stamp of a file; b"" if it is missing or has none."""
    try:
        if is_url(container):
            return stamp_info(info or find_info(container))
        return stamp_file(os.stat(container))
    except (OSError, ValueError, ImageError):
        return b""


def find_version(container: str, mark: bytes = b"") -> bytes:
    """A mark that differs between files of the same name, also if one is young."""
    if is_url(container):
        return mark or stamp_container(container)
    info = os.stat(container)
    return b"%d %d %d" % (info.st_size, info.st_mtime_ns, info.st_ino)


@contextlib.contextmanager
def container_errors(container: str, kind: str, name: str = "") -> Iterator[None]:
    """Turn whatever reading a container raises into an `ImageError` with a short reason.

    Args:
        container: the path or URL.
        kind: what it should be, as `name_kind` calls it.
        name: the image to name in the error; default: the container.
    """
    try:
        yield
    except MemoryError as error:
        raise ImageError(name or container, "not enough memory to read it") from error
    except InputError as error:
        raise place_error(container, error, name) from error
    except Exception as error:  # each kind of file has errors of its own
        reason = _explain(container, kind, error)
        raise ImageError(name or container, reason) from error


def place_error(where: str, error: InputError, name: str = "") -> ImageError:
    """An error whose message begins with a place in the file `where`, as that of an image.

    Args:
        where: the file, or a row in it.
        error: its message may begin with `where`, or `where:2`.
        name: the image to name; default: the place.
    """
    place, colon, reason = str(error).removeprefix(where).partition(": ")
    if not str(error).startswith(where) or not colon:
        return ImageError(name or where, str(error))
    return ImageError(name or where + place, reason)


def _explain(container: str, kind: str, error: Exception) -> str:
    if isinstance(error, ImageError):
        return error.reason
    if is_url(container):
        if is_refusal(error):
            return explain(container, error)
    elif isinstance(error, OSError) and error.errno:
        return os_reason(error)
    start = b""
    with contextlib.suppress(Exception), open_container(container) as file:
        start = file.read(START)
        if not start:
            return "is empty"
    found = name_kind(start)
    is_kind = found in (_COMPRESSED if kind == "a compressed tar archive" else (kind,))
    if found and not is_kind:
        cure = f"; if it should be one, give it the suffix {_SUFFIXES.get(found)}"
        return f"is {found}, not {kind}{cure if found in _SUFFIXES else ''}"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = " ".join(text.split())[:100]
    return f"{'' if is_kind else f'not {kind}, '}damaged or cut short ({text})"
