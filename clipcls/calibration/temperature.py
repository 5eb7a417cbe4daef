"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599): scores that are probabilities.

A model's temperature carries over to other labels and prompts (LeVine et al. 2023, arXiv
2303.12748), so that there is a default for models that were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from clipcls.metrics.intervals import Counts, Flags, Floats

HOTTEST = 20.0  # bounds of the temperature: this, and one over it

# Weights (first 12 hex) whose temperature without labelled images was chosen on development sets:
# docs/evidence/doubt.md. Only `mini`: its texts have a mean cosine of 0, others' do not.
_TEMPERATURES = {"b1e073e60a22": 1.25}

Blocks: TypeAlias = "Callable[[], Iterable[tuple[slice, Floats]]]"
"""Called for an iterator over rows and their logits, float64 (rows, n_classes)."""


def default_temperature(weights: str, labels: NDArray[Any]) -> float:
    """The temperature without labelled images: the model's, more for labels that are alike to it.

    It is T / (1 - c)^2, where c is the mean cosine of two labels' texts: texts that are close
    together say that the model hardly tells their meanings apart.

    Args:
        weights: SHA-256 of the model's weights, hex.
        labels: the labels' unit vectors, (n_labels, dim).

    Returns:
        at most 20; 1, the model's own softmax, for models that were not measured.
    """
    base, n = _TEMPERATURES.get(weights[:12]), len(labels)
    if base is None:
        return 1.0
    total = labels.sum(axis=0, dtype=np.float64)
    cosine = (total @ total - n) / (n * (n - 1)) if n > 1 else 0.0
    return float(base / max(1 - max(cosine, 0.0), (base / HOTTEST) ** 0.5) ** 2)


def fit_temperatures(blocks: Blocks, truth: Counts, correct: Flags, folds: Counts) -> Floats:
    """The temperature of least mean negative log-likelihood, of all images and without each fold.

    With b = 1/T the loss, log sum exp(b z) - b z_right, is convex: its slope has one root.

    Args:
        blocks: called for an iterator over (rows, logits float64 (rows, n_classes)).
        truth: the right class of each image, int64 (n,).
        correct: whether the class of the highest logit is right, bool (n,).
        folds: each image's fold, int64 (n,), from 0.

    Returns:
        float64 (folds + 1,): without fold 0, 1, ..., and last with all images. Within 1/20 and 20;
        1 where all answers are right, since less would always be better.
    """
    from scipy.optimize.elementwise import find_root

    groups = np.vstack([folds != np.arange(folds.max() + 1)[:, None], np.ones(len(truth), bool)])

    def find_slopes(log_b: Floats, numbers: Counts) -> Floats:
        """The slope of the loss of some of the groups, each at its own b."""
        found = np.zeros(len(log_b))
        for rows, logits in blocks():
            z = logits - logits.max(axis=1, keepdims=True)
            right = z[np.arange(len(z)), truth[rows]]
            for k, (b, inside) in enumerate(zip(np.exp(log_b), groups[numbers, rows], strict=True)):
                weights = np.exp(b * z)
                mean = np.einsum("ij,ij->i", weights, z) / weights.sum(axis=1)
                found[k] += (mean - right)[inside].sum()
        return found

    numbers, ends = np.arange(len(groups)), np.full(len(groups), np.log(HOTTEST))
    root = find_root(find_slopes, (-ends, ends), args=(numbers,), tolerances={"xatol": 1e-7})
    bound = np.where(find_slopes(ends, numbers) < 0, ends, -ends)
    log_b = np.where(root.success, root.x, bound)
    return np.exp(-np.where((groups & ~correct).any(axis=1), log_b, 0))


def apply_temperatures(
    blocks: Blocks, truth: Counts, answer: Counts, temperatures: Floats
) -> tuple[Floats, Floats]:
    """Each image's loss and its answer's score at its own temperature, float64 (n,) each."""
    loss, score = np.empty(len(truth)), np.empty(len(truth))
    for rows, logits in blocks():
        z = logits / temperatures[rows, None]
        z -= z.max(axis=1, keepdims=True)
        total = np.log(np.exp(z).sum(axis=1))
        at = np.arange(len(z))
        loss[rows] = total - z[at, truth[rows]]
        score[rows] = np.exp(z[at, answer[rows]] - total)
    return loss, score
