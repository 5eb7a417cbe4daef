"""Scores of many classes, in blocks and batches, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ColourEncoder
from scipy.special import softmax

from clipcls import ZeroShotClassifier

LABELS = ["red", "green", "blue"]


def test_many_labels_in_blocks_give_scipys_softmax(
    encoder: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipcls.scoring._CLASSES_A_BLOCK", 64)
    classifier = ZeroShotClassifier(LABELS, encoder, store=False).fit()
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((1000, 3)).astype(np.float32)
    classifier.weights_ = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    classifier.index_ = type(classifier.index_)(classifier.weights_)
    classifier._exact_weights = classifier.weights_.astype(np.float64)
    vectors = classifier.weights_[:20]
    scores, _, rows = classifier.match(vectors, 5)
    logits = 10 * vectors @ classifier.weights_.T
    expected = np.argsort(-logits, axis=1)[:, :5]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(
        scores, np.take_along_axis(softmax(logits, axis=1), expected, 1), rtol=1e-4
    )


def test_a_score_does_not_depend_on_its_batch(encoder: ColourEncoder) -> None:
    classifier = ZeroShotClassifier(LABELS, encoder, store=False).fit()
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((500, 256)).astype(np.float32)
    classifier.weights_ = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    classifier.index_ = type(classifier.index_)(classifier.weights_)
    classifier._exact_weights = classifier.weights_.astype(np.float64)
    encoder.logit_scale = 100.0
    together = classifier.match(classifier.weights_[:100], 3)
    alone = [classifier.match(classifier.weights_[n : n + 1], 3) for n in range(100)]
    for part, parts in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(np.concatenate(parts), part, rtol=1e-12)
