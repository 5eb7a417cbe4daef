"""What tells images of other things, and batches of wrong answers, without labelled images?

    python research/doubt.py NAME.npz [--keep 50] [--others OTHER.npz...] [--model mini]

A file is as research/refine.py --make writes it. The labels are NAME's, or with --keep so many of
them, drawn at random; images of other things are those of the labels that are left out, and those
of the other files. Prints, per kind of other things, the area under the ROC curve of the score, the
cosine and the nearness, and the shares that `--min-similarity` 2 and 3 turn away. Then how often
`classify` calls batches of 100 images doubtful: balanced ones, ones with 90 % of one label and ones
of other things, with all labels or six of them. docs/evidence/doubt.md has results.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from clipcls.calibration.temperature import default_temperature
from clipcls.classification.doubt import Doubt
from clipcls.classification.nearness import Nearness
from clipcls.models.encoder import open_encoder
from clipcls.predictions import Candidate, Prediction

BATCHES, IMAGES, FEW = 50, 100, 6


def measure(vectors: np.ndarray, text: np.ndarray, scale: float) -> dict[str, np.ndarray]:
    """The score, cosine, nearness and class number of each image's best label."""
    cosines = vectors.astype(np.float64) @ text.T
    scores = softmax(scale * cosines / default_temperature(encoder.weights, text), axis=1)
    best = cosines.max(axis=1)
    near = nearness.measure(vectors, best)
    made = {"score": scores.max(axis=1), "cosine": best, "nearness": near}
    return made | {"label": cosines.argmax(axis=1)}


def reason(found: dict[str, np.ndarray], n_labels: int) -> str:
    """What `Doubt` says, in a word."""
    doubt = Doubt(n_labels)
    rows = zip(found["label"], found["score"], found["nearness"], strict=True)
    answers = [
        Prediction("", str(label), (Candidate(str(label), score, 0),), None, nearness=near)
        for label, score, near in rows
    ]
    for answer in answers:
        doubt.count(answer)
    words = {"near none": "far", "get the label": "one label", "mean score is": "low scores"}
    said = doubt.reason()
    return next((word for part, word in words.items() if part in said), "none")


def tell_others(data: dict[str, np.ndarray], others: dict[str, np.ndarray], keep: int) -> None:
    """Prints a line per kind of other things."""
    names = len(data["text"])
    kept = np.random.default_rng(0).permutation(names)[: keep or names]
    is_in = np.isin(data["labels"], kept)
    if not is_in.all():
        others = others | {"the other labels": data["vectors"][~is_in]}
    ours = measure(data["vectors"][is_in], data["text"][kept], data["scale"])
    for name, vectors in others.items():
        theirs = measure(vectors, data["text"][kept], data["scale"])
        side = np.repeat([True, False], [is_in.sum(), len(vectors)])
        for way in ("score", "cosine", "nearness"):
            area = roc_auc_score(side, np.concatenate([ours[way], theirs[way]]))
            print(f"{way} {area:.3f}", end=", ")
        for least in (2, 3):
            away = [f"{(found['nearness'] < least).mean():.1%}" for found in (ours, theirs)]
            print(f"below {least}: {away[0]} of {len(kept)} labels, {away[1]} of {name}", end="; ")
        print()


def tell_batches(data: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    """Prints how often which reason is given for which batches, and how often answers are right."""
    rng = np.random.default_rng(0)
    kinds: dict[str, Counter[str]] = {}
    right: dict[str, list[float]] = {}
    for number in range(BATCHES):
        names = len(data["text"])
        kept = np.arange(names) if number % 2 else rng.permutation(names)[:FEW]
        text, one = data["text"][kept], rng.choice(kept)
        inside = rng.permutation(np.flatnonzero(np.isin(data["labels"], kept)))[:IMAGES]
        alone = np.flatnonzero(data["labels"] == one)
        ruled = np.concatenate([alone, inside[data["labels"][inside] != one][: len(alone) // 9]])
        for kind, rows in (("balanced", inside), ("90 % one label", ruled)):
            found = measure(data["vectors"][rows], text, data["scale"])
            kinds.setdefault(kind, Counter())[reason(found, len(kept))] += 1
            hits = kept[found["label"]] == data["labels"][rows]
            right.setdefault(kind, []).append(float(hits.mean()))
        for name, vectors in others.items():
            found = measure(rng.permutation(vectors)[:IMAGES], text, data["scale"])
            kinds.setdefault(name, Counter())[reason(found, len(kept))] += 1
    for kind, counts in kinds.items():
        accuracy = f"{np.mean(right[kind]):.1%} right" if kind in right else "none right"
        print(f"{kind} ({accuracy}): {dict(counts)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--keep", type=int, default=0, help="labels")
    parser.add_argument("--others", nargs="+", default=[], type=Path)
    parser.add_argument("--model", default="mini")
    given = parser.parse_args()
    encoder = open_encoder(given.model)
    nearness = Nearness(encoder, None)
    data = dict(np.load(given.file))
    others = {path.stem: np.load(path)["vectors"] for path in given.others}
    print(given.file.stem)
    tell_others(data, others, given.keep)
    tell_batches(data, others)
