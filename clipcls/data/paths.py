"""Find images by the files, folders and patterns that a user names; see `find_images`."""

# Paths stay as the user wrote them; pathlib would drop a leading ./

from __future__ import annotations

import errno
import fnmatch
import functools
import glob
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from clipcls.data.containers import expand_file, fill_kept
from clipcls.data.file_kinds import (
    FRAME_PERIOD,
    KINDS,
    SUFFIXES,
    LeftOut,
    find_suffix,
    has_image_name,
    is_system_folder,
    is_table,
    is_vectors,
)
from clipcls.data.inputs import Found, NamedImage, name_whole
from clipcls.data.path_list import read_path_list
from clipcls.data.sources import find_file, find_part
from clipcls.errors import ImageError, InputError, os_reason
from clipcls.files.on_disk import explain_missing, find_on_disk, is_url
from clipcls.files.text import canonical

if TYPE_CHECKING:
    from clipcls.data.kept import Keep
    from clipcls.data.remote import RemoteFile
    from clipcls.data.sharding import Shard

log = logging.getLogger("clipcls")

_SEPARATORS = re.compile("[" + re.escape(os.sep + (os.altsep or "")) + "]+")
# JPEG, PNG, GIF, TIFF, JPEG 2000, WebP, BMP, HEIC and AVIF.
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|II\*\0|MM\0\*|\0\0\0\x0cjP  \r\n\x87\n|RIFF.{4}WEBP"
    rb"|BM.{4}\0{4}|.{4}ftyp(?:hei[cx]|mif1|avif)",
    re.DOTALL,
)
Expand = Callable[["str | RemoteFile"], Iterator[Found]]


