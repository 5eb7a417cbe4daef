"""Evaluations on the same images, side by side: which difference is more than chance, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from clipcls.errors import InputError
from clipcls.evaluation.evaluate import BaseEvaluation, round_metrics
from clipcls.metrics.intervals import Counts, Floats, Interval, adjust_p, draw_bootstrap
from clipcls.metrics.multilabel import MultiLabelOutcomes
from clipcls.metrics.single_label import Outcomes

__all__ = ["Change", "Comparison", "Difference", "compare"]

EvaluationT = TypeVar("EvaluationT", bound=BaseEvaluation)


class Change(NamedTuple):
    """An image that one of two evaluations has right and the other wrong; labels as text."""

    path: str
    right: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric beside the first evaluation's.

    Attributes:
        value: the metric.
        difference: that less the first's, with a paired 95 % bootstrap interval.
        p: the chance of such a difference where both are equally good, by Holm's method for all
            metrics of all comparisons that were made; of the accuracy by McNemar's exact test, else
            twice the share of draws on the other side of no difference. None for the calibration
            error, which is not tested.
    """

    value: float
    difference: Interval
    p: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One evaluation beside the first, over the images, and for several labels the labels, of both.

    Attributes:
        name: what was compared.
        images: how many images both could read.
        labels: how many labels both have; None with one label per image.
        metrics: name, as in `outcomes.compared` -> its value and difference.
        gained: images that it has right and the first has not, its surest answers first.
        lost: images that the first has right and it has not, its surest answers first.
    """

    name: str
    images: int
    labels: int | None
    metrics: dict[str, Difference]
    gained: tuple[Change, ...] = ()
    lost: tuple[Change, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As in JSON."""
        return {
            "name": self.name,
            "images": self.images,
            **({} if self.labels is None else {"labels": self.labels}),
            "metrics": {
                name: {
                    "value": round(found.value, 6),
                    "difference": round_metrics(asdict(found.difference)),
                    "p": None if found.p is None else float(f"{found.p:.3g}"),
                }
                for name, found in self.metrics.items()
            },
            "better": len(self.gained),
            "worse": len(self.lost),
        }


def compare(
    first: EvaluationT, others: Mapping[str, EvaluationT], *, draws: int = 1000
) -> list[Comparison]:
    """Sets evaluations of the same kind beside the first one, image by image.

    Images are drawn with replacement (Efron 1979), the same ones for both, and the metrics of both
    are computed anew each time; the differences are moved by the bootstrap's estimate of their
    bias. With several labels per image an interval without 0 has a p below 0.05 before Holm's
    method; where the labels are not the same, those that both have are compared, by name.

    Args:
        first: what the others are compared with.
        others: name -> evaluation of the same data.
        draws: how many bootstrap draws; fewer, but at least 200, where they would take more than
            seconds.

    Raises:
        InputError: an evaluation is of the other kind, or has no image or no label in common with
            the first.
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


def _compare_pair(
    name: str, first: BaseEvaluation, other: BaseEvaluation, draws: int
) -> Comparison:
    """The comparison with p values as if it were the only one of a single metric."""
    if type(first) is not type(other):
        raise InputError(f"{name}: one label per image cannot be compared with several")
    rows = _find_shared(name, "image", first.paths, other.paths)
    columns = None
    if isinstance(first.outcomes, MultiLabelOutcomes):
        columns = _find_shared(name, "label", first.labels, other.labels)
    ours, our_labels = _take(first, rows[0], columns and columns[0])
    theirs, their_labels = _take(other, rows[1], columns and columns[1])
    measure, measure_first, once = theirs.measurer(), ours.measurer(), np.ones(len(ours), np.int64)

    def difference(times: Counts) -> Floats:
        return measure(times) - measure_first(times)

    drawn = draw_bootstrap(difference, len(ours), ours.limit_draws(draws))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    beyond = np.minimum((drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0))
    p: list[float | None] = [*np.minimum(2 * (beyond + 1) / (len(drawn) + 1), 1).tolist()]
    gained, lost = theirs.correct & ~ours.correct, ours.correct & ~theirs.correct
    if columns is None:
        p = [_test_mcnemar(int(gained.sum()), int(lost.sum())), *[None] * len(p)]
    found = zip(ours.names, measure(once), difference(once), low, high, p, strict=False)

    def change(at: int, right: str) -> Change:
        before, after = ours.describe(at, our_labels)[1], theirs.describe(at, their_labels)[1]
        return Change(first.paths[rows[0][at]], right, before, after)

    surest = np.argsort(-theirs.confidence, kind="stable").tolist()
    return Comparison(
        name,
        len(ours),
        None if columns is None else len(our_labels),
        {
            metric: Difference(float(v), Interval(float(d), float(a), float(b)), q)
            for metric, v, d, a, b, q in found
            if metric in ours.compared
        },
        tuple(change(at, theirs.describe(at, their_labels)[0]) for at in surest if gained[at]),
        tuple(change(at, ours.describe(at, our_labels)[0]) for at in surest if lost[at]),
    )


def _take(
    evaluation: BaseEvaluation, rows: Counts, columns: Counts | None
) -> tuple[Outcomes | MultiLabelOutcomes, tuple[str, ...]]:
    """The outcomes of some images and labels, and the names of these labels."""
    outcomes = evaluation.outcomes
    if isinstance(outcomes, Outcomes):
        return outcomes.take(rows), evaluation.labels
    assert columns is not None
    return outcomes.take(rows, columns), tuple(evaluation.labels[column] for column in columns)


def _find_shared(
    name: str, what: str, first: Sequence[str], other: Sequence[str]
) -> tuple[Counts, Counts]:
    """The places of what both have, ordered by name, in each of them."""
    places = [{one: place for place, one in enumerate(names)} for names in (first, other)]
    shared = sorted(places[0].keys() & places[1].keys())
    if not shared:
        raise InputError(f"{name}: no {what} was evaluated both times")
    ours, theirs = (np.array([at[one] for one in shared], np.int64) for at in places)
    return ours, theirs


def _test_mcnemar(gained: int, lost: int) -> float:
    """The chance of so uneven a split where both are equally good: McNemar's exact test."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
