"""Images in archives (zip, tar and compressed tar), read without unpacking them.

An image is called `archive.tar!folder/photo.jpg`; of several with one name, the first counts.
Members of a zip file, and of a plain tar file of this disk, are read where they are. Other tar
files are streams, read once from their beginning on.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING

from clipcls.data.budget import Reserve, never_wait
from clipcls.data.container_file import (
    Contained,
    Waiting,
    container_errors,
    find_version,
    open_container,
    stamp_container,
)
from clipcls.data.file_kinds import (
    ARCHIVE_SUFFIX,
    KINDS,
    NESTED,
    LeftOut,
    find_suffix,
    has_image_name,
    is_stream,
    is_system_folder,
)
from clipcls.data.images import MAX_BYTES, check_bytes
from clipcls.data.remote import Info
from clipcls.errors import ImageError, format_count
from clipcls.files.text import canonical

if TYPE_CHECKING:
    import tarfile

_TWICE = "the archive has it again, and the first is read; unpacking it leaves the last"
_MEMBER = re.compile(f"(.+?{ARCHIVE_SUFFIX})!(.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Member(Contained):
    """An image in an archive.

    Attributes:
        member: the image's name in it.
        offset, size: where a plain tar file has its bytes; -1 if it is not known.
    """

    member: str
    offset: int = -1
    size: int = -1
    _stream: _Stream | None = field(default=None, repr=False, compare=False)
    _data: Waiting | None = field(default=None, repr=False, compare=False)
    _failure: str = field(default="", repr=False, compare=False)

    @property
    def sample(self) -> tuple[str, str]:
        """The archive and the name up to its first dot, which WebDataset's samples share."""
        folder, slash, name = self.member.rpartition("/")
        return self.container, folder + slash + name.partition(".")[0]

    def stamp(self) -> bytes:
        """The archive's stamp; b"" if it has none."""
        return self.stamp_place(b" member")

    def load(self) -> Member:
        """The member with its bytes, if it is in a stream: members are read fastest in their order.

        The stream that lists it has usually just reached it.
        """
        stream = self._stream
        if self._data or self.size > MAX_BYTES or not is_stream(self.container):
            return self
        try:
            with _errors(self.container):
                data = stream.read(self) if stream else None
                data = self._read_stream() if data is None else data
        except ImageError as error:  # reading it says so
            if not stream:
                return self
            stream.has_failed = True
            return replace(self, _stream=None, _failure=f"{error.reason} at {self.member}")
        return replace(self, _stream=None, _data=Waiting(len(data), data))

    def read(self, reserve: Reserve = never_wait) -> bytes:
        """The image file's bytes.

        Raises:
            ImageError: the archive or the member is missing, damaged, encrypted or too large.
        """
        if self._failure:
            raise ImageError(self.container, self._failure)
        name = f"{self.container}!{self.member}"
        with _errors(self.container, name):
            check_bytes(name, self.size)
            if is_stream(self.container):
                data = self._data.take() if self._data else self._read_stream()
                reserve(len(data))
            elif self.container.lower().endswith(".zip"):
                data = self._read_zip(name, reserve)
            else:
                data = self._read_tar(name, reserve)
        if not data:
            raise ImageError(name, "is empty")
        return data

    def _read_stream(self) -> bytes:
        version = find_version(self.container, self.mark)
        return _open_forward(self.container, version, os.getpid()).read(self)

    def _read_zip(self, name: str, reserve: Reserve) -> bytes:
        file = _open_zip(self.container, find_version(self.container, self.mark), os.getpid())
        try:
            info = file.getinfo(self.member)
        except KeyError:
            raise ImageError(name, "the archive has no such member") from None
        if info.flag_bits & 1:
            raise ImageError(name, "is encrypted; unpack the archive with its password first")
        check_bytes(name, info.file_size)
        reserve(info.file_size)
        with file.open(info) as member:
            return member.read(MAX_BYTES)

    def _read_tar(self, name: str, reserve: Reserve) -> bytes:
        offset, size = self.offset, self.size
        if offset < 0:
            places = _find_places(self.container, find_version(self.container))
            if self.member not in places:
                raise ImageError(name, "the archive has no such member")
            offset, size = places[self.member]
        check_bytes(name, size)
        reserve(size)
        with open(self.container, "rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise ImageError(name, "the archive became shorter")
        return data


@dataclass(slots=True)
class _Stream:
    """A tar that is being listed, and whether reading its last member failed."""

    tar: tarfile.TarFile
    has_failed: bool = False

    def read(self, member: Member) -> bytes | None:
        """The bytes of the member that was listed last; None of another one."""
        (info,) = self.tar.members  # type: ignore[attr-defined]
        file = self.tar.extractfile(info) if info.offset_data == member.offset else None
        return file.read() if file else None


class _Forward:
    """A compressed or remote tar whose members are asked for in about their order.

    Going back starts it again.
    """

    def __init__(self, container: str) -> None:
        self._container = container
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._members: Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]] = iter(())
        self._passed: set[str] = set()

    def read(self, member: Member) -> bytes:
        """A member's bytes; `ImageError` if it is missing or too large."""
        with self._lock:
            if self._file is None or member.member in self._passed:
                self._start()
            for tar, info in self._members:
                self._passed.add(info.name)
                if info.name == member.member:
                    check_bytes(info.name, info.size)
                    file = tar.extractfile(info)
                    return file.read() if file else b""
        raise ImageError(member.member, "the archive has no such member")

    def _start(self) -> None:
        if self._file:
            self._file.close()
        self._file = open_container(self._container)
        self._members, self._passed = _iterate(self._file, "r|*"), set()


