"""Images in archives (zip, tar and compressed tar), read without unpacking them.

An image is called `archive.tar!folder/photo.jpg`. Members of a zip file, and of a plain tar file of
this disk, are read where they are. Other tar files are streams, read once from their beginning on.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any

from clipcls.data.budget import Budget, Reserve, never_wait
from clipcls.data.file_kinds import ARCHIVE_SUFFIX, LeftOut, is_stream, is_system_folder
from clipcls.data.images import MAX_BYTES
from clipcls.data.remote import Info, find_info, open_remote, stamp_info
from clipcls.errors import ImageError, os_reason
from clipcls.files.hashing import stamp_file
from clipcls.files.on_disk import is_url

if TYPE_CHECKING:
    import tarfile

logger = logging.getLogger(__name__)

_MEMBER = re.compile(f"(.+?{ARCHIVE_SUFFIX})!(.+)", re.IGNORECASE | re.DOTALL)

_AHEAD = Budget(lambda: 1 << 28)
"""The bytes of a stream's members that wait for a thread to decode them."""


@dataclass(frozen=True, slots=True)
class Member:
    """An image in an archive.

    Attributes:
        container: the archive's path or URL.
        member: the image's name in it.
        mark: the archive's stamp, as listed; b"" if it is not known.
        offset, size: where a plain tar file has its bytes; -1 if it is not known.
    """

    container: str
    member: str
    mark: bytes = b""
    offset: int = -1
    size: int = -1
    _stream: tarfile.TarFile | None = field(default=None, repr=False, compare=False)
    _data: Waiting | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Member, (self.container, self.member, self.mark, self.offset, self.size)

    @property
    def path(self) -> str:
        """The archive, if it is a file of this disk; else ""."""
        return "" if is_url(self.container) else self.container

    @property
    def needs_request(self) -> bool:
        """Whether even its stamp takes a request to a server."""
        return not self.mark and is_url(self.container)

    def stamp(self) -> bytes:
        """The archive's stamp; b"" if it has none."""
        mark = self.mark or stamp_archive(self.container)
        return mark and mark + b" member"

    def load(self) -> Member:
        """The same with its bytes, if the stream that lists it has just reached it."""
        if self._stream is None or self.size > MAX_BYTES:
            return self
        try:
            (info,) = self._stream.members  # type: ignore[attr-defined]
            if info.offset_data == self.offset and (file := self._stream.extractfile(info)):
                waiting = Waiting(self.size)
                waiting.data = file.read()
                return replace(self, _stream=None, _data=waiting)
        except Exception:  # reading it by itself will say why
            logger.debug("%s: %s", self.container, self.member, exc_info=True)
        return replace(self, _stream=None)

    def read(self, reserve: Reserve = never_wait) -> bytes:
        """The image file's bytes.

        Raises:
            ImageError: the archive or the member is missing, damaged, encrypted or too large.
        """
        name = f"{self.container}!{self.member}"
        with archive_errors(name):
            if self._data:
                data = self._data.take()
                reserve(len(data))
            elif self.container.lower().endswith(".zip"):
                data = self._read_zip(name, reserve)
            else:
                data = self._read_tar(name, reserve)
        if not data:
            raise ImageError(name, "is empty")
        return data

    def _read_zip(self, name: str, reserve: Reserve) -> bytes:
        file = _open_zip(self.container, find_version(self.container, self.mark), os.getpid())
        try:
            info = file.getinfo(self.member)
        except KeyError:
            raise ImageError(name, "the archive has no such member") from None
        if info.flag_bits & 1:
            raise ImageError(name, "is encrypted; unpack the archive with its password first")
        _check_size(name, info.file_size)
        reserve(info.file_size)
        with file.open(info) as member:
            return member.read(MAX_BYTES)

    def _read_tar(self, name: str, reserve: Reserve) -> bytes:
        offset, size = self.offset, self.size
        if not is_stream(self.container):
            if offset < 0:
                places = _find_places(self.container, find_version(self.container))
                offset, size = places.get(self.member, (-1, -1))
            if offset >= 0:
                _check_size(name, size)
                reserve(size)
                with open(self.container, "rb") as file:
                    file.seek(offset)
                    data = file.read(size)
                if len(data) < size:
                    raise ImageError(name, "the archive is cut short")
                return data
        else:
            with contextlib.closing(open_container(self.container)) as container:
                for tar, info in _iterate(container, "r|*"):
                    if info.name == self.member and offset in (-1, info.offset_data):
                        _check_size(name, info.size)
                        reserve(info.size)
                        found = tar.extractfile(info)
                        return found.read() if found else b""
        raise ImageError(name, "the archive has no such member")


