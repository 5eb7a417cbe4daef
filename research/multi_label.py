"""Which rule gives several labels per image, and what a calibration adds.

    python research/multi_label.py SET... [--model MODEL] [--vectors FOLDER]

A SET is one of

    captions:DATA   images in DATA/images with captions in DATA/captions.txt: a label is right where
                    at least two of an image's captions have one of its words, wrong where none has,
                    else not counted
    tiles7:DATA     300 tiles of one to four images of 7 (or of another number) of DATA's classes, a
                    folder per class; images of its other classes show none of the labels
    FILE.npz        `vectors` (n, dim), `text` (labels, dim), and `truth` (n, labels): 1 right,
                    0 wrong, -1 not counted

Prints for each rule micro and macro F1, precision, recall and the share of images without a label,
then micro and macro F1 with a calibration, its standard error over splits in brackets.
docs/evidence/several-labels.md has the figures.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from clipcls import MultiLabelClassifier, ZeroShotClassifier
from clipcls.calibration.multilabel import choose_thresholds, fit_probabilities
from clipcls.classification.multilabel import score_odds
from clipcls.data.dataset import read_dataset
from clipcls.metrics.multilabel import f1_scores
from clipcls.numerics import logistic

SPLITS, TILES, SIDE = 5, 300, 224

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


def read_captions(root: Path) -> tuple[list[Path], list[str], np.ndarray]:
    """Images, labels, and int (n, labels): 1 right, 0 wrong, -1 not counted."""
    captions: dict[str, list[str]] = {}
    with (root / "captions.txt").open(newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["image"], []).append(row["caption"].lower())
    columns = []
    for words in WORDS.values():
        pattern = re.compile(rf"\b({'|'.join(words.split()).replace('_', ' ')})\b")
        hits = np.array([sum(bool(pattern.search(c)) for c in each) for each in captions.values()])
        columns.append(np.where(hits >= 2, 1, np.where(hits == 1, -1, 0)))
    return [root / "images" / name for name in captions], list(WORDS), np.stack(columns, 1)


def make_tiles(root: Path, count: int) -> tuple[list[Image.Image], list[str], np.ndarray]:
    """Tiles of `count` classes, then as many single images of the other classes."""
    data = read_dataset(root)
    pools: dict[str, list[str]] = {}
    for path, (folder,) in zip(data.paths, data.labels, strict=True):
        pools.setdefault(folder, []).append(path)
    rng = np.random.default_rng(count)
    labels, others = np.split(rng.permutation(list(pools)), [count])
    truth, images = np.zeros((TILES, len(labels)), int), []

    def draw(label: str) -> Image.Image:
        with Image.open(rng.choice(pools[label])) as image:
            return image.convert("RGB")

    for number in range(TILES):
        shown = rng.choice(len(labels), 1 + number % 4, replace=False)
        truth[number, shown] = 1
        images.append(tile([draw(labels[k]) for k in shown]))
    if len(others):
        images += [draw(rng.choice(others)) for _ in range(TILES)]
        truth = np.append(truth, np.zeros_like(truth), axis=0)
    return images, [label.replace("_", " ") for label in labels], truth


def tile(images: list[Image.Image]) -> Image.Image:
    """Two side by side, three as two above one, four in a square; one as it is."""
    if len(images) == 1:
        return images[0]
    half = SIDE // 2
    height = SIDE if len(images) == 2 else half
    boxes = [(0, 0, half, height), (half, 0, half, height)]
    boxes += [(0, half, SIDE if len(images) == 3 else half, half), (half, half, half, half)]
    whole = Image.new("RGB", (SIDE, SIDE))
    for image, (x, y, *size) in zip(images, boxes, strict=False):
        whole.paste(ImageOps.fit(image, tuple(size)), (x, y))
    return whole


def give_best(similarities: np.ndarray, count: int) -> np.ndarray:
    """The `count` most similar labels of each image."""
    return similarities >= np.sort(similarities, axis=1)[:, [-min(count, similarities.shape[1])]]


def share_with_vocabulary(similarities: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Softmax of standardised similarities over labels and vocabulary, counted as 100 names."""
    mean, unit = background.mean(1, keepdims=True), 1.5 / background.std(1, keepdims=True)
    labels, names = np.exp(unit * (similarities - mean)), np.exp(unit * (background - mean))
    return labels / (labels.sum(1, keepdims=True) + 100 * names.mean(1, keepdims=True))


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The threshold of the best micro F1."""
    falling, right = scores[truth >= 0], truth[truth >= 0]
    order = np.argsort(-falling)
    hits = np.cumsum(right[order])
    return falling[order][np.argmax(2 * hits / (np.arange(1, len(hits) + 1) + hits[-1]))]


def f1(given: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Micro and macro; pairs that are not counted are neither given nor right."""
    macro, micro = f1_scores(given & (truth >= 0), truth == 1)
    return micro, macro


