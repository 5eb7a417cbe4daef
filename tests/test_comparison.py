from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import ColourEncoder
from scipy.stats import binomtest, bootstrap

from clipcls import ZeroShotClassifier, compare, evaluate
from clipcls.errors import InputError


@pytest.fixture
def first(encoder: ColourEncoder, paint):
    classifier = ZeroShotClassifier(["red", "blue"], encoder, store=False).fit()
    return evaluate(classifier, [(paint("a.png", "red"), "red")], draws=2)


def answering(first, right: np.ndarray, start: int = 0):
    """The evaluation as if it were of these many images, right where it is said."""
    answers = [(str(n), "red", "red" if hit else "blue", 0.9) for n, hit in enumerate(right, start)]
    return replace(first, answers=tuple(answers))


def test_differences_are_scipys(first) -> None:
    rng = np.random.default_rng(0)
    ours = rng.random(400) < 0.7
    theirs = np.where(rng.random(400) < 0.3, rng.random(400) < 0.9, ours)
    (found,) = compare(answering(first, ours), {"b": answering(first, theirs)})
    better, worse = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    assert (found.better, found.worse, found.images) == (better, worse, 400)
    assert found.accuracy == theirs.mean()
    assert found.difference.value == pytest.approx(theirs.mean() - ours.mean())
    assert found.p == pytest.approx(binomtest(better, better + worse).pvalue)
    expected = bootstrap(
        (theirs.astype(float) - ours,), np.mean, n_resamples=5000, method="percentile", rng=1
    ).confidence_interval
    assert found.difference.low == pytest.approx(expected.low, abs=0.005)
    assert found.difference.high == pytest.approx(expected.high, abs=0.005)


def test_only_images_of_both_and_p_values_for_all_comparisons(first) -> None:
    rng = np.random.default_rng(1)
    base = rng.random(300) < 0.5
    others = {
        name: answering(first, base | (rng.random(300) < share))
        for name, share in (("a", 0.02), ("b", 0.05), ("c", 0.2))
    }
    alone = {name: compare(answering(first, base), {name: o})[0].p for name, o in others.items()}
    together = {c.name: c.p for c in compare(answering(first, base), others)}
    ordered = sorted(alone, key=alone.get)
    holm = np.maximum.accumulate([alone[n] * (3 - i) for i, n in enumerate(ordered)])
    assert [together[n] for n in ordered] == pytest.approx(np.minimum(holm, 1).tolist())
    (part,) = compare(answering(first, base), {"x": answering(first, base[:100], start=250)})
    assert part.images == 50
    with pytest.raises(InputError, match="y: no image"):
        compare(answering(first, base), {"y": answering(first, base, start=1000)})


def test_the_same_twice_is_no_difference(first) -> None:
    (same,) = compare(first, {"again": first})
    assert (same.p, same.difference.low, same.difference.high) == (1, 0, 0)
