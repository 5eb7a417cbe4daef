"""Choose a table's column of images by its name and type."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from clipcls.data.file_kinds import SUFFIXES, find_suffix
from clipcls.data.kept import column_types, find_column
from clipcls.errors import ImageError
from clipcls.files.on_disk import is_url

log = logging.getLogger("clipcls")

_NAMES = {"image", "img", "path", "file", "filename", "url", "image_path", "image_url", "file_name"}
_NAMES |= {"filepath", "file_path", "image_file", "img_path", "img_url"}


def choose_column(table: str, columns: Sequence[str], column: str | None) -> str:
    """The column of images.

    Raises:
        ImageError: it is missing, or it is not clear which one it is.
    """
    usual = {name for name in columns if _is_usual(name)}
    wanted = column or (usual.pop() if len(usual) == 1 else None)
    if wanted and (found := find_column(table, columns, wanted)):
        return found
    if any(is_url(name) or find_suffix(name) in SUFFIXES for name in columns):
        raise ImageError(table, "its first line is no header; begin it with a line like path,label")
    shown = ", ".join(repr(name[:50]) for name in columns[:20])
    what = f"has no column {column!r}" if column else "it is not clear which column has the images"
    raise ImageError(table, f"{what}; choose one with --image-column: {shown}")


def choose_typed(table: str, schema: Any, column: str | None) -> str:
    """The column of images of a parquet file; logs a warning if the file has vectors, too.

    Raises:
        ImageError: as `choose_column`, or the column has something else.
    """
    types = column_types(schema)
    usable = [name for name in schema.names if _may_have_images(types[name])]
    vectors = [name for name in schema.names if _has_vectors(types[name])]
    advice = "vectors of an unknown model are read in Python alone, as an array"
    has_usual = any(map(_is_usual, usable))
    if vectors and not column and not has_usual:
        raise ImageError(table, f"has vectors ({vectors[0]!r}), but no paths of images; {advice}")
    name = choose_column(table, usable if has_usual and not column else schema.names, column)
    if name not in usable:
        others = ", ".join(map(repr, usable[:20])) or "none has these"
        raise ImageError(
            table,
            f"the column {name!r} has {types[name]}, not paths, URLs or bytes; choose another with "
            f"--image-column: {others}",
        )
    if vectors:
        used = f"its images are read, not its vectors ({vectors[0]!r})"
        log.warning("%s: %s: %s", table, used, advice)
    return name


def holds_bytes(kind: Any) -> bool:
    """Whether a column of this type has bytes, perhaps in a structure."""
    import pyarrow

    types = pyarrow.types
    kinds = types.is_binary, types.is_large_binary, types.is_struct
    return kind is not None and any(is_kind(kind) for is_kind in kinds)


def _is_usual(name: str) -> bool:
    return name.strip().lower() in _NAMES


def _may_have_images(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    if kind is None:  # all are null
        return True
    if types.is_struct(kind):
        return any(field.name in ("bytes", "path") for field in kind)
    return bool(types.is_string(kind) or types.is_large_string(kind) or holds_bytes(kind))


def _has_vectors(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    lists = types.is_list, types.is_large_list, types.is_fixed_size_list
    return any(is_kind(kind) for is_kind in lists if kind) and types.is_floating(kind.value_type)
