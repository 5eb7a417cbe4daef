"""Prepares labelled images for learning: their labels' names, copies of a picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipcls.predictions import UNKNOWN

if TYPE_CHECKING:
    from clipcls.data.dataset import Dataset

logger = logging.getLogger(__name__)


def find_copies(
    vectors: NDArray[np.float32],
    hashes: Sequence[bytes],
    paths: Sequence[str],
    labels: NDArray[np.str_],
) -> NDArray[np.int64]:
    """A number per image, the same for copies of one picture, int64 (n,).

    Copies must not be in two folds: one would give the other away. In batches of two sizes the
    vectors of one file may differ by rounding. Logs a warning for each file that has another label
    than an earlier copy.

    Args:
        vectors: float32 (n, dim).
        hashes: the SHA-256 of each image's file, or b"".
        paths: of the images.
        labels: str (n,).
    """
    first: dict[bytes, int] = {}
    same = np.arange(len(vectors))
    for number, digest in enumerate(hashes):
        if digest:
            same[number] = other = first.setdefault(digest, number)
            if labels[other] != labels[number]:
                logger.warning(
                    "%s (%r) and %s (%r) are the same picture with two labels",
                    *(paths[other], str(labels[other]), paths[number], str(labels[number])),
                )
    return np.asarray(np.unique(vectors[same], axis=0, return_inverse=True)[1].reshape(-1))


def name_labels(data: Dataset) -> list[str]:
    """The data's labels as words: `_` in the name of a folder stands for a space.

    Without `unknown`, by which `sort` and `review` name images of none of the labels.
    """
    names = [label for labels in data.labels for label in labels if label != UNKNOWN]
    return [name.replace("_", " ") for name in names] if data.folders else names
