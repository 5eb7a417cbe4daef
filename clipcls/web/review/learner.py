"""Corrections of some images -> a classifier, and what it says of all of them.

The vectors come out of the cache where the images were classified with it; what is missing is
encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.labelled import own_names
from clipcls.embeddings.embed import embed_images
from clipcls.errors import ImageError
from clipcls.few_shot.classifier import FewShotClassifier
from clipcls.labels.label_set import Label, LabelSet, make_labels

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier

__all__ = ["Relearner", "Relearnt"]

_TOP = 5


@dataclass(frozen=True, slots=True)
class Relearnt:
    """What was learnt from corrections.

    Attributes:
        classifier: the classifier.
        answers: for each image the labels of the best scores with these, best first, 5 at most;
            () of an image without a vector.
    """

    classifier: FewShotClassifier
    answers: tuple[tuple[tuple[str, float], ...], ...]

    def record(self) -> dict[str, Any]:
        """How good it is likely to be, as in JSON."""
        learnt = self.classifier.learnt_
        return {
            "images": sum(count for _, count, _ in learnt.labels),
            "labels": sum(count > 0 for _, count, _ in learnt.labels),
            "cross_validation": learnt.cross_validation,
            "summary": learnt.summary(),
        }


class Relearner:
    """Learns from corrections of images whose vectors are at hand.

    Args:
        classifier: by words, fitted; its cache is used, and its labels are learnt.
        files: the images.

    Attributes:
        vectors: unit rows, float32 (n, dim), zero where an image has none.
        seen: which images have one, bool (n,).
    """

    def __init__(self, classifier: ZeroShotClassifier, files: Sequence[str]) -> None:
        self._classifier = classifier
        self._files = list(files)
        dim = classifier.weights_.shape[1]
        self.vectors: NDArray[np.float32] = np.zeros((len(files), dim), np.float32)
        self.seen: NDArray[np.bool_] = np.zeros(len(files), bool)

    def embed(self, watch: Callable[[int], bool] | None = None) -> None:
        """Gets the vectors, each image's once.

        Args:
            watch: called with the number of images looked at; where it says False, that was all.
        """
        found = embed_images(
            self._classifier.encoder_,
            self._files,
            self._classifier.cache_,
            backend=self._classifier.backend,
        )
        for number, item in enumerate(found):
            if not isinstance(item, ImageError):
                self.vectors[number] = item.vector
                self.seen[number] = True
            if watch and not watch(number + 1):
                break

    def learn(self, labels: Mapping[int, str]) -> Relearnt:
        """Learns from the labels of some images.

        Args:
            labels: number of an image -> its label, be it one of the classifier's or a new one.
                What names several labels of a hierarchy together teaches nothing.

        Raises:
            InputError: there are no images of two labels.
            ImageError: an image is gone, and its vector in no cache.
        """
        old = self._classifier
        known = make_labels(old.labels)
        names = set(own_names(old))
        levels = old.hierarchy_.levels if old.hierarchy_ else ()
        above = {name for level in levels for name in level.names} - names
        labels = {number: label for number, label in labels.items() if label not in above}
        new = [Label(name) for name in dict.fromkeys(labels.values()) if name not in names]
        paths = [self._files[number] for number in labels]
        few_shot = FewShotClassifier(
            LabelSet((*known.labels, *new), known.source, levels=known.levels),
            old.encoder_,
            prompts=old.prompts,
            backend=old.backend,
            cache=old.cache_ or False,
        ).fit([(path, label) for path, label in zip(paths, labels.values(), strict=True)])
        answers: list[tuple[tuple[str, float], ...]] = [()] * len(self._files)
        rows = np.flatnonzero(self.seen)
        for block, logits in few_shot.head_.blocks(self.vectors[rows]):
            scores = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]
            for row, columns, values in zip(rows[block], best, scores, strict=True):
                answers[row] = tuple((str(few_shot.classes_[c]), float(values[c])) for c in columns)
        return Relearnt(few_shot, tuple(answers))
