"""Labels -> keywords of each image, wherever they are written: the loop and what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from clipcls.errors import ImageError, InputError, SidecarError, format_count, os_reason
from clipcls.predictions import Prediction, Result

__all__ = ["KeywordReport", "Labels", "update_each"]

Labels: TypeAlias = "tuple[tuple[str, ...], ...]"
"""Of each label the names from the root of the hierarchy to the label."""


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


def update_each(
    results: Sequence[Result],
    update: Callable[[Path, Labels], bool],
    *,
    root: str | os.PathLike[str] = ".",
    watch: Callable[[int], None] = lambda failed: None,
    what: str = "sidecar",
) -> KeywordReport:
    """Does one thing for each image, and counts.

    Args:
        results: of `read_results`.
        update: what is called with an image's path and labels; says whether something changed.
        root: what the results' paths are relative to.
        watch: called after each image with the number that failed so far.
        what: what is written.

    Raises:
        InputError: none of the images exists.
    """
    done = KeywordReport(what)
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
    for result, image in images:
        try:
            if not image.is_file():
                raise SidecarError("no such file")
            changed = update(image, result.label_paths)
        except SidecarError as error:
            done.failed.append(ImageError(result.path, str(error)))
        except OSError as error:
            done.failed.append(ImageError(result.path, os_reason(error)))
        else:
            done.written += changed
            done.unchanged += not changed
        watch(len(done.failed))
    return done
