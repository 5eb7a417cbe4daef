from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binom

from clipcls import (
    Abstain,
    Calibration,
    MultiLabelClassifier,
    ZeroShotClassifier,
    calibrate,
    evaluate,
)
from clipcls.calibration.file import read_calibration
from clipcls.calibration.temperature import HOTTEST, default_temperature, fit_temperatures
from clipcls.errors import CalibrationError, InputError, NotFittedError
from clipcls.evaluation.calibrate import _thresholds
from clipcls.evaluation.page import EvaluationPage, make_page_record
from clipcls.models.encoder import open_encoder
from clipcls.output.writing import open_output
from clipcls.predictions import Prediction
from helpers.encoders import ColourEncoder
from helpers.logits import simulated
from helpers.predictions import all_of

Paint = Callable[..., str]
LABELS = ["red", "green", "blue"]
MINI_WEIGHTS = "b1e073e60a22e14b653b0dff817525e6ec60c695304062e392792f83fdb89587"


def blocks_of(logits: np.ndarray, size: int = 100):
    starts = range(0, len(logits), size)
    return lambda: ((slice(s, s + size), logits[s : s + size]) for s in starts)


def fit(logits: np.ndarray, truth: np.ndarray, folds: np.ndarray) -> np.ndarray:
    return fit_temperatures(blocks_of(logits), truth, logits.argmax(axis=1) == truth, folds)


def least_loss(logits: np.ndarray, truth: np.ndarray) -> float:
    def loss(log_t: float) -> float:
        scores = log_softmax(logits / np.exp(log_t), axis=1)
        return -scores[np.arange(len(truth)), truth].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), options={"xatol": 1e-10}).x))


@pytest.mark.parametrize(
    ("cosine", "expected"), [(0.0, 1.25), (0.5, 1.25 / 0.25), (1.0, HOTTEST), (-0.3, 1.25)]
)
def test_labels_that_are_alike_make_scores_of_mini_less_sure(
    cosine: float, expected: float
) -> None:
    other = [cosine, np.sqrt(1 - cosine**2)]
    found = default_temperature(MINI_WEIGHTS, np.array([[1, 0], other], np.float32))
    assert found == pytest.approx(expected, rel=1e-5)


def test_default_temperatures_are_for_models_that_were_measured() -> None:
    assert default_temperature("0" * 64, np.eye(3)) == 1
    assert default_temperature(MINI_WEIGHTS, np.eye(1, 3)) == 1.25  # one label
    assert open_encoder("mini").weights == MINI_WEIGHTS


def test_temperatures_are_scipys_optimum() -> None:
    rng = np.random.default_rng(0)
    logits, truth = simulated(700, 9, rng)
    folds = rng.permutation(np.arange(700) % 5)
    found = fit(logits, truth, folds)
    expected = [least_loss(logits[folds != k], truth[folds != k]) for k in range(5)]
    np.testing.assert_allclose(found, [*expected, least_loss(logits, truth)], rtol=1e-5)
    assert found[-1] > 2  # these logits are several times too large


@pytest.mark.parametrize("scale", [1e-3, 0.1, 30, 1000])
def test_temperatures_far_from_one_are_found_or_bounded(scale: float) -> None:
    logits, truth = simulated(300, 5, np.random.default_rng(2))
    _, found = fit(scale * logits, truth, np.zeros(300, int))
    assert found == pytest.approx(np.clip(scale * least_loss(logits, truth), 1 / 20, 20), rel=1e-5)


def test_all_right_leaves_the_temperature_at_one() -> None:
    logits = np.eye(4)[[0, 1, 2, 3] * 5]
    assert fit(logits, logits.argmax(axis=1), np.arange(20) % 2).tolist() == [1, 1, 1]


def painted(paint: Paint, count: int = 40, wrong: int = 8) -> list[tuple[str, str]]:
    """Pictures nearest to their label, but for some of the last ones, which are less sure."""
    rng = np.random.default_rng(3)
    data = []
    for number in range(count):
        mine, other = rng.permutation(3)[:2]
        colour = rng.integers(0, 60, size=3)
        colour[mine], colour[other] = (200, 150) if number < count - wrong else (150, 200)
        data.append((paint(f"{number}.png", tuple(int(c) for c in colour)), LABELS[mine]))
    return data


@pytest.fixture
def classifier(encoder: ColourEncoder) -> ZeroShotClassifier:
    return ZeroShotClassifier(LABELS, encoder, cache=False).fit()


