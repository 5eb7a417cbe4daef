"""Labels -> keywords of each image, wherever they are written: the loop and what came of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcls.errors import ImageError, InputError, SidecarError, format_count, os_reason
from clipcls.organize.xmp_embed import open_exiftool
from clipcls.organize.xmp_packet import need_lxml
from clipcls.organize.xmp_sidecar import SidecarNames
from clipcls.predictions import Prediction, Result

__all__ = ["KeywordReport", "write_keywords"]


@dataclass(slots=True)
class KeywordReport:
    """What a run did.

    Attributes:
        what: what keywords were written into: "sidecar" or "image".
        written: how many of them are new or changed.
        unchanged: how many images needed no change.
        unread: how many images `classify` could not read; they are left alone.
        failed: images for which nothing could be read or written.
    """

    what: str = "sidecar"
    written: int = 0
    unchanged: int = 0
    unread: int = 0
    failed: list[ImageError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: all done; 1: some could not be."""
        return 1 if self.failed else 0

    def summary(self) -> str:
        """One line."""
        parts = [f"{format_count(self.written, self.what)} written"]
        if self.unchanged:
            parts.append(f"{format_count(self.unchanged, 'image')} needed no change")
        if self.unread:
            parts.append(f"{self.unread:,} left alone that `classify` could not read")
        if self.failed:
            parts.append(f"{len(self.failed):,} could not be done")
        return "; ".join(parts)


def write_keywords(
    results: Sequence[Result],
    *,
    root: str | os.PathLike[str] = ".",
    embed: bool = False,
    full_name: bool = False,
    remove: bool = False,
    watch: Callable[[int], None] = lambda failed: None,
) -> KeywordReport:
    """Writes each image's labels as keywords; an image without labels loses its earlier ones.

    Args:
        results: of `read_results`.
        root: what the results' paths are relative to.
        embed: write into the images themselves, by exiftool, instead of into XMP sidecars.
        full_name: `photo.jpg.xmp` for each image, and not only where `photo.xmp` belongs to
            another file; see `SidecarNames`.
        remove: take out what was written before, under either name, and write nothing.
        watch: called after each image with the number that failed so far.

    Raises:
        InputError: lxml or what embedding needs is missing, or none of the images exists.
    """
    need_lxml()
    done = KeywordReport("image" if embed else "sidecar")
    images = [
        (result, Path(os.path.abspath(Path(root) / result.path)))
        for result in results
        if isinstance(result, Prediction)
    ]
    done.unread = len(results) - len(images)
    if images and not any(image.is_file() for _, image in images):
        raise InputError(
            f"{images[0][0].path}: no such file, nor any other of the results; their paths are "
            "relative to where `classify` ran: give that folder with --root"
        )
    sidecars = contextlib.nullcontext(SidecarNames(full_name).update)
    with open_exiftool() if embed else sidecars as update:
        for result, image in images:
            try:
                if not image.is_file():
                    raise SidecarError("no such file")
                changed = update(image, None if remove else result.label_paths)
            except SidecarError as error:
                done.failed.append(ImageError(result.path, str(error)))
            except OSError as error:
                done.failed.append(ImageError(result.path, os_reason(error)))
            else:
                done.written += changed
                done.unchanged += not changed
            watch(len(done.failed))
    return done
