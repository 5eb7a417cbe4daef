from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from clipcls.few_shot.logistic import _loss, logistic_regression, softmax_and_losses


def clouds(n_classes: int = 12, shots: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds in uncorrelated columns with mean 0, and their classes."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(n_classes).repeat(shots))
    X = rng.normal(size=(n_classes, 8))[y] + 0.8 * rng.normal(size=(len(y), 8))
    X -= X.mean(axis=0)
    return X @ np.linalg.eigh(X.T @ X)[1], y


def loss(X: np.ndarray, y: np.ndarray, found: tuple[np.ndarray, np.ndarray], C: float) -> float:
    coef, level = found
    scores = log_softmax(X @ coef.T + level, axis=1)
    return float(-scores[np.arange(len(y)), y].sum() + 0.5 / C * (coef**2).sum())


def learn(X: np.ndarray, y: np.ndarray, C: float, **how: object) -> tuple[np.ndarray, np.ndarray]:
    return logistic_regression(X, y, (X**2).sum(axis=0), int(y.max()) + 1, C, **how)


@pytest.mark.parametrize("C", [0.1, 10.0])
def test_it_is_scikit_learns(C: float) -> None:
    X, y = clouds()
    expected = LogisticRegression(C=C, tol=1e-9, max_iter=5000).fit(X, y)
    coef, level = learn(X, y, C)
    logits, wanted = X @ coef.T + level, expected.decision_function(X)
    np.testing.assert_allclose(logits, wanted, atol=0.02 * np.abs(wanted).max())
    assert level.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("C", [1.0, 100.0])
def test_of_many_images_passes_come_near_and_the_rest_nearer(
    C: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = clouds(20, 60)
    nothing = np.zeros((20, 8)), np.zeros(20)
    best = LogisticRegression(C=C, tol=1e-9, max_iter=5000).fit(X, y)
    least = loss(X, y, (best.coef_, best.intercept_), C)
    worst = loss(X, y, nothing, C)
    monkeypatch.setattr("clipcls.few_shot.logistic.MANY_LOGITS", 5000)
    roughly, well = (loss(X, y, learn(X, y, C, roughly=some), C) for some in (True, False))
    assert least <= well * 1.0001
    assert well - least < 0.02 * (worst - least)
    assert roughly - least < 0.05 * (worst - least)


def test_a_start_is_gone_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = clouds(20, 60)
    monkeypatch.setattr("clipcls.few_shot.logistic.MANY_LOGITS", 5000)
    first = learn(X, y, 10, roughly=True)
    on = learn(X, y, 10, start=first, roughly=True)
    assert loss(X, y, on, 10) <= loss(X, y, first, 10)


def test_many_images_are_looked_at_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = clouds()
    at = np.random.default_rng(1).normal(size=12 * 8)
    value, slope = _loss(at, X, y, np.full(8, 0.1))
    monkeypatch.setattr("clipcls.few_shot.logistic.MANY_LOGITS", 84)  # 7 images at a time
    in_blocks = _loss(at, X, y, np.full(8, 0.1))
    assert in_blocks[0] == pytest.approx(value)
    np.testing.assert_allclose(in_blocks[1], slope)


def test_scores_and_losses_of_great_logits() -> None:
    scores, losses = softmax_and_losses(np.array([[1000.0, 999.0], [-1000.0, 0.0]]))
    np.testing.assert_allclose(np.exp(-losses[0]), scores[0])
    np.testing.assert_allclose(losses[1], [1000, 0])
