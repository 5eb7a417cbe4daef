"""How many labels by hand reach which accuracy, by the order of `clipcls review` and by others.

    python research/review.py NAME.npz ... [--seeds 3] [--labels 200]

Each file has the arrays vectors (n, dim), labels (n,), text (n_classes, dim) and scale, as
research/few_shot.py takes them. For each seed the images are parted: two thirds, 1,000 at most,
are reviewed, the others, 600 at most, are asked about. 20 images at a time get their right label,
`clipcls fit` (LinearProbe) learns from all so far, and the order of the rest is made anew.

Printed are, as means over the seeds, the accuracy on the others and, of the reviewed images, the
share that is right in the end: those labelled, and those that the classifier gets right. The last
columns tell with how many labels an order is as good as a random one with all.
research/review.md has results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from clipcls import LinearProbe
from clipcls.web.review.active_learning import acquisition_order

BATCH = 20
ORDERS = ("random", "margin", "review")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Scores, (n, n_classes)."""
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def margins_of(logits: np.ndarray) -> np.ndarray:
    """Best score less the second, (n,)."""
    best = np.partition(softmax(logits), -2, axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]


def curve(data: dict, order: str, seed: int, labels: int) -> np.ndarray:
    """Accuracy on the others and share right of the reviewed, (1 + labels / BATCH, 2)."""
    X, y, text, scale = data["vectors"], data["labels"], data["text"], float(data["scale"])
    present = np.unique(y)
    text, y = text[present], np.searchsorted(present, y)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(y))
    n = min(1000, 2 * len(y) // 3)
    pool, others = rows[:n], rows[n : n + 600]
    logits, of_others = scale * X[pool] @ text.T, scale * X[others] @ text.T
    done = np.zeros(n, bool)
    found = []
    while True:
        right = (logits.argmax(axis=1) == y[pool]) | done
        found.append(((of_others.argmax(axis=1) == y[others]).mean(), right.mean()))
        if done.sum() >= min(labels, n):
            return np.array(found)
        if order == "random":
            asked = rng.permutation(np.flatnonzero(~done))
        else:
            vectors = X[pool] if order == "review" else None
            asked = acquisition_order(margins_of(logits), vectors, done)
        done[asked[:BATCH]] = True
        known = pool[done]
        if len(np.unique(y[known])) > 1:
            probe = LinearProbe(text, np.arange(len(text)), logit_scale=scale)
            probe.fit(X[known], y[known])
            logits, of_others = (
                X[part] @ probe.coef_.T + probe.intercept_ for part in (pool, others)
            )


def reached(curve: np.ndarray, target: float) -> str:
    """With how many labels a mean curve first is at the target."""
    at = np.flatnonzero(curve >= target)
    return f"{at[0] * BATCH}" if len(at) else "more"


def main() -> None:
    """Prints a Markdown row a file, as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--orders", default=",".join(ORDERS))
    args = parser.parse_args()
    orders = args.orders.split(",")
    half, full = args.labels // 2 // BATCH, args.labels // BATCH
    for file in args.files:
        data = dict(np.load(file))
        means = {}
        for order in orders:
            runs = [curve(data, order, seed, args.labels) for seed in range(args.seeds)]
            means[order] = np.mean(runs, axis=0)
            spread = np.std([run[-1] for run in runs], axis=0)
            print(
                f"  {file.stem} {order}: others {np.round(100 * means[order][:, 0], 1).tolist()} "
                f"right {np.round(100 * means[order][:, 1], 1).tolist()} "
                f"sd at the end {np.round(100 * spread, 1).tolist()}",
                flush=True,
            )
        cells = [file.stem]
        for column in (0, 1):
            cells.append(f"{100 * means[orders[0]][0, column]:.1f}")
            for order in orders:
                values = means[order][:, column]
                cells.append(f"{100 * values[half]:.1f} / {100 * values[full]:.1f}")
            target = means[orders[0]][full, column]
            cells += [reached(means[order][:, column], target) for order in orders[1:]]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
