"""Multinomial logistic regression, the one of scikit-learn, for many classes of few images each.

Learnt in coordinates in which the loss is about equally curved while all classes are as likely, by
L-BFGS. Where images times classes are many, a few passes of stochastic gradient descent with
Nesterov's momentum (Sutskever et al. 2013, "On the importance of initialization and momentum in
deep learning") come first: each costs less than a step of L-BFGS, and eight of them do about what
twenty of these do (8,742 images of 600 classes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing import TypeAlias

    Floats: TypeAlias = NDArray[np.float64]
    Numbers: TypeAlias = NDArray[np.int64]

__all__ = ["MANY_LOGITS", "logistic_regression", "softmax_and_losses"]

# Images x classes from which on passes over the images come first, and single precision is enough.
MANY_LOGITS = 2_000_000
_STEPS, _STEPS_AFTER = 40, 8  # of L-BFGS: alone, and after passes
LEAST_SLOPE, _LEAST_GAIN = 1e-4, 1e-7  # where it stops
_PASSES, _PASSES_ON, _BATCH, _MOMENTUM = 6, 3, 256, 0.9  # from zeros, from a start
_MOST = 0.1  # of a step: 1 is Newton's while all classes are as likely


def logistic_regression(
    rows: Floats,
    codes: Numbers,
    spectrum: Floats,
    n_classes: int,
    penalty: float,
    *,
    start: tuple[Floats, Floats] | None = None,
    roughly: bool = False,
) -> tuple[Floats, Floats]:
    """Multinomial logistic regression, as scikit-learn's LogisticRegression(C=penalty) has it.

    The least of the summed negative log-likelihood + half the squared coefficients / C, or nearly.

    Args:
        rows: float64 (n, rank), uncorrelated columns with mean 0.
        codes: class numbers, int64 (n,).
        spectrum: the columns' sums of squares, float64 (rank,).
        n_classes: how many classes there are.
        penalty: C.
        start: coefficients and intercepts to begin with. None: zeros.
        roughly: where there are many images, stop after the passes.

    Returns:
        coefficients (n_classes, rank) and intercepts (n_classes,), which sum to 0.
    """
    from scipy.optimize import minimize

    n, rank = rows.shape
    curve = (1 - 1 / n_classes) / n_classes
    unit = np.append(1 / np.sqrt(curve * spectrum + 1 / penalty), 1 / np.sqrt(curve * n))
    held = np.append(unit[:-1] ** 2 / penalty, 0.0)
    are_many = n * n_classes > MANY_LOGITS
    kind = np.float32 if are_many else np.float64
    rows = np.column_stack([rows * unit[:-1], np.full(n, unit[-1])]).astype(kind)
    free = np.zeros((n_classes, rank + 1))
    if start is not None:
        free[:] = np.column_stack(start) / unit
    if are_many:
        passes = _PASSES if start is None else _PASSES_ON
        passed = _passes(rows, codes, held.astype(kind), free.astype(kind), passes)
        if np.isfinite(passed).all():
            free = passed.astype(np.float64)
    if not (are_many and roughly):
        free = minimize(
            _loss,
            free.ravel(),
            (rows, codes, held),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": _STEPS_AFTER if are_many else _STEPS,
                "gtol": LEAST_SLOPE * n / n_classes,
                "ftol": _LEAST_GAIN,
            },
        ).x.reshape(free.shape)
    weights = free * unit
    return weights[:, :-1], weights[:, -1] - weights[:, -1].mean()


def _loss(flat: Floats, rows: Any, codes: Numbers, held: Floats) -> tuple[float, Floats]:
    """The loss of coefficients (n_classes * (rank + 1),), and its slope there."""
    free = flat.reshape(-1, rows.shape[1])
    weights = free.astype(rows.dtype)
    slope = held * free
    value = 0.5 * float((slope * free).sum())
    step = max(1, MANY_LOGITS // len(free))
    for start in range(0, len(rows), step):
        some, truth = rows[start : start + step], codes[start : start + step]
        scores, losses = softmax_and_losses(some @ weights.T)
        at = np.arange(len(truth))
        value += float(losses[at, truth].sum(dtype=np.float64))
        scores[at, truth] -= 1
        slope += scores.T @ some
    return value, slope.ravel()


def _passes(rows: Any, codes: Numbers, held: Any, free: Any, passes: int) -> Any:
    """Coefficients (n_classes, rank + 1) after some passes over the images, in shuffled batches.

    A step is as long as a batch's curvature allows where an image's right label is in doubt; the
    steps shrink to nothing by half a cosine.
    """
    dice = np.random.default_rng(0)
    n, width = rows.shape
    batches = -(-n // _BATCH)
    highest = min(_MOST, 2 * _BATCH / (width * len(free)))
    moved = np.zeros_like(free)
    for number in range(passes * batches):
        if number % batches == 0:
            order = dice.permutation(n)
        inside = order[number % batches :: batches]
        some = rows[inside]
        scores = some @ free.T
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        scores[np.arange(len(inside)), codes[inside]] -= 1
        slope = scores.T @ some
        slope *= n / len(inside)
        slope += held * free
        rate = highest * 0.5 * (1 + np.cos(np.pi * number / (passes * batches)))
        moved *= _MOMENTUM
        moved += slope
        slope += _MOMENTUM * moved
        slope *= rate
        free -= slope
    return free


def softmax_and_losses(logits: Any) -> tuple[Any, Any]:
    """Scores, and minus their logarithms, (n, n_classes) each, in the logits' dtype."""
    below = logits - logits.max(axis=1, keepdims=True)
    scores = np.exp(below)
    total = scores.sum(axis=1, keepdims=True)
    losses = np.log(total) - below
    scores /= total
    return scores, losses
