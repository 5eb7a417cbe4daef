from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from clipcls import LinearProbe
from clipcls.few_shot.linear_probe import _fit_weights
from helpers.problems import few, unit


class Shrunk(BaseEstimator):  # type: ignore[misc]
    """A covariance with something added to its diagonal."""

    def __init__(self, added: float = 0) -> None:
        self.added = added

    def fit(self, X: np.ndarray) -> Shrunk:
        self.covariance_ = np.cov(X.T, bias=True) + self.added * np.eye(X.shape[1])
        return self


def by_sklearn(
    text: np.ndarray,
    X: np.ndarray,
    y: np.ndarray,
    Z: np.ndarray,
    ridge: float,
    weights: np.ndarray,
) -> np.ndarray:
    """The scores of `LinearProbe`, by scikit-learn's parts."""
    n_classes = len(text)
    middle = 60 * (text - text.mean(axis=0))
    means = np.stack([X[y == k].mean(axis=0) for k in range(n_classes)])
    spread = ridge * ((X - X.mean(axis=0)) ** 2).sum(axis=1).mean()
    regression = Ridge(alpha=spread).fit(X, np.eye(n_classes)[y])
    discriminant = LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=Shrunk(spread / len(X))
    ).fit(X, y)
    away = means - X.mean(axis=0)
    scatter = sum((x - means[k])[:, None] * (x - means[k]) for x, k in zip(X, y, strict=True))
    own = np.einsum("kd,de,ke->k", away, np.linalg.inv(scatter + spread * np.eye(len(X[0]))), away)
    parts = [
        Z @ middle.T,
        np.broadcast_to(-middle @ means.mean(axis=0), (len(Z), n_classes)),
        regression.predict(Z),
        (discriminant.decision_function(Z) - np.log(discriminant.priors_)) / len(X) / own.mean(),
    ]
    logits = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    return softmax(logits, axis=1)


@parametrize_with_checks([LinearProbe()])  # type: ignore[untyped-decorator]
def test_scikit_learns_own_checks(estimator, check) -> None:
    check(estimator)


@pytest.mark.parametrize("shots", [3, 12])  # fewer images than dimensions, and more
def test_scores_are_those_of_scikit_learns_parts(shots: int) -> None:
    text, X, y, Z, _ = few(shots=shots)
    probe = LinearProbe(text, np.arange(5), logit_scale=60).fit(X, y)
    expected = by_sklearn(text, X, y, Z, probe.ridge_, probe.weights_)
    np.testing.assert_allclose(probe.predict_proba(Z), expected, atol=1e-7)
    assert (np.abs(probe.weights_) > 1e-4).all()


@pytest.mark.parametrize("shots", [3, 12])
def test_held_out_scores_are_those_of_probes_learnt_without_the_fold(shots: int) -> None:
    text, X, y, _, _ = few(shots=shots, noise=0.5)
    probe = LinearProbe(text, np.arange(5), logit_scale=60).fit(X, y)
    copy = pickle.loads(pickle.dumps(probe))
    found = np.full((len(X), 5), np.nan)
    for rows, scores in copy.cross_validated(X):
        assert np.isnan(found[rows]).all()
        found[rows] = scores
        assert probe.folds_ is not None
        rest = probe.folds_ != probe.folds_[rows[0]]
        expected = by_sklearn(text, X[rest], y[rest], X[rows], probe.ridge_, probe.weights_)
        np.testing.assert_allclose(scores, expected, atol=1e-7)
    right = found[np.arange(len(X)), y]
    assert probe.cv_loss_ == pytest.approx(-np.log(right).mean())
    assert probe.cv_accuracy_ == (found.argmax(axis=1) == y).mean()
    assert probe.cv_images_ == len(X)


def test_some_of_very_many_images_tell_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    text, X, y, Z, truth = few(20, 12, noise=0.5)
    every = LinearProbe(text, np.arange(20), logit_scale=60).fit(X, y)
    monkeypatch.setattr("clipcls.few_shot.linear_probe._LOGITS", 20 * 80)
    probe = LinearProbe(text, np.arange(20), logit_scale=60).fit(X, y)
    assert (every.cv_images_, probe.cv_images_) == (240, 80)
    assert probe.score(Z, truth) > every.score(Z, truth) - 0.02