@functools.lru_cache(maxsize=4)
def _open_forward(container: str, version: bytes, process: int) -> _Forward:
    return _Forward(container)


def find_member(name: str) -> Member | None:
    """The member that a name like `a.tar!b.jpg` leads to; None if it is no such name."""
    found = _MEMBER.fullmatch(name) if "!" in name else None
    return Member(found[1], b"", found[2]) if found and not os.path.lexists(name) else None


def list_members(
    container: str, left_out: LeftOut, info: Info | None = None
) -> Iterator[Member | ImageError]:
    """The images in an archive, in its order.

    Taken are files with an image's suffix, as from folders; not hidden files, system folders, and
    archives in the archive. Of several members with one name the first is taken, as a stream cannot
    know that others follow; each other one is an `ImageError`. If the archive is damaged, its
    images up to there and then an `ImageError`.

    Args:
        container: the archive's path or URL.
        left_out: counts what else the archive contains.
        info: what a listing says about the archive.
    """
    names: set[str] = set()
    try:
        with _errors(container):
            stamp = stamp_container(container, info)
            for member in _list(container, stamp):
                parts = member.member.replace("\\", "/").split("/")
                hidden = any(p.startswith(".") and p not in (".", "..") for p in parts)
                if hidden or any(map(is_system_folder, parts[:-1])):
                    continue
                suffix = find_suffix(parts[-1])
                if kind := NESTED.get(KINDS.get(suffix, "")):
                    left_out.add(kind, suffix)
                elif suffix == ".cls" and left_out.classes is not None:
                    try:
                        label = canonical(member.load().read().decode(errors="replace"))
                    except ImageError as error:
                        yield error.without_frames()
                    else:
                        left_out.classes[member.sample] = label
                elif has_image_name(parts[-1], left_out):
                    if member.member in names:
                        yield ImageError(f"{container}!{member.member}", _TWICE)
                        continue
                    names.add(member.member)
                    yield member
    except ImageError as error:
        after = f", after {format_count(len(names), 'image')}" if names else ""
        yield ImageError(container, f"{error.reason}{after}")


def _list(container: str, stamp: bytes) -> Iterator[Member]:
    if container.lower().endswith(".zip"):
        for entry in _open_zip(container, find_version(container, stamp), os.getpid()).infolist():
            if not entry.is_dir():
                yield Member(container, stamp, entry.filename)
        return
    stream = None
    try:
        with contextlib.closing(open_container(container)) as file:
            if is_stream(container):
                for tar, info in _iterate(file, "r|*"):
                    stream = stream or _Stream(tar)
                    place = info.offset_data, info.size
                    yield Member(container, stamp, info.name, *place, stream)
            else:
                for name, (offset, size) in _iterate_places(file):
                    yield Member(container, stamp, name, offset, size)
    except Exception:
        if not (stream and stream.has_failed):  # else the last member has said so
            raise


def _iterate(file: IO[bytes], mode: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The regular files of a tar; its list of members does not grow."""
    import tarfile  # with bz2 and lzma, which only archives need

    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        while (info := tar.next()) is not None:
            tar.members = [info]
            if info.isreg():
                yield tar, info


def _iterate_places(file: IO[bytes]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name, offset and size of the files of a plain tar, as far as these are whole."""
    end = os.fstat(file.fileno()).st_size
    for _, info in _iterate(file, "r:"):
        if info.offset_data + info.size > end:
            raise EOFError(f"in {info.name}")
        yield info.name, (info.offset_data, info.size)


@functools.lru_cache(maxsize=8)
def _open_zip(container: str, version: bytes, process: int) -> zipfile.ZipFile:
    """A zip file; threads may read its members at once, forked processes not."""
    with _errors(container):
        file = zipfile.ZipFile(open_container(container))
    # Of members with one name, getinfo() would give the last.
    file.NameToInfo = {info.filename: info for info in reversed(file.infolist())}
    return file


@functools.lru_cache(maxsize=8)
def _find_places(container: str, version: bytes) -> dict[str, tuple[int, int]]:
    """Where the files of a plain tar are: name -> offset and size."""
    places: dict[str, tuple[int, int]] = {}
    with open_container(container) as file:
        try:
            for name, place in _iterate_places(file):
                places.setdefault(name, place)
        except Exception:
            if not places:  # else those before the damage can be read
                raise
    return places


def _errors(container: str, name: str = "") -> AbstractContextManager[None]:
    kind = "a compressed tar archive" if is_stream(container) else "a tar archive"
    kind = "a zip archive" if container.lower().endswith(".zip") else kind
    return container_errors(container, kind, name)
