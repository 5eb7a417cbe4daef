from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

from clipcls.metrics.single_label import Outcomes, calibration_error


def outcomes(n: int = 500, classes: int = 7, seed: int = 0) -> Outcomes:
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=n)
    logits = rng.standard_normal((n, classes)) + 1.5 * np.eye(classes)[truth]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    best = np.argsort(-scores, axis=1)
    return Outcomes(
        best[:, 0],
        truth,
        scores.max(axis=1),
        (best[:, :5] == truth[:, None]).any(axis=1),
        -np.log(scores[np.arange(n), truth]),
        tuple("abcdefg"[:classes]),
    )


def answers(confidence: np.ndarray, correct: np.ndarray) -> Outcomes:
    """Answers of class 0 with these scores."""
    n = len(confidence)
    truth = np.where(correct, 0, 1)
    return Outcomes(np.zeros(n, int), truth, confidence, np.ones(n, bool), np.ones(n), ("a", "b"))


def test_metrics_are_scikit_learns() -> None:
    found = outcomes()
    values = {name: f.value for name, f in found.metrics(draws=10).items()}
    assert values["accuracy"] == pytest.approx(accuracy_score(found.truth, found.answer))
    assert values["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(found.truth, found.answer)
    )
    assert values["macro_f1"] == pytest.approx(f1_score(found.truth, found.answer, average="macro"))
    assert values["top5"] == found.top5.mean()
    scores = np.column_stack([1 - np.exp(-found.loss), np.exp(-found.loss)])
    assert values["nll"] == pytest.approx(log_loss(np.ones(500), scores, labels=[0, 1]))
    assert values["ece"] == pytest.approx(calibration_error(found.confidence, found.correct))


def test_calibration_error_and_risk_coverage_by_hand() -> None:
    rng = np.random.default_rng(1)
    confidence, correct = rng.random(150), rng.random(150) < 0.7
    found = answers(confidence, correct)
    falling = sorted(range(150), key=lambda i: -confidence[i])
    gaps = []
    for start in range(0, 150, 10):
        part = falling[start : start + 10]
        gaps.append(abs(np.mean(correct[part]) - np.mean(confidence[part])))
    assert calibration_error(confidence, correct) == pytest.approx(np.mean(gaps))
    for point in found.risk_coverage():
        accepted = confidence >= point.score
        assert point.coverage == pytest.approx(accepted.mean())
        assert point.risk == pytest.approx(1 - correct[accepted].mean())
    assert found.risk_coverage()[-1].coverage == 1


def test_bootstrap_intervals_are_scipys() -> None:
    found = outcomes(400)
    ours = found.metrics(draws=2000)
    theirs = bootstrap(
        (found.loss,), np.mean, n_resamples=2000, method="percentile", rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours["nll"].low == pytest.approx(theirs.low, abs=0.1 * width)
    assert ours["nll"].high == pytest.approx(theirs.high, abs=0.1 * width)
    exact = binomtest(int(found.correct.sum()), 400).proportion_ci(0.95, method="exact")
    assert (ours["accuracy"].low, ours["accuracy"].high) == pytest.approx((exact.low, exact.high))
    assert ours == found.metrics(draws=2000)  # seeded


def test_a_drawn_images_copies_count_as_in_the_data_with_copies() -> None:
    found = outcomes(40)
    times = np.random.default_rng(2).integers(3, size=40)
    rows = np.repeat(np.arange(40), times)
    copied = found.take(rows)
    ours = dict(zip(found.names, found.measurer()(times), strict=True))
    for name in ("accuracy", "top5", "balanced_accuracy", "macro_f1", "nll"):
        assert ours[name] == pytest.approx(copied.metrics(draws=2)[name].value), name


def test_intervals_cover_the_truth_about_95_times_in_100() -> None:
    truth = outcomes(20_000, seed=99).metrics(draws=2)
    hits = dict.fromkeys(truth, 0)
    for seed in range(100):
        for name, metric in outcomes(300, seed=seed).metrics(draws=200).items():
            hits[name] += metric.low <= truth[name].value <= metric.high
    hits.pop("ece")  # with 300 images its bins hold 20: it is biased, as every ECE is
    assert min(hits.values()) >= 87, hits


def test_classes_and_confusions() -> None:
    answer = np.array([0, 0, 1, 1, 1])
    truth = np.array([0, 1, 1, 0, 0])
    found = Outcomes(answer, truth, np.full(5, 0.5), np.ones(5, bool), np.ones(5), ("a", "b", "c"))
    first, second, third = found.class_metrics()
    assert (first.precision, first.recall, first.support, first.answers) == (1 / 2, 1 / 3, 3, 2)
    assert second.f1 == pytest.approx(0.4)
    assert second.support == 2
    assert third.support == third.answers == 0
    assert np.isnan(third.precision)
    assert np.isnan(third.recall)
    assert [metrics.label for metrics in (first, second, third)] == ["a", "b", "c"]
    assert found.confused_pairs() == [("a", "b", 2), ("b", "a", 1)]


def test_one_image_has_metrics() -> None:
    one = outcomes(1).metrics(draws=5)
    assert one["accuracy"].low == 0 or one["accuracy"].high == 1
    assert all(np.isfinite([f.low, f.value, f.high]).all() for f in one.values())
