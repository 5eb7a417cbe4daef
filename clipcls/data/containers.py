"""Files that hold or list several images: archives, tables and videos, as the images' names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from clipcls.data.file_kinds import (
    LeftOut,
    has_image_name,
    is_archive,
    is_table,
    is_vectors,
    is_video,
)
from clipcls.data.inputs import NamedImage, name_frames
from clipcls.errors import ImageError

if TYPE_CHECKING:
    from clipcls.data.remote import RemoteFile


def expand_file(
    file: str | RemoteFile, left_out: LeftOut, every: int, image_column: str | None = None
) -> Iterator[str | NamedImage | ImageError]:
    """The images of a file that was named: those in it, or the file itself.

    Args:
        file: a path, or a file behind a URL.
        left_out: counts what else an archive contains.
        every: the milliseconds from one frame of a video to the next.
        image_column: the column of a table with the images.
    """
    name, info = (file, None) if isinstance(file, str) else (file.url, file.info)
    if is_archive(name):
        from clipcls.data.archives import list_members

        for item in list_members(name, has_image_name, left_out, info):
            if isinstance(item, ImageError):
                yield item
            else:
                yield NamedImage(f"{name}!{item.member}", item)
    elif is_table(name) and not is_vectors(name):
        from clipcls.data.tables import Cell, list_rows

        for row in list_rows(name, image_column, info):
            yield NamedImage(f"{name}#{row.row}", row) if isinstance(row, Cell) else row
    elif is_video(name):
        yield from name_frames(name, every)
    elif isinstance(file, str):
        yield name
    else:
        yield NamedImage(name, file)
