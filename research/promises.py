"""Do `--max-error` and `--prediction-sets` keep their promises, and how much do they answer?

    python research/promises.py VECTORS.npz...

A file has `vectors`, `labels`, `text` (a row per label) and `scale`. Images drawn with replacement
calibrate, so that new images are those of the file and their true error is known. Prints means of
today's methods and of what they replaced: 20 fixed coverages with a union bound, and APS without
its random part (arXiv 2006.02544). docs/evidence/doubt.md has results.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.special import softmax
from scipy.stats import binom

from clipcls import Calibration
from clipcls.calibration.base import Identity
from clipcls.evaluation.calibrate import _set_scores, _thresholds

IMAGES, ERRORS, ALPHA, DRAWS = (50, 100, 300), (0.05, 0.1, 0.2), 0.1, 200


def main(files: list[str]) -> None:
    """Measure each file and all together."""
    errors, sets = [], []
    for file in files:
        data = np.load(file)
        scores = softmax(float(data["scale"]) * data["vectors"] @ data["text"].T, axis=1)
        scores = scores.astype(float)
        found = [measure(scores, data["labels"], n, seed) for n in IMAGES for seed in range(DRAWS)]
        shape = len(IMAGES), DRAWS
        errors.append(np.array([e for e, _ in found]).reshape(*shape, len(ERRORS), 2, 3))
        sets.append(np.array([s for _, s in found]).reshape(*shape, 2, 2))
        print(f"{Path(file).stem}: {scores.shape[1]} labels", describe_sets(sets[-1][2]))
        for number, error in enumerate(ERRORS):
            print(f"  {IMAGES[-1]} images, error {error}:", describe(errors[-1][2, :, number]))
    print("mean over the sets; answered at all, share answered, true error above; old and new")
    for images, rows in zip(IMAGES, np.stack(errors, axis=1), strict=True):
        for number, error in enumerate(ERRORS):
            print(f"{images} images, error {error}:", describe(rows[:, :, number]))
    for images, rows in zip(IMAGES, np.stack(sets, axis=1), strict=True):
        print(f"{images} images:", describe_sets(rows))


def measure(scores: np.ndarray, truth: np.ndarray, images: int, seed: int):
    """For each error and rule: answered at all, share answered, error above; and both sets."""
    mine = np.random.default_rng(seed).integers(len(scores), size=images)
    best, wrong = scores.max(axis=1), scores.argmax(axis=1) != truth
    right = [(int(label),) for label in truth[mine]]
    logits = np.log(scores[mine])
    made = Calibration(
        Identity("", "", "", "", (), ()),
        images=images,
        note="",
        metrics={},
        versions={},
        temperature=1.0,
        thresholds=_thresholds(best[mine], ~wrong[mine]),
        set_scores=_set_scores(lambda: [(slice(0, images), logits)], right),
    )
    rows = []
    for error in ERRORS:
        for promised in (union_bound(made, error), list(made._promised(error))):
            answered = best > (promised[-1][0] if promised else np.inf)
            risk = wrong[answered].mean() if answered.any() else 0.0
            rows.append((bool(promised), answered.mean(), risk > error))
    held = []
    for inside in (aps_sets(scores, truth, mine), scores >= made.set_threshold(ALPHA)):
        inside[np.arange(len(scores)), scores.argmax(axis=1)] = True
        held.append((inside[np.arange(len(truth)), truth].mean(), inside.sum(axis=1).mean()))
    return rows, held


def union_bound(made: Calibration, error: float) -> list[tuple[float, int, int]]:
    """The rows of 20 coverages that promise the error at a confidence of 95 % together."""
    rows = [
        next(row for row in made.thresholds if row[1] * 20 >= step * made.images)
        for step in range(1, 21)
    ]
    return [row for row in rows if binom.cdf(row[2], row[1], error) <= 0.05 / 20]


def aps_sets(scores: np.ndarray, truth: np.ndarray, mine: np.ndarray) -> np.ndarray:
    """The labels whose predecessors' scores sum to no more than the threshold."""
    order = np.argsort(-scores, axis=1)
    ranked = np.take_along_axis(scores, order, 1)
    before = np.empty_like(scores)
    np.put_along_axis(before, order, np.cumsum(ranked, axis=1) - ranked, 1)
    own = np.sort(before[mine, truth[mine]])
    inside: np.ndarray = before <= own[int(np.ceil((len(mine) + 1) * (1 - ALPHA) - 1e-9)) - 1]
    return inside


def describe(rows: np.ndarray) -> str:
    """The means of both rules; the gain in the share answered and its standard error.

    The standard error is that over the draws of one file, or over files.
    """
    gain = rows[..., 1, 1] - rows[..., 0, 1]
    gain = gain.mean(axis=-1) if gain.ndim > 1 else gain
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    means = rows.reshape(-1, 2, 3).mean(axis=0)
    texts = [" ".join(f"{100 * x:5.1f} %" for x in row) for row in means]
    return f"{' | '.join(texts)} | gain {100 * gain.mean():.1f} (se {100 * error:.1f})"


def describe_sets(rows: np.ndarray) -> str:
    """Right and mean size of the sets, of APS and of LAC."""
    aps, lac = rows.reshape(-1, 2, 2).mean(axis=0)
    return f"APS {aps[0]:.1%}, {aps[1]:.2f} labels; LAC {lac[0]:.1%}, {lac[1]:.2f} labels"


if __name__ == "__main__":
    main(sys.argv[1:])
