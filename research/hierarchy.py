"""What a hierarchy of labels is good for, on labelled images.

    python research/hierarchy.py --labels research/labels/caltech101.txt DATA [--model mini]

DATA is as for `clipcls evaluate`. Prints the accuracy at each level and, for least scores, how many
images are answered, where in the tree, and how many of these answers are right.
research/hierarchy.md has results.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from clipcls import ZeroShotClassifier
from clipcls.classification.labelled import embed_known, right_columns
from clipcls.models.backend import Backend

LEAST_SCORES = (0.5, 0.8, 0.9)


def report(classifier: ZeroShotClassifier, vectors: np.ndarray, truth: Sequence) -> None:
    """Prints the figures of images' vectors, float32 (n, dim), and their right classes."""
    levels = classifier.hierarchy_.levels
    parts = np.array_split(vectors, len(vectors) // 1000 + 1)
    scores = np.concatenate([classifier.predict_proba(part) for part in parts])
    right = right_columns(truth, scores.shape[1]).astype(float)
    sums = [level.sums(scores) for level in levels]
    rows = np.arange(len(scores))
    hits = [
        level.best(right)[rows, s.argmax(axis=1)] > 0 for level, s in zip(levels, sums, strict=True)
    ]
    for number, hit in enumerate(hits, start=1):
        print(f"level {number}: {len(levels[number - 1].names)} nodes, right {hit.mean():.1%}")
    for least in LEAST_SCORES:
        left = np.ones(len(scores), bool)
        told, correct = [], 0
        for number in range(len(levels), 0, -1):
            answered = left & (sums[number - 1].max(axis=1) >= least)
            hit = hits[number - 1][answered]
            told.append(f"{answered.mean():.1%} at level {number}, {hit.mean():.1%} right")
            correct += hit.sum()
            left &= ~answered
        answered = (~left).sum()
        print(f"--min-score {least}: {'; '.join(told)}; {correct / answered:.1%} of all answers")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    settings = {"model": arguments.model, "backend": Backend(precision=arguments.precision)}
    classifier = ZeroShotClassifier(arguments.labels, **settings).fit()
    known = embed_known(classifier, arguments.data)
    report(classifier, known.vectors, known.truth)
