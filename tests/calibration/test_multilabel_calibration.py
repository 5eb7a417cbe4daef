from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.metrics import f1_score

from clipcls import (
    MultiLabelClassifier,
    ZeroShotClassifier,
    calibrate,
    evaluate,
)
from clipcls.calibration.file import read_calibration
from clipcls.calibration.multilabel import (
    choose_thresholds,
    fit_probabilities,
)
from clipcls.errors import CalibrationError, InputError
from helpers.encoders import NamesEncoder

Paint = Callable[..., str]
LABELS = ["red", "green", "blue"]


def simulated(n: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log odds that are too large by 2 and off by an offset of each label's own, and the truth."""
    rng = np.random.default_rng(seed)
    real = rng.normal(-2, 2, size=(n, labels))
    return 2 * real - rng.normal(0, 2, size=labels), rng.random((n, labels)) < expit(real)


def test_probabilities_are_scipys_optimum() -> None:
    odds, truth = simulated(200, 6)

    def loss(x: np.ndarray) -> float:
        u = x[0] * odds + x[1] + x[2:]
        return (np.logaddexp(0, u) - truth * u).sum() + (x[2:] ** 2).sum() / 2

    best = minimize(loss, np.zeros(8), method="BFGS", options={"gtol": 1e-7}).x
    slope, offsets = fit_probabilities(odds, truth)
    assert slope == pytest.approx(best[0], rel=1e-4)
    np.testing.assert_allclose(offsets, best[1] + best[2:], rtol=1e-3)
    assert 0.3 < slope < 0.7


@pytest.mark.parametrize(("sign", "bound"), [(-1, 1e-3), (60, 20)])
def test_with_the_slope_at_its_bound_the_offsets_are_scipys_optimum(
    sign: float, bound: float
) -> None:
    odds, truth = simulated(200, 6)
    odds = odds / sign - 3

    def loss(x: np.ndarray) -> float:
        u = bound * odds + x[0] + x[1:]
        return (np.logaddexp(0, u) - truth * u).sum() + (x[1:] ** 2).sum() / 2

    best = minimize(loss, np.r_[3 * bound, np.zeros(6)], method="BFGS", options={"gtol": 1e-7}).x
    slope, offsets = fit_probabilities(odds, truth)
    assert slope == bound
    np.testing.assert_allclose(offsets, best[0] + best[1:], rtol=1e-3)


@pytest.mark.parametrize(
    ("odds", "truth"),
    [
        (np.zeros((20, 3)), np.zeros((20, 3), bool)),  # nothing is ever right
        (np.where(np.eye(20, 3) > 0, 9.0, -9.0), np.eye(20, 3) > 0),  # a perfect split
        (np.full((20, 3), -700.0), np.eye(20, 3) > 0),
        (-simulated(50, 3)[0], simulated(50, 3)[1]),  # the wrong way round
    ],
)
def test_odd_data_gives_finite_numbers(odds: np.ndarray, truth: np.ndarray) -> None:
    slope, offsets = fit_probabilities(odds, truth)
    assert 1e-3 <= slope <= 20
    assert np.isfinite(offsets).all()
    thresholds = choose_thresholds(expit(slope * odds + offsets))
    assert (thresholds > 0).all()
    assert (thresholds <= 1).all()


def test_thresholds_are_those_of_brute_force() -> None:
    probabilities = np.random.default_rng(3).random((40, 4)) ** 3

    def best(p: np.ndarray) -> float:
        expected = {t: 2 * p[p >= t].sum() / ((p >= t).sum() + p.sum()) for t in p}
        return float(max(expected, key=lambda t: expected[t]))

    together = best(probabilities.ravel())
    expected = [np.sqrt(together * best(column)) for column in probabilities.T]
    np.testing.assert_allclose(choose_thresholds(probabilities), expected)


def test_offsets_and_thresholds_help_where_labels_differ() -> None:
    odds, truth = simulated(2000, 8)
    slope, offsets = fit_probabilities(odds[:1000], truth[:1000])
    p = expit(slope * odds + offsets)
    given = p[1000:] >= choose_thresholds(p[:1000])
    plain = [f1_score(truth[1000:], odds[1000:] >= t, average="macro") for t in range(-9, 9)]
    assert f1_score(truth[1000:], given, average="macro") > max(plain)
    assert np.abs(p[1000:].mean(axis=0) - truth[1000:].mean(axis=0)).max() < 0.06


def painted(paint: Paint) -> list[tuple[str, list[str]]]:
    """Pictures of none, one or two of the colours; blue is always dim."""
    rng = np.random.default_rng(4)
    data = []
    for number in range(60):
        has = rng.random(3) < 0.4
        colour = np.where(has, [200, 200, 60], 0) + rng.integers(5, 30, size=3)
        path = paint(f"{number}.png", tuple(map(int, colour)))
        data.append((path, [label for label, one in zip(LABELS, has, strict=True) if one]))
    return data


@pytest.fixture
def base(names_encoder: NamesEncoder) -> ZeroShotClassifier:
    return ZeroShotClassifier(LABELS, names_encoder, cache=False).fit()


def test_a_calibration_is_saved_and_applied(
    base: ZeroShotClassifier, paint: Paint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = painted(paint)
    paths, truth = [p for p, _ in data], np.array([[c in row for c in LABELS] for _, row in data])
    (tmp_path / "bad.png").write_text("no image")
    plain = MultiLabelClassifier(base).fit()
    made, excluded = calibrate(plain, [*data, (tmp_path / "bad.png", "red")])
    assert [error.path for error in excluded.unreadable] == [str(tmp_path / "bad.png")]
    assert (made.images, made.positives) == (60, tuple(truth.sum(axis=0)))
    made.save(tmp_path / "c.json")
    assert read_calibration(tmp_path / "c.json") == made
    assert made.metrics["nll"]["after"] < made.metrics["nll"]["before"]

    clf = MultiLabelClassifier(base, calibration=tmp_path / "c.json").fit()
    evaluate(clf, data, draws=2)
    assert "the calibration was made from 60 of these 60 images" in caplog.text
    odds = logit(plain.predict_proba(paths))
    np.testing.assert_allclose(clf.predict_proba(paths), expit(made.slope * odds + made.offsets))
    np.testing.assert_array_equal(clf.thresholds_, made.thresholds)
    given = clf.predict_proba(paths) >= made.thresholds
    np.testing.assert_array_equal(clf.predict(paths), given)
    first = next(iter(clf.classify(paths[:1])))
    assert first.to_dict()["calibration"] == made.digest
    with pytest.raises(CalibrationError, match="calibrated already"):
        calibrate(clf, data)

    turned = ZeroShotClassifier(LABELS[::-1], base.encoder_, cache=False)
    other = MultiLabelClassifier(turned, calibration=made).fit()
    np.testing.assert_allclose(other.predict_proba(paths)[:, ::-1], clf.predict_proba(paths))
    np.testing.assert_array_equal(other.thresholds_[::-1], clf.thresholds_)


def test_the_default_stays_where_learnt_thresholds_are_worse(
    base: ZeroShotClassifier, paint: Paint
) -> None:
    plain = MultiLabelClassifier(base).fit()
    rng = np.random.default_rng(5)
    paths = [paint(f"{k}.png", tuple(map(int, rng.integers(0, 255, 3)))) for k in range(14)]
    given = plain.predict(paths)
    truth = [[name for name, one in zip(LABELS, row, strict=True) if one] for row in given]
    made, _ = calibrate(plain, list(zip(paths, truth, strict=True)))
    assert "the default stays" in made.note
    assert made.metrics["f1_micro"] == {"before": 1, "after": 1}
    calibrated = MultiLabelClassifier(base, calibration=made).fit()
    np.testing.assert_array_equal(calibrated.predict(paths), given)


def test_what_is_for_something_else_is_refused_and_says_why(
    base: ZeroShotClassifier, paint: Paint, tmp_path: Path
) -> None:
    data = painted(paint)
    made, _ = calibrate(MultiLabelClassifier(base).fit(), data)
    made.save(tmp_path / "multi.json")
    calibrate(base, [row for row in data if row[1]])[0].save(tmp_path / "single.json")

    def refusal(calibration: Any, labels=LABELS) -> str:
        other = ZeroShotClassifier(labels, base.encoder_, cache=False)
        with pytest.raises(CalibrationError) as caught:
            MultiLabelClassifier(other, calibration=calibration).fit()
        return str(caught.value)

    assert "without the label 'pink'" in refusal(made, [*LABELS, "pink"])
    stale = replace(made, identity=replace(made.identity, formula="0" * 12))
    assert "computed scores in another way" in refusal(stale)
    assert "single.json: is for one label per image" in refusal(tmp_path / "single.json")
    calibrations: tuple[Any, ...] = made, tmp_path / "multi.json"
    for calibration in calibrations:
        one = ZeroShotClassifier(LABELS, base.encoder_, cache=False, calibration=calibration)
        with pytest.raises(CalibrationError, match="for several labels per image"):
            one.fit()

    record = json.loads((tmp_path / "multi.json").read_text())
    for damage in ({"offsets": [1.0]}, {"thresholds": "no"}, {"slope": -3}, {"slope": "1"}):
        (tmp_path / "bad.json").write_text(json.dumps({**record, **damage}))
        assert "damaged" in refusal(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("multilabel._UNRELATED", 4),
        ("multilabel._MOST_RIGHT", 6),
        ("multilabel._TOWARDS_BEST_NAME", 0.16),
        ("multilabel._TOWARDS_BEST_LABEL", 0.39),
        ("multilabel.everyday_texts", lambda: ["a photo of a cat."]),
        ("multilabel.score_odds", lambda labels, names: labels - names.mean()),
        ("zero_shot._average", lambda rows, counts: rows[np.cumsum(counts) - 1]),
    ],
)
def test_a_calibration_of_another_formula_is_refused(
    base: ZeroShotClassifier, paint: Paint, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    made, _ = calibrate(MultiLabelClassifier(base).fit(), painted(paint))
    MultiLabelClassifier(base, calibration=made).fit()
    monkeypatch.setattr(f"clipcls.classification.{name}", value)
    with pytest.raises(CalibrationError, match="computed scores in another way; calibrate anew"):
        MultiLabelClassifier(base, calibration=made).fit()


def test_too_few_images(base: ZeroShotClassifier, paint: Paint) -> None:
    with pytest.raises(InputError, match="too few labelled images to calibrate: 9"):
        calibrate(MultiLabelClassifier(base).fit(), painted(paint)[:9])
