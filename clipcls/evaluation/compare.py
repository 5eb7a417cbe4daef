"""Evaluations on the same images, side by side: which difference is more than chance, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipcls.errors import InputError
from clipcls.evaluation.evaluate import rounded
from clipcls.metrics.multilabel import NAMES, figures_by_count, multilabel_draws
from clipcls.metrics.single_label import Interval

if TYPE_CHECKING:
    from clipcls.evaluation.evaluate import Evaluation
    from clipcls.evaluation.multilabel import MultiLabelEvaluation

__all__ = [
    "Change",
    "Comparison",
    "Difference",
    "MultiLabelComparison",
    "compare",
    "compare_multilabel",
]

_DRAWS = 10_000


class Change(NamedTuple):
    """An image that one of two evaluations has right and the other wrong; labels as text."""

    path: str
    right: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One evaluation beside the first, over the images that both could read.

    Attributes:
        name: what was compared.
        images: how many images.
        accuracy: its accuracy on them.
        difference: its accuracy less the first's, with a paired 95 % bootstrap interval.
        gained: images that it has right and the first wrong, its surest answers first.
        lost: images that it has wrong and the first right, its surest answers first.
        p: the chance of so uneven a split of these where both are equally good (McNemar's exact
            test), by Holm's method for all comparisons that were made.
        ece: its expected calibration error on all of its images.
    """

    name: str
    images: int
    accuracy: float
    difference: Interval
    gained: tuple[Change, ...]
    lost: tuple[Change, ...]
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
            "better": len(self.gained),
            "worse": len(self.lost),
            "p": float(f"{self.p:.3g}"),
            "ece": round(self.ece, 6),
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure beside the first evaluation's.

    Attributes:
        value: the figure.
        difference: that less the first's, with a paired 95 % bootstrap interval.
        p: the share of draws on the other side of no difference, twice, by Holm's method for all
            figures of all comparisons that were made.
    """

    value: float
    difference: Interval
    p: float


@dataclass(frozen=True, slots=True)
class MultiLabelComparison:
    """One evaluation of several labels an image beside the first, over what both have.

    Attributes:
        name: what was compared.
        images: how many images both could read.
        labels: how many labels both have.
        figures: name, as in `multimetrics.NAMES` -> figure.
        gained: images whose labels it gives without a mistake and the first does not.
        lost: images whose labels the first gives without a mistake and it does not.
    """

    name: str
    images: int
    labels: int
    figures: dict[str, Difference]
    gained: tuple[Change, ...] = ()
    lost: tuple[Change, ...] = ()

    def record(self) -> dict[str, Any]:
        """As in JSON."""
        return {
            "name": self.name,
            "images": self.images,
            "labels": self.labels,
            "figures": {
                name: {
                    "value": round(found.value, 6),
                    "difference": rounded(asdict(found.difference)),
                    "p": float(f"{found.p:.3g}"),
                }
                for name, found in self.figures.items()
            },
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

    firsts = {path: (truth, answer) for path, truth, answer, _ in first.answers}
    found: list[Comparison] = []
    for name, other in others.items():
        both = sorted((a for a in other.answers if a[0] in firsts), key=lambda a: -a[3])
        if not both:
            raise InputError(f"{name}: no image was evaluated both times")
        gained, lost = [], []
        for path, truth, answer, _ in both:
            right, before = firsts[path]
            if truth == answer and right != before:
                gained.append(Change(path, truth, before, answer))
            elif truth != answer and right == before:
                lost.append(Change(path, right, before, answer))
        n, better, worse = len(both), len(gained), len(lost)
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
                sum(truth == answer for _, truth, answer, _ in both) / n,
                Interval((better - worse) / n, float(low), float(high)),
                tuple(gained),
                tuple(lost),
                float(p),
                other.figures["ece"].value,
            )
        )
    return [
        replace(comparison, p=p)
        for comparison, p in zip(found, _holm([c.p for c in found]), strict=True)
    ]


def compare_multilabel(
    first: MultiLabelEvaluation, others: Mapping[str, MultiLabelEvaluation], *, draws: int = 1000
) -> list[MultiLabelComparison]:
    """Sets evaluations of several labels an image beside the first one.

    Images are drawn with replacement (Efron 1979), the same ones for both, and the figures of both
    are made anew each time; the differences are moved by the bootstrap's estimate of their bias,
    as the intervals of `multilabel_figures` are. An interval without 0 has a p below 0.05 before
    Holm's method. Where the labels are not the same, those that both have are compared, by name.

    Args:
        first: what the others are compared with.
        others: name -> evaluation of the same data.
        draws: how many bootstrap draws; fewer, but at least 200, where they would take more than
            seconds.

    Raises:
        InputError: an evaluation has no image or no label in common with the first.
    """
    found = [_differences(name, first, other, draws) for name, other in others.items()]
    adjusted = iter(_holm([d.p for comparison in found for d in comparison.figures.values()]))
    return [
        replace(
            comparison,
            figures={k: replace(d, p=next(adjusted)) for k, d in comparison.figures.items()},
        )
        for comparison in found
    ]


def _differences(
    name: str, first: MultiLabelEvaluation, other: MultiLabelEvaluation, draws: int
) -> MultiLabelComparison:
    """The comparison with p values as if it were the only one of a single figure."""
    sides = []
    columns = [_shared(e.labels, f.labels) for e, f in ((first, other), (other, first))]
    rows = [_shared(e.answers.paths, f.answers.paths) for e, f in ((first, other), (other, first))]
    for what, shared in (("image", rows), ("label", columns)):
        if not shared[0].size:
            raise InputError(f"{name}: no {what} was evaluated both times")
    for evaluation, some, labels in zip((first, other), rows, columns, strict=True):
        answers, at = evaluation.answers, np.ix_(some, labels)
        sides.append((answers.scores[at], answers.given[at], answers.truth[at]))
    ours, theirs = (figures_by_count(*side) for side in sides)
    n = len(rows[0])
    once = np.ones(n, np.int64)
    values = theirs(once)
    differences = values - ours(once)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(multilabel_draws(sides[0][2], draws)):
        times = np.bincount(rng.integers(n, size=n), minlength=n)
        drawn.append(theirs(times) - ours(times))
    moved = np.array(drawn)
    moved -= moved.mean(axis=0) - differences
    low, high = np.quantile(moved, [0.025, 0.975], axis=0)
    beyond = np.minimum((moved <= 0).sum(axis=0), (moved >= 0).sum(axis=0))
    p = np.minimum(2 * (beyond + 1) / (len(moved) + 1), 1)
    right = [(given == truth).all(axis=1) for _, given, truth in sides]
    names = [first.labels[column] for column in columns[0]]

    def change(at: int) -> Change:
        each = (sides[0][2][at], sides[0][1][at], sides[1][1][at])
        texts = (", ".join(compress(names, which)) or "none" for which in each)
        return Change(first.answers.paths[rows[0][at]], *texts)

    return MultiLabelComparison(
        name,
        n,
        len(columns[0]),
        {
            figure: Difference(float(v), Interval(float(d), float(a), float(b)), float(q))
            for figure, v, d, a, b, q in zip(NAMES, values, differences, low, high, p, strict=True)
        },
        tuple(map(change, np.flatnonzero(~right[0] & right[1]).tolist())),
        tuple(map(change, np.flatnonzero(right[0] & ~right[1]).tolist())),
    )


def _shared(mine: Sequence[str], theirs: Sequence[str]) -> NDArray[np.int64]:
    """The numbers of mine that are also theirs, ordered by name."""
    at = {name: number for number, name in enumerate(mine)}
    return np.array([at[name] for name in sorted(at.keys() & set(theirs))], np.int64)


def _holm(p: Sequence[float]) -> list[float]:
    """P values for all comparisons together (Holm 1979)."""
    adjusted, least = [1.0] * len(p), 0.0
    for rank, number in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        least = max(least, min(1.0, p[number] * (len(p) - rank)))
        adjusted[number] = least
    return adjusted
