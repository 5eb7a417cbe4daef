"""What a few labels buy: `clipcls fit` beside other ways to learn from 1 to 16 images a class.

    python research/few_shot.py --labels labels.txt DATA [--model mini] [--shots 1,2,4,8,16]
    python research/few_shot.py --vectors NAME.npz ...      # vectors, labels, text, scale
    python research/few_shot.py --speed                     # 1,000 classes x 16 x 512, made up
    python research/few_shot.py --without 0.5,0.9 DATA      # labels without images
    OMP_NUM_THREADS=1 python research/few_shot.py --speed NAME.npz   # CPU seconds, run to the end

DATA is as for `clipcls evaluate`. For each number of shots and each seed that many images of each
class are drawn to learn from (half of the class at most), and the accuracy on the others is
printed, as means over the seeds. docs/evidence/learning.md has results.

No method gets a validation set. The three from papers are written after the papers, with all their
images as they are:

- Tip-Adapter without training (Zhang et al. 2022, arXiv 2207.09519), alpha 1, beta 5.5;
- CLAP (Silva-Rodriguez et al. 2024, arXiv 2312.12730): a probe begun at the words' vectors and held
  there, class by class, as strongly as the words are right about its images;
- LP++ (Huang et al. 2024, arXiv 2404.02285): vectors begun at the class means and a share of the
  words for each class, 300 steps of the sizes that the images give. The paper's 250 for the first
  share is 2.5 times CLIP's logit scale; here it is 2.5 times the model's own.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

from clipcls import LinearProbe

CS = np.logspace(-1, 3, 9)
ENOUGH = 30  # times what clipcls takes


def softmax(logits: np.ndarray) -> np.ndarray:
    """Scores, (n, n_classes)."""
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def zero_shot(X, y, text, scale, Z):
    """The words alone."""
    return Z @ text.T


def logistic(X, y, text, scale, Z, folds=3):
    """scikit-learn's, its C by cross-validation; with one image a class C is 10."""
    folds = min(folds, np.bincount(y).min())
    if folds < 2:
        model = LogisticRegression(C=10, max_iter=300)
    else:
        model = LogisticRegressionCV(Cs=CS, cv=folds, scoring="accuracy", max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X, y).decision_function(Z)


def tip_adapter(X, y, text, scale, Z):
    """Words, and the labels of near images."""
    return scale * Z @ text.T + np.exp(-5.5 * (1 - Z @ X.T)) @ np.eye(len(text))[y]


