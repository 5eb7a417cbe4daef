from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import average_precision_score, f1_score

from clipcls import (
    Evaluation,
    MultiLabelClassifier,
    ZeroShotClassifier,
    compare,
    evaluate,
)
from clipcls.errors import InputError
from clipcls.metrics.multilabel import MultiLabelOutcomes
from clipcls.metrics.single_label import Outcomes
from helpers.encoders import ColourEncoder, NamesEncoder


@pytest.fixture
def first(encoder: ColourEncoder, paint):
    classifier = ZeroShotClassifier(["red", "blue"], encoder, cache=False).fit()
    return evaluate(classifier, [(paint("a.png", "red"), "red")], draws=2)


def answering(first, right: np.ndarray, start: int = 0):
    """The evaluation as if it were of these many images, right where it is said."""
    n = len(right)
    paths = tuple(map(str, range(start, start + n)))
    truth, scores = np.zeros(n, int), np.full(n, 0.9)
    outcomes = Outcomes(
        np.where(right, 0, 1), truth, scores, np.ones(n, bool), np.ones(n), ("red", "blue")
    )
    return replace(first, paths=paths, outcomes=outcomes)


def test_differences_are_scipys(first) -> None:
    rng = np.random.default_rng(0)
    ours = rng.random(400) < 0.7
    theirs = np.where(rng.random(400) < 0.3, rng.random(400) < 0.9, ours)
    (found,) = compare(answering(first, ours), {"b": answering(first, theirs)})
    better, worse = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    assert (len(found.gained), len(found.lost), found.images) == (better, worse, 400)
    assert {change.path for change in found.gained} == set(map(str, np.flatnonzero(theirs & ~ours)))
    assert found.lost[0][1:] == ("red", "red", "blue")
    accuracy = found.metrics["accuracy"]
    assert accuracy.value == pytest.approx(theirs.mean())
    assert accuracy.difference.value == pytest.approx(theirs.mean() - ours.mean())
    assert accuracy.p == pytest.approx(binomtest(better, better + worse).pvalue)
    expected = bootstrap(
        (theirs.astype(float) - ours,), np.mean, n_resamples=5000, method="percentile", rng=1
    ).confidence_interval
    assert accuracy.difference.low == pytest.approx(expected.low, abs=0.005)
    assert accuracy.difference.high == pytest.approx(expected.high, abs=0.005)


def test_only_images_of_both_and_p_values_for_all_comparisons(first) -> None:
    rng = np.random.default_rng(1)
    base = rng.random(300) < 0.5
    others = {
        name: answering(first, base | (rng.random(300) < share))
        for name, share in (("a", 0.02), ("b", 0.05), ("c", 0.2))
    }

    def p_values(others: dict) -> dict[str, float]:
        found = compare(answering(first, base), others, draws=2)
        return {one.name: float(one.metrics["accuracy"].p or 0) for one in found}

    alone = {name: p_values({name: other})[name] for name, other in others.items()}
    together = p_values(others)
    ordered = sorted(alone, key=lambda name: alone[name])
    holm = np.maximum.accumulate([alone[n] * (3 - i) for i, n in enumerate(ordered)])
    assert [together[n] for n in ordered] == pytest.approx(np.minimum(holm, 1).tolist())
    (part,) = compare(answering(first, base), {"x": answering(first, base[:100], start=250)})
    assert part.images == 50
    with pytest.raises(InputError, match="y: no image"):
        compare(answering(first, base), {"y": answering(first, base, start=1000)})


def test_the_same_twice_is_no_difference(first) -> None:
    (same,) = compare(first, {"again": first})
    accuracy, ece = same.metrics["accuracy"], same.metrics["ece"]
    assert (accuracy.p, accuracy.difference.low, accuracy.difference.high) == (1, 0, 0)
    assert (ece.p, ece.difference.value) == (None, 0)
    assert same.to_dict()["metrics"]["ece"]["p"] is None


@pytest.fixture
def several(names_encoder: NamesEncoder, paint) -> Evaluation:
    base = ZeroShotClassifier(["red", "blue"], names_encoder, cache=False)
    classifier = MultiLabelClassifier(base).fit()
    return evaluate(classifier, [(paint("a.png", "red"), ["red"])], draws=2)


def scored(
    several: Evaluation, scores: np.ndarray, truth: np.ndarray, start: int = 0
) -> Evaluation:
    """The evaluation as if it were of these scores, given from 0.5 on."""
    paths = tuple(str(number) for number in range(start, start + len(scores)))
    labels = tuple(f"label {number}" for number in range(truth.shape[1]))
    outcomes = MultiLabelOutcomes(scores, scores >= 0.5, truth, labels)
    return replace(several, paths=paths, outcomes=outcomes)


def scores_of(truth: np.ndarray, quality: float, seed: int) -> np.ndarray:
    """Scores that are better the higher the quality is, some of them equal."""
    noise = np.random.default_rng(seed).normal(size=truth.shape)
    return (1 / (1 + np.exp(-quality * (truth - 0.5) - noise))).round(2)


def brute_force(scores: np.ndarray, truth: np.ndarray, rows: np.ndarray) -> list[float]:
    s, t = scores[rows], truth[rows]
    has = t.any(axis=0)
    return [
        average_precision_score(t[:, has], s[:, has], average="macro"),
        average_precision_score(t, s, average="micro"),
        f1_score(t[:, has], s[:, has] >= 0.5, average="macro"),
        f1_score(t, s >= 0.5, average="micro"),
    ]


