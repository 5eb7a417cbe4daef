"""What `classify --refine` is good for: beside other ways to use a batch without labels.

    python research/refine.py NAME.npz...                  accuracy of each way, in per cent
    python research/refine.py --hard NAME.npz...           few, unbalanced and lone classes
    python research/refine.py --sizes NAME.npz...          gain by the number of images
    python research/refine.py --cost 100000 --classes 100  time and memory, random vectors
    python research/refine.py --make NAME.npz --labels labels.txt DATA [--model mini]

A file has the arrays vectors (n, dim), labels (n,), text (n_classes, dim) and scale; --make writes
one from labelled images, DATA as for `clipcls evaluate`. research/refine.md has results.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, diags
from scipy.special import log_softmax, softmax

from clipcls.classification.transductive import LEAST_IMAGES, objection, refine
from clipcls.embeddings.index import neighbours

SIZES = (3, 5, 10, 20, 40, 80, 160, 320, 640, 1280)


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


def alone(batch: Batch):
    """Each image on its own, as without --refine."""
    return batch.logits()


def prior(batch: Batch):
    """EM for the classes' shares (Saerens et al. 2002)."""
    scores = softmax(batch.logits(), axis=1)
    shares = np.full(scores.shape[1], 1 / scores.shape[1])
    for _ in range(100):
        found = scores * shares
        found /= found.sum(axis=1, keepdims=True)
        shares = found.mean(axis=0)
    return found


def normalised(batch: Batch, share: float = 0.25):
    """Distribution normalisation (2302.11084): of its two means only the images' changes ranks."""
    logits = batch.logits()
    return logits - share * logits.mean(axis=0)


def normalised_whole(batch: Batch):
    """The whole mean is taken away."""
    return normalised(batch, 1.0)


def graph(batch: Batch, k: int):
    """Similarities of the k nearest others, sparse (n, n)."""
    similarities, rows = neighbours(batch.vectors, k)
    n, k = rows.shape
    starts = np.arange(0, n * k + 1, k)
    found = csr_matrix((np.maximum(similarities, 0).ravel(), rows.ravel(), starts), (n, n))
    return found.astype(np.float64)


def propagated(batch: Batch, logits=None):
    """Label propagation from the words' scores (Zhou et al. 2004, as in ZLaP, 2404.04072)."""
    scores = softmax(batch.logits() if logits is None else logits, axis=1)
    links = graph(batch, 8)
    links = links + links.T
    sides = diags(np.asarray(links.sum(axis=1)).ravel() ** -0.5)
    links, found = sides @ links @ sides, scores
    for _ in range(30):
        found = 0.8 * (links @ found) + 0.2 * scores
    return found


def laplacian(batch: Batch, share: float = 0.5):
    """LaplacianShot (2006.15486) on logits that are normalised in part."""
    logits = normalised(batch, share)
    links = graph(batch, 8)
    links = links + links.T
    links = diags(1 / np.asarray(links.sum(axis=1)).ravel()) @ links
    found = softmax(logits, axis=1)
    for _ in range(20):
        found = softmax(logits + 3 * (links @ found), axis=1)
    return found


def transclip(batch: Batch, logits=None):
    """TransCLIP (2406.01837), its zero-shot form with its own settings."""
    logits = batch.logits() if logits is None else logits
    log_words = log_softmax(logits, axis=1)
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


def transclip_normalised(batch: Batch):
    """TransCLIP, begun with normalised logits."""
    return transclip(batch, normalised(batch, 1.0))


def together(batch: Batch):
    """`clipcls.classification.transductive.refine`, in use."""
    answers = batch.logits().argmax(axis=1)
    if len(answers) >= LEAST_IMAGES and objection(answers, len(batch.text)):
        return batch.logits()
    found = refine(batch.vectors, batch.logits, len(batch.text))
    return found.matrix(len(batch.text)).toarray()


WAYS = {
    "alone": alone,
    "prior": prior,
    "DN": normalised,
    "DN 1": normalised_whole,
    "LP": propagated,
    "Laplacian": laplacian,
    "TransCLIP": transclip,
    "DN 1 + TransCLIP": transclip_normalised,
    "--refine": together,
}


def hard(batch: Batch) -> dict[str, list[Batch]]:
    """Batches that a real folder may be like, each drawn five times."""
    n_classes = len(batch.text)
    found: dict[str, list[Batch]] = {"Dirichlet(0.3)": [], "a fifth of the labels": [], "one": []}
    for seed in range(5):
        dice = np.random.default_rng(seed)
        weights = dice.dirichlet(np.full(n_classes, 0.3))[batch.labels]
        size = min(600, len(batch.labels) // 2, int((weights > 0).sum()))
        rows = dice.choice(len(weights), size, replace=False, p=weights / weights.sum())
        found["Dirichlet(0.3)"].append(batch[rows])
        present = dice.choice(n_classes, max(2, n_classes // 5), replace=False)
        found["a fifth of the labels"].append(batch[np.isin(batch.labels, present)])
        found["one"].append(batch[batch.labels == dice.choice(np.unique(batch.labels))])
    return found


def table(head: list[str], rows: list[list[object]]) -> None:
    """Prints it as Markdown."""
    print("|", " | ".join(head), "|")
    print("|" + "---|" * len(head))
    for row in rows:
        cells = (f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row)
        print("|", " | ".join(cells), "|")


def gain(batch: Batch) -> float:
    """Points of accuracy that `--refine` brings."""
    return batch.accuracy(together(batch)) - batch.accuracy(alone(batch))


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
    started = time.perf_counter()
    refine(batch.vectors, batch.logits, classes)
    taken = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{images:,} images x {dim}, {classes:,} classes: {taken:.1f} s, peak memory "
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
    parser.add_argument("--hard", action="store_true")
    parser.add_argument("--sizes", action="store_true")
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
    rows: list[list[object]] = []
    for file in given.files:
        batch, name = Batch.read(file), Path(file).stem
        if given.sizes:
            row: list[object] = [name]
            for size in SIZES:
                draws = range(max(3, min(20, 400 // size)))
                orders = (np.random.default_rng(d).permutation(len(batch.labels)) for d in draws)
                enough = size <= len(batch.labels)
                row.append(
                    float(np.mean([gain(batch[o[:size]]) for o in orders])) if enough else ""
                )
            rows.append(row)
        elif given.hard:
            for kind, batches in hard(batch).items():
                many = [b for b in batches if len(b.labels) >= 2]
                means = [np.mean([b.accuracy(way(b)) for b in many]) for way in WAYS.values()]
                rows.append([name, kind, *map(float, means)])
        else:
            found = [batch.accuracy(way(batch)) for way in WAYS.values()]
            rows.append([name, f"{len(batch.labels):,}", len(batch.text), *found])
    if given.sizes:
        table(["set", *map(str, SIZES)], rows)
        return
    table(
        ["set", "batch" if given.hard else "images", *([] if given.hard else ["labels"]), *WAYS],
        rows,
    )
    numbers = np.array([row[-len(WAYS) :] for row in rows], float)
    gains = numbers - numbers[:, :1]
    for name, line in (("mean", gains.mean(axis=0)), ("worst", gains.min(axis=0))):
        print(
            f"{name} gain:", *(f"{way} {value:+.1f}" for way, value in zip(WAYS, line, strict=True))
        )


if __name__ == "__main__":
    main()
