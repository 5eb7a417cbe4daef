"""Labels for images that nobody has labelled: cluster them, name the clusters, merge what is one.

Clusters vote for names out of a vocabulary as in SCD (Han et al. 2023, arXiv 2304.02364), in one
round: there a second gained nothing that could be measured (research/suggest.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.clustering import cluster_vectors
from clipcls.errors import ImageError, InputError
from clipcls.labels.label_set import Label, LabelSet, log_warnings, make_labels, read_labels
from clipcls.labels.names import make_line

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.data.inputs import Images
    from clipcls.predictions import Provenance

__all__ = [
    "TEMPLATE",
    "VOCABULARY",
    "SuggestedLabel",
    "Suggestion",
    "cluster_count",
    "read_vocabulary",
    "suggest",
    "suggest_for_vectors",
]

VOCABULARY = (
    "imagenet",
    "coco80",
    "cifar100",
    "food101",
    "products",
    "scenes",
    "wildlife",
    "documents",
)
"""The ready label sets that names are taken from where no others are asked for."""

TEMPLATE = "a photo of a {}."
"""The one text of each name: with a set of templates a long vocabulary takes as much longer."""

_MOST_CLUSTERS = 200
_ALIKE = math.log(2)  # names whose scores differ by less than a factor of 2, on average, are one


@dataclass(frozen=True, slots=True)
class SuggestedLabel:
    """One label that is suggested.

    Attributes:
        name: the label.
        line: the label as a label file has it.
        images: how many images the clusters hold that are named so.
        example: the image nearest to the name.
        merged: other names, which the model cannot tell apart from it on these images.
    """

    name: str
    line: str
    images: int
    example: str
    merged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Labels that are suggested for some images, those of most images first.

    Attributes:
        labels: the labels, at least one.
        images: how many images they are for.
        clusters: how many clusters there were.
        unreadable: images that could not be read.
        provenance: the model and prompts.
    """

    labels: tuple[SuggestedLabel, ...]
    images: int
    clusters: int
    unreadable: tuple[ImageError, ...]
    provenance: Provenance

    def record(self) -> dict[str, Any]:
        """What a label file is written from."""
        return {
            "images": self.images,
            "clusters": self.clusters,
            "labels": [
                {
                    "label": label.name,
                    "line": label.line,
                    "images": label.images,
                    "example": label.example,
                    "merged": list(label.merged),
                }
                for label in self.labels
            ],
            **self.provenance.to_dict(),
        }


def read_vocabulary(sources: Sequence[str] = VOCABULARY) -> LabelSet:
    """One `LabelSet` out of several label files or ready sets.

    A name that is there already, in whatever case, is left out.

    Raises:
        LabelsError: one of them cannot be used.
    """
    found: dict[tuple[str, ...], Label] = {}
    for source in sources:
        labels = read_labels(source)
        log_warnings(labels)
        for label in labels:
            found.setdefault(tuple(map(str.casefold, label.path)), label)
    merged = make_labels(found.values())
    log_warnings(merged)
    return LabelSet(merged.labels, " + ".join(sources))


def cluster_count(images: int) -> int:
    """How many clusters so many images are sorted into: 2 sqrt(n), 200 at most.

    That is more than there are kinds of things in most folders; names that several clusters vote
    for become one label, and a label too many is sooner deleted than one too few found.
    """
    return min(images, math.ceil(2 * math.sqrt(images)), _MOST_CLUSTERS)


def suggest(
    classifier: ZeroShotClassifier,
    images: Images,
    *,
    clusters: int | None = None,
    watch: Callable[[ImageError | None], None] | None = None,
) -> Suggestion:
    """Suggests labels for images, the same ones for the same images in the same order.

    All vectors are in memory at once: 2 KB an image at 512 dimensions, and about as much again.

    Args:
        classifier: fitted with the vocabulary as its labels, without `reject` and `level`.
        images: as for `ZeroShotClassifier.classify`; an `ImageError` counts as one that cannot
            be read.
        clusters: how many clusters; None: `cluster_count`.
        watch: called after each image, with the `ImageError` if it could not be read.

    Raises:
        InputError: no image could be read.
    """
    paths, vectors, unreadable = [], [], []
    for item in classifier.embed(images):
        if isinstance(item, ImageError):
            unreadable.append(item)
        else:
            paths.append(item.path)
            vectors.append(item.vector)
        if watch:
            watch(item if isinstance(item, ImageError) else None)
    if not vectors:
        first = f"; the first: {unreadable[0]}" if unreadable else ""
        raise InputError(f"no image could be read{first}")
    rows = np.stack(vectors)
    del vectors
    labels, count = suggest_for_vectors(classifier, rows, paths, clusters)
    return Suggestion(labels, len(paths), count, tuple(unreadable), classifier.provenance_)


