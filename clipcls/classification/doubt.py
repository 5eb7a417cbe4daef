"""`Doubt`: whether the answers to a batch, taken together, are likely wrong, without labels.

A folder may truly hold one thing, so that many equal answers alone raise no doubt: their scores
have to be low too. research/doubt.py measures how often that is right.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clipcls.classification.nearness import NEAR
from clipcls.errors import ImageError
from clipcls.output.answer_blocks import PlainAnswers, Results, as_blocks
from clipcls.predictions import Prediction, Result
from clipcls.questions import Answers, change_answers

# Chosen on batches of development sets: docs/evidence/doubt.md.
LEAST_IMAGES = 20
_SHARE = 0.4  # of the images, that get one label
_LEAST_OF_LABEL, _LEAST_OF_ALL = 0.5, 0.35  # mean scores, of that label's images and of all


@dataclass(slots=True)
class Doubt:
    """Counts answers, and says what makes them doubtful as a whole.

    Attributes:
        n_labels: the number of labels to choose from.
    """

    n_labels: int
    _images: Counter[str] = field(default_factory=Counter)  # by their best label
    _scores: Counter[str] = field(default_factory=Counter)  # their sums, likewise
    _far: int = 0
    _measured: int = 0  # images whose nearness is known

    def count(self, result: Prediction) -> None:
        """Count an answer by its best label, given or not."""
        self._images[result.top[0].label] += 1
        self._scores[result.top[0].label] += result.score  # type: ignore[assignment]
        if result.nearness is not None and not math.isnan(result.nearness):
            self._measured += 1
            self._far += result.nearness < NEAR

    def count_block(self, answers: PlainAnswers) -> None:
        """Count many answers."""
        best = answers.classes[:, 0]
        counts, sums = np.bincount(best), np.bincount(best, answers.scores[:, 0])
        for number in np.flatnonzero(counts):
            label = str(answers.names[number])
            self._images[label] += int(counts[number])
            self._scores[label] += float(sums[number])  # type: ignore[assignment]
        if answers.nearness is not None:
            self._measured += int((~np.isnan(answers.nearness)).sum())
            self._far += int((answers.nearness < NEAR).sum())

    def add(self, other: Doubt) -> None:
        """Count the answers that another has counted."""
        self._images += other._images
        self._scores += other._scores
        self._far += other._far
        self._measured += other._measured

    def reason(self) -> str:
        """Why most answers are likely wrong, or "" if nothing says so."""
        images = self._images.total()
        if images < LEAST_IMAGES:
            return ""
        if 2 * self._far > self._measured:
            sampled = " measured" if self._measured < images else ""
            return (
                f"{self._far:,} of {self._measured:,} images{sampled} are near none of the labels"
            )
        label, count = max(self._images.items(), key=lambda item: item[1])
        mean, share = self._scores[label] / count, count / images
        few = 1.2 / self.n_labels  # with two labels no score is below 0.5
        if share >= max(_SHARE, 1.5 / self.n_labels) and mean < max(_LEAST_OF_LABEL, few):
            return (
                f"{count:,} of {images:,} images get the label {label!r}, with a mean score of "
                f"only {mean:.2f}"
            )
        mean = self._scores.total() / images
        return f"the mean score is only {mean:.2f}" if mean < max(_LEAST_OF_ALL, few) else ""


def count_each(
    doubts: Mapping[str, Doubt], results: Iterable[Result | Answers], *, keep_nearness: bool
) -> Iterator[Result | Answers]:
    """Count answers, and pass them on.

    Args:
        doubts: of each question, by its name; "" if there is one question without a name.
        results: the answers, and errors, which do not count.
        keep_nearness: whether to pass them on with their `nearness`.
    """

    def count(question: str, result: Prediction) -> Prediction:
        if doubt := doubts.get(question):
            doubt.count(result)
        return result if keep_nearness else replace(result, nearness=None)

    def count_block(block: Iterable[Any]) -> Iterable[Any]:
        if not isinstance(block, PlainAnswers):
            return (r if isinstance(r, ImageError) else change_answers(r, count) for r in block)
        if doubt := doubts.get(""):
            doubt.count_block(block)
        if not keep_nearness:
            block.nearness = None
        return block

    return Results(count_block(block) for block in as_blocks(results))
