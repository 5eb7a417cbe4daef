"""Ways to score several labels an image, and what a calibration adds: docs/multi-label.md.

    python benchmarks/multi_label.py captions DATA        # DATA/images, DATA/captions.txt
    python benchmarks/multi_label.py collages DATA [--names names.csv] [--singles]

`captions`: a label is right for an image where at least two of its captions have one of the label's
words, wrong where none has, and else not counted. `collages`: two to four images of different
classes of DATA, a folder per class, as one; `--singles`: as they are. `--names` is a csv of
`folder,label`. What is drawn at random is drawn with a fixed seed.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from sklearn.metrics import average_precision_score, f1_score

from clipcls import MultiLabelClassifier, ZeroShotClassifier
from clipcls.embedder import embed_texts
from clipcls.labelled import read_labelled
from clipcls.multicalibration import choose_thresholds, fit_probabilities
from clipcls.multilabel import (
    DEFAULT_THRESHOLD,
    background_texts,
    log_odds,
    log_shares,
    logistic,
)
from clipcls.prompts import NONE_TEXTS

SPLITS, COLLAGES, SIDE = 10, 1000, 320

# Of Flickr8k's captions: 42 labels that at least nine of 1,000 images have.
WORDS = {
    "person": "person people man men woman women boy boys girl girls child children kid kids lady "
    "guy guys baby toddler player players crowd",
    "man": "man men guy guys",
    "woman": "woman women lady ladies",
    "child": "child children kid kids boy boys girl girls toddler toddlers",
    "baby": "baby babies infant toddler",
    "dog": "dog dogs puppy puppies greyhound greyhounds poodle retriever terrier labrador",
    "horse": "horse horses pony",
    "bicycle": "bicycle bicycles bike bikes biker bikers bicyclist cyclist cyclists",
    "motorcycle": "motorcycle motorcycles motorbike dirt_bike motorcyclist",
    "car": "car cars automobile vehicle",
    "boat": "boat boats canoe kayak raft sailboat kayaker",
    "ball": "ball balls football basketball volleyball baseball",
    "soccer ball": "soccer",
    "tennis racket": "tennis racket racquet",
    "frisbee": "frisbee frisbees",
    "bench": "bench benches",
    "hat": "hat hats cap caps",
    "helmet": "helmet helmets",
    "sunglasses": "sunglasses glasses",
    "swimming pool": "pool",
    "beach": "beach beaches shore",
    "ocean": "ocean sea waves wave surf",
    "snow": "snow snowy",
    "mountain": "mountain mountains cliff hill hillside",
    "grass": "grass grassy lawn",
    "tree": "tree trees forest woods",
    "street": "street sidewalk road city",
    "building": "building buildings house",
    "sand": "sand sandy",
    "rock": "rock rocks boulder rocky",
    "backpack": "backpack backpacks",
    "table": "table tables",
    "swing": "swing swings",
    "lake": "lake river pond creek stream",
    "toy": "toy toys",
    "rope": "rope ropes",
    "fountain": "fountain fountains",
    "playground slide": "slide",
    "stick": "stick sticks",
    "dress": "dress dresses",
    "jacket": "jacket coat jackets",
    "shirt": "shirt t-shirt shirts",
}

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


# -- data -----------------------------------------------------------------------------------------


def captioned(root: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Images, labels, and int (n, labels): 1 right, 0 wrong, -1 not known."""
    captions: dict[str, list[str]] = {}
    with (root / "captions.txt").open(newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["image"], []).append(row["caption"].lower())
    columns = []
    for words in WORDS.values():
        pattern = re.compile(rf"\b({'|'.join(words.split()).replace('_', ' ')})\b")
        hits = np.array([sum(bool(pattern.search(c)) for c in each) for each in captions.values()])
        columns.append(np.where(hits >= 2, 1, np.where(hits == 1, -1, 0)))
    return [str(root / "images" / name) for name in captions], list(WORDS), np.stack(columns, 1)


def collages(
    root: Path, names: dict[str, str], least: int, most: int
) -> tuple[Iterator[Image.Image], list[str], np.ndarray]:
    """Collages of `least` to `most` images of different classes, labels, and int (n, labels)."""
    data = read_labelled(root)
    images: dict[str, list[str]] = {}
    for path, (folder,) in zip(data.paths, data.labels, strict=True):
        if not names or folder in names:
            images.setdefault(folder, []).append(path)
    labels = [names.get(folder, folder.replace("_", " ")) for folder in images]
    rng = np.random.default_rng(0)
    truth, chosen = np.zeros((COLLAGES, len(labels)), int), []
    for number in range(COLLAGES):
        count = least + number % (most - least + 1)
        classes = rng.choice(len(labels), count, replace=False)
        truth[number, classes] = 1
        pools = [list(images.values())[c] for c in classes]
        chosen.append([pool[rng.integers(len(pool))] for pool in pools])
    return map(collage, chosen), labels, truth