def suggest_for_vectors(
    classifier: ZeroShotClassifier,
    vectors: NDArray[np.float32],
    paths: Sequence[str],
    clusters: int | None = None,
) -> tuple[tuple[SuggestedLabel, ...], int]:
    """`suggest` from images' vectors.

    Args:
        classifier: fitted with the vocabulary as its labels, without `reject` and `level`.
        vectors: float32 (n, dim), unit rows, at least one.
        paths: of the images.
        clusters: how many clusters; None: `cluster_count`.

    Returns:
        the labels, and the number of clusters.
    """
    vocabulary = make_labels(classifier.labels).labels
    if len(vocabulary) != len(classifier.classes_):
        raise ValueError("the vocabulary's classifier must be fitted without reject and level")
    cluster = cluster_vectors(vectors, clusters or cluster_count(len(vectors)))
    votes = np.concatenate(
        [logits.argmax(axis=1) for _, logits in classifier.head_.blocks(vectors)]
    )
    owner = _names(classifier, vectors, cluster, votes)[cluster]
    names, owner = np.unique(owner, return_inverse=True)
    logits = np.concatenate([block[:, names] for _, block in classifier.head_.blocks(vectors)])
    owner, merged = _merge(logits, owner)
    counts = np.bincount(owner, minlength=len(names))
    found = []
    for name in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist():
        inside = np.flatnonzero(owner == name)
        found.append(
            SuggestedLabel(
                str(classifier.classes_[names[name]]),
                make_line(vocabulary[names[name]].path),
                int(counts[name]),
                paths[inside[logits[inside, name].argmax()]],
                tuple(str(classifier.classes_[names[other]]) for other in merged.get(name, ())),
            )
        )
    return tuple(found), int(cluster.max()) + 1


def _names(
    classifier: ZeroShotClassifier,
    vectors: NDArray[np.float32],
    cluster: NDArray[np.int64],
    votes: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The class that most images of each cluster are nearest to, int64 (n_clusters,).

    Of equal ones it is the one nearest to the cluster's mean.
    """
    found = np.empty(int(cluster.max()) + 1, np.int64)
    for number in range(len(found)):
        inside = cluster == number
        classes, count = np.unique(votes[inside], return_counts=True)
        best = classes[count == count.max()]
        mean = vectors[inside].mean(axis=0, dtype=np.float64)[np.newaxis]
        found[number] = best[classifier.head_.logits(mean)[0, best].argmax()]
    return found


def _merge(
    logits: NDArray[np.float64], owner: NDArray[np.int64]
) -> tuple[NDArray[np.int64], dict[int, list[int]]]:
    """Makes one of names that the model cannot tell apart on the images that have them.

    Two names are alike if on the images of both the mean of |difference of their logits| is below
    log 2. The most alike are merged first, into the one of more images.

    Args:
        logits: of the names, float64 (n, m).
        owner: each image's name, int64 (n,), below m.

    Returns:
        the names after merging, int64 (n,), and for each name those merged into it.
    """
    merged: dict[int, list[int]] = {}
    owner = owner.copy()
    m = logits.shape[1]
    gaps = np.full((m, m), np.inf)
    for name in range(m):
        gaps[name] = _gaps(logits, owner, name)
    while True:
        count = np.bincount(owner, minlength=m)
        total = count[:, np.newaxis] + count
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (gaps + gaps.T) / total
        mean[np.isnan(mean)] = np.inf
        np.fill_diagonal(mean, np.inf)
        one, other = (int(number) for number in np.unravel_index(mean.argmin(), mean.shape))
        if not mean[one, other] < _ALIKE:
            return owner, merged
        if count[other] > count[one]:
            one, other = other, one
        owner[owner == other] = one
        merged.setdefault(one, []).extend([other, *merged.pop(other, [])])
        gaps[other], gaps[:, other] = np.inf, np.inf
        gaps[one] = np.where(np.isinf(gaps[one]), np.inf, _gaps(logits, owner, one))


def _gaps(logits: NDArray[np.float64], owner: NDArray[np.int64], name: int) -> NDArray[np.float64]:
    """Sum over a name's images of |its logit - each name's|, float64 (m,)."""
    inside = logits[owner == name]
    gaps: NDArray[np.float64] = np.abs(inside - inside[:, name, np.newaxis]).sum(axis=0)
    return gaps