def test_differences_of_several_labels_are_those_of_images_drawn_in_pairs(several) -> None:
    truth = np.random.default_rng(0).random((150, 3)) < 0.4
    ours, theirs = scores_of(truth, 1.0, 1), scores_of(truth, 1.8, 2)
    (found,) = compare(scored(several, ours, truth), {"b": scored(several, theirs, truth)})
    assert (found.images, found.labels, list(found.metrics)) == (
        150,
        3,
        list(MultiLabelOutcomes.names),
    )
    every = np.arange(150)
    before, after = (np.array(brute_force(s, truth, every)) for s in (ours, theirs))
    assert [d.value for d in found.metrics.values()] == pytest.approx(after)
    assert [d.difference.value for d in found.metrics.values()] == pytest.approx(after - before)
    rng, drawn = np.random.default_rng(9), []
    for _ in range(200):
        rows = rng.integers(150, size=150)
        drawn.append(np.subtract(brute_force(theirs, truth, rows), brute_force(ours, truth, rows)))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    bias = np.mean(drawn, axis=0) - (after - before)
    beyond = (np.array(drawn) - bias <= 0).mean(axis=0)
    raw = np.sort(2 * np.minimum(beyond, 1 - beyond))
    holm = np.minimum(np.maximum.accumulate(raw * [4, 3, 2, 1]), 1)
    assert sorted(float(d.p or 0) for d in found.metrics.values()) == pytest.approx(holm, abs=0.06)
    for k, one in enumerate(found.metrics.values()):
        assert one.difference.low == pytest.approx(low[k] - bias[k], abs=0.015)
        assert one.difference.high == pytest.approx(high[k] - bias[k], abs=0.015)


def test_pairing_finds_what_two_intervals_do_not(several) -> None:
    truth = np.random.default_rng(0).random((200, 3)) < 0.4
    ours = scores_of(truth, 1.2, 1)
    theirs = np.where(truth, np.minimum(ours + 0.02, 1), ours)
    (found,) = compare(scored(several, ours, truth), {"b": scored(several, theirs, truth)})
    one = found.metrics["map_macro"]
    assert one.p is not None
    assert one.p < 0.05
    # Unpaired the difference would be lost: the metric alone is uncertain by more than that.
    alone = [
        brute_force(theirs, truth, np.random.default_rng(k).integers(200, size=200))[0]
        for k in range(100)
    ]
    assert np.ptp(np.quantile(alone, [0.025, 0.975])) > 2 * one.difference.value


def test_chance_is_not_taken_for_progress(several) -> None:
    called = 0
    for seed in range(10):
        truth = np.random.default_rng(seed).random((80, 3)) < 0.4
        first = scored(several, scores_of(truth, 1.0, 100 + seed), truth)
        others = {
            name: scored(several, scores_of(truth, 1.0, 1000 * k + seed), truth)
            for k, name in enumerate("ab", 1)
        }
        found = compare(first, others, draws=200)
        called += any(d.p is not None and d.p < 0.05 for c in found for d in c.metrics.values())
    assert called <= 2  # 0.5 is expected at most


def test_what_both_have_is_compared_in_whatever_order_it_comes(several) -> None:
    truth = np.random.default_rng(0).random((60, 3)) < 0.5
    scores = scores_of(truth, 1.0, 1)
    first = scored(several, scores, truth)
    (none,) = compare(first, {"none": scored(several, 0 * scores, truth)})
    right = ((scores >= 0.5) == truth).all(axis=1)
    lost = np.flatnonzero(right & truth.any(axis=1))
    assert [change.path for change in none.lost] == sorted(map(str, lost))
    labels = ", ".join(f"label {column}" for column in np.flatnonzero(truth[lost[0]]))
    assert none.lost[0][1:] == (labels, labels, "none")
    assert len(none.gained) == (~right & ~truth.any(axis=1)).sum()
    turned = replace(
        first,
        paths=first.paths[::-1],
        outcomes=MultiLabelOutcomes(
            scores[::-1, ::-1],
            (scores >= 0.5)[::-1, ::-1],
            truth[::-1, ::-1],
            first.outcomes.labels[::-1],
        ),
    )
    (same,) = compare(first, {"turned": turned})
    assert all(d.difference.value == 0 and d.p == 1 for d in same.metrics.values())

    def labelled(*labels: str) -> Evaluation:
        return replace(first, outcomes=replace(first.outcomes, labels=labels))

    fewer = labelled("label 0", "x", "label 2")
    later = scored(several, scores, truth, start=40)
    part, after = compare(first, {"fewer": fewer, "later": later})
    assert ((part.labels, part.images), (after.labels, after.images)) == ((2, 60), (3, 20))
    for nothing, what in (
        (labelled("x", "y", "z"), "label"),
        (scored(several, scores, truth, start=500), "image"),
    ):
        with pytest.raises(InputError, match=f"other: no {what} was evaluated both times"):
            compare(first, {"other": nothing})


def test_one_label_per_image_is_not_compared_with_several(first, several) -> None:
    with pytest.raises(InputError, match="b: one label per image cannot be compared"):
        compare(first, {"b": several})
