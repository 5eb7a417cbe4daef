"""Evaluations on the same images, side by side: which difference is more than chance, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from clipcls.errors import InputError
from clipcls.evaluation.evaluate import Evaluation, round_metrics
from clipcls.metrics.intervals import Counts, Floats, Interval, adjust_p, draw_bootstrap
from clipcls.metrics.multilabel import MultiLabelOutcomes
from clipcls.metrics.single_label import Outcomes


class Change(NamedTuple):
    """An image that one of two evaluations has right and the other wrong; labels as text."""

    path: str
    right: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric next to the first evaluation's.

    Attributes:
        value: the metric.
        difference: the metric less the first's, with a paired 95 % bootstrap interval.
        p: the probability of such a difference if both are equally good, adjusted by Holm's method
            for all metrics of all comparisons. McNemar's exact test gives that of the accuracy;
            the share of draws on the other side of no difference, doubled, gives the others. None
            for the calibration error, which is not tested.
    """

    value: float
    difference: Interval
    p: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One evaluation next to the first, over the images that both have.

    With several labels per image, also over the labels that both have.

    Attributes:
        name: what was compared.
        images: how many images both could read.
        labels: how many labels both have; None with one label per image.
        metrics: each metric in `outcomes.compared` -> its value and difference.
        gained: images that only this one has right, its surest answers first.
        lost: images that only the first has right, this one's surest answers first.
    """

    name: str
    images: int
    labels: int | None
    metrics: dict[str, Difference]
    gained: tuple[Change, ...] = ()
    lost: tuple[Change, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {
            "name": self.name,
            "images": self.images,
            **({} if self.labels is None else {"labels": self.labels}),
            "metrics": {
                name: {
                    "value": round(found.value, 6),
                    "difference": round_metrics(found.difference),
                    "p": None if found.p is None else float(f"{found.p:.3g}"),
                }
                for name, found in self.metrics.items()
            },
            "better": len(self.gained),
            "worse": len(self.lost),
        }


def compare(
    first: Evaluation, others: Mapping[str, Evaluation], *, draws: int = 1000
) -> list[Comparison]:
    """Compares evaluations of the same kind with the first one, image by image.

    Images are drawn with replacement (Efron 1979), the same ones for both, and the metrics of both
    are computed for each draw; the differences are shifted by the bootstrap's estimate of their
    bias. With several labels per image an interval without 0 has a p below 0.05 before Holm's
    method; labels that only one of them has are left out.

    Args:
        first: what the others are compared with.
        others: name -> evaluation of the same data.
        draws: how many bootstrap draws; fewer, but at least 200, where they would take more than
            seconds.

    Raises:
        InputError: an evaluation is of the other kind, or shares no image or no label with the
            first.
    """
    found = [_compare_pair(name, first, other, draws) for name, other in others.items()]
    tested = [d.p for one in found for d in one.metrics.values() if d.p is not None]
    adjusted = iter(adjust_p(tested))
    return [
        replace(
            one,
            metrics={
                name: d if d.p is None else replace(d, p=next(adjusted))
                for name, d in one.metrics.items()
            },
        )
        for one in found
    ]


def _compare_pair(name: str, first: Evaluation, other: Evaluation, draws: int) -> Comparison:
    """The comparison with p values as if it were the only one, of a single metric."""
    rows, other_rows = _find_shared(name, "image", first.paths, other.paths)
    ours, theirs = first.outcomes, other.outcomes
    labels = None
    if isinstance(ours, Outcomes) and isinstance(theirs, Outcomes):
        ours, theirs = ours.take(rows), theirs.take(other_rows)
    elif isinstance(ours, MultiLabelOutcomes) and isinstance(theirs, MultiLabelOutcomes):
        columns, other_columns = _find_shared(name, "label", ours.labels, theirs.labels)
        ours, theirs = ours.take(rows, columns), theirs.take(other_rows, other_columns)
        labels = len(columns)
    else:
        raise InputError(f"{name}: one label per image cannot be compared with several")
    n, measure, measure_first = len(rows), theirs.measurer(), ours.measurer()

    def difference(times: Counts) -> Floats:
        return measure(times) - measure_first(times)

    drawn = draw_bootstrap(difference, n, draws, ours.size)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    beyond = np.minimum((drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0))
    p: list[float | None] = [*np.minimum(2 * (beyond + 1) / (len(drawn) + 1), 1).tolist()]

    def list_changes(
        winner: Outcomes | MultiLabelOutcomes, loser: Outcomes | MultiLabelOutcomes
    ) -> tuple[Change, ...]:
        won = winner.correct & ~loser.correct
        surest = np.argsort(-theirs.confidence, kind="stable")
        return tuple(
            Change(
                first.paths[rows[at]],
                winner.describe(at)[0],
                ours.describe(at)[1],
                theirs.describe(at)[1],
            )
            for at in surest[won[surest]].tolist()
        )

    gained, lost = list_changes(theirs, ours), list_changes(ours, theirs)
    if labels is None:
        p = [_test_mcnemar(len(gained), len(lost)), *[None] * len(p)]
    once = np.ones(n, np.int64)
    found = zip(ours.names, measure(once), difference(once), low, high, p, strict=False)
    return Comparison(
        name,
        n,
        labels,
        {
            metric: Difference(float(v), Interval(float(d), float(a), float(b)), q)
            for metric, v, d, a, b, q in found
            if metric in ours.compared
        },
        gained,
        lost,
    )


def _find_shared(
    name: str, what: str, first: Sequence[str], other: Sequence[str]
) -> tuple[Counts, Counts]:
    """Where each of both has what they share, in the order of the names."""
    shared, ours, theirs = np.intersect1d(first, other, return_indices=True)
    if not shared.size:
        raise InputError(f"{name}: no {what} was evaluated both times")
    return ours, theirs


def _test_mcnemar(gained: int, lost: int) -> float:
    """The probability of so uneven a split if both are equally good: McNemar's exact test."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
