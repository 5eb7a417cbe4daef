"""Ways to score several labels per image, and what a calibration adds: research/multi-label.md.

    python research/multi_label.py SET... [--measure SET]... [--vectors FOLDER]

A SET is one of

    captions:DATA            images in DATA/images with captions in DATA/captions.txt: a label is
                             right where at least two of an image's captions have one of its words,
                             wrong where none has, else not counted
    collages:DATA[:NAMES]    two to four images of different classes of DATA, a folder per class, as
                             one; NAMES is a csv of `folder,label`
    singles:DATA[:NAMES]     images of DATA as they are
    few7:DATA[:NAMES]        120 collages of one to four of 7 (or of another number) of its classes

What is drawn at random is drawn with a fixed seed. Where there are several sets, the last table
shows each way with one threshold for all of them, and what it gives on those of --measure.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from sklearn.metrics import average_precision_score, f1_score

from clipcls import MultiLabelClassifier, ZeroShotClassifier
from clipcls.calibration.multilabel import DEFAULT_THRESHOLD, choose_thresholds, fit_probabilities
from clipcls.classification.multilabel import background_texts, log_shares
from clipcls.data.dataset import read_dataset
from clipcls.embeddings.embed import embed_texts
from clipcls.models.backend import Backend
from clipcls.numerics import log_odds, logistic

SPLITS, COLLAGES, SIDE = 10, 1000, 320
FEW = 120  # collages of few classes
GENERIC = ("a photo.", "an image.", "a photo of an object.", "a photo of a scene.", "a texture.")
TRIED = (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3)

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
Pairs = tuple[np.ndarray, np.ndarray]


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
    root: Path, names: dict[str, str], least: int, most: int, few: int = 0
) -> tuple[Iterator[Image.Image], list[str], np.ndarray]:
    """Collages of `least` to `most` images of different classes, labels, and int (n, labels).

    Of `few` classes at random, where that is not 0.
    """
    data = read_dataset(root)
    images: dict[str, list[str]] = {}
    for path, (folder,) in zip(data.paths, data.labels, strict=True):
        if not names or folder in names:
            images.setdefault(folder, []).append(path)
    many = FEW if few else COLLAGES
    rng = np.random.default_rng([0, few] if few else 0)
    if few:
        folders = list(images)
        images = {folders[k]: images[folders[k]] for k in rng.permutation(len(folders))[:few]}
    labels = [names.get(folder, folder.replace("_", " ")) for folder in images]
    truth, chosen = np.zeros((many, len(labels)), int), []
    for number in range(many):
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


def read(name: str) -> tuple[Iterable[str | Image.Image], list[str], np.ndarray]:
    """The images of a SET, its labels, and int (n, labels)."""
    kind, data, *rest = name.split(":")
    if kind == "captions":
        return captioned(Path(data))
    names = {}
    if rest:
        with open(rest[0], newline="") as file:
            names = {row["folder"]: row["label"] for row in csv.DictReader(file)}
    if kind.startswith("few"):
        return collages(Path(data), names, 1, 4, int(kind[3:]))
    least, most = {"collages": (2, 4), "singles": (1, 1)}[kind]
    return collages(Path(data), names, least, most)


# -- ways to score --------------------------------------------------------------------------------


def ways(classifier: ZeroShotClassifier) -> dict[str, Score]:
    """Name -> scores, (n, labels), of images' vectors (n, dim) for labels' vectors and names."""
    encoder, cache = classifier.encoder_, classifier.cache_
    scale = encoder.logit_scale
    generic = embed_texts(encoder, list(GENERIC), cache).astype(float)
    vocabulary = embed_texts(encoder, background_texts(), cache).astype(float)
    without = embed_texts(
        encoder, [f"a photo without {name}." for name in classifier.classes_], cache
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


def pairs(scores: np.ndarray, truth: np.ndarray) -> Pairs:
    """Scores and truth of the pairs of an image and a label that are known."""
    return scores[truth >= 0], truth[truth >= 0]


def f1_curve(scores: np.ndarray, truth: np.ndarray) -> Pairs:
    """Falling scores, and the micro F1 of giving what is at least as high."""
    order = np.argsort(-scores)
    hits = np.cumsum(truth[order])
    return scores[order], 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])


def f1_at(threshold: float, scores: np.ndarray, truth: np.ndarray) -> float:
    """The micro F1 of giving what is at least as high."""
    given = scores >= threshold
    return 2 * (given & (truth == 1)).sum() / (given.sum() + truth.sum())


def few_labels(
    score: Score, vectors: np.ndarray, weights: np.ndarray, truth: np.ndarray, count: int
) -> Pairs:
    """The pairs where `count` labels at random are asked for, ten times."""
    found = []
    for seed in range(10):
        some = np.random.default_rng(seed).permutation(len(weights))[:count]
        found.append(pairs(score(vectors, weights[some]), truth[:, some]))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def at_thresholds(
    vectors: np.ndarray, weights: np.ndarray, names: np.ndarray, truth: np.ndarray, count: int
) -> np.ndarray:
    """F1, macro and micro, at each of `TRIED`, (n, 2); of `count` labels at random, twice."""
    runs = []
    for seed in range(2 if count < len(weights) else 1):
        some = np.arange(len(weights))
        if count < len(weights):
            some = np.random.default_rng(seed).permutation(len(weights))[:count]
        scores = np.exp(log_shares(vectors @ weights[some].T, vectors @ names.T))
        runs.append([f1(scores >= threshold, truth[:, some]) for threshold in TRIED])
    found: np.ndarray = np.mean(runs, axis=0)
    return found


def calibrated(odds: np.ndarray, truth: np.ndarray, images: int) -> tuple[float, float]:
    """F1 on one half with what was fitted on (some images of) the other; means over halves."""
    found = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(truth))
        half = order[: len(order) // 2][:images]
        rest = order[len(order) // 2 :]
        known = truth[half] >= 0
        # What is not known is as good as left out where it is certainly no answer.
        fitted = np.where(known, odds[half], -700)
        slope, offsets = fit_probabilities(fitted, truth[half] == 1)
        thresholds = choose_thresholds(logistic(slope * fitted + offsets))
        found.append(f1(logistic(slope * odds[rest] + offsets) >= thresholds, truth[rest]))
    macro, micro = np.mean(found, axis=0)
    return float(macro), float(micro)


def one_threshold(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """F1 on one half with the single best threshold of the other; means over halves."""

    def fit(half: np.ndarray) -> float:
        falling, values = f1_curve(*pairs(scores[half], truth[half]))
        return falling[values.argmax()]

    return over_halves(scores, truth, fit)


def own_thresholds(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """F1 on one half with each label's best threshold on the other; means over halves."""

    def fit(half: np.ndarray) -> np.ndarray:
        found = []
        for s, t in zip(scores[half].T, truth[half].T, strict=True):
            falling, values = f1_curve(*pairs(s, t))
            found.append(falling[values.argmax()] if (t == 1).any() else np.inf)
        return np.array(found)

    return over_halves(scores, truth, fit)


