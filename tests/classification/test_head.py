"""`LinearHead`: labels in words, learnt labels and a level of their hierarchy, against scipy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from clipcls.classification import head
from clipcls.classification.head import LinearHead, find_highest
from clipcls.labels.taxonomy import Level

KINDS = ["words", "learnt", "level"]


def make_head(
    kind: str, n_labels: int = 500, dim: int = 32, temperature: float = 1.0
) -> LinearHead:
    weights = unit(n_labels, dim).astype(np.float64)
    scale, bias = np.full(n_labels, 10.0), np.full(n_labels, -1.0)
    if kind == "learnt":
        rng = np.random.default_rng(0)
        coef = (weights * rng.uniform(5, 15, (n_labels, 1))).astype(np.float32).astype(np.float64)
        scale, bias = np.linalg.norm(coef, axis=1), rng.standard_normal(n_labels)
        weights = coef / scale[:, None]
    level = None
    if kind == "level":
        level = Level([(str(number % 50), str(number)) for number in range(n_labels)], 1)
    return LinearHead(weights, scale, bias, temperature, level)


def unit(n: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("n_labels", [500, 1500])  # FAISS finds the best of many
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_classes_have_scipys_softmax(
    kind: str, n_labels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "_IMAGES_A_BLOCK", 64)
    made, vectors = make_head(kind, n_labels, temperature=2.0), unit(200, seed=1)
    cosines = vectors.astype(np.float64) @ made.weights.T
    logits = made.scale * cosines + made.bias
    if made.level is not None:
        nodes = [made.level.labels(node) for node in range(50)]
        logits = np.stack([logsumexp(logits[:, node], axis=1) for node in nodes], axis=1)
        cosines = np.stack([cosines[:, node].max(axis=1) for node in nodes], axis=1)
    np.testing.assert_allclose(made.logits(vectors), logits / 2, rtol=1e-12, atol=1e-15)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    scores, similarities, classes = made.top(vectors, 5)
    np.testing.assert_array_equal(classes, best)
    np.testing.assert_array_equal(made.best(vectors), best[:, 0])
    expected = np.take_along_axis(softmax(logits / 2, axis=1), best, 1)
    np.testing.assert_allclose(scores, expected, rtol=1e-9)
    np.testing.assert_allclose(similarities, np.take_along_axis(cosines, best, 1), rtol=1e-9)
    raw = made.raw.top(vectors, 1)[0][:, 0]
    np.testing.assert_allclose(raw, softmax(logits, axis=1).max(axis=1), rtol=1e-9)


@pytest.mark.parametrize("kind", ["words", "learnt"])
def test_a_nodes_score_is_the_sum_of_its_labels_scores(kind: str) -> None:
    made, vectors = make_head(kind, temperature=3.0), unit(20, seed=1)
    level = Level([(str(number % 7), str(number)) for number in range(500)], 1)
    scores, _, nodes = made.at(level).top(vectors, 7)
    expected = level.sums(softmax(made.logits(vectors), axis=1))
    np.testing.assert_allclose(scores, np.take_along_axis(expected, nodes, 1), rtol=1e-9)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_as_images_times_labels(kind: str) -> None:
    made, images = make_head(kind, 1000, 3), unit(20_000, 3, seed=1)

    def peak(count: int) -> int:
        tracemalloc.start()
        made.top(images[:count], 1)
        made.best(images[:count])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    # In float64, 80 MB of logits lie between the two.
    assert peak(20_000) - peak(10_000) < 10_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_depend_on_its_batch(kind: str) -> None:
    made, vectors = make_head(kind, dim=256), unit(100, 256, seed=1)
    together = made.top(vectors, 3)
    alone = [made.top(vectors[n : n + 1], 3) for n in range(100)]
    for part, parts in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(np.concatenate(parts), part, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_of_no_images_there_are_no_classes(kind: str) -> None:
    made = make_head(kind)
    assert [part.shape for part in made.top(unit(0), 3)] == [(0, 3)] * 3
    assert made.best(unit(0)).shape == (0,)


@pytest.mark.parametrize("k", [1, 2, 5, 12])
def test_the_highest_are_those_of_a_stable_sort(k: int) -> None:
    values = np.random.default_rng(0).integers(0, 9, (500, 12)).astype(float)
    expected = np.argsort(-values, axis=1, kind="stable")[:, :k]
    assert (find_highest(values, k) == expected).all()
    rounding = 1e-15 * np.random.default_rng(1).standard_normal(values.shape)
    assert (find_highest(values + rounding, k) == expected).all()
