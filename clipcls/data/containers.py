"""Files that hold or list several images: archives, tables and videos, as the images' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clipcls.data.file_kinds import (
    LeftOut,
    is_archive,
    is_table,
    is_vectors,
    is_video,
)
from clipcls.data.inputs import Found, NamedImage, name_frames
from clipcls.data.sources import find_source
from clipcls.errors import ImageError, InputError

if TYPE_CHECKING:
    from clipcls.data.kept import Keep
    from clipcls.data.remote import RemoteFile


def expand_file(
    file: str | RemoteFile,
    left_out: LeftOut,
    every: int,
    image_column: str | None = None,
    keep: Keep | None = None,
) -> Iterator[Found]:
    """The images of a file that was named: those in it, or the file itself.

    Args:
        file: a path, or a file behind a URL.
        left_out: counts what else an archive contains.
        every: the milliseconds from one frame of a video to the next.
        image_column: the column of a table with the images.
        keep: other columns of a table, whose cells the images carry.
    """
    name, info = (file, None) if isinstance(file, str) else (file.url, file.info)
    if is_archive(name):
        from clipcls.data.archives import list_members

        for item in list_members(name, left_out, info):
            if isinstance(item, ImageError):
                yield item
            else:
                yield NamedImage(f"{name}!{item.member}", item)
    elif is_table(name) and not is_vectors(name):
        from clipcls.data.tables import Cell, list_rows

        for row, kept in list_rows(name, image_column, info, keep):
            if isinstance(row, ImageError):
                yield row.without_frames(kept)
            elif isinstance(row, Cell):
                yield NamedImage(f"{name}#{row.row}", row, kept)
            elif is_video(row):
                yield from (fill_kept(frame, kept) for frame in name_frames(row, every))
            else:
                yield NamedImage(row, find_source(row), kept) if kept else row
    elif is_video(name):
        yield from name_frames(name, every)
    elif isinstance(file, str):
        yield name
    else:
        yield NamedImage(name, file)


def fill_kept(item: Found, kept: Mapping[str, Any] | None) -> Any:
    """The image, with what is to be kept of a table that lists it, unless it has that already.

    Raises:
        InputError: it is a file of vectors.
    """
    if kept is None:
        return item
    if isinstance(item, ImageError):
        item.kept = item.kept or kept
        return item
    if isinstance(item, str):
        if is_vectors(item):
            raise InputError(
                f"{item}: has vectors and no other columns; leave out --keep, and join the results "
                "with your table by path"
            )
        return NamedImage(item, find_source(item), kept)
    return item if item.kept else replace(item, kept=kept)