def over_halves(
    scores: np.ndarray, truth: np.ndarray, fit: Callable[[np.ndarray], float | np.ndarray]
) -> tuple[float, float]:
    """F1, macro and micro, on one half with thresholds fitted on the other, over ten halves."""
    found = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(truth))
        half, rest = order[: len(order) // 2], order[len(order) // 2 :]
        found.append(f1(scores[rest] >= fit(half), truth[rest]))
    macro, micro = np.mean(found, axis=0)
    return float(macro), float(micro)


def report(
    name: str, classifier: ZeroShotClassifier, vectors: np.ndarray, truth: np.ndarray
) -> dict[str, list[Pairs]]:
    """Prints the tables of one set; name of a way -> pairs where all, 20 and 5 labels are asked."""
    weights = classifier.weights_.astype(float)
    vectors = vectors.astype(float)
    print(f"\n{name}: {len(truth)} images, {len(weights)} labels", end=", ")
    print(f"{(truth == 1).sum() / len(truth):.2f} an image")
    print(f"{'':<46} mAP macro, micro | best F1 of one threshold for all, 20, 5 labels")
    found = {}
    for way, score in ways(classifier).items():
        scores = score(vectors, weights)
        found[way] = [pairs(scores, truth)]
        found[way] += [few_labels(score, vectors, weights, truth, count) for count in (20, 5)]
        best = [f1_curve(*p)[1].max() for p in found[way]]
        print(
            f"{way:<46}" + "".join(f"{100 * x:6.1f}" for x in mean_ap(scores, truth)),
            "|" + "".join(f"{100 * x:6.1f}" for x in best),
            flush=True,
        )
    multi = MultiLabelClassifier(classifier).fit()
    vocabulary = multi.background_.astype(float)
    print(f"{'F1 macro, micro at':<30}", *(f"{t:11g}" for t in TRIED))
    for count in (len(weights), 20, 5):
        if count <= len(weights) and (count == len(weights) or len(weights) > 20):
            row = at_thresholds(vectors, weights, vocabulary, truth, count)
            print(f"{count:>4} labels{'':<20}", *(f"{100 * a:6.1f}{100 * b:5.1f}" for a, b in row))
    scores = multi.scores(vectors.astype(np.float32))
    odds = log_odds(np.log(scores))
    rows = {
        f"at the default {DEFAULT_THRESHOLD}": f1(scores >= DEFAULT_THRESHOLD, truth),
        "one threshold from half of the images": one_threshold(scores, truth),
        "a threshold a label from half of the images": own_thresholds(scores, truth),
        "calibrated on 50": calibrated(odds, truth, 50),
        "calibrated on 200": calibrated(odds, truth, 200),
        "calibrated on half": calibrated(odds, truth, len(truth)),
    }
    for row, (macro, micro) in rows.items():
        print(f"{row:<46} F1 macro {100 * macro:5.1f} micro {100 * micro:5.1f}", flush=True)
    return found


def together(
    sets: Sequence[dict[str, list[Pairs]]], measured: Sequence[dict[str, list[Pairs]]]
) -> None:
    """Each way with one threshold for all sets, and with that which is best for all others."""
    print(f"\n{'':<46} F1 at one threshold for all; at that of the others: mean; measured")
    for way in sets[0]:
        every = [one for found in sets for one in found[way]]
        tried = np.quantile(np.concatenate([s for s, _ in every]), np.linspace(0.8, 0.9995, 300))
        rows = []
        for scores, truth in every:
            falling, values = f1_curve(scores, truth)
            count = np.searchsorted(-falling, -tried, side="right")
            rows.append(np.append(0, values)[count])
        table = np.array(rows)
        others = [
            row[np.delete(table, k, axis=0).mean(axis=0).argmax()] for k, row in enumerate(table)
        ]
        best = table.mean(axis=0).argmax()
        print(
            f"{way:<46} {100 * table[:, best].mean():5.1f} (at {tried[best]:.3f}); "
            f"{100 * np.mean(others):5.1f};",
            *(f"{100 * f1_at(tried[best], *found[way][0]):5.1f}" for found in measured),
            flush=True,
        )


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--vectors", type=Path, help="keep the images' vectors in this folder")
    parser.add_argument("--measure", action="append", default=[], metavar="SET")
    arguments = parser.parse_args()
    found = []
    for name in [*arguments.sets, *arguments.measure]:
        images, labels, truth = read(name)
        classifier = ZeroShotClassifier(
            labels, model=arguments.model, backend=Backend(precision=arguments.precision)
        ).fit()
        kept = arguments.vectors and arguments.vectors / f"{re.sub(r'[^a-z0-9]+', '-', name)}.npy"
        if kept and kept.exists():
            vectors = np.load(kept)
        else:
            vectors = np.stack([item.vector for item in classifier.embed(images)])
            if kept:
                np.save(kept, vectors)
        found.append(report(name, classifier, vectors, truth))
    if len(arguments.sets) > 1:
        together(found[: len(arguments.sets)], found[len(arguments.sets) :])


if __name__ == "__main__":
    main()