def test_labels_without_images_change_nothing_that_is_chosen() -> None:
    text, X, y, _, _ = few(20, 12, noise=0.3)
    text -= text.mean(axis=0)
    others = unit(np.random.default_rng(5).normal(size=(400, text.shape[1])))
    others -= others.mean(axis=0)
    probe = LinearProbe(text, np.arange(20), logit_scale=60).fit(X, y)
    among = LinearProbe(np.vstack([text, others]), np.arange(420), logit_scale=60).fit(X, y)
    assert among.ridge_ == probe.ridge_
    np.testing.assert_allclose(among.weights_, probe.weights_, rtol=1e-4)
    assert among.cv_accuracy_ == probe.cv_accuracy_


def test_memory_has_no_copy_of_the_images_for_each_fold() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(20_000) % 2
    X = rng.normal(size=(len(y), 64)) + y[:, None]
    tracemalloc.start()
    try:
        LinearProbe().fit(X, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * X.nbytes


def test_weights_are_those_of_least_loss() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, size=60)
    parts = np.stack([rng.normal(size=(60, 4)) + w * np.eye(4)[truth] for w in (0.5, 2, 0)])
    usual, spread = np.array([0.5, 3.0, 0.1]), np.array([0.3, 3.0, 0.4])

    def loss(weights: np.ndarray) -> float:
        scores = log_softmax(np.tensordot(weights, parts, 1), axis=1)
        away = (weights - usual) / spread
        return float(-scores[np.arange(60), truth].sum() + 0.5 * away @ away)

    expected = minimize(loss, usual, method="Nelder-Mead", tol=1e-9).x
    np.testing.assert_allclose(_fit_weights(parts, truth, usual, spread), expected, atol=1e-3)


@pytest.mark.parametrize("shots", [1, 2, 4, 8])
@pytest.mark.parametrize("off", [0.06, 0.25])
def test_it_is_better_than_words_and_than_logistic_regression(shots: int, off: float) -> None:
    rows = []
    for seed in range(5):
        words, X, y, Z, truth = few(20, shots, noise=0.3, seed=seed, off=off)
        probe = LinearProbe(words, np.arange(20), logit_scale=60).fit(X, y)
        by_words = ((Z @ words.T).argmax(axis=1) == truth).mean()
        plain = GridSearchCV(LogisticRegression(), {"C": [1, 10, 100]}, cv=min(shots, 3))
        plain = plain if shots > 1 else LogisticRegression()
        rows.append((probe.score(Z, truth), by_words, plain.fit(X, y).score(Z, truth)))
    ours, by_words, plain = np.mean(rows, axis=0)
    # At 0.06 the text is as good as anything could be, which one image per label cannot tell.
    assert ours > by_words - (0.05 if shots == 1 and off < 0.1 else 0.01)
    assert ours > plain - 0.01


def test_words_that_say_nothing_are_left_and_good_ones_kept() -> None:
    words, X, y, Z, truth = few(8, 8, noise=0.4)
    good = LinearProbe(words, np.arange(8), logit_scale=60).fit(X, y)
    nonsense = LinearProbe(unit(np.random.default_rng(3).normal(size=words.shape)), np.arange(8))
    nonsense.set_params(logit_scale=60).fit(X, y)
    none = LinearProbe().fit(X, y)
    assert good.score(Z, truth) > none.score(Z, truth)
    assert nonsense.score(Z, truth) > none.score(Z, truth) - 0.03
    assert abs(nonsense.weights_[0]) < good.weights_[0] / 3
    assert none.weights_[0] == 0


def test_a_label_without_images_keeps_its_words_and_one_without_words_is_learnt() -> None:
    words, X, y, Z, truth = few(6, 8)
    words[5] = np.nan
    kept = y != 0
    probe = LinearProbe(words, np.arange(6), logit_scale=60).fit(X[kept], y[kept])
    right = probe.predict(Z) == truth
    assert [right[truth == k].mean() > 0.5 for k in range(6)] == [True] * 6