def collage(paths: Sequence[str]) -> Image.Image:
    """Two side by side, three as two above one, four in a square; one as it is."""
    if len(paths) == 1:
        return Image.open(paths[0]).convert("RGB")
    half = SIDE // 2
    tall = len(paths) == 2
    boxes = [(0, 0, half, SIDE if tall else half), (half, 0, half, SIDE if tall else half)]
    boxes += [(0, half, SIDE if len(paths) == 3 else half, half), (half, half, half, half)]
    whole = Image.new("RGB", (SIDE, SIDE))
    for path, (x, y, width, height) in zip(paths, boxes, strict=False):
        with Image.open(path) as image:
            whole.paste(ImageOps.fit(image.convert("RGB"), (width, height)), (x, y))
    return whole


# -- ways to score --------------------------------------------------------------------------------


def ways(classifier: ZeroShotClassifier) -> dict[str, Score]:
    """Name -> scores, (n, labels), of images' vectors (n, dim) for labels' vectors and names."""
    encoder, store = classifier.encoder_, classifier.store_
    scale = encoder.logit_scale
    generic = embed_texts(encoder, list(NONE_TEXTS), store).astype(float)
    vocabulary = embed_texts(encoder, background_texts(), store).astype(float)
    without = embed_texts(
        encoder, [f"a photo without {name}." for name in classifier.classes_], store
    ).astype(float)
    index = {tuple(row): k for k, row in enumerate(classifier.weights_.astype(float))}

    def pair(v: np.ndarray, w: np.ndarray) -> np.ndarray:
        return scale * (v @ w.T - v @ without[[index[tuple(row)] for row in w]].T)

    def softmax(v: np.ndarray, w: np.ndarray) -> np.ndarray:
        return scale * v @ w.T - log_sum_exp(scale * v @ w.T)

    def against(names: np.ndarray) -> Score:
        return lambda v, w: scale * v @ w.T - log_sum_exp(scale * v @ names.T)

    def z_names(v: np.ndarray, w: np.ndarray) -> np.ndarray:
        b = v @ vocabulary.T
        return (v @ w.T - b.mean(axis=1, keepdims=True)) / b.std(axis=1, keepdims=True)

    def z_labels(v: np.ndarray, w: np.ndarray) -> np.ndarray:
        s = v @ w.T
        return (s - s.mean(axis=1, keepdims=True)) / s.std(axis=1, keepdims=True)

    def minmax(v: np.ndarray, w: np.ndarray) -> np.ndarray:
        s = v @ w.T
        low, high = s.min(axis=1, keepdims=True), s.max(axis=1, keepdims=True)
        return (s - low) / (high - low)

    def normalised(v: np.ndarray, w: np.ndarray) -> np.ndarray:
        b = v @ vocabulary.T
        return v @ w.T - b.mean(axis=1, keepdims=True) - (w @ vocabulary.T).mean(axis=1)

    def csls(v: np.ndarray, w: np.ndarray) -> np.ndarray:
        near_v = np.sort(v @ vocabulary.T, axis=1)[:, -10:].mean(axis=1, keepdims=True)
        near_w = np.sort(w @ vocabulary.T, axis=1)[:, -11:-1].mean(axis=1)
        return 2 * v @ w.T - near_v - near_w

    return {
        "cosine (so any sigmoid of it)": lambda v, w: scale * v @ w.T,
        "softmax over the labels": softmax,
        "pair: against `a photo without X.`": pair,
        "generic texts (25), log-sum-exp": against(generic),
        "vocabulary, log-sum-exp": against(vocabulary),
        "vocabulary, z-score": z_names,
        "vocabulary, distribution normalisation": normalised,
        "vocabulary, CSLS": csls,
        "labels, min to max of the image": minmax,
        "labels, z-score of the image": z_labels,
        "in use: z-scored softmax, labels + vocabulary": lambda v, w: log_shares(
            v @ w.T, v @ vocabulary.T
        ),
    }


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """log sum exp over the last axis, which is kept."""
    return np.logaddexp.reduce(logits, axis=1, keepdims=True)


# -- figures --------------------------------------------------------------------------------------


