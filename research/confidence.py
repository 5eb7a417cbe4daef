"""What a fitted temperature is good for: half of the images to fit it, the other half to measure.

    python research/confidence.py --labels labels.txt DATA [--model mini]

DATA is as for `clipcls evaluate`, or vectors as research/refine.py --make writes them. Prints means
over ten random halves. docs/evidence/doubt.md has results.
"""

from __future__ import annotations

import argparse

import numpy as np

from clipcls import ZeroShotClassifier
from clipcls.classification.labelled import embed_known
from clipcls.evaluation.calibrate import calibrate_vectors
from clipcls.evaluation.evaluate import compute_outcomes
from clipcls.metrics.single_label import calibration_error

SPLITS = 10


def halves(classifier: ZeroShotClassifier, vectors, truth, settings: dict) -> dict[str, float]:
    """The figures of the docs, as means over random halves."""
    rows = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(vectors))
        half, rest = order[: len(order) // 2], order[len(order) // 2 :]
        fitted = calibrate_vectors(classifier, vectors[half], [truth[i] for i in half])
        known = [truth[i] for i in rest]
        before = compute_outcomes(classifier, vectors[rest], known)
        calibrated = ZeroShotClassifier(**settings, calibration=fitted).fit()
        after = compute_outcomes(calibrated, vectors[rest], known)
        rows.append(
            {
                "accuracy": before.correct.mean(),
                "temperature": fitted.temperature,
                "ece_before": calibration_error(before.confidence, before.correct),
                "ece_after": calibration_error(after.confidence, after.correct),
                "nll_before": before.loss.mean(),
                "nll_after": after.loss.mean(),
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--model", default="mini")
    arguments = parser.parse_args()
    settings = {"labels": arguments.labels, "model": arguments.model}
    classifier = ZeroShotClassifier(**settings).fit()
    classifier.head_ = classifier.head_.raw  # "before" is the model's own softmax
    if arguments.data.endswith(".npz"):
        data = np.load(arguments.data)
        vectors, truth = data["vectors"], [[label] for label in data["labels"].tolist()]
        np.testing.assert_allclose(data["text"], classifier.weights_, atol=1e-3)  # the same labels
    else:
        known = embed_known(classifier, arguments.data)
        vectors, truth = known.vectors, known.truth
    found = halves(classifier, vectors, truth, settings)
    print(len(vectors), *(f"{name} {value:.3f}" for name, value in found.items()))
