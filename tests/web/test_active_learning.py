"""The order to ask in, against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipcls.embeddings.clustering import cluster_vectors, k_means
from clipcls.web.review.active_learning import acquisition_order, diverse_batch

MARGINS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(MARGINS, st.booleans()), max_size=30))
def test_by_margin_and_what_is_done_last(rows: list[tuple[float, bool]]) -> None:
    found = acquisition_order(
        np.array([m for m, _ in rows], float), done=np.array([d for _, d in rows], bool)
    )
    expected = sorted(range(len(rows)), key=lambda n: (rows[n][1], rows[n][0], n))
    assert found.tolist() == expected


def blobs(n: int, kinds: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, kinds, n)
    rows = np.eye(kinds)[kind] + 0.05 * rng.normal(size=(n, kinds))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), kind


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_is_the_nearest_to_the_best_weighted_centres(seed: int) -> None:
    """All ways to sort eight vectors into three clusters are tried for the least weighted sum."""
    rng = np.random.default_rng(seed)
    vectors, margins = blobs(8, 3, seed)[0], rng.uniform(0, 0.9, 8)
    weights = 1 - margins + 1e-6
    best, centres = np.inf, np.empty(0)
    for sorting in itertools.product(range(3), repeat=8):
        if len(set(sorting)) < 3:
            continue
        one = np.eye(3)[list(sorting)] * weights[:, None]
        means = one.T @ vectors / one.sum(axis=0)[:, None]
        away = (weights * ((vectors - means[list(sorting)]) ** 2).sum(axis=1)).sum()
        if away < best:
            best, centres = away, means
    nearest = {int(((vectors - c) ** 2).sum(axis=1).argmin()) for c in centres}
    assert set(diverse_batch(vectors, margins, 3).tolist()) == nearest


def test_the_order_is_batch_after_batch_of_what_is_left() -> None:
    rng = np.random.default_rng(1)
    vectors, _ = blobs(700, 6)
    margins, done = rng.uniform(size=700), rng.random(700) < 0.1
    vectors[rng.random(700) < 0.1] = 0  # images without a vector
    found = acquisition_order(margins, vectors, done).tolist()
    left = [n for n in np.argsort(margins, kind="stable") if not done[n] and vectors[n].any()]
    expected: list[int] = []
    for _ in range(10):
        first = np.array(left[:200])
        batch = first[diverse_batch(vectors[first], margins[first], 20)].tolist()
        expected += sorted(batch, key=lambda n: margins[n])
        left = [n for n in left if n not in batch]
    assert found[:200] == expected
    rest = [n for n in np.lexsort((margins, done)).tolist() if n not in expected]
    assert found[200:] == rest


def test_a_batch_has_one_of_each_kind_where_margins_have_one_kind_alone() -> None:
    vectors, kind = blobs(200, 20)
    margins = 0.3 + 0.01 * kind  # the first kinds are the most doubtful
    batch = acquisition_order(margins, vectors)[:20]
    assert len(set(kind[batch].tolist())) >= 18
    assert len(set(kind[np.argsort(margins, kind="stable")[:20]].tolist())) <= 4


@pytest.mark.parametrize("n", [0, 1, 2, 21])
def test_few_or_equal_images_are_ordered_too(n: int) -> None:
    same = np.tile(np.eye(4, dtype=np.float32)[0], (n, 1))
    assert sorted(acquisition_order(np.zeros(n), same).tolist()) == list(range(n))


def test_clusters_are_those_that_are_there() -> None:
    vectors, kind = blobs(100, 5)
    found = cluster_vectors(vectors, 5)
    assert len({(a, b) for a, b in zip(kind, found, strict=True)}) == 5
    np.testing.assert_array_equal(found, cluster_vectors(vectors, 5))


def test_more_clusters_than_vectors() -> None:
    vectors = np.tile(np.eye(4, dtype=np.float32)[0], (3, 1))
    assert cluster_vectors(vectors, 9).tolist() == [0, 0, 0]
    assert len(k_means(vectors, 9)) == 3
