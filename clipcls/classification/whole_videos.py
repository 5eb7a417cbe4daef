"""One answer per video in place of one per frame, and the frames that it rests on."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.embedded import Embedded
from clipcls.errors import CutShortError, ImageError
from clipcls.predictions import Prediction, Result
from clipcls.questions import Answers

if TYPE_CHECKING:
    from clipcls.classification.image_classifier import ImageClassifier
    from clipcls.classification.multilabel import MultiLabelClassifier

log = logging.getLogger("clipcls")

BEST_FRAMES = 3
"""How many frames a video's answer names."""


class WholeVideos(Iterator[Any]):
    """Images among which all frames of a video, one after the other, have one answer together.

    The answer is that of the mean of the frames' vectors. Logits are linear in a vector, so these
    are the means of the frames' logits.

    Args:
        images: as for `classify`; errors among them are passed on.
    """

    def __init__(self, images: Iterable[Any]) -> None:
        self._images = iter(images)
        self._frames: dict[str, tuple[list[str], NDArray[np.float16]]] = {}

    def __next__(self) -> Any:
        return next(self._images)

    def average(self, embedded: Iterable[Embedded | ImageError]) -> Iterator[Embedded | ImageError]:
        """The embedded images, with one mean vector per video; errors come before it."""
        for path, group in itertools.groupby(embedded, _find_video):
            if not path:
                yield from group
                continue
            names, rows, kept = [], [], None
            for item in group:
                if isinstance(item, CutShortError):
                    log.warning("%s", item)
                elif isinstance(item, ImageError):
                    yield item
                else:
                    kept = item.kept
                    names.append(item.path)
                    rows.append(item.vector.astype(np.float16))
            if rows:
                self._frames[path] = names, np.stack(rows)
                mean = self._frames[path][1].mean(axis=0, dtype=np.float32)
                yield Embedded(path, mean, kept=kept)

    def name_best(
        self,
        results: Iterable[Result | Answers],
        classifiers: Mapping[str, ImageClassifier | MultiLabelClassifier],
    ) -> Iterator[Result | Answers]:
        """The results, each video's with its `frames`.

        Args:
            results: of these images, in their order.
            classifiers: of each question, by its name; "" if there is one question without a name.
        """
        for result in results:
            found = self._frames.pop(result.path, None)
            if found is None or isinstance(result, ImageError):
                yield result
            elif isinstance(result, Prediction):
                yield _add_frames(result, classifiers[""], *found)
            else:
                answers = {
                    question: _add_frames(answer, classifiers[question], *found)
                    for question, answer in result.questions.items()
                }
                yield replace(result, questions=answers)


def _find_video(item: Embedded | ImageError) -> str:
    """The video that a frame, or an error, is of; "" if it is of none."""
    from clipcls.data.video import find_frame

    frame = find_frame(item.path)
    return frame.path if frame else item.path if isinstance(item, CutShortError) else ""


def _add_frames(
    answer: Prediction,
    classifier: ImageClassifier | MultiLabelClassifier,
    names: list[str],
    vectors: NDArray[np.float16],
) -> Prediction:
    base: Any = getattr(classifier, "classifier", classifier)
    rows = base.head_.weights[_find_labels(base, answer.top[0].label)]
    fit = (vectors.astype(np.float32) @ rows.astype(np.float32).T).max(axis=1)
    best = np.argsort(-fit, kind="stable")[:BEST_FRAMES]
    return replace(answer, frames=tuple(names[number] for number in best))


def _find_labels(classifier: ImageClassifier, name: str) -> list[int]:
    """The rows of the head that a label, or a name above labels, stands for."""
    for level in reversed(classifier.hierarchy_.levels if classifier.hierarchy_ else ()):
        if name in level.names:
            return list(level.labels(list(level.names).index(name)))
    return np.flatnonzero(classifier.classes_ == name).tolist()
