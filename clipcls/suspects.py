"""Labels that are likely wrong, by confident learning (Northcutt et al. 2021, arXiv 1911.00068).

An image is a suspect where a held-out probe gives another label at least the score that images
of that other label have on average, and more than its own. Half a page does it; cleanlab, the
authors' package, does the same with more ways to rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from clipcls.probe import LinearProbe

__all__ = ["Suspect", "find_suspects"]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A labelled image, its label's cross-validated score, and the label that is likelier."""

    path: str
    label: str
    score: float
    likelier: str
    likelier_score: float

    def record(self) -> dict[str, Any]:
        """As in csv."""
        return {
            "path": self.path,
            "label": self.label,
            "score": round(self.score, 6),
            "likelier": self.likelier,
            "likelier_score": round(self.likelier_score, 6),
        }


def find_suspects(
    probe: LinearProbe,
    vectors: NDArray[np.float32],
    codes: NDArray[np.int64],
    names: Sequence[str],
    paths: Sequence[str],
) -> list[Suspect]:
    """The suspects among the images that a probe was learnt from, least score first.

    Args:
        probe: learnt from `vectors`, and from views of them after these rows, with class numbers
            as labels.
        vectors: float32 (n, dim).
        codes: class numbers, int64 (n,).
        names: the labels, (n_classes,).
        paths: (n,).

    Returns:
        none where the probe has no folds, and none of a label with one image: without it, the
        probe does not know that label's images.
    """
    own, totals = np.zeros(len(codes)), np.zeros(len(names))
    counts = np.bincount(codes, minlength=len(names))
    for rows, scores in probe.cross_validated(vectors):
        own[rows] = scores[np.arange(len(rows)), codes[rows]]
        np.add.at(totals, codes[rows], own[rows])
    # A label without a second image has no held-out scores: no image is taken for it.
    usual = np.where(counts > 1, totals / np.maximum(counts, 1), np.inf)
    found = []
    for rows, scores in probe.cross_validated(vectors):
        likelier = np.where(scores >= usual, scores, -1.0).argmax(axis=1)
        best = scores[np.arange(len(rows)), likelier]
        wrong = (best >= usual[likelier]) & (best > own[rows]) & (counts[codes[rows]] > 1)
        for row, other, score in zip(rows[wrong], likelier[wrong], best[wrong], strict=True):
            found.append(
                Suspect(paths[row], names[codes[row]], float(own[row]), names[other], float(score))
            )
    return sorted(found, key=lambda suspect: (suspect.score, suspect.path))
