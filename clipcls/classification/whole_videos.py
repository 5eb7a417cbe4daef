"""One answer per video in place of one per frame, and the frames that it rests on."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.data.sources import find_video
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import CutShortError, ImageError
from clipcls.predictions import Prediction, Result
from clipcls.questions import Answers, change_answers

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
            else:
                yield change_answers(result, partial(_add_frames, classifiers, *found))


def _find_video(item: Embedded | ImageError) -> str:
    """The video that a frame, or an error, is of; "" if it is of none."""
    video = find_video(item.path)
    return video if video != item.path or isinstance(item, CutShortError) else ""


def _add_frames(
    classifiers: Mapping[str, ImageClassifier | MultiLabelClassifier],
    names: list[str],
    vectors: NDArray[np.float16],
    question: str,
    answer: Prediction,
) -> Prediction:
    from clipcls.classification.labelled import find_answered
    from clipcls.classification.multilabel import find_base

    base = find_base(classifiers[question])
    head, classes = base.head_, find_answered(base, answer)
    labels = [*classes] if head.level is None else np.isin(head.level.node, classes)
    rows = head.weights[labels]
    fit = (vectors.astype(np.float32) @ rows.astype(np.float32).T).max(axis=1)
    best = np.argsort(-fit, kind="stable")[:BEST_FRAMES]
    return replace(answer, frames=tuple(names[number] for number in best))
