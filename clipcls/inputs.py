"""From what the user named to the paths of images, in a stable order.

Files, folders, glob patterns and a list on standard input; see `find_images`.
"""

# Paths stay as the user wrote them; pathlib would drop a leading ./

from __future__ import annotations

import codecs
import errno
import fnmatch
import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from clipcls.errors import ImageError, InputError
from clipcls.textfiles import encoding_of, find_on_disk

__all__ = ["SUFFIXES", "find_images", "folders_and_images", "os_reason"]

log = logging.getLogger("clipcls")

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp"),
        *(".tif", ".tiff", ".bmp", ".dib", ".heic", ".heif", ".hif", ".avif", ".avifs"),
        *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".psd", ".ico", ".cur", ".dds", ".qoi"),
        *(".pcx", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".tga", ".icb", ".vda", ".vst"),
        *(".xbm", ".xpm", ".fits"),
    )
)
"""Suffixes, lower case, of the files that are taken from a folder.

A list of our own: asking Pillow would import all its plugins, and would leave HEIC photos out
unnoticed where the plugin for them is missing.
"""

# Copies that systems make, not photos of the user's: Synology, macOS archives, Windows.
_SYSTEM_FOLDERS = frozenset(("@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"))

_SEPARATORS = re.compile("[" + re.escape(os.sep + (os.altsep or "")) + "]+")

_CHUNK = 1 << 16
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
_BINARY = "standard input is binary data, not a list of paths; to classify one image, name its file"

_REASONS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "is a directory",
    errno.ELOOP: "symbolic links that lead in a circle",
    errno.ENAMETOOLONG: "file name too long",
    errno.ENXIO: "not a regular file",
    errno.EIO: "read error (the disk may be failing)",
}


def os_reason(error: OSError) -> str:
    """Why the system refused, in a few lower-case words without the path."""
    return _REASONS.get(error.errno or 0) or (error.strerror or str(error) or "read error").lower()


