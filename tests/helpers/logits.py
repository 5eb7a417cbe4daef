"""Made-up logits."""

from __future__ import annotations

import numpy as np


def simulated(n: int, classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are overconfident and right in about 6 of 10."""
    truth = rng.integers(classes, size=n)
    noise = rng.standard_normal((n, classes)) * rng.uniform(0.5, 2, size=(n, 1))
    return 4 * (noise + 2 * np.eye(classes)[truth]), truth
