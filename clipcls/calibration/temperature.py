"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599): scores that are probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np

from clipcls.metrics.intervals import Counts, Flags, Floats

__all__ = ["HOTTEST", "Blocks", "apply_temperatures", "fit_temperatures"]

HOTTEST = 20.0  # bounds of the temperature: this, and one over it

Blocks: TypeAlias = Callable[[], Iterable[tuple[slice, Floats]]]
"""Called for an iterator over rows and their logits, float64 (rows, n_classes)."""


def fit_temperatures(blocks: Blocks, truth: Counts, correct: Flags, folds: Counts) -> Floats:
    """The temperature of least mean negative log-likelihood, of all images and without each fold.

    With b = 1/T the loss, log sum exp(b z) - b z_right, is convex; its minimum is found by
    Newton's method inside a bracket, until a step is below a millionth.

    Args:
        blocks: called for an iterator over (rows, logits float64 (rows, n_classes)).
        truth: the right class of each image, int64 (n,).
        correct: whether the class of the highest logit is right, bool (n,).
        folds: each image's fold, int64 (n,), from 0.

    Returns:
        float64 (folds + 1,): without fold 0, 1, ..., and last with all images. Within 1/20 and 20;
        1 where the answers are all right, since then less is always better.
    """
    whole = _least_loss(blocks, truth, correct, np.ones((1, len(truth)), bool), 1.0)
    without = folds != np.arange(folds.max() + 1)[:, None]
    apart = _least_loss(blocks, truth, correct, without, float(whole[0]))
    return 1 / np.append(apart, whole)


def _least_loss(
    blocks: Blocks, truth: Counts, correct: Flags, groups: Flags, start: float
) -> Floats:
    """b = 1/T of each group of images, bool (groups, n) -> float64 (groups,)."""
    done = np.asarray(~(groups & ~correct).any(axis=1))
    b = np.where(done, 1.0, start)
    low, high = np.full(len(groups), 1 / HOTTEST), np.full(len(groups), HOTTEST)
    open_ones = np.flatnonzero(~done)
    while len(open_ones):
        first, second = _slopes(blocks, truth, groups[open_ones], b[open_ones])
        for k, slope, curve in zip(open_ones, first, second, strict=True):
            low[k], high[k] = (b[k], high[k]) if slope < 0 else (low[k], b[k])
            step = b[k] - slope / curve if curve > 0 else math.nan
            before, b[k] = b[k], step if low[k] < step < high[k] else math.sqrt(low[k] * high[k])
            if slope == 0 or abs(b[k] - before) <= 1e-6 * before:
                done[k] = True
        open_ones = np.flatnonzero(~done)
    return b


def _slopes(blocks: Blocks, truth: Counts, groups: Flags, b: Floats) -> tuple[Floats, Floats]:
    """First and second derivative of each group's loss at its own b, float64 (groups,) each."""
    first, second = np.zeros(len(groups)), np.zeros(len(groups))
    for rows, logits in blocks():
        z = logits - logits.max(axis=1, keepdims=True)
        right = z[np.arange(len(z)), truth[rows]]
        for k, inside in enumerate(groups[:, rows]):
            weights = np.exp(b[k] * z)
            total = weights.sum(axis=1)
            weights *= z
            mean = weights.sum(axis=1) / total
            square = np.einsum("ij,ij->i", weights, z) / total
            first[k] += (mean - right)[inside].sum()
            second[k] += (square - mean**2)[inside].sum()
    return first, second


def apply_temperatures(
    blocks: Blocks,
    truth: Counts,
    answer: Counts,
    temperatures: Floats,
) -> tuple[Floats, Floats]:
    """Each image's loss and the score of its answer at its own temperature, float64 (n,) each."""
    loss, score = np.empty(len(truth)), np.empty(len(truth))
    for rows, logits in blocks():
        z = logits / temperatures[rows, None]
        z -= z.max(axis=1, keepdims=True)
        total = np.log(np.exp(z).sum(axis=1))
        at = np.arange(len(z))
        loss[rows] = total - z[at, truth[rows]]
        score[rows] = np.exp(z[at, answer[rows]] - total)
    return loss, score
