"""From what the user named to the paths of images, in a stable order.

Files, folders, glob patterns and a list on standard input; see `find_images`.
"""

# Paths stay as the user wrote them; pathlib would drop a leading ./

from __future__ import annotations

import errno
import fnmatch
import functools
import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from clipcls.data.file_kinds import KINDS, SUFFIXES, LeftOut, is_system_folder, reads_raw
from clipcls.data.path_list import read_path_list
from clipcls.errors import ImageError, InputError, os_reason
from clipcls.files.on_disk import explain_missing, find_on_disk
from clipcls.files.text import canonical

__all__ = ["find_images", "list_folder"]

log = logging.getLogger("clipcls")

_SEPARATORS = re.compile("[" + re.escape(os.sep + (os.altsep or "")) + "]+")


def find_images(
    inputs: Iterable[str | os.PathLike[str]],
    *,
    stdin: BinaryIO | None = None,
    null: bool = False,
    left_out: LeftOut | None = None,
) -> Iterator[str | ImageError]:
    r"""The images that the inputs name, one after the other, in the order of the inputs.

    - A file is taken whatever its suffix.
    - A folder is searched with all folders below it; in each, entries come sorted by name (by
      code point, files and folders together). Files with a suffix in `SUFFIXES`, in any case, are
      taken, with rawpy those in `RAW_SUFFIXES` too; so are files without a suffix, or with one
      that is unknown (`photo.jpg?w=300`), whose first bytes are those of an image. Hidden files
      and folders (a leading dot) and folders for trash and copies that systems make (`#recycle`,
      `$RECYCLE.BIN`, `@eaDir`, `__MACOSX`) are not. Symbolic links are followed; a link that
      leads back up is not, and no folder is entered through links twice.
    - A pattern (`*`, `?`, `[...]`, `**` for any depth) stands for what it matches, as if a shell
      had put it there: sorted, upper and lower case distinct except on Windows, no hidden files
      unless it says so. With `**` it matches files only. Wherever a part of it is the name of an
      existing file or folder, such as `[2024] Trip`, it stands for that alone.
    - `-` reads paths of files and folders from `stdin` as they come: one per line, or ended by NUL
      bytes with `null`. They are not patterns. Blank lines are skipped. Lines may be UTF-16, as
      PowerShell writes them.

    Paths come as the user named them: relative ones stay relative. One that does not exist stands
    for the one that looks the same, which is said once (see `find_on_disk`). What is named twice
    comes twice, as with other command-line tools, so that results match a list line by line. Memory
    does not grow with the number of files, beyond the largest folder's names.

    Args:
        inputs: files, folders, patterns or `-`.
        stdin: the binary stream that `-` stands for, such as `sys.stdin.buffer`.
        null: names on `stdin` end with NUL bytes (`find -print0`) and not with newlines.
        left_out: counts what folders hold besides, while they are searched.

    Yields:
        A path; or, for a named input or a folder that cannot be read, the `ImageError` (not
        raised) to report in its place.

    Raises:
        InputError: nothing at all was found (after the last input), or `-` cannot be read or is no
            list of paths.
    """
    names = [os.fspath(name) for name in inputs]
    found = False
    left_out = LeftOut() if left_out is None else left_out
    for item in _expand(names, stdin, null, left_out):
        found = True
        yield item
    if not found:
        if not names:
            raise InputError("no images: name files, folders or patterns, or - for a list on stdin")
        where = ", ".join("the list on standard input" if n == "-" else n for n in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        besides = f": {left_out}" if left_out.counts else ""
        raise InputError(f"no images in {where}{more}{besides}")


def _expand(
    inputs: Iterable[str], stdin: BinaryIO | None, null: bool, left_out: LeftOut
) -> Iterator[str | ImageError]:
    told = False
    for name in inputs:
        patterns = name != "-"
        if patterns:
            named = iter([name])
        elif stdin is None:
            raise InputError("there is no standard input to read paths from")
        else:
            named = read_path_list(stdin, null)
        for path in named:
            there = path if patterns and glob.has_magic(path) else find_on_disk(path)
            if there != path and not told:
                _say_spelling(path, there)
                told = True
            yield from _named(there, left_out, patterns=patterns)


@functools.cache  # images may be counted before they are read
def _say_spelling(path: str, there: str) -> None:
    if canonical(path) == canonical(there):  # the two would look the same here
        log.warning("%r is spelled with other Unicode characters on disk; it was found", path)
    else:
        log.warning("%r is not on this disk; %r is read, and others likewise", path, there)


def _named(name: str, left_out: LeftOut, *, patterns: bool) -> Iterator[str | ImageError]:
    try:
        is_folder = os.path.isdir(name)
        if not is_folder:
            os.lstat(name)
    except (OSError, ValueError) as error:
        if patterns and glob.has_magic(name):
            yield from _matches(name, left_out)
        elif isinstance(error, OSError):
            is_missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
            yield ImageError(name, explain_missing(name) if is_missing else os_reason(error))
        else:  # a NUL byte, or characters that the file system cannot encode
            yield ImageError(name, "not a valid file name")
        return
    if is_folder:
        yield from _walk(name, left_out)
    else:
        yield name


def _walk(root: str, left_out: LeftOut) -> Iterator[str | ImageError]:
    """Images below a folder."""
    for item in _search(root, left_out):
        if isinstance(item, ImageError):
            yield item
        elif not isinstance(item, str) and _is_image(item, left_out):
            yield item.path


def _search(root: str, left_out: LeftOut) -> Iterator[str | os.DirEntry[str] | ImageError]:
    """A folder and all below it: its path before what it holds, and the entries of its files.

    Iterative: the depth of folders is the user's, not Python's.
    """
    linked: set[tuple[int, int]] = set()  # folders entered through a symbolic link
    above: list[tuple[int, int]] = []  # folders from the root down to the current one
    pending: list[tuple[str, Iterator[os.DirEntry[str]]]] = []

    def enter(path: str, is_link: bool) -> Iterator[str | ImageError]:
        try:
            info = os.stat(path or os.curdir)
            key = (info.st_dev, info.st_ino)
            if is_link and (key in linked or key in above):
                return
            entries = _sorted_entries(path or os.curdir)
        except OSError as error:
            yield ImageError(path, os_reason(error))
            return
        if is_link:
            linked.add(key)
        above.append(key)
        pending.append((path, entries))
        yield path

    yield from enter(root, False)
    while pending:
        folder, entries = pending[-1]
        entry = next(entries, None)
        if entry is None:
            pending.pop()
            above.pop()
        elif entry.name.startswith("."):
            if entry.name.endswith(".icloud"):
                left_out.add("file not downloaded from iCloud", "")
        elif not _is_folder(entry):
            yield entry
        elif is_system_folder(entry.name):
            left_out.add("system folder", entry.name)
        else:
            yield from enter(os.path.join(folder, entry.name), entry.is_symlink())


def _sorted_entries(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return iter(sorted(entries, key=lambda entry: entry.name))


def list_folder(path: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the images directly in a folder, sorted, as `find_images` would
    enter or take them.

    Raises:
        OSError: it cannot be listed.
    """
    entries = [entry for entry in _sorted_entries(path) if not entry.name.startswith(".")]
    folders = [e.name for e in entries if _is_folder(e)]
    images = [e.name for e in entries if not _is_folder(e) and _is_image(e, LeftOut())]
    return [name for name in folders if not is_system_folder(name)], images


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed; reading it will say why
        return False


def _is_image(entry: os.DirEntry[str], left_out: LeftOut) -> bool:
    """Whether a file is taken from a folder; counts it where it is not."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in SUFFIXES:
        return True
    kind = KINDS.get(suffix)
    if kind == "raw file" and reads_raw():
        return True
    if kind is None and not suffix.endswith("~") and _starts_as_image(entry):
        return True
    left_out.add(kind or ("other file" if suffix else "file without a suffix"), suffix)
    return False


def _starts_as_image(entry: os.DirEntry[str]) -> bool:
    """Whether the first bytes are those of a common image format."""
    try:
        if not entry.is_file():  # to open a pipe or a device may wait or do something
            return False
        with open(entry.path, "rb", buffering=0) as file:
            start = file.read(16)
    except OSError:
        return False
    return (
        start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))
        or start.startswith((b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  \r\n\x87\n"))
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[:2] == b"BM" and start[6:10] == bytes(4))
        or start[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")
    )


def _matches(pattern: str, left_out: LeftOut) -> Iterator[str | ImageError]:
    """The images that a pattern matches. `glob.glob` is unsorted and follows link loops."""
    drive, rest = os.path.splitdrive(pattern)
    root = drive + rest[: len(rest) - len(rest.lstrip(os.sep + (os.altsep or "")))]
    parts = [part for part in _SEPARATORS.split(rest) if part]
    if parts[-1] == "**":
        parts.append("*")
    deep = "**" in parts
    seen: set[str] = set()  # two `**` can reach one file in several ways
    found = False
    for path in _match(root, parts):
        is_folder = os.path.isdir(path)
        if (deep and is_folder) or path in seen:
            continue
        if parts.count("**") > 1:
            seen.add(path)
        found = True
        if is_folder:
            yield from _walk(path, left_out)
        else:
            yield path
    if not found:
        yield ImageError(pattern, "no file matches this pattern")


def _match(folder: str, parts: list[str]) -> Iterator[str]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        for below in _search(folder, LeftOut()):
            if isinstance(below, str):
                yield from _match(below, rest)
    elif not glob.has_magic(part) or os.path.lexists(os.path.join(folder, part)):
        path = os.path.join(folder, part)
        if not rest and os.path.lexists(path):
            yield path
        elif rest and os.path.isdir(path):
            yield from _match(path, rest)
    else:
        try:
            entries = _sorted_entries(folder or os.curdir)
        except OSError:
            return  # as in a shell: what cannot be listed does not match
        shown = [e for e in entries if part.startswith(".") or not e.name.startswith(".")]
        literal = part.replace("[", "[[]")  # `[2024] T*` where a folder is called [2024] Trip
        found = [e for e in shown if fnmatch.fnmatch(e.name, part)]
        for entry in found or [e for e in shown if fnmatch.fnmatch(e.name, literal)]:
            path = os.path.join(folder, entry.name)
            if not rest:
                yield path
            elif _is_folder(entry):
                yield from _match(path, rest)
