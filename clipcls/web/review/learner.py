"""Learn a classifier from corrections of some images, and classify all of them with it.

The vectors come out of the cache if the images were classified with it; those that are missing are
computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.in_blocks import answer_together
from clipcls.classification.labelled import own_names
from clipcls.embeddings.embed import embed_images
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import ImageError
from clipcls.few_shot.classifier import FewShotClassifier
from clipcls.labels.label_set import Label, LabelSet, make_labels
from clipcls.predictions import Result
from clipcls.web.review.answers import MOST_SHOWN

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier


class Relearner:
    """Learns from corrections of images whose vectors are known.

    Args:
        classifier: fitted, without images; its labels are learnt, and its cache is used.
        files: the images.

    Attributes:
        vectors: unit rows, float32 (n, dim); the row of an image without a vector is zero.
    """

    def __init__(self, classifier: ZeroShotClassifier, files: Sequence[str]) -> None:
        self._classifier = classifier
        self._files = list(files)
        self._embedded: list[Embedded | ImageError] = []
        dim = classifier.weights_.shape[1]
        self.vectors: NDArray[np.float32] = np.zeros((len(files), dim), np.float32)

    def embed(self, watch: Callable[[int], bool] = lambda done: True) -> None:
        """Get the vectors; `watch` is called with the number of images done, False ends it."""
        found = embed_images(
            self._classifier.encoder_,
            self._files,
            self._classifier.cache_,
            backend=self._classifier.backend,
        )
        for number, item in enumerate(found):
            self._embedded.append(item)
            if not isinstance(item, ImageError):
                self.vectors[number] = item.vector
            if not watch(number + 1):
                break

    def learn(self, labels: Mapping[int, str]) -> tuple[FewShotClassifier, list[Result]]:
        """Learn from the labels of some images, and classify all.

        Args:
            labels: number of an image -> its label, one of the classifier's or a new one. A name
                above several labels of a hierarchy teaches nothing.

        Raises:
            InputError: fewer than two labels have images.
            ImageError: an image is missing, and its vector in no cache.
        """
        old = self._classifier
        known = make_labels(old.labels)
        names = set(own_names(old))
        levels = old.hierarchy_.levels if old.hierarchy_ else ()
        above = {name for level in levels for name in level.names} - names
        labels = {number: label for number, label in labels.items() if label not in above}
        new = [Label(name) for name in dict.fromkeys(labels.values()) if name not in names]
        few_shot = FewShotClassifier(
            LabelSet((*known.labels, *new), known.source, levels=known.levels),
            old.encoder_,
            prompts=old.prompts,
            backend=old.backend,
            cache=old.cache_ or False,
        ).fit([(self._files[number], label) for number, label in labels.items()])
        decision = few_shot.decision(top=min(MOST_SHOWN, len(few_shot.classes_)))
        return few_shot, list(answer_together(self._embedded, decision.answer))
