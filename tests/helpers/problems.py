"""Made-up problems of learning."""

from __future__ import annotations

import numpy as np


def unit(rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return found


def few(
    n_classes: int = 5,
    shots: int = 6,
    dim: int = 24,
    noise: float = 0.25,
    seed: int = 0,
    off: float = 0.06,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Words, training images and labels, and others to see: words point `off` their images."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(n_classes, dim)))
    words = unit(centres + off * rng.normal(size=(n_classes, dim)) + 1)
    y, others = np.repeat(np.arange(n_classes), shots), np.repeat(np.arange(n_classes), 100)
    X, Z = (unit(centres[k] + noise * rng.normal(size=(len(k), dim))) for k in (y, others))
    return words, X, y, Z, others
