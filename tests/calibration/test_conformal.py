from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from clipcls.calibration.conformal import rank_scores, set_sizes, threshold_rank
from helpers.conformal import simulated


def test_scores_are_the_papers_by_brute_force() -> None:
    logits, _ = simulated(20, 12, np.random.default_rng(0))
    order, scores = rank_scores(logits)
    for image, p in enumerate(softmax(logits, axis=1)):
        for rank, label in enumerate(order[image], start=1):
            assert scores[image, rank - 1] == pytest.approx(p[p > p[label]].sum(), abs=1e-12)


def test_simulated_sets_hold_the_right_label_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    covered, sizes = [], []
    for _ in range(300):
        logits, truth = simulated(400, 10, rng)
        order, scores = rank_scores(logits)
        at = (order == truth[:, None]).argmax(axis=1)
        own = np.sort(scores[np.arange(400), at][:200])
        rank = threshold_rank(200, 0.1)
        assert rank == 181
        size = set_sizes(scores[200:], own[rank - 1])
        covered.append((at[200:] < size).mean())
        sizes.append(size.mean())
    assert 0.9 - 0.005 < np.mean(covered) < 0.9 + 0.02
    assert np.mean(sizes) < 7  # not by answering everything


def test_too_few_images_promise_nothing() -> None:
    assert threshold_rank(9, 0.1) == 9
    assert threshold_rank(8, 0.1) is None
    assert threshold_rank(99, 0.01) == 99
    assert threshold_rank(98, 0.01) is None


def test_no_set_is_empty() -> None:
    _, scores = rank_scores(np.zeros((3, 4)))
    assert set_sizes(scores, -1).tolist() == [1, 1, 1]
