"""Labels in words alone next to labels with images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from test_probe import few

from clipcls import FewShotClassifier, LinearProbe, ZeroShotClassifier
from clipcls.relearning import Relearner
from clipcls.store import Store
from clipcls.unseen import Trial, estimate_offset

EXAMPLES = Path(__file__).parent.parent / "examples"


def trial(lead: np.ndarray, *, right: bool = True, by_words: bool = False) -> Trial:
    """Images whose two kinds of labels are `lead` apart."""
    return Trial(lead, lead, np.full(len(lead), right), np.full(len(lead), by_words))


def test_the_offset_is_the_intercept_of_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    back, out = rng.normal(-1, 2, 80), rng.normal(-4, 2, 120)
    for share in (0.5, 0.9):
        found = estimate_offset(trial(back), trial(out), trial(out), share)
        # As in a logistic regression with an intercept, the weighted residuals sum to zero.
        weight = np.repeat([share / len(back), (1 - share) / len(out)], [len(back), len(out)])
        odds, is_back = np.concatenate([back, out]), np.repeat([1.0, 0.0], [len(back), len(out)])
        assert weight @ (is_back - expit(odds + found)) == pytest.approx(0, abs=1e-9)


def test_an_offset_costs_neither_kind_right_answers_of_the_words() -> None:
    # The words have all of these images, but the likeliest offset leaves them to other labels.
    back = trial(np.full(10, -6.0), by_words=True)
    out = trial(np.full(10, -5.0))
    assert estimate_offset(back, out, out, 0.5) > 6
    # Where both kinds cannot be as good as by words, both lose as little as possible.
    mixed = Trial(np.arange(-10.0, 0), np.arange(-10.0, 0), np.ones(10, bool), np.ones(10, bool))
    taught = trial(np.full(10, -20.0))
    assert 4 < estimate_offset(mixed, mixed, taught, 0.5) < 7


@pytest.mark.parametrize("shots", [1, 4, 16])
@pytest.mark.parametrize(("with_images", "noise"), [(10, 0.02), (2, 0.06)])
def test_neither_kind_of_label_is_worse_than_by_words(
    shots: int, with_images: int, noise: float
) -> None:
    words, X, y, Z, truth = few(20, shots, dim=48, noise=0.2, off=0.1)
    kept = y < with_images
    probe = LinearProbe(words, np.arange(20), logit_scale=30).fit(X[kept], y[kept])
    learnt = probe.predict(Z) == truth
    by_words = (Z @ words.T).argmax(axis=1) == truth
    for kind in (truth < with_images, truth >= with_images):
        assert learnt[kind].mean() > by_words[kind].mean() - noise
    assert probe.score(X[kept], y[kept]) >= 0.9


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
    store = Store(tmp_path / "store.sqlite")
    labels = EXAMPLES / "labels.txt"
    fitted = FewShotClassifier(labels, "mini", store=store).fit(EXAMPLES / "truth.csv")
    answers = fitted.predict(paths).tolist()
    wrong = [path for path, a, b in zip(paths, answers, truth, strict=True) if a != b]
    assert len(wrong) <= 1
    assert answers[truth.index("astronaut")] == "astronaut"
    assert fitted.learnt_.outshouted == len(wrong)
    assert f"without images: {len(wrong)} of these images" in fitted.learnt_.summary()
    # The same where a page's corrections are learnt from.
    relearner = Relearner(ZeroShotClassifier(labels, "mini", store=store).fit(), paths)
    relearner.embed()
    found = relearner.learn(dict(enumerate(truth)))
    assert [answer[0][0] for answer in found.answers] == answers
    file = tmp_path / "classifier.safetensors"
    fitted.save(file)
    again = FewShotClassifier.load(file, fitted.encoder_, store=False)
    assert again.learnt_.outshouted == len(wrong)