def mean_ap(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Macro and micro; pairs that are not known do not count."""
    each = [
        average_precision_score(t[t >= 0], s[t >= 0])
        for s, t in zip(scores.T, truth.T, strict=True)
        if (t == 1).any()
    ]
    return float(np.mean(each)), float(
        average_precision_score(truth[truth >= 0], scores[truth >= 0])
    )


def f1(given: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Macro and micro; what is not known counts as neither given nor right."""
    right, given = truth == 1, given & (truth >= 0)
    has = right.any(axis=0)
    return (
        float(f1_score(right[:, has], given[:, has], average="macro", zero_division=0)),
        float(f1_score(right, given, average="micro", zero_division=0)),
    )


def threshold_curve(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Falling scores, and the micro F1 of giving what is at least as high."""
    known = truth >= 0
    order = np.argsort(-scores[known])
    hits = np.cumsum(truth[known][order])
    return scores[known][order], 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])


def few_labels(
    score: Score, vectors: np.ndarray, weights: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truth where five labels at random are asked for, 20 times."""
    scores, known = [], []
    for seed in range(20):
        some = np.random.default_rng(seed).permutation(len(weights))[:5]
        scores.append(score(vectors, weights[some]))
        known.append(truth[:, some])
    return np.concatenate(scores), np.concatenate(known)


def calibrated(odds: np.ndarray, truth: np.ndarray, images: int) -> tuple[float, float]:
    """F1 on one half with what was fitted on (some images of) the other; means over halves."""
    found = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(truth))
        half = order[: len(order) // 2][:images]
        rest = order[len(order) // 2 :]
        known = truth[half] >= 0
        slope, offsets = fit_probabilities(odds[half], truth[half] == 1, known)
        thresholds = choose_thresholds(logistic(slope * odds[half] + offsets), known)
        found.append(f1(logistic(slope * odds[rest] + offsets) >= thresholds, truth[rest]))
    macro, micro = np.mean(found, axis=0)
    return float(macro), float(micro)


def one_threshold(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """F1 on one half with the single best threshold of the other; means over halves."""
    found = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(truth))
        half, rest = order[: len(order) // 2], order[len(order) // 2 :]
        falling, values = threshold_curve(scores[half], truth[half])
        found.append(f1(scores[rest] >= falling[values.argmax()], truth[rest]))
    macro, micro = np.mean(found, axis=0)
    return float(macro), float(micro)


def report(classifier: ZeroShotClassifier, vectors: np.ndarray, truth: np.ndarray) -> None:
    """Prints all tables of one set."""
    weights = classifier.weights_.astype(float)
    vectors = vectors.astype(float)
    print(f"{len(truth)} images, {len(weights)} labels, {(truth == 1).sum() / len(truth):.2f} each")
    print(
        f"{'':<46} mAP macro, micro | best F1, its threshold: all labels; five | fivefold at all's"
    )
    for name, score in ways(classifier).items():
        scores = score(vectors, weights)
        falling, values = threshold_curve(scores, truth)
        best = falling[values.argmax()]
        few, few_truth = few_labels(score, vectors, weights, truth)
        few_falling, few_values = threshold_curve(few, few_truth)
        print(
            f"{name:<46}" + "".join(f"{100 * x:6.1f}" for x in mean_ap(scores, truth)),
            f"| {100 * values.max():5.1f} {best:7.3f}; {100 * few_values.max():5.1f}"
            f" {few_falling[few_values.argmax()]:7.3f}",
            f"| {100 * f1(few >= best, few_truth)[1]:5.1f}",
            flush=True,
        )
    multi = MultiLabelClassifier(classifier).fit()
    scores = multi.scores(vectors.astype(np.float32))
    odds = log_odds(np.log(scores))
    rows = {
        f"at the default {DEFAULT_THRESHOLD}": f1(scores >= DEFAULT_THRESHOLD, truth),
        "one threshold from half of the images": one_threshold(scores, truth),
        "calibrated on 50": calibrated(odds, truth, 50),
        "calibrated on 200": calibrated(odds, truth, 200),
        "calibrated on half": calibrated(odds, truth, len(truth)),
    }
    for name, (macro, micro) in rows.items():
        print(f"{name:<46} F1 macro {100 * macro:5.1f} micro {100 * micro:5.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["captions", "collages"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--names", type=Path)
    parser.add_argument("--singles", action="store_true")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--vectors", type=Path, help="keep the images' vectors in this .npy")
    arguments = parser.parse_args()
    if arguments.kind == "captions":
        images, labels, truth = captioned(arguments.data)
    else:
        names = {}
        if arguments.names:
            with arguments.names.open(newline="") as file:
                names = {row["folder"]: row["label"] for row in csv.DictReader(file)}
        least, most = (1, 1) if arguments.singles else (2, 4)
        images, labels, truth = collages(arguments.data, names, least, min(most, 4))
    classifier = ZeroShotClassifier(
        labels, model=arguments.model, precision=arguments.precision
    ).fit()
    if arguments.vectors and arguments.vectors.exists():
        vectors = np.load(arguments.vectors)
    else:
        vectors = classifier.vectors(list(images) if isinstance(images, list) else images)
        if arguments.vectors:
            np.save(arguments.vectors, vectors)
    report(classifier, vectors, truth)
