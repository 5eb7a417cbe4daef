"""Is the default temperature better than the model's own softmax on labels nobody calibrated?

    python research/temperature.py NAME.npz... [--weights b1e073e60a22]

A file is as research/refine.py --make writes it. Prints per set the log loss of equal scores
(log K), of the model's softmax and at the default temperature, with the standard error of the
difference, and the calibration error of both. docs/evidence/doubt.md has results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from clipcls.calibration.temperature import apply_temperatures, default_temperature
from clipcls.metrics.single_label import calibration_error

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--weights", default="b1e073e60a22")
    given = parser.parse_args()
    print("set | labels | accuracy | T | log K | NLL at 1 | at T | difference | ECE at 1 | at T")
    for file in given.files:
        data = np.load(file)
        logits = data["scale"] * data["vectors"].astype(np.float64) @ data["text"].T
        truth, answer = data["labels"], logits.argmax(axis=1)
        temperature = default_temperature(given.weights, data["text"])
        made = [
            apply_temperatures(
                lambda: [(slice(None), logits)],  # noqa: B023
                *(truth, answer, np.full(len(logits), each)),
            )
            for each in (1.0, temperature)
        ]
        gain = made[1][0] - made[0][0]
        errors = [calibration_error(score, answer == truth) for _, score in made]
        print(
            f"{file.stem} | {logits.shape[1]} | {(answer == truth).mean():.1%} | "
            f"{temperature:.2f} | {np.log(logits.shape[1]):.2f} | {made[0][0].mean():.2f} | "
            f"{made[1][0].mean():.2f} | {gain.mean():+.2f} ± {gain.std() / len(gain) ** 0.5:.2f} | "
            f"{errors[0]:.3f} | {errors[1]:.3f}"
        )
