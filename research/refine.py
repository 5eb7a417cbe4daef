"""Measures `classify --refine` by the kind of batch, next to other methods.

    python research/refine.py NAME.npz...                    gains by kind of batch and by size
    python research/refine.py --whole NAME.npz...            each file as one batch
    python research/refine.py --against OLD.py NAME.npz...   with another version of transductive.py
    python research/refine.py --cost 100000 --classes 100    time and memory, random vectors
    python research/refine.py --make NAME.npz --labels labels.txt DATA [--model mini]

A file has the arrays vectors (n, dim), labels (n,), text (n_classes, dim) and scale; --make writes
one from labelled images, DATA as for `clipcls evaluate`. docs/evidence/refine.md has the results.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, diags
from scipy.special import log_softmax, softmax

from clipcls.classification import transductive
from clipcls.embeddings.index import neighbours

KINDS = ("all", "half", "two", "60 %", "75 %", "90 %")  # of the labels occur, or one has that share
SIZES = (20, 40, 100, 300, 1000)
LABELS = (2, 3, 5, 7, 10, 0)  # to choose from, at random; 0: all of the set


class Batch:
    """Vectors, the classes' words, and what is right."""

    def __init__(self, vectors, text, scale, labels) -> None:
        self.vectors, self.text, self.labels = vectors, text.astype(np.float64), labels
        self.scale = float(scale)

    @classmethod
    def read(cls, path: str) -> Batch:
        """One as `--make` writes it."""
        data = np.load(path)
        return cls(data["vectors"], data["text"], data["scale"], data["labels"])

    def __getitem__(self, rows) -> Batch:
        return Batch(self.vectors[rows], self.text, self.scale, self.labels[rows])

    def logits(self, vectors=None):
        """The words' logits, float64 (n, n_classes)."""
        vectors = self.vectors if vectors is None else vectors
        return self.scale * (vectors.astype(np.float64) @ self.text.T)

    def accuracy(self, scores) -> float:
        """In per cent, of scores (n, n_classes)."""
        return 100 * float((scores.argmax(axis=1) == self.labels).mean())