def clap(X, y, text, scale, Z):
    """Vectors held at the words, class by class."""
    n, (n_classes, dim) = len(X), text.shape
    right = softmax(scale * X @ text.T)[np.arange(n), y]
    hold = np.bincount(y, right, n_classes) / np.maximum(np.bincount(y, minlength=n_classes), 1)

    def loss(flat):
        rows = flat.reshape(n_classes, dim)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        units = rows / length
        scores = softmax(scale * X @ units.T)
        value = -np.log(scores[np.arange(n), y] + 1e-300).mean()
        value += (hold * ((rows - text) ** 2).sum(axis=1)).mean()
        scores[np.arange(n), y] -= 1
        slope = scale * scores.T @ X / n
        slope = (slope - (slope * units).sum(axis=1, keepdims=True) * units) / length
        slope += 2 * hold[:, None] * (rows - text) / n_classes
        return value, slope.ravel()

    found = minimize(loss, text.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return Z @ unit(found.x.reshape(n_classes, dim)).T


def lp_plus_plus(X, y, text, scale, Z, steps=300):
    """Vectors from the class means, and a share of the words for each class."""
    n, n_classes = len(X), len(text)
    onehot = np.eye(n_classes)[y]
    means = (onehot.T @ X) / np.maximum(onehot.sum(axis=0), 1)[:, None]
    words, rows = X @ text.T, means.copy()
    share = np.full(n_classes, 2.5 * scale * (means * text).sum(axis=1).mean())
    # One over the Lipschitz constants of the slopes (softmax's curvature is at most 1/2).
    of_rows = 2 * n / np.linalg.eigvalsh(X.T @ X)[-1]
    of_share = 2 * n / (words**2).sum(axis=0).max()
    for _ in range(steps):
        rows -= of_rows * (softmax(X @ rows.T + share * words) - onehot).T @ X / n
        away = softmax(X @ rows.T + share * words) - onehot
        share -= of_share * (away * words).sum(axis=0) / n
    return Z @ rows.T + share * (Z @ text.T)


def ours(X, y, text, scale, Z):
    """`clipcls fit`."""
    probe = LinearProbe(text, np.arange(len(text)), logit_scale=scale).fit(X, y)
    return np.log(probe.predict_proba(Z) + 1e-300)


METHODS = {
    "zero-shot": zero_shot,
    "LogisticRegressionCV": logistic,
    "Tip-Adapter": tip_adapter,
    "LP++": lp_plus_plus,
    "CLAP": clap,
    "clipcls fit": ours,
}


def draw(y: np.ndarray, shots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images to learn from and others: of each class `shots`, or half of it."""
    rng = np.random.default_rng([shots, seed])
    chosen = []
    for label in np.unique(y):
        inside = rng.permutation(np.flatnonzero(y == label))
        chosen += list(inside[: min(shots, len(inside) // 2)])
    return np.array(chosen), np.setdiff1d(np.arange(len(y)), chosen)


def measure(X, y, text, scale, shots, seeds, methods) -> dict[str, tuple[float, float]]:
    """Mean accuracy and its standard deviation over seeds, of each method."""
    found = {name: [] for name in methods}
    for seed in range(seeds):
        few, others = draw(y, shots, seed)
        present = np.unique(y[few])
        few_y = np.searchsorted(present, y[few])
        others = others[np.isin(y[others], present)]
        for name in methods:
            logits = METHODS[name](X[few], few_y, text[present], scale, X[others])
            answer = logits.argmax(1) if logits.ndim > 1 else (logits > 0).astype(int)
            found[name].append((present[answer] == y[others]).mean())
    return {name: (float(np.mean(v)), float(np.std(v))) for name, v in found.items()}


def measure_without(X, y, text, scale, shots, seeds, share) -> np.ndarray:
    """Accuracy where a share of the labels has no image to learn from, means over seeds.

    Returns:
        float64 (5,): of the words and of `clipcls fit` on other images of labels with images, then
        of both on images of labels without; of `clipcls fit` on the images it has learnt from.
    """
    found = []
    for seed in range(seeds):
        few, others = draw(y, shots, seed)
        labels = np.random.default_rng(seed).permutation(np.unique(y))
        # Two labels at least are learnt; as many images of each label are asked about.
        tests = max(10, 300 // len(labels))
        without = labels[: min(max(round(share * len(labels)), 1), len(labels) - 2)]
        few = few[~np.isin(y[few], without)]
        others = np.concatenate([others[y[others] == label][:tests] for label in labels])
        unseen = np.isin(y[others], without)
        probe = LinearProbe(text, np.arange(len(text)), logit_scale=scale).fit(X[few], y[few])
        words = (X[others] @ text.T).argmax(axis=1) == y[others]
        learnt = probe.predict(X[others]) == y[others]
        shares = [right[kind].mean() for kind in (~unseen, unseen) for right in (words, learnt)]
        found.append([*shares, probe.score(X[few], y[few])])
    return np.mean(found, axis=0)


def speed(n_classes: int = 1000, shots: int = 16, dim: int = 512) -> None:
    """Seconds to learn; scikit-learn's from one fit on one fold, times the fits that it makes."""
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(n_classes, dim)))
    text = unit(centres + rng.normal(size=centres.shape) / dim**0.5)
    y, z = np.repeat(np.arange(n_classes), shots), np.repeat(np.arange(n_classes), 5)
    X, Z = (unit(centres[k] + 4.0 * rng.normal(size=(len(k), dim)) / dim**0.5) for k in (y, z))
    X, Z = X.astype(np.float32), Z.astype(np.float32)
    start = time.perf_counter()
    probe = LinearProbe(text, np.arange(n_classes), logit_scale=30).fit(X, y)
    mine = time.perf_counter() - start
    print(f"clipcls: {mine:.1f} s, accuracy {probe.score(Z, z):.3f}", flush=True)
    start = time.perf_counter()
    alone = LinearProbe().fit(X, y)
    print(
        f"without words: {time.perf_counter() - start:.1f} s, accuracy {alone.score(Z, z):.3f}",
        flush=True,
    )
    # scikit-learn's defaults are 10 values of C, 5 folds of 4/5, and all images at the end.
    fits = 10 * 5 * 0.8 + 1
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # With the default tolerance it stops before the first step: slopes are below it.
        model = LogisticRegression(C=100, tol=1e-6, max_iter=100).fit(X, y)
    one = time.perf_counter() - start
    steps = int(model.n_iter_.max())
    print(f"LogisticRegression: {one:.1f} s, {steps} steps, accuracy {model.score(Z, z):.3f}")
    print(f"LogisticRegressionCV: {fits:g} times that, {fits * one / mine:,.0f} times clipcls's")


