"""The outcome of a run over images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcls.data.sources import find_file
from clipcls.errors import ImageError, InputError
from clipcls.predictions import Prediction, Result


@dataclass(slots=True)
class Report:
    """The outcome of a run over images.

    Attributes:
        action: "copied", "moved", "linked", "written into sidecars", "restored", ...
        changed: how many images were copied, ...; restored are files (sidecars count).
        unchanged: how many images needed no change.
        best_only: how many images with several labels go to the folder of the best one only.
        unread: how many images `classify` could not read; they are left alone.
        failed: images that are missing or could not be copied, ..., with the reason.
        counted: further images, which the reason of one of these counts.
        journal: for `undo`; None if nothing was done, or nothing can be undone.
    """

    action: str
    changed: int = 0
    unchanged: int = 0
    best_only: int = 0
    unread: int = 0
    failed: list[ImageError] = field(default_factory=list)
    counted: int = 0
    journal: Path | None = None

    @property
    def exit_code(self) -> int:
        """0: all done; 1: some failed."""
        return 1 if self.failed else 0

    def summary(self) -> str:
        """One line."""
        counts = {
            "already done": self.unchanged,
            "with several labels moved to the best only": self.best_only,
            "left alone that `classify` could not read": self.unread,
            f"not {self.action}": len(self.failed) + self.counted,
        }
        parts = [f"{count:,} {what}" for what, count in counts.items() if count]
        return "; ".join([f"{self.changed:,} {self.action}", *parts])


def start_report(
    action: str, results: Sequence[Result], root: str | os.PathLike[str]
) -> tuple[Report, list[Prediction]]:
    """A report of what is left alone, and the predictions for files of this disk.

    Paths are relative to `root`.
    """
    local: list[Prediction] = []
    others: list[Prediction] = []
    predictions = [result for result in results if isinstance(result, Prediction)]
    for prediction in predictions:
        path = prediction.path
        is_local = find_file(path) == path or os.path.lexists(os.path.join(root, path))
        (local if is_local else others).append(prediction)
    report = Report(action, unread=len(results) - len(predictions))
    if others:
        report.counted = len(others) - 1
        more = f", like {len(others) - 1:,} more" if len(others) > 1 else ""
        report.failed.append(
            ImageError(others[0].path, f"is not a file of this disk{more}; left alone")
        )
    return report, local


def no_images_error(path: str) -> InputError:
    """The error if none of the results' images exists; `path` is one of them."""
    return InputError(
        f"{path}: no such file, nor any other image of the results; their paths are relative to "
        "where `classify` ran: give that folder with --root"
    )
