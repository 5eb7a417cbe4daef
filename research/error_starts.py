"""Where should the tests for `--max-error` start?

    python research/error_starts.py VECTORS.npz...

Files as for research/promises.py. Prints for each way to start the share of images answered and the
share of draws whose true error is above the promised one, means over files, numbers of images that
calibrate and errors. Several starts share the 5 %, and the lowest threshold of all is used.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
from scipy.special import bdtr

IMAGES, ERRORS, DRAWS = (
    (20, 30, 50, 100, 200, 300, 500, 1000),
    (0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
    300,
)
STARTS = [((mistakes,), 0.1, 0.5) for mistakes in (0, 1, 2, 3, 4, 6, 8)]
STARTS += [((4,), least, 0.5) for least in (0.0, 0.05, 0.2, 0.3)]
STARTS += [((4,), 0.1, most) for most in (0.2, 0.3, 0.4, 0.6, 0.8)]
STARTS += [(several, 0.1, 0.5) for several in ((0, 4), (0, 2, 8), (0, 1, 4, 8))]


def main(files: list[str]) -> None:
    """Print one line per way to start."""
    found = np.array([row for seed, file in enumerate(files) for row in measure(file, seed)])
    for (starts, least, most), (share, above) in zip(STARTS, found.mean(axis=0), strict=True):
        line = f"{' and '.join(map(str, starts))} mistakes, {least:g} to {most:g} of the images"
        print(f"{line}: {share:.2%} answered, {above:.2%} above")


def measure(file: str, seed: int):
    """For each number of images and error: the share answered and that of draws above, by start."""
    data = np.load(file)
    logits = float(data["scale"]) * data["vectors"] @ data["text"].T
    best = logits.max(axis=1)
    order = np.argsort(np.exp(logits - best[:, None]).sum(axis=1))  # the highest scores first
    wrong = (logits.argmax(axis=1) != data["labels"])[order]
    risk = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    rng = np.random.default_rng(seed)
    for images in IMAGES:
        drawn = np.sort(rng.integers(len(wrong), size=(DRAWS, images)), axis=1)
        mistakes = np.cumsum(wrong[drawn], axis=1)
        for error in ERRORS:
            rows = []
            for starts, least, most in STARTS:
                level = 0.05 / len(starts)
                answered = np.zeros(DRAWS, int)
                for allowed in starts:
                    start = find_start(allowed, least, most, images, error, level)
                    passed = mistakes[:, start - 1 :] <= limits(images, error, level)[start - 1 :]
                    run = np.cumprod(passed, axis=1).sum(axis=1)
                    answered = np.maximum(answered, np.where(run, start - 1 + run, 0))
                # All images of the set up to the threshold, which is the next image's score.
                ends = np.append(drawn, np.full((DRAWS, 1), len(wrong)), axis=1)
                ends = np.where(answered, ends[np.arange(DRAWS), answered], 0)
                above = (ends > 0) & (risk[np.maximum(ends, 1) - 1] > error)
                rows.append((ends.mean() / len(wrong), above.mean()))
            yield rows


@cache
def find_start(
    allowed: int, least: float, most: float, images: int, error: float, level: float
) -> int:
    """The number of images of the first test."""
    needed = [int((limits(2000, error, level) < k).sum()) + 1 for k in range(allowed + 1)]
    few = next((n for n in needed[:0:-1] if n <= most * images), needed[0])
    return max(few, int(np.ceil(least * images)))


@cache
def limits(images: int, error: float, level: float) -> np.ndarray:
    """How many mistakes pass a test of 1 to `images` images; -1 where none does."""
    numbers = np.arange(1, images + 1)
    counts = np.arange(images)[:, None]
    passed = (counts < numbers) & (bdtr(np.minimum(counts, numbers), numbers, error) <= level)
    found: np.ndarray = passed.sum(axis=0) - 1
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