def speed_run(path: str, shots: int = 16, tests: int = 5) -> None:
    """CPU seconds to learn real vectors, without words, and accuracy; of LogisticRegressionCV too.

    That one is stopped when it has taken ENOUGH times as long: it may take hours.

    Args:
        path: npz of vectors float (n, dim) and labels int (n,); `shots` images of each label are
            learnt from, at most `tests` others asked about.
    """
    with np.load(path) as file:
        vectors, labels = file["vectors"].astype(np.float32), file["labels"]
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    few = np.concatenate([rows[:shots] for rows in drawn])
    others = np.concatenate([rows[shots : shots + tests] for rows in drawn])
    X, y, Z, z = vectors[few], labels[few], vectors[others], labels[others]
    print(f"{len(drawn)} labels, {len(X)} x {X.shape[1]}, {len(Z)} others", flush=True)
    start = time.process_time()
    probe = LinearProbe().fit(X, y)
    mine = time.process_time() - start
    print(f"clipcls: {mine:.1f} s, accuracy {probe.score(Z, z):.4f}", flush=True)
    start = time.process_time()

    def score(model, X, y):
        value = float((model.predict(X) == y).mean())
        taken = time.process_time() - start
        print(f"  {taken:.0f} s: a C tried, {value:.4f} of a fold right", flush=True)
        if taken > ENOUGH * mine:
            raise TimeoutError
        return value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegressionCV(Cs=CS, cv=3, scoring=score, max_iter=300)
        try:
            model.fit(X, y)
        except TimeoutError:
            print(f"LogisticRegressionCV: stopped, over {ENOUGH} times")
            return
    theirs = time.process_time() - start
    value = (model.predict(Z) == z).mean()  # its own score() would tell of a C tried
    print(f"LogisticRegressionCV: {theirs:.1f} s, accuracy {value:.4f}, C {model.C_[0]}")
    print(f"{theirs / mine:.1f} times")


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="*")
    parser.add_argument("--labels")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--vectors", nargs="*", default=[])
    parser.add_argument("--shots", default="1,2,4,8,16")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--without", metavar="SHARE,...", help="of labels without images")
    parser.add_argument("--speed", nargs="?", const="", metavar="NAME.npz")
    args = parser.parse_args()
    if args.speed is not None:
        speed_run(args.speed) if args.speed else speed()
        return
    sets = {}
    for path in args.vectors:
        with np.load(path) as file:
            sets[path] = (file["vectors"], file["labels"], file["text"], float(file["scale"]))
    for path in args.data:
        from clipcls import ZeroShotClassifier
        from clipcls.classification.labelled import embed_known

        classifier = ZeroShotClassifier(args.labels, args.model).fit()
        known = embed_known(classifier, path)
        truth = np.array([classes[0] for classes in known.truth])
        scale = classifier.encoder_.logit_scale
        sets[path] = (known.vectors, truth, classifier.weights_, scale)
    if args.without is not None:
        print(
            "| set | without images | shots | with: words | fit | without: words | fit | learnt |"
        )
        print("|---" * 8 + "|")
        for name, (X, y, text, scale) in sets.items():
            for share in map(float, args.without.split(",")):
                for shots in map(int, args.shots.split(",")):
                    row = measure_without(X, y, text, scale, shots, args.seeds, share)
                    shown = " | ".join(f"{100 * value:.1f}" for value in row)
                    print(f"| {name} | {share:.0%} | {shots} | {shown} |", flush=True)
        return
    methods = args.methods.split(",")
    print("| set | shots |", " | ".join(methods), "|")
    print("|---" * (len(methods) + 2) + "|")
    for name, (X, y, text, scale) in sets.items():
        for shots in map(int, args.shots.split(",")):
            found = measure(np.float64(X), y, np.float64(text), scale, shots, args.seeds, methods)
            cells = [f"{mean:.1%} ± {std:.1%}" for mean, std in found.values()]
            print(f"| {name} | {shots} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
