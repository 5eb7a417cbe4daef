"""Labelled images before they are learnt from: their labels' names, and copies of a picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipcls.predictions import UNKNOWN

if TYPE_CHECKING:
    from clipcls.data.dataset import Dataset

__all__ = ["find_copies", "name_labels", "warn_of_copies"]

logger = logging.getLogger(__name__)


def warn_of_copies(hashes: Sequence[bytes], paths: Sequence[str], labels: NDArray[np.str_]) -> None:
    """Warns of each image file that has another label than an earlier one of the same content."""
    first: dict[bytes, int] = {}
    for number, digest in enumerate(hashes):
        other = first.setdefault(digest, number) if digest else number
        if labels[other] != labels[number]:
            mine, its = str(labels[other]), str(labels[number])
            logger.warning(
                "%s (%r) and %s (%r) are the same picture with two labels",
                paths[other],
                mine,
                paths[number],
                its,
            )


def find_copies(vectors: NDArray[np.float32], hashes: Sequence[bytes]) -> NDArray[np.int64]:
    """A number per image, the same for copies of one picture, int64 (n,).

    Copies must not be in two folds: the one would tell of the other. In batches of two sizes the
    vectors of one file may differ by rounding.

    Args:
        vectors: float32 (n, dim).
        hashes: the SHA-256 of each image's file, or b"".
    """
    first: dict[bytes, int] = {}
    same = np.arange(len(vectors))
    for number, digest in enumerate(hashes):
        if digest:
            same[number] = first.setdefault(digest, number)
    _, copies = np.unique(vectors[same], axis=0, return_inverse=True)
    found: NDArray[np.int64] = copies.reshape(-1)
    return found


def name_labels(data: Dataset) -> list[str]:
    """The data's labels as words: `_` in the name of a folder stands for a space.

    `unknown` is what `sort` and `review` call images that have none of the labels.
    """
    names = [label for labels in data.labels for label in labels if label != UNKNOWN]
    return [name.replace("_", " ") for name in names] if data.folders else names