def test_one_image_a_label_is_measured_by_nothing_and_better_than_words() -> None:
    words, X, y, Z, truth = few(10, 1)
    probe = LinearProbe(words, np.arange(10), logit_scale=60).fit(X, y)
    assert probe.folds_ is None
    assert (probe.cv_images_, np.isnan(probe.cv_accuracy_)) == (0, True)
    assert list(probe.cross_validated(X)) == []
    assert probe.score(Z, truth) >= ((Z @ words.T).argmax(axis=1) == truth).mean()


def test_scores_are_probabilities_that_mean_what_they_say() -> None:
    words, X, y, Z, truth = few(10, 16, noise=0.5)
    probe = LinearProbe(words, np.arange(10), logit_scale=60).fit(X, y)
    scores = probe.predict_proba(Z)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert scores.max(axis=1).mean() == pytest.approx(probe.score(Z, truth), abs=0.05)
    assert -np.log(scores[np.arange(len(Z)), truth]).mean() == pytest.approx(
        probe.cv_loss_, abs=0.2
    )


def test_many_images_of_one_label_do_not_drown_another() -> None:
    words, X, y, Z, truth = few(3, 60, noise=0.3)
    kept = (y > 0) | (np.arange(len(y)) < 4)  # 4, 60 and 60
    probe = LinearProbe(words, np.arange(3), logit_scale=60).fit(X[kept], y[kept])
    assert (probe.predict(Z) == truth)[truth == 0].mean() > 0.7


def test_folds_are_even_and_groups_stay_together() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [7, 4, 2])
    X = rng.normal(size=(len(y), 5))
    folds = LinearProbe(folds=4).fit(X, y).folds_
    assert folds is not None
    counts = np.array([np.bincount(folds[y == k], minlength=4) for k in range(3)])
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()
    assert np.ptp(np.bincount(folds)) <= 1
    groups = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 6, 7, 7])
    probe = LinearProbe().fit(X, y, groups)
    assert probe.folds_ is not None
    assert all(len(set(probe.folds_[groups == g])) == 1 for g in range(8))
    # Label 2 has one image only, twice, which cannot be predicted from others.
    assert probe.cv_images_ == 7
    pairs = LinearProbe().fit(X[[0, 1, 7, 8]], [0, 0, 1, 1], [3, 3, 4, 4])
    assert pairs.folds_ is None
    assert list(pairs.cross_validated(X[[0, 1, 7, 8]])) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(bad: float) -> None:
    _, X, y, _, _ = few()
    X[3, 2] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        LinearProbe().fit(X, y)


def test_words_that_do_not_fit_are_refused() -> None:
    words, X, y, _, _ = few()
    with pytest.raises(ValueError, match=r"text has shape \(5, 3\)"):
        LinearProbe(words[:, :3], np.arange(5)).fit(X, y)
    for names in ([0, 1, 2, 3, 3], [0, 1, 2, 3, 9]):
        with pytest.raises(ValueError, match="every label of y, and no label twice"):
            LinearProbe(words, names).fit(X, y)


def test_it_works_inside_scikit_learn() -> None:
    words, X, y, _, _ = few()
    probe = LinearProbe(words, np.arange(5), logit_scale=60)
    assert cross_val_score(probe, X, y, cv=3).mean() > 0.9
    assert clone(probe).fit(X.astype(np.float32), y).coef_.dtype == np.float64


@pytest.mark.parametrize("n", [3, 5, 7, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies_of_an_image_with_two_labels_teach_no_rounding(n: int, dtype: type) -> None:
    rng = np.random.default_rng(1)
    for image in unit(rng.normal(size=(20, 64))):
        X: np.ndarray = np.repeat(image[None], n, axis=0).astype(dtype)
        probe = LinearProbe().fit(X, np.arange(n) % 2)
        assert np.abs(probe.coef_).max() < 10
