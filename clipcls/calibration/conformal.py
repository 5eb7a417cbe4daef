"""Split conformal prediction: sets of labels that hold a right one with a stated probability.

The score of a label is that of APS (Romano et al. 2020, arXiv 2006.02544) without its random part:
the softmax mass of the labels ranked before it. The best label's score is 0, so that no set is
empty; if the answers alone are right often enough, the sets are the answers. The softmax is the
model's own, not fitted to the calibration's images, so the guarantee holds: for images drawn as the
calibration's were, a set holds a right label with probability at least 1 - alpha. The penalty of
RAPS on long sets (Angelopoulos et al. 2021, arXiv 2009.14193) shrank them by a tenth at most
(research/confidence.md).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["rank_scores", "set_sizes", "threshold_rank"]


def rank_scores(logits: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each image's classes, best first, and their scores, which rise with the rank.

    Args:
        logits: float64 (n, n_classes), not calibrated.

    Returns:
        class numbers int64 and scores float64, (n, n_classes) each.
    """
    order = np.argsort(-logits, axis=1, kind="stable")
    ranked = np.take_along_axis(logits, order, 1)
    mass = np.exp(ranked - ranked[:, :1])
    mass /= mass.sum(axis=1, keepdims=True)
    scores = np.zeros_like(mass)
    np.cumsum(mass[:, :-1], axis=1, out=scores[:, 1:])
    return order, scores


def set_sizes(scores: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """How many of the best classes are in each image's set, int64 (n,), at least 1.

    Args:
        scores: from `rank_scores`.
        threshold: the highest score in a set.
    """
    sizes: NDArray[np.int64] = np.maximum((scores <= threshold).sum(axis=1), 1)
    return sizes


def threshold_rank(n: int, alpha: float) -> int | None:
    """Which of n calibration scores, from 1 for the least, is the threshold.

    None if n is too small: only the set of all labels has the guarantee then.
    """
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    return rank if rank <= n else None
