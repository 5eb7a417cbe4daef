"""Labelled images to learn from: their labels' names, copies of a picture, labels likely wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.predictions import UNKNOWN, as_record

if TYPE_CHECKING:
    from clipcls.data.dataset import Dataset
    from clipcls.few_shot.linear_probe import LinearProbe

logger = logging.getLogger(__name__)

_MARGIN = 0.5  # by which another label's held-out score is above its own


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


@dataclass(frozen=True, slots=True)
class Suspect:
    """A labelled image, its label's cross-validated score, and a likelier label."""

    path: str
    label: str
    score: float
    likelier: str
    likelier_score: float

    def to_dict(self) -> dict[str, Any]:
        """Its record."""
        record: dict[str, Any] = as_record(self)
        return record


def find_suspects(
    probe: LinearProbe,
    vectors: NDArray[np.float32],
    codes: NDArray[np.int64],
    names: Sequence[str],
    paths: Sequence[str],
) -> list[Suspect]:
    """Finds the suspects among a probe's training images, widest margin first.

    An image is a suspect if another label's held-out score is more than 0.5 above its own label's,
    after confident learning (Northcutt et al. 2021, arXiv 1911.00068).

    Args:
        probe: learnt from `vectors`, with class numbers as labels.
        vectors: float32 (n, dim).
        codes: class numbers, int64 (n,).
        names: the labels, (n_classes,).
        paths: (n,).

    Returns:
        none if the probe has no folds; none of a label whose images are all in one fold (one image,
        or copies of one), since the probe does not know that label without it.
    """
    found = []
    for rows, scores in probe.cross_validated(vectors):
        assert probe.folds_ is not None
        outside = codes[probe.folds_ != probe.folds_[rows[0]]]
        known = np.isin(codes[rows], outside)
        at = np.arange(len(rows))
        likelier = scores.argmax(axis=1)
        own, best = scores[at, codes[rows]], scores[at, likelier]
        for k in np.flatnonzero((best - own > _MARGIN) & known):
            row = rows[k]
            found.append(
                Suspect(
                    paths[row], names[codes[row]], float(own[k]), names[likelier[k]], float(best[k])
                )
            )
    return sorted(found, key=lambda s: (s.score - s.likelier_score, s.path))
