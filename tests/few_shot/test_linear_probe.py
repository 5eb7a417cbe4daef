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
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from clipcls import LinearProbe
from clipcls.few_shot.stacking import best_shares, held_out_folds
from helpers.problems import few, unit


class Shrunk(BaseEstimator):
    """A covariance with something added to its diagonal."""

    def __init__(self, added: float = 0) -> None:
        self.added = added

    def fit(self, X: np.ndarray) -> Shrunk:
        self.covariance_ = np.cov(X.T, bias=True) + self.added * np.eye(X.shape[1])
        return self


def by_sklearn(
    words: np.ndarray, X: np.ndarray, y: np.ndarray, Z: np.ndarray, ridge: float, shares: np.ndarray
) -> np.ndarray:
    """The logits of `LinearProbe` less their mean over the classes, by scikit-learn's parts."""
    n_classes = len(words)
    middle = 60 * (words - words.mean(axis=0))
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
        LogisticRegression(C=10, tol=1e-9, max_iter=5000).fit(X, y).decision_function(Z),
    ]
    logits = sum(share * part for share, part in zip(shares, parts, strict=True))
    return logits - logits.mean(axis=1, keepdims=True)


@parametrize_with_checks([LinearProbe()])
def test_scikit_learns_own_checks(estimator, check) -> None:
    check(estimator)


@pytest.mark.parametrize("shots", [3, 12])
def test_logits_are_shares_of_what_scikit_learns_methods_say(shots: int) -> None:
    words, X, y, Z, _ = few(shots=shots)
    probe = LinearProbe(words, np.arange(5), logit_scale=60).fit(X, y)
    expected = by_sklearn(words, X, y, Z, probe.ridge_, probe.shares_)
    found = probe.decision_function(Z)
    # The logistic regression stops short of the last digits; the rest is exact.
    least = 1e-7 + 0.02 * abs(probe.shares_[4])
    np.testing.assert_allclose(found - found.mean(axis=1, keepdims=True), expected, atol=least)
    assert (np.abs(probe.shares_) > 1e-4).all()


@pytest.mark.parametrize("shots", [3, 12])
def test_held_out_scores_are_those_of_probes_learnt_without_the_fold(shots: int) -> None:
    words, X, y, _, _ = few(shots=shots, noise=0.5)
    probe = LinearProbe(words, np.arange(5), logit_scale=60).fit(X, y)
    found = np.full((len(X), 5), np.nan)
    for rows, scores in probe.cross_validated(X):
        assert np.isnan(found[rows]).all()
        found[rows] = scores
        rest = probe.folds_ != probe.folds_[rows[0]]
        logits = by_sklearn(words, X[rest], y[rest], X[rows], probe.ridge_, probe.shares_)
        np.testing.assert_allclose(scores, softmax(logits, axis=1), atol=0.002)
    right = found[np.arange(len(X)), y]
    assert probe.cv_loss_ == pytest.approx(-np.log(right).mean())
    assert probe.cv_accuracy_ == (found.argmax(axis=1) == y).mean()


def test_a_discriminant_of_one_image_a_class_is_no_guide_to_one_of_two() -> None:
    # Within a class images differ along a few ways only, which one image a class cannot tell.
    for shots, used in ((2, False), (6, True)):
        words, X, y, _, _ = few(20, shots, noise=0.4)
        probe = LinearProbe(words, np.arange(20), logit_scale=60).fit(X, y)
        assert (abs(probe.shares_[3]) > 0.1) == used


def test_the_logistic_regression_is_there_where_it_is_the_best() -> None:
    # One class in two clouds at either side of another: means and covariances do not tell them
    # apart, a line that is fitted to the border images tells best what a line can.
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    X = rng.normal(size=(240, 6)) * 0.3
    X[:, 0] += np.where(y == 0, np.where(rng.random(240) < 0.15, 6.0, 0.8), 0.0)
    X[:, 1] += np.where(y == 1, 0.8, 0.0)
    probe = LinearProbe().fit(X, y)
    assert probe.shares_[4] > 0.3
    plain = LogisticRegression(C=10).fit(X, y)
    assert probe.score(X, y) > plain.score(X, y) - 0.02


def test_the_logistic_regression_is_left_out_where_it_would_take_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, X, y, _, _ = few(5, 6)
    monkeypatch.setattr("clipcls.few_shot.linear_probe._MOST_LOGITS", 5 * 30)
    assert LinearProbe(words, np.arange(5), logit_scale=60).fit(X, y).shares_[4] != 0
    monkeypatch.setattr("clipcls.few_shot.linear_probe._MOST_LOGITS", 5 * 30 - 1)
    assert LinearProbe(words, np.arange(5), logit_scale=60).fit(X, y).shares_[4] == pytest.approx(0)


