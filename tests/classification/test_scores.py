"""Scores of many classes, in blocks and batches, against scipy."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from clipcls import ZeroShotClassifier
from helpers.encoders import ColourEncoder

LABELS = ["red", "green", "blue"]


def test_many_labels_in_blocks_give_scipys_softmax(
    encoder: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipcls.classification.scores._CLASSES_A_BLOCK", 64)
    classifier = ZeroShotClassifier(LABELS, encoder, cache=False).fit()
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


@pytest.mark.parametrize("ask", ["match", "predict", "raw_best"])
def test_memory_does_not_grow_as_images_times_labels(encoder: ColourEncoder, ask: str) -> None:
    classifier = ZeroShotClassifier(LABELS, encoder, cache=False).fit()
    weights = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32)
    classifier.weights_ = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    classifier.index_ = type(classifier.index_)(classifier.weights_)
    classifier._exact_weights = classifier.weights_.astype(np.float64)
    classifier.classes_ = np.arange(1000).astype(str)
    images = np.tile(classifier.weights_, (20, 1))
    calls: dict[str, Callable[[np.ndarray], Any]] = {
        "match": lambda vectors: classifier.match(vectors, 1),
        "predict": classifier.predict,
        "raw_best": lambda vectors: classifier.raw_best(vectors, np.ones((len(vectors), 1))),
    }

    def peak(count: int) -> int:
        tracemalloc.start()
        calls[ask](images[:count])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    # In float64, 80 MB of logits lie between the two.
    assert peak(20_000) - peak(10_000) < 10_000_000


def test_a_score_does_not_depend_on_its_batch(encoder: ColourEncoder) -> None:
    classifier = ZeroShotClassifier(LABELS, encoder, cache=False).fit()
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