def test_a_calibration_is_saved_and_applied(
    classifier: ZeroShotClassifier, paint: Paint, tmp_path: Path
) -> None:
    data = painted(paint)
    paths = [path for path, _ in data]
    (tmp_path / "bad.png").write_text("no image")
    made, excluded = calibrate(classifier, [*data, (tmp_path / "bad.png", "red")])
    assert [error.path for error in excluded.unreadable] == [str(tmp_path / "bad.png")]
    logits = classifier.decision_function(paths)
    truth = np.array([LABELS.index(label) for _, label in data])
    assert made.temperature == pytest.approx(least_loss(logits, truth), rel=1e-5)
    assert (made.images, made.note) == (40, "")
    made.save(tmp_path / "c.json")
    assert read_calibration(tmp_path / "c.json") == made

    calibrated = ZeroShotClassifier(
        LABELS, classifier.encoder_, cache=False, calibration=tmp_path / "c.json"
    ).fit()
    np.testing.assert_allclose(
        calibrated.predict_proba(paths), softmax(logits / made.temperature, axis=1), rtol=1e-9
    )
    (first,) = all_of(Prediction, calibrated.classify(paths[:1]))
    assert first.score == pytest.approx(softmax(logits[0] / made.temperature).max())
    assert first.to_dict()["calibration"] == made.digest
    assert "calibration" not in next(iter(classifier.classify(paths[:1]))).to_dict()
    with pytest.raises(CalibrationError, match="calibrated already"):
        calibrate(calibrated, data)


def test_metrics_are_of_images_the_temperature_was_not_fitted_to(
    classifier: ZeroShotClassifier, paint: Paint
) -> None:
    data = painted(paint)
    made, _ = calibrate(classifier, data)
    logits = classifier.decision_function([path for path, _ in data])
    truth = np.array([LABELS.index(label) for _, label in data])
    folds = np.random.default_rng(0).permutation(np.arange(40) % 5)
    losses = np.empty(40)
    for k in range(5):
        t = least_loss(logits[folds != k], truth[folds != k])
        scores = log_softmax(logits[folds == k] / t, axis=1)
        losses[folds == k] = -scores[np.arange(len(scores)), truth[folds == k]]
    assert made.metrics["nll"]["after"] == pytest.approx(losses.mean(), rel=1e-5)
    own = log_softmax(logits, axis=1)[np.arange(40), truth]
    assert made.metrics["nll"]["before"] == pytest.approx(-own.mean())


def test_a_calibration_for_something_else_is_refused_and_says_why(
    classifier: ZeroShotClassifier, paint: Paint
) -> None:
    made, _ = calibrate(classifier, painted(paint))

    def refusal(labels=LABELS, weights: str = "c0" * 32, **settings) -> str:
        encoder = ColourEncoder()
        encoder.weights = weights
        other = ZeroShotClassifier(labels, encoder, cache=False, calibration=made, **settings)
        with pytest.raises(CalibrationError) as caught:
            other.fit()
        return str(caught.value)

    assert "the model colours (weights c0c0c0c0c0c0), not for" in refusal(weights="d1" * 32)
    assert "made without the label 'pink'" in refusal([*LABELS, "pink"])
    assert "made with the label 'blue'" in refusal(["red", "green"])
    assert "for the prompts 'photo', not for 'art'" in refusal(prompts="art")
    assert "'red' had other synonyms" in refusal(
        {"red": {"synonyms": "rose"}, "green": [], "blue": []}
    )
    # The order of the labels changes no score.
    ZeroShotClassifier(LABELS[::-1], ColourEncoder(), cache=False, calibration=made).fit()


def test_a_classifier_whose_calibration_is_refused_is_not_fitted(
    classifier: ZeroShotClassifier, paint: Paint
) -> None:
    made, _ = calibrate(classifier, painted(paint))
    red = np.array([[1, 0, 0]], np.float32)
    assert classifier.predict(red).tolist() == ["red"]
    classifier.set_params(labels=["green", "red"], calibration=made)
    with pytest.raises(CalibrationError):
        classifier.fit()
    with pytest.raises(NotFittedError):
        classifier.predict(red)
    several = MultiLabelClassifier(ZeroShotClassifier(LABELS, ColourEncoder(), cache=False)).fit()
    with pytest.raises(CalibrationError):
        several.set_params(calibration=made).fit()
    with pytest.raises(NotFittedError):
        several.predict(red)


