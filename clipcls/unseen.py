"""Labels in words alone next to labels with images: bring their logits to one scale.

A learnt logit and a logit of words are not comparable, and the larger kind answers the images of
the other. Calibrated stacking (Chao et al. 2016, arXiv 1605.04253) adds one offset to all logits of
a kind, here to those of labels without images. It is estimated from trials that show how both kinds
compete: images whose label was held back (the words known, the images not) are images of a label
without images, and images held out of learning are images of a label with images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing import TypeAlias

    Floats: TypeAlias = NDArray[np.float64]

__all__ = ["Trial", "estimate_offset"]


@dataclass(frozen=True, slots=True)
class Trial:
    """How labels without images compete with the others for some images of one of these kinds.

    Attributes:
        odds: logarithm of the odds of the labels without images, float64 (n,).
        lead: best logit of the labels without images, less the best of the others, float64 (n,).
        right: whether the best label of the image's own kind is its label, bool (n,).
        by_words: whether the words alone find its label among all, bool (n,).
    """

    odds: Floats
    lead: Floats
    right: NDArray[np.bool_]
    by_words: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        logits: Floats,
        words: Floats,
        truth: NDArray[np.int64],
        unseen: NDArray[np.bool_],
        *,
        of_unseen: bool,
    ) -> Trial:
        """A trial of images, from their logits.

        Args:
            logits, words: the learnt ones and those of the words alone, float64 (n, n_classes).
            truth: right classes, int64 (n,).
            unseen: which labels are without images, bool (n_classes,).
            of_unseen: whether the images' own labels are among these.
        """
        from scipy.special import logsumexp

        theirs, others = logits[:, unseen], logits[:, ~unseen]
        own = np.flatnonzero(unseen == of_unseen)
        return cls(
            logsumexp(theirs, axis=1) - logsumexp(others, axis=1),
            theirs.max(axis=1) - others.max(axis=1),
            own[logits[:, own].argmax(axis=1)] == truth,
            words.argmax(axis=1) == truth,
        )

    @classmethod
    def joined(cls, trials: Sequence[Trial]) -> Trial:
        """One trial of all these images."""
        parts = ((t.odds, t.lead, t.right, t.by_words) for t in trials)
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def loss(self, offset: float, *, of_unseen: bool) -> float:
        """Share of right answers that the words alone have more than the logits with an offset."""
        right = self.right & ((self.lead + offset > 0) == of_unseen)
        return float(self.by_words.mean() - right.mean())


def estimate_offset(held_back: Trial, held_out: Trial, learnt: Trial, share: float) -> float:
    """What to add to the logits of labels without images.

    The offset of greatest likelihood where each label is as frequent as any other: a logistic
    regression with nothing but an intercept. It is moved as little as needed so that no images have
    fewer right answers than by the words alone: first of all those learnt from, whose answers a
    person has given, then those of either kind, whose greater loss is made as small as can be.

    Args:
        held_back: of images whose label was held back, at least one.
        held_out: of images of labels with images, at least one.
        learnt: of the images learnt from, as they are answered, at least one.
        share: of labels without images among all, between 0 and 1.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    def slope(offset: float) -> float:
        unseen, seen = expit(held_back.odds + offset), expit(held_out.odds + offset)
        return float(share * (unseen.mean() - 1) + (1 - share) * seen.mean())

    # Beyond the odds of all images, one kind gets everything.
    most = 40 + np.abs(np.concatenate([held_back.odds, held_out.odds])).max()
    likeliest = float(brentq(slope, -most, most))
    # Between the offsets at which an answer changes, and beyond the last of them.
    changes = -np.concatenate([held_back.lead, held_out.lead, learnt.lead])
    ends = changes.min() - 1, changes.max() + 1
    tried = np.array([likeliest, *ends, *np.quantile(changes, np.linspace(0, 1, 201))])
    first = [max(learnt.loss(b, of_unseen=False), 0) for b in tried]
    then = [
        max(held_back.loss(b, of_unseen=True), held_out.loss(b, of_unseen=False), 0) for b in tried
    ]
    order = np.lexsort([np.abs(tried - likeliest), np.array(then), np.array(first)])
    return float(tried[order[0]])
