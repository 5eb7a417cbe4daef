"""Labels that have text but no images, next to labels with images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipcls import FewShotClassifier, LinearProbe, ZeroShotClassifier
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.predictions import Prediction
from clipcls.web.review.learner import Relearner
from helpers.predictions import all_of
from helpers.problems import few

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_images_unlike_the_training_images_get_a_label_without_images() -> None:
    # No words tell the two kinds apart: all labels without images share one text.
    words, X, y, Z, truth = few(12, 8, dim=48, noise=0.15, off=0.3)
    words[6:] = words[6:].mean(axis=0) / np.linalg.norm(words[6:].mean(axis=0))
    kept = y < 6
    probe = LinearProbe(words, np.arange(12), logit_scale=30).fit(X[kept], y[kept])
    answers = probe.predict(Z)
    assert (answers[truth < 6] == truth[truth < 6]).mean() > 0.9
    assert (answers[truth >= 6] >= 6).mean() > 0.65
    assert LinearProbe(words, np.arange(12), logit_scale=30).fit(X, y).offset_ == 0


@pytest.mark.parametrize(("shots", "noise"), [(1, 0.1), (4, 0.03), (16, 0.03)])
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


@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize("with_images", [1, 2])
def test_one_or_two_labels_with_images_do_not_drown_the_others(
    shots: int, with_images: int
) -> None:
    gains = []
    for seed in range(6):
        text, X, y, Z, truth = few(10, shots, dim=48, noise=0.2, off=0.1, seed=seed)
        kept = y < with_images
        probe = LinearProbe(text, np.arange(10), logit_scale=30).fit(X[kept], y[kept])
        again = LinearProbe(text, np.arange(10), logit_scale=30).fit(X[kept], y[kept])
        assert np.isfinite(probe.coef_).all()
        assert probe.offset_ == again.offset_
        gain = (probe.predict(Z) == truth) * 1.0 - ((Z @ text.T).argmax(axis=1) == truth)
        gains.append([gain[truth < with_images].mean(), gain[truth >= with_images].mean()])
    # A single image does not tell how much other images of its label differ.
    least = 0.15 if shots == with_images == 1 else 0.1
    assert np.min(np.mean(gains, axis=0)) > -least


def test_labels_with_text_alone_next_to_labels_with_images_alone() -> None:
    text, X, y, Z, truth = few(6, 4)
    text[:3] = np.nan
    kept = y < 3
    probe = LinearProbe(text, np.arange(6), logit_scale=30).fit(X[kept], y[kept])
    right = probe.predict(Z) == truth
    assert [right[truth == k].mean() > 0.5 for k in range(6)] == [True] * 6


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
    assert [result.label for result in all_of(Prediction, found)] == answers
    file = tmp_path / "classifier.safetensors"
    fitted.save(file)
    again = FewShotClassifier.load(file, fitted.encoder_, cache=False)
    assert again.learnt_.outshouted == 0