def test_files_that_are_no_calibration(tmp_path: Path, classifier, paint: Paint) -> None:
    file = tmp_path / "c.json"
    with pytest.raises(CalibrationError, match="no such file"):
        read_calibration(file)
    for text in ("", "[]", '{"format": "clipcls calibration 0"}', "\x00"):
        file.write_text(text)
        with pytest.raises(CalibrationError, match=r"is not (JSON|a calibration)"):
            read_calibration(file)
    record = calibrate(classifier, painted(paint))[0].to_dict()
    for key, value in (
        ("temperature", "nan"),
        ("temperature", 0),
        ("thresholds", [1]),
        ("labels", None),
    ):
        file.write_text(json.dumps({**record, key: value}))
        with pytest.raises(CalibrationError, match="damaged"):
            read_calibration(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: {"thresholds": []},
        lambda record: {"thresholds": record["thresholds"][:-1]},
        lambda record: {"set_scores": []},
        lambda record: {"set_scores": record["set_scores"][:-1]},
        lambda record: {"images": record["images"] + 1},
        lambda record: {"images": 0, "thresholds": [[-1, 0, 0]], "set_scores": [[0, 0, 0]]},
    ],
)
def test_a_calibration_whose_tables_are_cut_off_is_damaged(
    change: Callable[[dict], dict], tmp_path: Path, classifier, paint: Paint
) -> None:
    made, _ = calibrate(classifier, painted(paint))
    made.save(tmp_path / "c.json")
    assert read_calibration(tmp_path / "c.json").thresholds == made.thresholds
    record = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(record | change(record)))
    with pytest.raises(CalibrationError, match="damaged"):
        read_calibration(tmp_path / "c.json")


def test_too_few_images(classifier: ZeroShotClassifier, paint: Paint) -> None:
    with pytest.raises(InputError, match="too few labelled images to calibrate: 9"):
        calibrate(classifier, painted(paint, 9, 0))
    made, _ = calibrate(classifier, painted(paint, 10, 0))
    assert (made.temperature, made.note[:24]) == (1, "all 10 answers are right")


def cuts_of(scores: np.ndarray, correct: np.ndarray, like: Calibration) -> Calibration:
    return replace(
        like,
        images=len(scores),
        thresholds=_thresholds(scores, correct),
        set_scores=((len(scores), 0.0, 1.0),),
    )


@pytest.fixture
def any_calibration(classifier: ZeroShotClassifier, paint: Paint) -> Calibration:
    return calibrate(classifier, painted(paint))[0]


def test_coverage_holds_for_new_images(any_calibration: Calibration) -> None:
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(400):
        made = cuts_of(rng.random(500), rng.random(500) < 0.7, any_calibration)
        covered.append((rng.random(500) > made.for_coverage(0.8).score).mean())
    assert 0.8 - 0.005 < np.mean(covered) < 0.81


RISKS = {  # score -> the chance of a wrong answer; scores are uniform
    "falls": lambda s: 0.3 * (1 - s),
    "is a little too high": lambda s: 0.1001 + 0 * s,
    "has islands": lambda s: np.where((s > 0.85) | ((s > 0.6) & (s < 0.7)), 0.12, 0.06),
    "is high at the top": lambda s: np.where(s > 0.7, 0.11, 0.02),
    "is high at the bottom": lambda s: np.where(s > 0.5, 0.02, 0.25),
}


