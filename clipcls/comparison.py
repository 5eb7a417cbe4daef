"""Evaluations on the same images, side by side: which difference is more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clipcls.errors import InputError
from clipcls.metrics import Interval

if TYPE_CHECKING:
    from clipcls.evaluation import Evaluation

__all__ = ["Comparison", "compare"]

_DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """One evaluation beside the first, over the images that both could read.

    Attributes:
        name: what was compared.
        images: how many images.
        accuracy: its accuracy on them.
        difference: its accuracy less the first's, with a paired 95 % bootstrap interval.
        better: images that it has right and the first wrong.
        worse: images that it has wrong and the first right.
        p: the chance of so uneven a split of these where both are equally good (McNemar's exact
            test), by Holm's method for all comparisons that were made.
        ece: its expected calibration error on all of its images.
    """

    name: str
    images: int
    accuracy: float
    difference: Interval
    better: int
    worse: int
    p: float
    ece: float

    def record(self) -> dict[str, Any]:
        """As in JSON."""
        return {
            "name": self.name,
            "images": self.images,
            "accuracy": round(self.accuracy, 6),
            "difference": {
                "value": round(self.difference.value, 6),
                "low": round(self.difference.low, 6),
                "high": round(self.difference.high, 6),
            },
            "better": self.better,
            "worse": self.worse,
            "p": float(f"{self.p:.3g}"),
            "ece": round(self.ece, 6),
        }


def compare(first: Evaluation, others: Mapping[str, Evaluation]) -> list[Comparison]:
    """Sets evaluations beside the first one, image by image.

    Args:
        first: what the others are compared with.
        others: name -> evaluation of the same data.

    Raises:
        InputError: an evaluation has no image in common with the first.
    """
    from scipy.stats import binomtest

    right = {path: truth == answer for path, truth, answer, _ in first.answers}
    found: list[Comparison] = []
    for name, other in others.items():
        pairs = [
            (right[path], truth == answer)
            for path, truth, answer, _ in other.answers
            if path in right
        ]
        if not pairs:
            raise InputError(f"{name}: no image was evaluated both times")
        ours, theirs = np.array(pairs).T
        n, better, worse = len(ours), int((~ours & theirs).sum()), int((ours & ~theirs).sum())
        p = binomtest(better, better + worse).pvalue if better + worse else 1.0
        # Resampling images is drawing how many of them are better, worse and the same.
        draws = np.random.default_rng(0).multinomial(
            n, [better / n, worse / n, 1 - (better + worse) / n], size=_DRAWS
        )
        low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
        found.append(
            Comparison(
                name,
                n,
                float(theirs.mean()),
                Interval((better - worse) / n, float(low), float(high)),
                better,
                worse,
                float(p),
                other.figures["ece"].value,
            )
        )
    return _holm(found)


def _holm(found: list[Comparison]) -> list[Comparison]:
    """P values for all comparisons together (Holm 1979)."""
    from dataclasses import replace

    adjusted, least = {}, 0.0
    for rank, comparison in enumerate(sorted(found, key=lambda c: c.p)):
        least = max(least, min(1.0, comparison.p * (len(found) - rank)))
        adjusted[comparison.name] = least
    return [replace(comparison, p=adjusted[comparison.name]) for comparison in found]