def find_images(
    inputs: Iterable[str | os.PathLike[str]],
    *,
    stdin: BinaryIO | None = None,
    null: bool = False,
    left_out: LeftOut | None = None,
    shard: Shard | None = None,
    every: int = FRAME_PERIOD,
    image_column: str | None = None,
    keep: Keep | None = None,
) -> Iterator[Found]:
    r"""Yield the images that the inputs name, in the order of the inputs.

    - A file is taken whatever its suffix.
    - A folder is searched with all folders below it, entries sorted by name. Taken are files with a
      suffix in `SUFFIXES` (in `RAW_SUFFIXES` too if rawpy is installed), and files without a suffix
      or with an unknown one (`photo.jpg?w=300`) that begin like an image; not hidden files and
      folders (a leading dot) and system folders (`#recycle`, `@eaDir`). Symbolic links are
      followed, except those that lead back up, and none leads into a folder twice.
    - A pattern (`*`, `?`, `[...]`, `**` for any depth) stands for its sorted matches, as in a
      shell; with `**` it matches only files. A part that names an existing file or folder, such as
      `[2024] Trip`, stands for that alone.
    - A zip or tar archive, also one that a pattern matches, stands for its images (see
      `archives.list_members`); in folders archives are left out. `{000..099}` stands for numbers.
    - A table (csv, tsv, jsonl, parquet) that is named stands for the images in its column of paths,
      URLs or bytes (see `tables.list_rows`).
    - A video, also one that a pattern matches, stands for its frames (see `video.list_frames`); in
      folders videos are left out.
    - A URL of anything that fsspec opens is a file, a folder or a pattern, too (see
      `remote.list_url`), if no file of this disk has its name.
    - The name of one image in an archive, table or video stands for that image, if no file of this
      disk has its name.
    - A file or folder of vectors by `clipcls embed` comes as one path.
    - `-` reads paths of files and folders, not patterns, from `stdin` as they come: one per line
      (UTF-16, as PowerShell writes it, is recognised), or ended by NUL bytes with `null`.

    Paths stay as the user wrote them. One that does not exist stands for the one that looks the
    same, with one warning (see `find_on_disk`). Of several inputs, each without images gets a
    warning. An image named twice comes twice, so that results match a list line by line. Memory
    grows only with the largest folder or archive.

    Args:
        inputs: files, folders, patterns or `-`.
        stdin: the binary stream that `-` stands for, such as `sys.stdin.buffer`.
        null: names on `stdin` end with NUL bytes (`find -print0`).
        left_out: counts what else the folders contain.
        shard: yield only this share of what was found, which may be nothing; all frames of a video
            are in one share.
        every: the milliseconds from one frame of a video to the next.
        image_column: the column of tables with the images; None: see `tables.choose_column`.
        keep: other columns of tables, whose cells the images carry.

    Yields:
        A path, a frame of a video, or an image with what a listing says about it; for an input or
        folder that cannot be read, the `ImageError` to report.

    Raises:
        InputError: nothing was found (after the last input), `-` cannot be read or is not a list of
            paths, an input has vectors and columns are to be kept, or no table has one of these.
    """
    names = [os.fspath(name) for name in inputs]
    left_out = LeftOut() if left_out is None else left_out

    def expand(file: str | RemoteFile) -> Iterator[Found]:
        return expand_file(file, left_out, every, image_column, keep)

    if keep and keep.is_shared:
        _find_columns(names, expand, keep)
    has_found = has_warned = False
    empty: list[str] = []
    for path, is_pattern in _list_paths(names, stdin, null):
        on_disk = path if is_pattern else find_on_disk(path)
        if on_disk != path and not has_warned:
            _warn_of_spelling(path, on_disk)
            has_warned = True
        is_empty = True
        for item in _find(on_disk, is_pattern, left_out, expand):
            has_found, is_empty = True, False
            if shard is None or shard.contains(name_whole(item), on_disk):
                yield fill_kept(item, keep.empty) if keep else item
        empty += [on_disk] * is_empty
        while has_found and empty:
            _warn_of_empty(empty.pop(0))
    if not names:
        raise InputError("no images: name files, folders or patterns, or - for a list on stdin")
    if not has_found:
        where = ", ".join("the list on standard input" if n == "-" else n for n in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        besides = f": {left_out}" if left_out.counts else ""
        raise InputError(f"no images in {where}{more}{besides}")


def _find_columns(names: Sequence[str], expand: Expand, keep: Keep) -> None:
    """Have `keep` see the columns of all tables that are named, before the first is read.

    Raises:
        InputError: no table has a column to keep, and no list or pattern may lead to others.
    """

    def begin(table: str | RemoteFile) -> Iterator[Found]:
        return itertools.islice(expand(table), 1)

    for path, is_pattern in _list_paths(filter(is_table, names), None, False):
        for _ in _find(find_on_disk(path), is_pattern, LeftOut(), begin):
            pass
    if not any(name == "-" or (glob.has_magic(name) and not is_table(name)) for name in names):
        keep.check()


def _list_paths(
    names: Iterable[str], stdin: BinaryIO | None, null: bool
) -> Iterator[tuple[str, bool]]:
    """Each path, and whether it may be a pattern."""
    for name in names:
        if name != "-":
            for each in _expand_braces(name):
                yield each, glob.has_magic(each)
        elif stdin is None:
            raise InputError("there is no standard input to read paths from")
        else:
            for path in read_path_list(stdin, null):
                yield path, False


def _expand_braces(name: str) -> Iterator[str]:
    """The names that `shard-{000..099}.tar` stands for, unless a file has this very name."""
    found = re.search(r"\{(\d{1,9})\.\.(\d{1,9})\}", name)
    if found is None or os.path.lexists(name):
        yield name
        return
    first, last = int(found[1]), int(found[2])
    for number in range(first, last + 1) if first <= last else range(first, last - 1, -1):
        text = str(number).zfill(len(found[1]))
        yield from _expand_braces(name[: found.start()] + text + name[found.end() :])


@functools.cache  # images may be counted before they are read
def _warn_of_empty(path: str) -> None:
    log.warning("no images in %s", path)


@functools.cache
def _warn_of_spelling(path: str, on_disk: str) -> None:
    if canonical(path) == canonical(on_disk):  # the two would look the same here
        log.warning("%r is spelled with other Unicode characters on disk; it was found", path)
    else:
        log.warning("%r is not on this disk; %r is read, and others likewise", path, on_disk)


def _find(path: str, is_pattern: bool, left_out: LeftOut, expand: Expand) -> Iterator[Found]:
    try:
        os.lstat(path)
    except (OSError, ValueError) as error:
        part = find_part(path)
        if part and (not is_pattern or os.path.lexists(find_file(path))):
            yield NamedImage(path, part)
        elif is_url(path):
            from clipcls.data.remote import list_url

            for item in list_url(path, is_pattern, left_out):
                yield from [item] if isinstance(item, ImageError) else expand(item)
        elif is_pattern:
            yield from _match_images(path, left_out, expand)
        elif isinstance(error, OSError):
            is_missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
            yield ImageError(path, explain_missing(path) if is_missing else os_reason(error))
        else:  # a NUL byte, or characters that the file system cannot encode
            yield ImageError(path, "not a valid file name")
        return
    if os.path.isdir(path) and not is_vectors(path):
        yield from _walk(path, left_out)
    else:
        yield from expand(path)


def _walk(root: str, left_out: LeftOut) -> Iterator[str | ImageError]:
    """Images below a folder."""
    for item in _search(root, left_out):
        if isinstance(item, ImageError):
            yield item
        elif isinstance(item, os.DirEntry) and _is_image(item, left_out):
            yield item.path


def _search(root: str, left_out: LeftOut) -> Iterator[str | os.DirEntry[str] | ImageError]:
    """Paths of a folder and those below it, each before the entries of its files.

    Iterative, since folders may be nested more deeply than Python's stack allows.
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
            with os.scandir(path or os.curdir) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield ImageError(path, os_reason(error))
            return
        if is_link:
            linked.add(key)
        above.append(key)
        pending.append((path, iter(entries)))
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


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed; reading it tells why
        return False


def _is_image(entry: os.DirEntry[str], left_out: LeftOut) -> bool:
    """Whether a file is taken from a folder; if not, count it."""
    suffix = find_suffix(entry.name)
    if suffix in SUFFIXES:
        return True
    is_unknown = suffix not in KINDS and not suffix.endswith("~")
    return (is_unknown and _starts_as_image(entry)) or has_image_name(entry.name, left_out)


def _starts_as_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file begins like a common image format."""
    try:
        if not entry.is_file():  # opening a pipe or a device may wait or have side effects
            return False
        with open(entry.path, "rb", buffering=0) as file:
            start = file.read(16)
    except OSError:
        return False
    return _MAGIC.match(start) is not None


def _match_images(pattern: str, left_out: LeftOut, expand: Expand) -> Iterator[Found]:
    """The images that a pattern matches. `glob.glob` is unsorted and follows link loops."""
    drive, rest = os.path.splitdrive(pattern)
    root = drive + rest[: len(rest) - len(rest.lstrip(os.sep + (os.altsep or "")))]
    parts = [part for part in _SEPARATORS.split(rest) if part]
    if parts[-1] == "**":
        parts.append("*")
    depths = parts.count("**")
    seen: set[str] = set()  # two `**` can reach one file in several ways
    has_found = False
    for path in _match(root, parts):
        is_folder = os.path.isdir(path)
        if (depths and is_folder) or path in seen:
            continue
        if depths > 1:
            seen.add(path)
        has_found = True
        yield from _walk(path, left_out) if is_folder else expand(path)
    if not has_found:
        yield ImageError(pattern, "no file matches this pattern")


def _match(folder: str, parts: list[str]) -> Iterator[str]:
    """The paths in a folder that match the parts of a pattern."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        for below in _search(folder, LeftOut()):
            if isinstance(below, str):
                yield from _match(below, rest)
        return
    for path in _match_names(folder, part):
        if not rest:
            yield path
        elif os.path.isdir(path):
            yield from _match(path, rest)


def _match_names(folder: str, pattern: str) -> list[str]:
    path = os.path.join(folder, pattern)
    if os.path.lexists(path):
        return [path]
    try:
        names = sorted(os.listdir(folder or os.curdir)) if glob.has_magic(pattern) else []
    except OSError:
        return []  # as in a shell: what cannot be listed does not match
    shown = [name for name in names if pattern.startswith(".") or not name.startswith(".")]
    # A bracket may be literal: `[2024] T*` for a folder called [2024] Trip.
    found = fnmatch.filter(shown, pattern) or fnmatch.filter(shown, pattern.replace("[", "[[]"))
    return [os.path.join(folder, name) for name in found]