def draw(batch: Batch, kind: str, size: int, n_labels: int, dice) -> Batch | None:
    """A batch of at most `size` images, of a set's labels some to choose from; None if too few."""
    names = dice.permutation(len(batch.text))[:n_labels]
    numbers = np.full(len(batch.text), -1)
    numbers[names] = np.arange(n_labels)
    labels = numbers[batch.labels]
    rows = dice.permutation(np.flatnonzero(labels >= 0))
    if kind.endswith("%"):
        share, first = float(kind[:-1]) / 100, labels[rows] == dice.integers(n_labels)
        total = min(size, int(first.sum() / share), int((~first).sum() / (1 - share)))
        many = round(total * share)
        rows = dice.permutation(np.r_[rows[first][:many], rows[~first][: total - many]])
    else:
        occurring = {"all": n_labels, "half": max(2, n_labels // 2), "two": 2}[kind]
        if kind != "all" and occurring >= n_labels:
            return None
        rows = rows[labels[rows] < occurring][:size]
    if len(rows) < 0.6 * size:
        return None
    return Batch(batch.vectors[rows], batch.text[names], batch.scale, labels[rows])


def draws(files: list[str], times: int) -> Iterator[tuple[tuple, Batch]]:
    """((set, kind, size, labels to choose from, number of the draw), batch)."""
    for file in files:
        batch, name = Batch.read(file), Path(file).stem
        n_classes = len(batch.text)
        for n_labels in sorted({min(n or n_classes, n_classes) for n in LABELS}):
            for kind in KINDS:
                for size in SIZES:
                    for number in range(times):
                        key = (name, kind, size, n_labels, number)
                        seed = zlib.crc32(repr(key).encode())
                        found = draw(batch, kind, size, n_labels, np.random.default_rng(seed))
                        if found:
                            yield key, found


def alone(batch: Batch):
    """Each image on its own, as without --refine."""
    return batch.logits()


def normalised(batch: Batch):
    """Distribution normalisation (2302.11084): of its two means only the images' changes ranks."""
    logits = batch.logits()
    return logits - 0.25 * logits.mean(axis=0)


def graph(batch: Batch, k: int):
    """Similarities of the k nearest others, sparse (n, n)."""
    similarities, rows = neighbours(batch.vectors, k)
    n, k = rows.shape
    starts = np.arange(0, n * k + 1, k)
    found = csr_matrix((np.maximum(similarities, 0).ravel(), rows.ravel(), starts), (n, n))
    return found.astype(np.float64)


def propagated(batch: Batch):
    """Label propagation from the words' scores (Zhou et al. 2004, as in ZLaP, 2404.04072)."""
    scores = softmax(batch.logits(), axis=1)
    links = graph(batch, 8)
    links = links + links.T
    sides = diags(np.asarray(links.sum(axis=1)).ravel() ** -0.5)
    links, found = sides @ links @ sides, scores
    for _ in range(30):
        found = 0.8 * (links @ found) + 0.2 * scores
    return found


def transclip(batch: Batch):
    """TransCLIP (2406.01837), its zero-shot form with its own settings."""
    log_words = log_softmax(batch.logits(), axis=1)
    found = np.exp(log_words)
    vectors = batch.vectors.astype(np.float64)
    n, dim = vectors.shape
    best = np.argsort(-found, axis=0, kind="stable")[:8]
    means = np.stack([found[rows, k] @ vectors[rows] for k, rows in enumerate(best.T)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    variances = np.full(dim, 1 / dim)
    links = graph(batch, 3)
    links = links + links.T
    for _ in range(11):
        likelihood = (vectors / variances) @ means.T - 0.5 * (means**2 / variances).sum(axis=1)
        for _ in range(5):
            neighbourly = 50 / 6 * (links @ found)
            found = softmax(log_words + (likelihood + neighbourly) / 50, axis=1)
        sums, counts = found.T @ vectors, found.sum(axis=0)
        means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        variances = (vectors**2).sum(axis=0) - 2 * (sums * means).sum(axis=0) + counts @ means**2
        variances = np.maximum(variances / n, 1e-9)
    return found


def stata(batch: Batch):
    """StatA (2501.03729) with its own settings: means and variances anchored at the texts."""
    log_words, vectors = log_softmax(batch.logits(), axis=1), batch.vectors.astype(np.float64)
    found, anchors, squares = np.exp(log_words), batch.text, vectors**2
    fit = squares.sum(axis=0) - 2 * ((found.T @ vectors) * anchors).sum(axis=0)
    spread = np.maximum(fit + found.sum(axis=0) @ anchors**2, 1e-9) / len(vectors)
    means, variances = anchors, np.tile(spread, (len(anchors), 1))
    links = graph(batch, 3)
    links = links + links.T
    for _ in range(11):
        likelihood = vectors @ (means / variances).T - 0.5 * squares @ (1 / variances).T
        likelihood -= 0.5 * (means**2 / variances + np.log(variances)).sum(axis=1)
        for _ in range(5):
            found = softmax(log_words + likelihood / 50 + links @ found / 6, axis=1)
        counts = np.bincount(found.argmax(axis=1), minlength=len(anchors))
        share = (counts / (1 + counts))[:, np.newaxis]
        sums, weights = found.T @ vectors, np.maximum(found.sum(axis=0), 1e-12)[:, np.newaxis]
        own = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        means = share * own + (1 - share) * anchors
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        around = (found.T @ squares - 2 * sums * means) / weights + means**2
        variances = share * around + (1 - share) * (spread + (anchors - means) ** 2)
        variances = np.maximum(variances, 1e-9)
    return found


def refined(batch: Batch, module=transductive):
    """`--refine`, or another version of it."""
    if hasattr(module, "objection") and module.objection(
        batch.logits().argmax(axis=1), len(batch.text)
    ):
        return batch.logits()
    found = module.refine(batch.vectors, batch.logits, len(batch.text))
    return found.matrix(len(batch.text)).toarray()


WAYS = {
    "refine": refined,
    "DN": normalised,
    "label propagation": propagated,
    "TransCLIP": transclip,
    "StatA": stata,
}


def load(path: str):
    """The module in a file."""
    sys.path.insert(0, str(Path(path).parent))
    return importlib.import_module(Path(path).stem)


def compare(files: list[str], ways: dict, times: int) -> None:
    """Prints gain ± standard error, worst gain and share of losses above 3 points, by kind."""
    keys, before, gains = [], [], []
    for key, batch in draws(files, times):
        base = batch.accuracy(alone(batch))
        keys.append((*key, len(batch.labels)))
        before.append(base)
        gains.append([batch.accuracy(way(batch)) - base for way in ways.values()])
    table, before = np.array(gains), np.array(before)
    kinds, sizes = (np.array([key[at] for key in keys]) for at in (1, 2))
    few = np.array([key[3] for key in keys]) <= 10
    large = sizes >= 100
    groups = {f"{kind}, {SIZES[2]} or more images": (kinds == kind) & large for kind in KINDS}
    groups |= {f"{size} images": sizes == size for size in SIZES}
    groups |= {"up to 10 labels": few & large, "more labels": ~few & large}
    groups |= {"whole sets of 300 or more": (kinds == "all") & (sizes >= 300)}
    groups |= {"100 or more images": large, "everything": np.ones(len(keys), bool)}
    print("| batches | number | alone |", " | ".join(ways), "|")
    print("|" + "---|" * (3 + len(ways)))
    for name, rows in groups.items():
        if not rows.any():
            continue
        part = table[rows]
        errors = part.std(axis=0) / np.sqrt(len(part))
        lost = 100 * (part < -3.001).mean(axis=0)
        cells = zip(part.mean(axis=0), errors, part.min(axis=0), lost, strict=True)
        texts = [f"{m:+.1f} ± {e:.1f}, worst {w:+.0f}, {s:.0f} %" for m, e, w, s in cells]
        print(f"| {name} | {len(part)} | {before[rows].mean():.1f} |", " | ".join(texts), "|")


def cost(images: int, classes: int, dim: int) -> None:
    """Prints time and memory for made-up clusters."""
    dice = np.random.default_rng(0)
    text = dice.standard_normal((classes, dim)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    labels = dice.integers(0, classes, images)
    vectors = np.empty((images, dim), np.float32)
    for start in range(0, images, 10_000):
        rows = slice(start, min(start + 10_000, images))
        vectors[rows] = dice.standard_normal((rows.stop - start, dim)) / 16 + text[labels[rows]]
        vectors[rows] /= np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    batch = Batch(vectors, text, 20.0, labels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.process_time()
    transductive.refine(batch.vectors, batch.logits, classes)
    taken = time.process_time() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{images:,} images x {dim}, {classes:,} classes: {taken:.1f} CPU s, peak memory "
        f"{after:,.0f} MiB (vectors ready: {before:,.0f})"
    )


def make(path: str, labels: str, data: str, model: str) -> None:
    """Writes a file of vectors."""
    from clipcls import ZeroShotClassifier
    from clipcls.classification.labelled import embed_known

    classifier = ZeroShotClassifier(labels, model).fit()
    known = embed_known(classifier, data)
    np.savez(
        path,
        vectors=known.vectors,
        labels=np.array([right[0] for right in known.truth]),
        text=classifier.weights_,
        scale=classifier.encoder_.logit_scale,
    )


def main() -> None:
    """Does what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--against")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated")
    parser.add_argument("--cost", type=int)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--make")
    parser.add_argument("--labels")
    parser.add_argument("--model", default="mini")
    given = parser.parse_args()
    if given.cost:
        cost(given.cost, given.classes, given.dim)
        return
    if given.make:
        make(given.make, given.labels, given.files[0], given.model)
        return
    ways = {name: WAYS[name] for name in given.ways.split(",")}
    if given.against:
        other = load(given.against)
        ways["against"] = lambda batch: refined(batch, other)
    if not given.whole:
        compare(given.files, ways, given.draws)
        return
    print("| set | images | labels | alone |", " | ".join(ways), "|")
    print("|" + "---|" * (4 + len(ways)))
    for file in given.files:
        batch = Batch.read(file)
        found = [batch.accuracy(way(batch)) for way in (alone, *ways.values())]
        counts = f"{len(batch.labels):,} | {len(batch.text)}"
        print(f"| {Path(file).stem} | {counts} |", " | ".join(f"{x:.1f}" for x in found), "|")


if __name__ == "__main__":
    main()
