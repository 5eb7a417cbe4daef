"""Which score tells images of other things from images of the labels?

    python research/reject.py NAME.npz [--keep 50] [--others OTHER.npz...] [--model mini]

A file is as research/refine.py --make writes it. The labels are NAME's, or with --keep so many of
them, drawn at random. Images of other things are those of the labels that are left out, and those
of the other files. Prints the accuracy on images of the labels with and without `--reject`, the
share of the others that it rejects, the share that a `--min-score` rejects which turns away as many
images of the labels, and the area under the ROC curve between both by the best score, the margin,
the best cosine and `--reject`. docs/evidence/doubt.md has results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from clipcls import ZeroShotClassifier


def main() -> None:
    """Prints a line per kind of other things."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--keep", type=int, help="labels")
    parser.add_argument("--others", nargs="+", default=[], type=Path)
    parser.add_argument("--model", default="mini")
    given = parser.parse_args()
    data = np.load(given.file)
    names = len(data["text"])
    kept = np.random.default_rng(0).permutation(names)[: given.keep or names]
    is_in = np.isin(data["labels"], kept)
    others = {path.stem: np.load(path)["vectors"] for path in given.others}
    if not is_in.all():
        others["the other labels"] = data["vectors"][~is_in]
    generic = ZeroShotClassifier(["a", "b"], given.model, reject=True).fit().weights_[-1:]
    text = np.concatenate([data["text"][kept], generic])

    def score(vectors: np.ndarray) -> dict[str, np.ndarray]:
        cosines = vectors.astype(np.float64) @ text.T
        plain = softmax(data["scale"] * cosines[:, :-1], axis=1)
        ranked = np.sort(plain, axis=1)
        return {
            "score": ranked[:, -1],
            "margin": ranked[:, -1] - ranked[:, -2],
            "cosine": cosines[:, :-1].max(axis=1),
            "--reject": -softmax(data["scale"] * cosines, axis=1)[:, -1],
            "label": kept[plain.argmax(axis=1)],
            "is rejected": cosines.argmax(axis=1) == len(kept),
        }

    ours, truth = score(data["vectors"][is_in]), data["labels"][is_in]
    right = ours["label"] == truth
    print(
        f"{given.file.stem}, {len(kept)} labels, {len(truth)} images: right {right.mean():.1%}, "
        f"with --reject {(right & ~ours['is rejected']).mean():.1%}"
    )
    for name, vectors in others.items():
        theirs = score(vectors)
        least = np.quantile(ours["score"], ours["is rejected"].mean())
        side = np.repeat([True, False], [len(truth), len(vectors)])
        areas = {
            way: roc_auc_score(side, np.concatenate([ours[way], theirs[way]]))
            for way in ("score", "margin", "cosine", "--reject")
        }
        print(
            f"  {name}, {len(vectors)} images: rejected {theirs['is rejected'].mean():.1%}, "
            f"by --min-score {(theirs['score'] < least).mean():.1%}; area "
            + ", ".join(f"{way} {area:.3f}" for way, area in areas.items())
        )


if __name__ == "__main__":
    main()
