"""Labels in words alone next to labels with images: bring their logits to one scale.

A learnt logit and a logit of words are not comparable, and the larger kind answers the images of
the other. Calibrated stacking (Chao et al. 2016, arXiv 1605.04253) adds one offset to all logits of
labels without images. Here labels with images get a second correction: a share of their nearness,
an image's product with the label's mean image of length 1. What was learnt tells labels with images
from each other and is silent where an image is near to none of them; nearness is not. Both
corrections are linear in the image, so they become part of the coefficients and intercepts.

Both are estimated from trials that show how the two kinds compete: images whose label was held back
(the words known, the images not) are images of a label without images, and images held out of
learning are images of a label with images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing import TypeAlias

    Floats: TypeAlias = NDArray[np.float64]
    Numbers: TypeAlias = NDArray[np.int64]
    Bools: TypeAlias = NDArray[np.bool_]

__all__ = ["Trial", "estimate_corrections"]

_SPREAD = 10.0  # of both before any trial; matters only where the trials tell all images apart


@dataclass(frozen=True, slots=True)
class Trial:
    """How both kinds of labels compete for some images of one of these kinds.

    Attributes:
        logits: those of labels with images, float64 (n, n_seen); -inf for a label held back.
        nearness: of these labels, float64 (n, n_seen).
        truth: column of the right label, int64 (n,); -1 for an image of a label without images.
        total: logarithm of the summed exponentials of labels without images, float64 (n,).
        best: the greatest logit of labels without images, float64 (n,).
        right: whether that is the right label's, bool (n,).
        by_words: whether the words alone find the right label among all, bool (n,).
    """

    logits: Floats
    nearness: Floats
    truth: Numbers
    total: Floats
    best: Floats
    right: Bools
    by_words: Bools

    @classmethod
    def of(
        cls,
        logits: Floats,
        nearness: Floats,
        words: Floats,
        codes: Numbers,
        taught: Bools,
        seen: Bools,
    ) -> Trial:
        """A trial of images, from their logits.

        Args:
            logits, nearness, words: the learnt ones, the nearness and the logits of the words
                alone, float64 (n, n_classes).
            codes: right classes, int64 (n,).
            taught: which labels were learnt from images, bool (n_classes,).
            seen: which labels have images, those held back included, bool (n_classes,).
        """
        from scipy.special import logsumexp

        others = np.flatnonzero(~taught)
        theirs = logits[:, others]
        return cls(
            np.where(taught, logits, -np.inf)[:, seen],
            nearness[:, seen],
            np.where(taught, np.cumsum(seen) - 1, -1)[codes],
            logsumexp(theirs, axis=1),
            theirs.max(axis=1),
            others[theirs.argmax(axis=1)] == codes,
            words.argmax(axis=1) == codes,
        )

    @classmethod
    def joined(cls, trials: Sequence[Trial]) -> Trial:
        """One trial of all these images."""
        names = cls.__slots__
        return cls(*(np.concatenate([getattr(t, name) for t in trials]) for name in names))

    def without_itself(self) -> Trial:
        """The trial of images learnt from, each as near to its own label as to the next.

        The only image of a label is no measure of how near others of that label are to it.
        """
        rows = np.arange(len(self.truth))
        nearness = self.nearness.copy()
        nearness[rows, self.truth] = -np.inf
        nearness[rows, self.truth] = nearness.max(axis=1)
        return replace(self, nearness=nearness)

    def loss(self, offset: Floats, share: float) -> Floats:
        """Share of right answers that the words alone have more than the corrected logits.

        Args:
            offset: offsets to try, float64 (n_offsets,).
            share: the share of nearness.
        """
        logits = self.logits + share * self.nearness
        right = np.where(self.truth < 0, self.right, logits.argmax(axis=1) == self.truth)
        lead = np.sort((self.best - logits.max(axis=1))[right])
        kept = np.searchsorted(lead, -offset, side="right")  # answered with a label with images
        if self.truth[0] < 0:
            kept = len(lead) - kept
        loss: Floats = self.by_words.mean() - kept / len(self.truth)
        return loss


def estimate_corrections(
    held_back: Trial, held_out: Trial, learnt: Trial, unseen: float
) -> tuple[float, float]:
    """What to add to the logits of labels without images, and the share of nearness of the others.

    Those of greatest likelihood where each label is as frequent as any other: a logistic regression
    of the kind of an image's label. The share is not negative. The offset is then moved as little
    as needed so that no images have fewer right answers than by the words alone: first of all those
    learnt from, whose answers a person has given, then those of either kind, whose greater loss is
    made as small as can be.

    Args:
        held_back: of images whose label was held back, at least one.
        held_out: of images of labels with images, at least one.
        learnt: of the images learnt from, as they are answered, at least one.
        unseen: share of labels without images among all, between 0 and 1.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, logsumexp, softmax

    n = len(held_back.best) + len(held_out.best)
    kinds = (
        (held_back, -1.0, unseen * n / len(held_back.best)),
        (held_out, 1.0, (1 - unseen) * n / len(held_out.best)),
    )

    def loss(found: Floats) -> tuple[float, Floats]:
        offset, share = found
        value, slope = 0.5 * float(found @ found) / _SPREAD**2, found / _SPREAD**2
        for trial, sign, weight in kinds:
            logits = trial.logits + share * trial.nearness
            odds = sign * (offset + trial.total - logsumexp(logits, axis=1))
            wrong = sign * weight * expit(odds)
            near = (softmax(logits, axis=1) * trial.nearness).sum(axis=1)
            value += weight * float(np.logaddexp(0, odds).sum())
            slope += np.array([wrong.sum(), -(wrong @ near)])
        return value, slope

    bounds = [(None, None), (0, None)]
    likeliest, share = map(
        float, minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds).x
    )
    # Between the offsets at which an answer changes, and beyond the last of them.
    trials = held_back, held_out, learnt
    changes = np.concatenate([(t.logits + share * t.nearness).max(axis=1) - t.best for t in trials])
    ends = changes.min() - 1, changes.max() + 1
    tried = np.array([likeliest, *ends, *np.quantile(changes, np.linspace(0, 1, 201))])
    first = np.maximum(learnt.loss(tried, share), 0)
    then = np.maximum(held_back.loss(tried, share), held_out.loss(tried, share)).clip(0)
    order = np.lexsort([np.abs(tried - likeliest), then, first])
    return float(tried[order[0]]), share
