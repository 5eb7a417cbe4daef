from __future__ import annotations

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from clipcls import Calibration
from clipcls.calibration.base import Identity
from clipcls.classification.decision import Decision
from clipcls.classification.head import LinearHead
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import CalibrationError
from clipcls.evaluation.calibrate import _set_scores
from clipcls.predictions import Prediction, Provenance
from helpers.logits import simulated
from helpers.predictions import all_of

CLASSES = 10
NAMES = np.array([f"label {number}" for number in range(CLASSES)])


class Softmax(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn classifier whose features are its logits."""

    classes_ = np.arange(CLASSES)

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        return softmax(x, axis=1)

    def predict(self, x):
        return x.argmax(axis=1)


def calibrated(logits: np.ndarray, truth: np.ndarray, size: int = 64) -> Calibration:
    starts = range(0, len(logits), size)
    rows = [slice(start, start + size) for start in starts]
    return Calibration(
        Identity("m", "0", "fp32", "p", (), ()),
        images=len(logits),
        note="",
        metrics={},
        versions={},
        temperature=1.0,
        thresholds=((-1.0, len(logits), 0),),
        set_scores=_set_scores(
            lambda: [(s, logits[s]) for s in rows], [(label,) for label in truth.tolist()]
        ),
    )


def sets_of(logits: np.ndarray, threshold: float) -> list[tuple[str, ...]]:
    ones = np.ones(CLASSES)
    head = LinearHead(np.eye(CLASSES), ones, 0 * ones)
    decision = Decision(
        head, NAMES, Provenance("m", "0", "fp32", "p"), top=1, set_threshold=threshold
    )
    images = [Embedded(str(n), row.astype(np.float32)) for n, row in enumerate(logits)]
    found = all_of(Prediction, decision.answer(images))
    sets = [p.label_set or () for p in found]
    assert [labels[0] for labels in sets] == [p.label for p in found]
    return sets


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 0.6])
def test_sets_are_mapies_and_the_best_label(alpha: float) -> None:
    rng = np.random.default_rng(0)
    logits, truth = simulated(600, CLASSES, rng)
    logits = logits.astype(np.float32).astype(float)
    found = sets_of(logits[200:], calibrated(logits[:200], truth[:200]).set_threshold(alpha))
    other = SplitConformalClassifier(Softmax(), confidence_level=1 - alpha, prefit=True)
    _, inside = other.conformalize(logits[:200], truth[:200]).predict_set(logits[200:])
    expected = inside[:, :, 0]
    assert (alpha > 0.5) == (expected.sum(axis=1) == 0).any(), "MAPIE's sets can be empty"
    expected[np.arange(400), logits[200:].argmax(axis=1)] = True
    assert [set(s) for s in found] == [set(NAMES[row].tolist()) for row in expected]


def test_simulated_sets_hold_the_right_label_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    covered, sizes, expected = [], [], []
    for _ in range(300):
        logits, truth = simulated(400, CLASSES, rng)
        made = calibrated(logits[:200], truth[:200])
        found = softmax(logits[200:], axis=1) >= made.set_threshold(0.1)
        covered.append(found[np.arange(200), truth[200:]].mean())
        sizes.append(np.maximum(found.sum(axis=1), 1).mean())
        expected.append(next(size for rank, _, size in made.set_scores if rank >= 181))
    assert 0.9 - 0.005 < np.mean(covered) < 0.9 + 0.01
    assert np.mean(expected) == pytest.approx(np.mean(sizes), rel=0.02)
    assert np.mean(sizes) < 5  # not by answering everything


def test_of_several_right_labels_the_likeliest_counts() -> None:
    logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    made = _set_scores(lambda: [(slice(0, 2), logits)], [(1, 2), (0,)])
    np.testing.assert_allclose(made, [(1, 0.3, 1.5), (2, 0.1, 3)])


def test_too_few_images_promise_nothing() -> None:
    for images, alpha in ((9, 0.1), (99, 0.01)):
        logits, truth = simulated(images, CLASSES, np.random.default_rng(2))
        made = calibrated(logits, truth)
        right = softmax(logits, axis=1)[np.arange(images), truth]
        assert made.set_threshold(alpha) == pytest.approx(right.min())
        with pytest.raises(CalibrationError, match=f"calibration has {images - 1}"):
            calibrated(logits[1:], truth[1:]).set_threshold(alpha)


def test_the_least_likely_right_label_is_told_from_the_others() -> None:
    """One less its score would be 1 for every label of the image."""
    logits = np.tile([0.0, -40, -50, -60], (20, 1))
    made = _set_scores(lambda: [(slice(0, 20), logits)], [(2,)] * 20)
    assert made[-1][1:] == pytest.approx((np.exp(-50), 3))
