"""Finds labels that are likely wrong, by the held-out scores of a probe.

An image is a suspect if another label's held-out score is more than 0.5 above its own label's,
after confident learning (Northcutt et al. 2021, arXiv 1911.00068).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.predictions import as_record

if TYPE_CHECKING:
    from clipcls.few_shot.linear_probe import LinearProbe

_MARGIN = 0.5


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