@pytest.mark.parametrize("levels", [None, 4, 40], ids=["no ties", "4 scores", "40 scores"])
@pytest.mark.parametrize("risk", RISKS.values(), ids=RISKS)
def test_the_error_of_new_images_is_above_the_promised_in_one_draw_of_twenty_at_most(
    any_calibration: Calibration,
    risk: Callable,
    levels: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scores' distribution is known, and so is the error of new images above a threshold."""
    monkeypatch.setattr(Calibration, "_least_error", lambda _: 0)  # only for the message
    rng = np.random.default_rng(5)
    fine = (np.arange(4000) + 0.5) / 4000

    def tie(scores: np.ndarray) -> np.ndarray:
        return scores if levels is None else np.floor(levels * scores) / levels

    wrong, draws = 0, 500
    for number in range(draws):
        images = (40, 100, 300)[number % 3]
        scores = rng.random(images)
        correct = rng.random(images) >= risk(scores)
        try:
            threshold = cuts_of(tie(scores), correct, any_calibration).for_error(0.1)
        except CalibrationError:
            continue
        wrong += risk(fine[tie(fine) > threshold.score]).mean() > 0.1
    # With a chance of 5 % above, 500 draws have 39 or more in one study of a thousand.
    assert wrong < 39


@pytest.mark.parametrize(
    ("images", "error", "start"),
    [(40, 0.1, 29), (100, 0.1, 46), (1500, 0.1, 150), (700, 0.02, 313)],
)
def test_error_is_tested_from_a_fixed_start_until_a_test_fails(
    any_calibration: Calibration, images: int, error: float, start: int
) -> None:
    rng = np.random.default_rng(7)
    scores = np.sort(rng.random(images))[::-1]
    reached = 0
    for _ in range(40):
        correct = rng.random(images) >= 2 * error * rng.random() * np.linspace(0, 1, images)
        tested = np.arange(start, images + 1)
        passed = binom.cdf(np.cumsum(~correct)[start - 1 :], tested, error) <= 0.05
        answered = start + int(np.cumprod(passed).sum())
        made = cuts_of(scores, correct, any_calibration)
        if answered == start:
            with pytest.raises(CalibrationError, match="cannot be promised"):
                made.for_error(error)
            continue
        reached += 1
        assert round(images * made.for_error(error).coverage) == answered - 1
    assert reached > 10


def test_what_cannot_be_promised_is_said(any_calibration: Calibration) -> None:
    with pytest.raises(
        CalibrationError, match=r"0\.01 cannot be promised from 40 images; the least"
    ):
        any_calibration.for_error(0.01)
    with pytest.raises(
        CalibrationError, match="need 99 calibration images; this calibration has 40"
    ):
        any_calibration.set_threshold(0.01)
    everything = any_calibration.for_coverage(1)
    assert (everything.coverage, everything.risk) == (1, 0.2)


def test_what_it_can_promise_is_what_it_grants(any_calibration: Calibration) -> None:
    rng = np.random.default_rng(6)
    for images, chance in ((20, 0.5), (40, 0.8), (130, 1.0), (3000, 0.99)):
        scores, correct = rng.random(images), rng.random(images) < chance
        made = cuts_of(scores, correct, any_calibration)
        line = made.promises()
        (least,) = map(float, re.findall(r"--max-error can be (\S+) or more", line))
        for more in np.arange(least, 1, 0.01):
            made.for_error(float(more))
        made.for_error(least)
        with pytest.raises(CalibrationError):
            made.for_error(least - 0.001)
        (sets,) = map(float, re.findall(r"--prediction-sets (\S+) or more", line))
        assert sets == pytest.approx(1 / (images + 1), abs=0.001)
    for error, need in ((0.05, 59), (0.01, 299)):
        few, enough = (
            cuts_of(np.arange(n) / n, np.ones(n, bool), any_calibration) for n in (need - 1, need)
        )
        enough.for_error(error)
        with pytest.raises(CalibrationError, match=f"with about {need} images like these"):
            few.for_error(error)
    with pytest.raises(CalibrationError, match="cannot be promised"):
        any_calibration.for_error(5e-324)
    nothing = cuts_of(np.arange(10) / 10, np.zeros(10, bool), any_calibration)
    assert nothing.promises().startswith("with these images no --max-error can be promised")


@pytest.mark.parametrize("images", [30, 40, 100])
def test_a_refusal_says_how_many_images_would_do(any_calibration: Calibration, images: int) -> None:
    def make(count: int, share: float) -> Calibration:
        """Of the images with the lowest scores, this share of all, every fifth is wrong."""
        number = np.arange(count)
        wrong = (number > (1 - share) * count) & (number % 5 == 0)
        return cuts_of(-number / count, ~wrong, any_calibration)

    few = make(images, 0.4)
    with pytest.raises(CalibrationError, match=r"with about [0-9]+ images like these") as caught:
        few.for_error(0.02)
    (needed,) = map(int, re.findall("about ([0-9]+) images", str(caught.value)))
    assert make(needed, 0.4).for_error(0.02).coverage > 0.5
    asked = re.search("--max-error 0.05 needs about [0-9]+ images like these", few.promises())
    assert bool(asked) == (images < 59)
    with pytest.raises(CalibrationError, match=r"or calibrate with more images$"):
        make(images, 1).for_error(0.02)


def test_images_that_a_calibration_was_made_from_are_told(
    classifier: ZeroShotClassifier, paint: Paint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = [(paint(f"{n}.png", (200, 3 * n, 0)), "red") for n in range(40)]
    made, _ = calibrate(classifier, data[:20])
    made.save(tmp_path / "c.json")
    assert read_calibration(tmp_path / "c.json") == made
    text = (tmp_path / "c.json").read_text()
    assert not any(Path(path).name in text for path, _ in data), "hashes, not names"
    calibrated = ZeroShotClassifier(
        LABELS, classifier.encoder_, cache=False, calibration=tmp_path / "c.json"
    ).fit()
    evaluate(calibrated, data[20:], draws=2)
    assert not caplog.text
    copy = tmp_path / "renamed.png"
    shutil.copy(data[0][0], copy)
    found = evaluate(calibrated, [(copy, data[0][1]), *data[10:]], draws=2)
    assert "the calibration was made from 11 of these 31 images" in caplog.text
    (note,) = found.to_dict()["notes"]
    assert note.startswith("the calibration was made from 11 of these 31 images")
    with open_output(tmp_path / "r.html", EvaluationPage) as writer:
        writer.write(make_page_record(found, "data"))
    assert "The calibration was made from 11 of these" in (tmp_path / "r.html").read_text("utf-8")


def test_a_calibration_keeps_few_hashes_of_many_images(any_calibration: Calibration) -> None:
    digests = [hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(6000)]
    kept = any_calibration.keep_images([*digests, b""])
    assert len(kept.made_from) == 5000
    assert sum(map(kept.knows, digests)) == 5000
    assert not kept.knows(b"")


@pytest.mark.parametrize("share", [-1, 0, 5, 90, float("nan"), float("inf")])
def test_what_is_no_share_is_refused(any_calibration: Calibration, share: float) -> None:
    for ask in (
        any_calibration.for_coverage,
        any_calibration.for_error,
        any_calibration.set_threshold,
    ):
        with pytest.raises(CalibrationError, match="give a share"):
            ask(share)


def test_tables_of_many_images_are_short_and_on_the_safe_side(any_calibration: Calibration) -> None:
    rng = np.random.default_rng(5)
    scores, correct = rng.random(10_000), rng.random(10_000) < 0.9
    made = cuts_of(scores, correct, any_calibration)
    assert len(made.thresholds) <= 2000
    for score, above, wrong in made.thresholds:
        assert (above, wrong) == ((scores > score).sum(), (~correct[scores > score]).sum())
    assert 0.7 <= made.for_coverage(0.7).coverage < 0.701


def test_thresholds_in_classify(classifier: ZeroShotClassifier, paint: Paint) -> None:
    data = painted(paint, 200, 20)
    paths = [path for path, _ in data]
    made, _ = calibrate(classifier, data)
    calibrated = ZeroShotClassifier(
        LABELS, classifier.encoder_, cache=False, calibration=made
    ).fit()

    def answered(**settings) -> np.ndarray:
        found = all_of(Prediction, calibrated.classify(paths, abstain=Abstain(**settings)))
        return np.array([p.label != "unknown" for p in found])

    scores = np.sort(calibrated.predict_proba(paths), axis=1)
    np.testing.assert_array_equal(answered(min_score=0.5), scores[:, -1] >= 0.5)
    margin = float(np.median(scores[:, -1] - scores[:, -2]))
    np.testing.assert_array_equal(
        answered(min_margin=margin), scores[:, -1] - scores[:, -2] >= margin
    )
    for settings in ({"coverage": 0.6}, {"max_error": 0.3}):
        threshold = Abstain(**settings).threshold(made)
        assert threshold is not None
        assert answered(**settings).mean() == pytest.approx(threshold.coverage, abs=0.011)
    assert answered(coverage=0.6).mean() >= 0.59
    assert not answered(coverage=0.6, min_score=0.99).any()

    truth = [label for _, label in data]
    found = all_of(Prediction, calibrated.classify(paths, prediction_sets=0.1))
    sets = [p.label_set or () for p in found]
    assert np.mean([label in labels for labels, label in zip(sets, truth, strict=True)]) >= 0.9
    assert [p.label for p in found] == [labels[0] for labels in sets]
    assert found[0].to_dict()["set"] == list(sets[0])
    assert "set" not in next(iter(calibrated.classify(paths[:1]))).to_dict()
    for abstain in (Abstain(coverage=0.9), Abstain(max_error=0.1)):
        with pytest.raises(CalibrationError, match="need a calibration"):
            classifier.classify(paths, abstain=abstain)
    with pytest.raises(CalibrationError, match="need a calibration"):
        classifier.classify(paths, prediction_sets=0.1)
    with pytest.raises(ValueError, match="not both"):
        Abstain(coverage=0.9, max_error=0.1)