def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 20 classes of 12 images were many."""
    monkeypatch.setattr("clipcls.few_shot.logistic.MANY_LOGITS", 1200)
    monkeypatch.setattr("clipcls.few_shot.logistic._BATCH", 16)
    monkeypatch.setattr("clipcls.few_shot.linear_probe.MANY_LOGITS", 1200)
    monkeypatch.setattr("clipcls.few_shot.stacking.MANY_LOGITS", 1200)
    monkeypatch.setattr("clipcls.few_shot.linear_probe._LOGITS_ASKED", 1200)


def test_of_many_images_a_fold_or_two_tell_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    words, X, y, Z, truth = few(20, 12, noise=0.5)
    every = LinearProbe(words, np.arange(20), logit_scale=60).fit(X, y)
    many(monkeypatch)
    probe = LinearProbe(words, np.arange(20), logit_scale=60).fit(X, y)
    assert every.cv_images_ == 240
    assert probe.cv_images_ == (probe.folds_ < 2).sum() == 48
    assert probe.score(Z, truth) > every.score(Z, truth) - 0.02


def test_held_out_scores_of_many_images_are_learnt_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, X, y, _, _ = few(20, 12, noise=0.5)
    every = LinearProbe(words, np.arange(20), logit_scale=60).fit(X, y)
    many(monkeypatch)
    probe = LinearProbe(words, np.arange(20), logit_scale=60).fit(X, y)
    for _ in range(2):
        found = np.full((len(X), 20), np.nan)
        for rows, scores in probe.cross_validated(X):
            assert np.isnan(found[rows]).all()
            found[rows] = scores
        np.testing.assert_allclose(found.sum(axis=1), 1)
        right = (found.argmax(axis=1) == y).mean()
        assert right == pytest.approx(every.cv_accuracy_, abs=0.03)
        assert right < probe.score(X, y) - 0.02  # an image in its own fold would be known


def test_they_are_learnt_after_pickling_too_and_nothing_is_left_of_an_earlier_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, X, y, _, _ = few(20, 12, noise=0.5)
    kept = y < 18  # two labels have words alone
    rows = np.vstack([X[kept], unit(X[kept] + 0.01)])  # a view beside each image
    labels, groups = np.tile(y[kept], 2), np.tile(np.arange(kept.sum()), 2)

    def said(probe: LinearProbe, given: np.ndarray) -> np.ndarray:
        found = np.full((len(given), len(probe.classes_)), np.nan)
        for at, scores in probe.cross_validated(given):
            found[at] = scores
        return found

    few_images = LinearProbe().fit(X[y < 3], y[y < 3])
    expected = few_images.predict_proba(X), said(few_images, X[y < 3])
    many(monkeypatch)
    probe = LinearProbe(words, np.arange(20), logit_scale=60).fit(rows, labels, groups)
    copied = pickle.loads(pickle.dumps(probe))
    alone = said(copied, X[kept])
    np.testing.assert_allclose(alone.sum(axis=1), 1)
    np.testing.assert_allclose(said(probe, rows)[: len(alone)], alone)
    probe.set_params(text=None, text_classes=None).fit(X[y < 3], y[y < 3])
    for found, wanted in zip(
        (probe.predict_proba(X), said(probe, X[y < 3])), expected, strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("size", "best"), [(1.0, 10), (0.03, 1000)])
def test_of_many_images_the_penalty_is_what_tells_most_of_a_fold(
    size: float, best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, X, y, _, _ = few(20, 12, noise=0.5)
    X = size * X
    many(monkeypatch)
    probe = LinearProbe().fit(X, y)
    asked = probe.folds_ == 0
    losses = {}
    for C in (10, 100, 1000):
        alone = LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(X[~asked], y[~asked])
        losses[C] = log_loss(y[asked], alone.predict_proba(X[asked]))
    assert probe.penalty_ == min(losses, key=losses.get) == best


def test_labels_without_images_change_nothing_that_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, X, y, _, _ = few(20, 12, noise=0.3)
    others = unit(np.random.default_rng(5).normal(size=(400, words.shape[1])))
    many(monkeypatch)
    probe = LinearProbe(words, np.arange(20), logit_scale=60).fit(X, y)
    among = LinearProbe(np.vstack([words, others]), np.arange(420), logit_scale=60).fit(X, y)
    assert among.penalty_ == probe.penalty_ == 10
    # One fold is asked about in place of two, but all of it.
    assert among.cv_images_ == (among.folds_ == 0).sum() == 24


def test_the_penalty_is_chosen_on_images_and_not_on_views(monkeypatch: pytest.MonkeyPatch) -> None:
    _, X, y, _, _ = few(20, 12, noise=0.5)
    many(monkeypatch)
    groups = np.tile(np.arange(len(X)), 3)
    rows, labels = np.vstack([0.03 * X] * 3), np.tile(y, 3)
    scored = np.arange(len(rows)) < len(X)
    asked = held_out_folds(labels, 10, groups) == 0
    others = np.flatnonzero(asked & ~scored)  # views in which there is nothing left of the image
    rows[others] = np.random.default_rng(0).permutation(rows[others])
    penalties = [
        LinearProbe().fit(rows, labels, groups, which).penalty_ for which in (scored, None)
    ]
    assert penalties[0] == 1000 > penalties[1]


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


def test_shares_are_scipys_optimum() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, size=60)
    parts = [rng.normal(size=(60, 4)) + w * np.eye(4)[truth] for w in (0.5, 2, 0)]
    usual, spread = np.array([0.5, 3.0, 0.1]), np.array([0.3, 3.0, 0.4])

    def loss(shares: np.ndarray) -> float:
        scores = log_softmax(sum(s * p for s, p in zip(shares, parts, strict=True)), axis=1)
        away = (shares - usual) / spread
        return float(-scores[np.arange(60), truth].sum() + 0.5 * away @ away)

    expected = minimize(loss, usual, tol=1e-12).x
    np.testing.assert_allclose(best_shares(parts, truth, usual, spread), expected, atol=1e-3)


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
    # At 0.06 the words are as good as anything could be, which one image a label cannot tell.
    assert ours > by_words - (0.05 if shots == 1 and off < 0.1 else 0)
    assert ours > plain - 0.01


def test_words_that_say_nothing_are_left_and_good_ones_kept() -> None:
    words, X, y, Z, truth = few(8, 8, noise=0.4)
    good = LinearProbe(words, np.arange(8), logit_scale=60).fit(X, y)
    nonsense = LinearProbe(unit(np.random.default_rng(3).normal(size=words.shape)), np.arange(8))
    nonsense.set_params(logit_scale=60).fit(X, y)
    none = LinearProbe().fit(X, y)
    assert good.score(Z, truth) > none.score(Z, truth)
    assert nonsense.score(Z, truth) > none.score(Z, truth) - 0.03
    assert abs(nonsense.shares_[0]) < good.shares_[0] / 3
    assert none.shares_[0] == 0


def test_a_label_without_images_keeps_its_words_and_one_without_words_is_learnt() -> None:
    words, X, y, Z, truth = few(6, 8)
    words[5] = np.nan
    kept = y != 0
    probe = LinearProbe(words, np.arange(6), logit_scale=60).fit(X[kept], y[kept])
    right = probe.predict(Z) == truth
    assert [right[truth == k].mean() > 0.5 for k in range(6)] == [True] * 6
    # Neither need the words name all labels: others of y come after them.
    named = LinearProbe(words[:5], ["a", "b", "c", "d", "e"], logit_scale=60)
    named.fit(X[kept], np.array(list("abcdez"))[y[kept]])
    assert named.classes_.tolist() == list("abcdez")
    np.testing.assert_allclose(named.coef_, probe.coef_, atol=1e-9)


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
    codes = np.repeat([0, 1, 2], [7, 4, 2])
    folds = held_out_folds(codes, 4)
    counts = np.array([np.bincount(folds[codes == k], minlength=4) for k in range(3)])
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()
    assert np.ptp(np.bincount(folds)) <= 1
    groups = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 6, 7, 7])
    folds = held_out_folds(codes, 10, groups)
    assert all(len(set(folds[groups == g])) == 1 for g in range(8))
    assert held_out_folds(np.array([0, 0, 1, 1]), 5, [3, 3, 4, 4]) is None
    assert held_out_folds(np.arange(4), 5) is None


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
    with pytest.raises(ValueError, match="twice"):
        LinearProbe(words, [0, 1, 2, 3, 3]).fit(X, y)


def test_it_works_inside_scikit_learn() -> None:
    words, X, y, _, _ = few()
    probe = LinearProbe(words, np.arange(5), logit_scale=60)
    assert cross_val_score(probe, X, y, cv=3).mean() > 0.9
    assert clone(probe).fit(X.astype(np.float32), y).coef_.dtype == np.float64
