"""Labels in words alone next to labels with images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression

from clipcls import FewShotClassifier, LinearProbe, ZeroShotClassifier
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.few_shot.unseen import Trial, estimate_corrections
from clipcls.web.review.learner import Relearner
from helpers.problems import few

EXAMPLES = Path(__file__).parents[2] / "examples"


def trial(
    lead: np.ndarray,
    nearness: np.ndarray | None = None,
    *,
    of_unseen: bool,
    by_words: bool | np.ndarray = False,
) -> Trial:
    """Images of one label with images and one without, whose logits are `lead` apart."""
    n = len(lead)
    near = np.zeros((n, 1)) if nearness is None else nearness[:, None]
    truth = np.full(n, -1 if of_unseen else 0)
    return Trial(np.zeros((n, 1)), near, truth, lead, lead, np.ones(n, bool), np.full(n, by_words))


@pytest.mark.parametrize("unseen", [0.5, 0.9])
def test_offset_and_nearness_are_a_logistic_regression_of_the_kind(unseen: float) -> None:
    rng = np.random.default_rng(0)
    near_back, near_out = rng.normal(0.3, 0.2, 80), rng.normal(0.7, 0.2, 120)
    back = trial(np.zeros(80), near_back, of_unseen=True)
    out = trial(np.zeros(120), near_out, of_unseen=False)
    found = estimate_corrections(back, out, out, unseen)
    features = np.column_stack([np.ones(200), -np.concatenate([near_back, near_out])])
    weights = np.repeat([unseen * 200 / 80, (1 - unseen) * 200 / 120], [80, 120])
    oracle = LogisticRegression(C=100, fit_intercept=False, tol=1e-8)
    oracle.fit(features, np.repeat([1, 0], [80, 120]), weights)
    np.testing.assert_allclose(found, oracle.coef_[0], rtol=1e-3)


def test_nearness_never_speaks_against_a_label() -> None:
    back = trial(np.zeros(20), np.full(20, 0.8), of_unseen=True)
    out = trial(np.zeros(20), np.full(20, 0.2), of_unseen=False)
    assert estimate_corrections(back, out, out, 0.5)[1] == 0


def test_the_only_image_of_a_label_is_no_measure_of_nearness() -> None:
    near = np.array([[1.0, 0.4, -0.1], [0.4, 1.0, 0.3]])
    empty, none = np.zeros(2), np.zeros(2, bool)
    learnt = Trial(np.zeros((2, 3)), near, np.array([0, 1]), empty, empty, none, none)
    expected = [[0.4, 0.4, -0.1], [0.4, 0.4, 0.3]]
    np.testing.assert_array_equal(learnt.without_itself().nearness, expected)
    assert learnt.nearness[0, 0] == 1


def test_an_offset_costs_neither_kind_right_answers_of_the_words() -> None:
    # The words have all of these images, but the likeliest offset leaves them to other labels.
    back = trial(np.full(10, -6.0), of_unseen=True, by_words=True)
    out = trial(np.full(10, -5.0), of_unseen=False)
    assert estimate_corrections(back, out, out, 0.5)[0] > 6
    # Where both kinds cannot be as good as by words, both lose as little as possible.
    steps = np.arange(-10.0, 0)
    mixed = [trial(steps, of_unseen=kind, by_words=True) for kind in (True, False)]
    taught = trial(np.full(10, -20.0), of_unseen=False)
    assert 4 < estimate_corrections(mixed[0], mixed[1], taught, 0.5)[0] < 7


def test_images_far_from_all_that_was_taught_are_left_to_the_words() -> None:
    # No words tell the two kinds apart: all labels without images share one text.
    words, X, y, Z, truth = few(12, 8, dim=48, noise=0.15, off=0.3)
    words[6:] = words[6:].mean(axis=0) / np.linalg.norm(words[6:].mean(axis=0))
    kept = y < 6
    probe = LinearProbe(words, np.arange(12), logit_scale=30).fit(X[kept], y[kept])
    assert probe.nearness_ > 0
    answers = probe.predict(Z)
    assert (answers[truth < 6] == truth[truth < 6]).mean() > 0.9
    assert (answers[truth >= 6] >= 6).mean() > 0.75  # an offset alone leaves 0.55
    alone = LinearProbe(words, np.arange(12), logit_scale=30).fit(X, y)
    assert alone.nearness_ == alone.offset_ == 0


@pytest.mark.parametrize(("shots", "noise"), [(1, 0.1), (4, 0.03), (16, 0.01)])
@pytest.mark.parametrize("with_images", [2, 10])
def test_neither_kind_of_label_is_worse_than_by_words(
    shots: int, noise: float, with_images: int
) -> None:
    gains = []
    for seed in range(4):
        words, X, y, Z, truth = few(20, shots, dim=48, noise=0.2, off=0.1, seed=seed)
        kept = y < with_images
        probe = LinearProbe(words, np.arange(20), logit_scale=30).fit(X[kept], y[kept])
        assert probe.score(X[kept], y[kept]) >= 0.9
        gain = (probe.predict(Z) == truth) * 1.0 - ((Z @ words.T).argmax(axis=1) == truth)
        gains.append([gain[truth < with_images].mean(), gain[truth >= with_images].mean()])
    assert np.min(np.mean(gains, axis=0)) > -noise


def test_labels_of_one_image_each_are_not_drowned_and_the_offset_is_repeatable() -> None:
    words, X, y, _, _ = few(3, 1)
    probes = [LinearProbe(words, np.arange(3)).fit(X[:2], y[:2]) for _ in range(2)]
    assert np.isfinite(probes[0].offset_)
    assert probes[0].offset_ == probes[1].offset_
    assert probes[0].predict(X[:2]).tolist() == [0, 1]
    assert LinearProbe(words, np.arange(3)).fit(X, y).offset_ == 0


def test_a_persons_label_is_the_answer_also_where_most_labels_have_no_image(
    tmp_path: Path,
) -> None:
    rows = list(csv.DictReader((EXAMPLES / "truth.csv").open()))
    paths = [str(EXAMPLES / row["path"]) for row in rows]
    truth = [row["label"] for row in rows]
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    labels = EXAMPLES / "labels.txt"
    fitted = FewShotClassifier(labels, "mini", cache=cache).fit(EXAMPLES / "truth.csv")
    answers = fitted.predict(paths).tolist()
    assert answers == truth
    assert fitted.learnt_.outshouted == 0
    assert "without images: 0 of these images" in fitted.learnt_.summary()
    # Photos like these follow.
    mirrored = [ImageOps.mirror(Image.open(path).convert("RGB")) for path in paths]
    assert fitted.predict(mirrored).tolist() == truth
    # The same where a page's corrections are learnt from.
    relearner = Relearner(ZeroShotClassifier(labels, "mini", cache=cache).fit(), paths)
    relearner.embed()
    _, found = relearner.learn(dict(enumerate(truth)))
    assert [result.label for result in found] == answers
    file = tmp_path / "classifier.safetensors"
    fitted.save(file)
    again = FewShotClassifier.load(file, fitted.encoder_, cache=False)
    assert again.learnt_.outshouted == 0
