"""Suggests labels for images that nobody has labelled: clusters, their names, equal names merged.

Clusters vote for names from a vocabulary as in SCD (Han et al. 2023, arXiv 2304.02364), in one
round, since a second gained nothing measurable (research/suggest.md). A cluster whose name has a
low mean score stays without a label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.head import log_sum_exp
from clipcls.classification.in_blocks import Watch, watch_each
from clipcls.embeddings.clustering import cluster_vectors
from clipcls.errors import ImageError, InputError
from clipcls.labels.label_set import Label, LabelSet, log_warnings, make_labels, read_labels
from clipcls.labels.names import make_line

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.data.inputs import Images
    from clipcls.predictions import Provenance

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
"""The ready label sets that names are taken from by default."""

_MOST_CLUSTERS = 200
_EXAMPLES = 3
# A name's least mean score over a cluster; chosen on development sets (docs/evidence/accuracy.md).
_LEAST_SCORE = 0.08
_ALIKE = math.log(2)  # names whose scores differ by less than a factor of 2, on average, are one


@dataclass(frozen=True, slots=True)
class SuggestedLabel:
    """A suggested label.

    Attributes:
        label: its name.
        line: the label as a line of a label file.
        images: how many images are in the clusters of this name.
        example: the image nearest to the name.
        merged: other names that the model cannot tell apart from it on these images.
    """

    label: str
    line: str
    images: int
    example: str
    merged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnnamedCluster:
    """A cluster that no name of the vocabulary fits.

    Attributes:
        images: how many images are in it.
        examples: the images nearest to its mean, at most 3.
    """

    images: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Labels suggested for some images.

    Attributes:
        labels: those with the most images first.
        unnamed: the clusters without a label, those with the most images first.
        images: how many images could be read.
        clusters: how many clusters there were.
        unreadable: images that could not be read.
        provenance: the model and prompts.
    """

    labels: tuple[SuggestedLabel, ...]
    unnamed: tuple[UnnamedCluster, ...]
    images: int
    clusters: int
    unreadable: tuple[ImageError, ...]
    provenance: Provenance

    @property
    def fitted(self) -> int:
        """How many images are in clusters with a label."""
        return sum(label.images for label in self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Its record, of which a label file is made."""
        return {
            "images": self.images,
            "clusters": self.clusters,
            "labels": [asdict(label) for label in self.labels],
            "unnamed": [asdict(cluster) for cluster in self.unnamed],
            **self.provenance.to_dict(),
        }


def read_vocabulary(sources: Sequence[str] = VOCABULARY) -> LabelSet:
    """One `LabelSet` out of several label files or ready sets, each name once in whatever case.

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


def choose_cluster_count(images: int) -> int:
    """How many clusters to make of so many images: 2 sqrt(n), at most 200.

    Most folders hold fewer kinds of things. Clusters of the same name become one label, and a
    superfluous label is easier to delete than a missing one to find.
    """
    return min(images, math.ceil(2 * math.sqrt(images)), _MOST_CLUSTERS)


def suggest(
    classifier: ZeroShotClassifier,
    images: Images,
    *,
    clusters: int | None = None,
    watch: Watch | None = None,
) -> Suggestion:
    """Suggests labels for images, the same ones for the same images in the same order.

    All vectors are in memory at once: 2 KB per image at 512 dimensions, and about as much again.

    Args:
        classifier: fitted with the vocabulary as its labels, without `level`.
        images: as for `ZeroShotClassifier.classify`.
        clusters: how many clusters; None: `choose_cluster_count`.
        watch: called after each image, with the `ImageError` if it could not be read.

    Raises:
        InputError: no image could be read.
    """
    items = list(watch_each(classifier.embed(images), watch))
    unreadable = tuple(item for item in items if isinstance(item, ImageError))
    read = [item for item in items if not isinstance(item, ImageError)]
    if not read:
        first = f"; the first: {unreadable[0]}" if unreadable else ""
        raise InputError(f"no image could be read{first}")
    paths, vectors = [item.path for item in read], np.stack([item.vector for item in read])
    del items, read  # with as much memory as `vectors`
    return replace(suggest_for_vectors(classifier, vectors, paths, clusters), unreadable=unreadable)


def suggest_for_vectors(
    classifier: ZeroShotClassifier,
    vectors: NDArray[np.float32],
    paths: Sequence[str],
    clusters: int | None = None,
) -> Suggestion:
    """`suggest` from images' unit vectors, float32 (n, dim)."""
    vocabulary = make_labels(classifier.labels).labels
    if len(vocabulary) != len(classifier.classes_):
        raise ValueError("the vocabulary's classifier must be fitted without a level")
    cluster = cluster_vectors(vectors, clusters or choose_cluster_count(len(vectors)))
    named = _name_clusters(classifier, vectors, cluster)
    fits = _is_fitting(classifier, vectors, cluster, named)
    kept = np.flatnonzero(fits[cluster])
    names, owner = np.unique(named[cluster[kept]], return_inverse=True)
    logits = np.concatenate([block[:, names] for _, block in classifier.head_.raw.blocks(vectors)])
    logits = logits[kept]
    owner, merged = _merge(logits, owner) if len(kept) else (owner, {})
    counts = np.bincount(owner, minlength=len(names))
    labels = []
    for name in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist():
        inside = np.flatnonzero(owner == name)
        labels.append(
            SuggestedLabel(
                str(classifier.classes_[names[name]]),
                make_line(vocabulary[names[name]].path),
                int(counts[name]),
                paths[kept[inside[logits[inside, name].argmax()]]],
                tuple(str(classifier.classes_[names[other]]) for other in merged.get(name, ())),
            )
        )
    unnamed = []
    for number in np.flatnonzero(~fits):
        inside = np.flatnonzero(cluster == number)
        nearest = np.argsort(-(vectors[inside] @ vectors[inside].mean(axis=0)), kind="stable")
        examples = tuple(paths[image] for image in inside[nearest[:_EXAMPLES]])
        unnamed.append(UnnamedCluster(len(inside), examples))
    return Suggestion(
        tuple(labels),
        tuple(sorted(unnamed, key=lambda each: -each.images)),
        len(paths),
        len(named),
        (),
        classifier.provenance_,
    )


def _is_fitting(
    classifier: ZeroShotClassifier,
    vectors: NDArray[np.float32],
    cluster: NDArray[np.int64],
    named: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Whether the name of each cluster has a high enough mean score, bool (n_clusters,)."""
    name, scores = named[cluster], np.empty(len(vectors))
    for rows, logits in classifier.head_.blocks(vectors):
        own = logits[np.arange(len(logits)), name[rows]]
        scores[rows] = np.exp(own - log_sum_exp(logits)[:, 0])
    mean = np.bincount(cluster, scores) / np.bincount(cluster)
    return np.asarray(mean >= max(_LEAST_SCORE, 1.5 / max(len(classifier.classes_), 2)))


def _name_clusters(
    classifier: ZeroShotClassifier, vectors: NDArray[np.float32], cluster: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The class that most images of each cluster are nearest to, int64 (n_clusters,).

    Of equal ones it is the one nearest to the cluster's mean.
    """
    count = int(cluster.max()) + 1
    votes = np.zeros((count, len(classifier.classes_)), int)
    np.add.at(votes, (cluster, classifier.head_.best(vectors)), 1)
    means = np.stack([vectors[cluster == k].mean(axis=0) for k in range(count)])
    logits = classifier.head_.logits(means)
    best = votes == votes.max(axis=1, keepdims=True)
    return np.asarray(np.where(best, logits, -np.inf).argmax(axis=1))


def _merge(
    logits: NDArray[np.float64], owner: NDArray[np.int64]
) -> tuple[NDArray[np.int64], dict[int, list[int]]]:
    """Merges names that the model cannot tell apart on the images that have them.

    Two names are alike if on the images of both the mean of |difference of their logits| is below
    log 2. The most alike are merged first, into the one with more images.

    Args:
        logits: of the names, float64 (n, m).
        owner: each image's name, int64 (n,), below m; each name has images.

    Returns:
        the names after merging, int64 (n,), and for each name those merged into it.
    """
    merged: dict[int, list[int]] = {}
    owner, m = owner.copy(), logits.shape[1]

    def sum_gaps(name: int) -> NDArray[np.float64]:
        """The sum over a name's images of |its logit - each name's|, float64 (m,)."""
        inside = logits[owner == name]
        gaps: NDArray[np.float64] = np.abs(inside - inside[:, [name]]).sum(axis=0)
        return gaps

    gaps = np.stack([sum_gaps(name) for name in range(m)])
    while True:
        count = np.bincount(owner, minlength=m)
        mean = (gaps + gaps.T) / np.maximum(count + count[:, None], 1)
        gone = count == 0
        mean[gone | gone[:, None] | np.eye(m, dtype=bool)] = np.inf
        one, other = map(int, np.unravel_index(mean.argmin(), mean.shape))
        if not mean[one, other] < _ALIKE:
            return owner, merged
        if count[other] > count[one]:
            one, other = other, one
        owner[owner == other] = one
        merged.setdefault(one, []).extend([other, *merged.pop(other, [])])
        gaps[one] = sum_gaps(one)