def report(name: str, similarities: np.ndarray, background: np.ndarray, truth: np.ndarray) -> None:
    """Prints the tables of one set."""
    shows, none = (truth == 1).any(axis=1), (truth == 0).all(axis=1)
    odds = score_odds(similarities, background)
    rules = {
        "best": give_best(similarities, 1),
        "two best": give_best(similarities, 2),
        "softmax with vocabulary, 0.08": share_with_vocabulary(similarities, background) >= 0.08,
        "in use": odds >= 0,
        "in use, best threshold": odds >= best_threshold(odds[shows], truth[shows]),
        "cosine, best threshold": similarities >= best_threshold(similarities[shows], truth[shows]),
    }
    print(f"\n{name}: {truth.shape[1]} labels, {shows.sum()} images with one, {none.sum()} without")
    print(f"{'':32} micro macro prec. recall none | of the others with a label")
    for rule, given in rules.items():
        right, some = truth[shows] == 1, given[shows] & (truth[shows] >= 0)
        hits = (some & right).sum()
        figures = (*f1(given[shows], truth[shows]), hits / some.sum(), hits / right.sum())
        print(
            f"{rule:32}",
            *(f"{100 * x:5.1f}" for x in (*figures, (~some.any(axis=1)).mean())),
            f"| {100 * given[none].any(axis=1).mean():5.1f}" if none.any() else "",
        )
    for images in (30, 100, 300):
        if images <= shows.sum() / 2:
            found = [calibrate_split(odds[shows], truth[shows], images, s) for s in range(SPLITS)]
            error = np.std(found, axis=0, ddof=1) / SPLITS**0.5
            cells = zip(np.mean(found, axis=0), error, strict=True)
            row = (f"{100 * mean:5.1f} ({100 * e:.1f})" for mean, e in cells)
            print(f"{f'calibrated on {images}':32}", *row)


def calibrate_split(odds: np.ndarray, truth: np.ndarray, images: int, seed: int) -> tuple:
    """F1 of the other images with what was fitted to `images` of them."""
    order = np.random.default_rng(seed).permutation(len(truth))
    known, rest = order[:images], order[images:]
    slope, offsets = fit_probabilities(odds[known], truth[known] == 1)
    thresholds = choose_thresholds(logistic(slope * odds[known] + offsets))
    return f1(logistic(slope * odds[rest] + offsets) >= thresholds, truth[rest])


def read(name: str, model: str) -> dict[str, np.ndarray]:
    """`vectors`, `text` and `truth` of a SET."""
    if name.endswith(".npz"):
        return dict(np.load(name))
    kind, _, data = name.partition(":")
    if kind == "captions":
        images, labels, truth = read_captions(Path(data))
    else:
        images, labels, truth = make_tiles(Path(data), int(kind.removeprefix("tiles")))
    classifier = ZeroShotClassifier(labels, model=model).fit()
    vectors = np.stack([item.vector for item in classifier.embed(images)])
    return {"vectors": vectors, "text": classifier.weights_, "truth": truth}


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--vectors", type=Path, help="keep what was embedded in this folder")
    arguments = parser.parse_args()
    any_labels = ZeroShotClassifier(["x"], model=arguments.model).fit()
    names = MultiLabelClassifier(any_labels).fit().background_
    for name in arguments.sets:
        found = read(name, arguments.model)
        if arguments.vectors and not name.endswith(".npz"):
            np.savez(arguments.vectors / f"{re.sub('[^a-z0-9]+', '-', name)}.npz", **found)
        vectors = found["vectors"].astype(float)
        report(name, vectors @ found["text"].astype(float).T, vectors @ names.T, found["truth"])


if __name__ == "__main__":
    main()