def find_images(
    inputs: Iterable[str | os.PathLike[str]], *, stdin: BinaryIO | None = None, null: bool = False
) -> Iterator[str | ImageError]:
    r"""The images that the inputs name, one after the other, in the order of the inputs.

    - A file is taken whatever its suffix.
    - A folder is searched with all folders below it; in each, entries come sorted by name (by
      code point, files and folders together). Files with a suffix in `SUFFIXES`, in any case, are
      taken. Hidden files and folders (a leading dot) and folders that systems fill with copies
      (`@eaDir`, `__MACOSX`, `$RECYCLE.BIN`) are not. Symbolic links are followed; a link that
      leads back up is not, and no folder is entered through links twice.
    - A pattern (`*`, `?`, `[...]`, `**` for any depth) stands for what it matches, as if a shell
      had put it there: sorted, upper and lower case distinct except on Windows, no hidden files
      unless it says so. With `**` it matches files only. An existing file wins over a pattern
      that is spelled the same.
    - `-` reads paths of files and folders from `stdin` as they come: one per line, or ended by NUL
      bytes with `null`. They are not patterns. Blank lines are skipped. Lines may be UTF-16, as
      PowerShell writes them; a path that does not exist stands for the one that looks the same.

    Paths come as the user named them: relative ones stay relative. What is named twice comes
    twice, as with other command-line tools, so that results match a list line by line. Memory
    does not grow with the number of files, beyond the largest folder's names.

    Args:
        inputs: files, folders, patterns or `-`.
        stdin: the binary stream that `-` stands for, such as `sys.stdin.buffer`.
        null: names on `stdin` end with NUL bytes (`find -print0`) and not with newlines.

    Yields:
        A path; or, for a named input or a folder that cannot be read, the `ImageError` (not
        raised) to report in its place.

    Raises:
        InputError: nothing at all was found (after the last input), or `-` cannot be read or is no
            list of paths.
    """
    names = [os.fspath(name) for name in inputs]
    found = False
    for item in _expand(names, stdin, null):
        found = True
        yield item
    if not found:
        if not names:
            raise InputError("no images: name files, folders or patterns, or - for a list on stdin")
        where = ", ".join("the list on standard input" if n == "-" else n for n in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise InputError(f"no images in {where}{more}")


def _expand(
    inputs: Iterable[str], stdin: BinaryIO | None, null: bool
) -> Iterator[str | ImageError]:
    for name in inputs:
        if name != "-":
            yield from _named(name, patterns=True)
        elif stdin is None:
            raise InputError("there is no standard input to read paths from")
        else:
            for listed in _listed(stdin, null):
                yield from _named(listed, patterns=False)


def _named(name: str, *, patterns: bool) -> Iterator[str | ImageError]:
    try:
        is_folder = os.path.isdir(name)
        if not is_folder:
            os.lstat(name)
    except (OSError, ValueError) as error:
        if patterns and glob.has_magic(name):
            yield from _matches(name)
        elif isinstance(error, OSError):
            yield ImageError(name, os_reason(error))
        else:  # a NUL byte, or characters that the file system cannot encode
            yield ImageError(name, "not a valid file name")
        return
    if is_folder:
        yield from _walk(name)
    else:
        yield name


def _walk(root: str) -> Iterator[str | ImageError]:
    """Images below a folder. Iterative: the depth of folders is the user's, not Python's."""
    linked: set[tuple[int, int]] = set()  # folders entered through a symbolic link
    above: list[tuple[int, int]] = []  # folders from the root down to the current one
    pending: list[Iterator[os.DirEntry[str]]] = []

    def enter(path: str, is_link: bool) -> ImageError | None:
        try:
            info = os.stat(path)
            key = (info.st_dev, info.st_ino)
            if is_link and (key in linked or key in above):
                return None
            entries = _sorted_entries(path)
        except OSError as error:
            return ImageError(path, os_reason(error))
        if is_link:
            linked.add(key)
        above.append(key)
        pending.append(entries)
        return None

    error = enter(root, False)
    if error:
        yield error
    while pending:
        entry = next(pending[-1], None)
        if entry is None:
            pending.pop()
            above.pop()
        elif entry.name.startswith(".") or entry.name in _SYSTEM_FOLDERS:
            continue
        elif _is_folder(entry):
            error = enter(entry.path, entry.is_symlink())
            if error:
                yield error
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield entry.path


def _sorted_entries(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return iter(sorted(entries, key=lambda entry: entry.name))


def folders_and_images(path: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the images directly in a folder, sorted, as `find_images` would
    enter or take them.

    Raises:
        OSError: it cannot be listed.
    """
    entries = [entry for entry in _sorted_entries(path) if not entry.name.startswith(".")]
    folders = [e.name for e in entries if e.name not in _SYSTEM_FOLDERS and _is_folder(e)]
    images = [
        e.name
        for e in entries
        if os.path.splitext(e.name)[1].lower() in SUFFIXES and not _is_folder(e)
    ]
    return folders, images


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed; reading it will say why
        return False


def _matches(pattern: str) -> Iterator[str | ImageError]:
    """What a pattern stands for. Not `glob.glob`: its `**` goes round in link loops, unsorted."""
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
            yield from _walk(path)
        else:
            yield path
    if not found:
        yield ImageError(pattern, "no file matches this pattern")


def _match(folder: str, parts: list[str]) -> Iterator[str]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        for below in _folders(folder):
            yield from _match(below, rest)
    elif not glob.has_magic(part):
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
        for entry in entries:
            hidden = entry.name.startswith(".") and not part.startswith(".")
            if hidden or not fnmatch.fnmatch(entry.name, part):
                continue
            path = os.path.join(folder, entry.name)
            if not rest:
                yield path
            elif _is_folder(entry):
                yield from _match(path, rest)


def _folders(folder: str) -> Iterator[str]:
    """A folder and all below it, under the rules of `_walk`."""
    linked: set[tuple[int, int]] = set()
    pending = [(folder, frozenset[tuple[int, int]](), False)]
    while pending:
        path, above, is_link = pending.pop()
        try:
            info = os.stat(path or os.curdir)
            key = (info.st_dev, info.st_ino)
            if is_link and (key in linked or key in above):
                continue
            entries = list(_sorted_entries(path or os.curdir))
        except OSError:
            continue
        if is_link:
            linked.add(key)
        yield path
        above |= {key}
        pending.extend(
            (os.path.join(path, entry.name), above, entry.is_symlink())
            for entry in reversed(entries)
            if _is_folder(entry)
            and not entry.name.startswith(".")
            and entry.name not in _SYSTEM_FOLDERS
        )


def _listed(stdin: BinaryIO, null: bool) -> Iterator[str]:
    """The names on standard input, each as soon as it is complete.

    Raises:
        InputError: it cannot be read, or is no such list.
    """
    end = b"\0" if null else b"\n"
    told = False
    for raw in _records(stdin, end):
        if b"\0" in raw:
            if any(map(os.path.lexists, filter(None, raw.split(b"\0")))):
                raise InputError("the list on standard input is separated by NUL bytes: add -0")
            raise InputError(_BINARY)
        if not null and raw.endswith(b"\r") and not os.path.lexists(raw):
            raw = raw[:-1]
        if not raw.strip():
            continue
        name = os.fsdecode(raw)
        found = find_on_disk(name)
        if found != name and not told:
            log.warning(
                "standard input: %r is spelled %r on the disk and is taken for that; so are others "
                "like it",
                name,
                found,
            )
            told = True
        yield found


def _records(stdin: BinaryIO, end: bytes) -> Iterator[bytes]:
    read = getattr(stdin, "read1", stdin.read)  # read1: what there is, without waiting for more
    try:
        start = chunk = read(_CHUNK)
        while chunk and any(
            bom.startswith(start) for bom in (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
        ):
            start += (chunk := read(_CHUNK))
        encoding = encoding_of(start)
        decoder = None
        if encoding != "utf-8-sig":
            if end == b"\0":
                raise InputError(
                    "the list on standard input is UTF-16 text with one path per line: leave out -0"
                )
            decoder = codecs.getincrementaldecoder(encoding)()
        else:
            start = start.removeprefix(b"\xef\xbb\xbf")  # PowerShell and editors put it there
            odd = [raw for raw in start.split(end) if _CONTROL.search(raw.replace(b"\0", b""))]
            if odd and not any(map(os.path.lexists, (raw for raw in odd if b"\0" not in raw))):
                raise InputError(_BINARY)
        rest, chunk = b"", start
        while chunk:
            if decoder:
                chunk = os.fsencode(decoder.decode(chunk))
            *whole, rest = (rest + chunk).split(end)
            yield from whole
            chunk = read(_CHUNK)
        if rest:
            yield rest
    except (OSError, ValueError) as error:
        raise InputError(f"standard input cannot be read: {error}") from error