class Waiting:
    """A member's bytes, which count in `_AHEAD` until they are taken or forgotten."""

    def __init__(self, size: int) -> None:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_AHEAD.share())(size)
        self.data = b""

    def take(self) -> bytes:
        """The bytes, which no longer count."""
        self._stack.close()
        return self.data

    def __del__(self) -> None:
        self._stack.close()


def find_member(name: str) -> Member | None:
    """The member that a name like `a.tar!b.jpg` leads to; None if it is no such name."""
    found = _MEMBER.fullmatch(name) if "!" in name else None
    return Member(found[1], found[2]) if found and not os.path.lexists(name) else None


def stamp_archive(container: str, info: Info | None = None) -> bytes:
    """The stamp of an archive; b"" if it is missing or has none."""
    try:
        if is_url(container):
            return stamp_info(info or find_info(container))
        return stamp_file(os.stat(container))
    except (OSError, ValueError, ImageError):
        return b""


def list_members(
    container: str,
    is_image: Callable[[str, LeftOut], bool],
    left_out: LeftOut,
    info: Info | None = None,
) -> Iterator[Member | ImageError]:
    """The images in an archive, in its order.

    Taken are files with an image's suffix, as from folders; not hidden files, system folders, and
    archives in the archive. If it is damaged, its images up to there and then an `ImageError`.

    Args:
        container: the archive's path or URL.
        is_image: whether a file of this name is taken; counts those that are not.
        left_out: counts what else the archive contains.
        info: what a listing says about the archive.
    """
    count = 0
    try:
        with archive_errors(container):
            stamp = stamp_archive(container, info)
            for member in _list(container, stamp):
                parts = member.member.replace("\\", "/").split("/")
                hidden = any(p.startswith(".") and p not in (".", "..") for p in parts)
                if hidden or any(map(is_system_folder, parts[:-1])):
                    continue
                if is_image(parts[-1], left_out):
                    count += 1
                    yield member
    except ImageError as error:
        after = f", after {count:,} images" if count else ""
        yield ImageError(container, f"{error.reason}{after}")


def _list(container: str, stamp: bytes) -> Iterator[Member]:
    if container.lower().endswith(".zip"):
        for entry in _open_zip(container, find_version(container, stamp), os.getpid()).infolist():
            if not entry.is_dir():
                yield Member(container, entry.filename, stamp)
        return
    streams = is_stream(container)
    with contextlib.closing(open_container(container)) as file:
        for tar, info in _iterate(file, "r|*" if streams else "r:"):
            yield Member(
                *(container, info.name, stamp, info.offset_data, info.size),
                tar if streams else None,
            )


def _iterate(file: IO[bytes], mode: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The regular files of a tar; its list of members does not grow."""
    import tarfile  # with bz2 and lzma, which only archives need

    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        while (info := tar.next()) is not None:
            tar.members = [info]
            if info.isreg():
                yield tar, info


@functools.lru_cache(maxsize=8)
def _open_zip(container: str, version: bytes, process: int) -> zipfile.ZipFile:
    """A zip file; threads may read its members at once, forked processes not."""
    with archive_errors(container):
        return zipfile.ZipFile(open_container(container))


@functools.lru_cache(maxsize=8)
def _find_places(container: str, version: bytes) -> dict[str, tuple[int, int]]:
    """Where the files of a plain tar are: name -> offset and size."""
    with open(container, "rb") as file:
        return {info.name: (info.offset_data, info.size) for _, info in _iterate(file, "r:")}


def open_container(container: str) -> IO[bytes]:
    """Open a file of this disk or behind a URL."""
    return open_remote(container) if is_url(container) else open(container, "rb")


def find_version(container: str, mark: bytes = b"") -> bytes:
    """A mark that differs between archives of the same name, also if one is young."""
    if is_url(container):
        return mark or stamp_archive(container)
    info = os.stat(container)
    return b"%d %d %d" % (info.st_size, info.st_mtime_ns, info.st_ino)


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(name, f"too large (the limit is {MAX_BYTES >> 20} MiB)")


@contextlib.contextmanager
def archive_errors(name: str) -> Iterator[None]:
    """Turn whatever reading an archive raises into an `ImageError` with a short reason."""
    try:
        yield
    except ImageError as error:
        raise ImageError(name, error.reason) from error
    except FileNotFoundError as error:
        raise ImageError(name, os_reason(error)) from error
    except MemoryError as error:
        raise ImageError(name, "not enough memory to read it") from error
    except Exception as error:  # each kind of compression has errors of its own
        if isinstance(error, OSError) and error.errno:
            raise ImageError(name, os_reason(error)) from error
        text = " ".join(str(error).split())[:100] or type(error).__name__
        raise ImageError(name, f"the archive is damaged or cut short ({text})") from error
