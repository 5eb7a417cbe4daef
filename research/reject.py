"""Which score tells images of other things from images of the labels?

    python research/reject.py --labels labels.txt DATA --others FOLDER... [--model mini]

DATA is as for `clipcls evaluate`; FOLDERs hold images that no label fits. Prints the accuracy on
DATA with and without `--reject`, the share of the others that it rejects, the share that the
`--min-score` which turns away as many images of DATA rejects, and the area under the ROC curve
between DATA and the others by the best score, the margin, the best cosine and `--reject`.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.metrics import roc_auc_score

from clipcls import ImageError, ZeroShotClassifier
from clipcls.classification.labelled import embed_known
from clipcls.data.paths import find_images
from clipcls.predictions import REJECT


def embed(classifier: ZeroShotClassifier, folder: str) -> np.ndarray:
    """Unit rows of a folder's images, those that can be read."""
    found = classifier.embed(path for path in find_images([folder]) if isinstance(path, str))
    return np.stack([item.vector for item in found if not isinstance(item, ImageError)])


def main() -> None:
    """Prints a line per folder of other things."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--others", nargs="+", required=True)
    parser.add_argument("--model", default="mini")
    given = parser.parse_args()
    plain = ZeroShotClassifier(given.labels, given.model).fit()
    wary = ZeroShotClassifier(given.labels, plain.encoder_, reject=True).fit()
    known = embed_known(plain, given.data)
    truth = np.array([row[0] for row in known.truth])
    classes = plain.predict_proba(known.vectors)
    rejected = wary.predict(known.vectors) == REJECT
    right = classes.argmax(axis=1) == truth
    kept = wary.predict(known.vectors) == plain.classes_[truth]
    print(
        f"{given.data}: {len(truth)} images, right {right.mean():.1%}, {kept.mean():.1%} --reject"
    )
    for folder in given.others:
        others = embed(plain, folder)
        scores = plain.predict_proba(others)
        least = np.quantile(classes.max(axis=1), rejected.mean())
        is_in = np.r_[np.ones(len(truth)), np.zeros(len(others))]
        both = np.concatenate([known.vectors, others])
        ranked = np.sort(np.concatenate([classes, scores]), axis=1)
        areas = {
            "score": roc_auc_score(is_in, ranked[:, -1]),
            "margin": roc_auc_score(is_in, ranked[:, -1] - ranked[:, -2]),
            "cosine": roc_auc_score(is_in, (both @ plain.weights_.T).max(axis=1)),
            "--reject": roc_auc_score(is_in, -wary.predict_proba(both)[:, -1]),
        }
        print(
            f"  {folder}: {len(others)} images, "
            f"rejected {(wary.predict(others) == REJECT).mean():.1%}, "
            f"by --min-score {(scores.max(axis=1) < least).mean():.1%}; AUROC "
            + ", ".join(f"{name} {area:.3f}" for name, area in areas.items())
        )


if __name__ == "__main__":
    main()
