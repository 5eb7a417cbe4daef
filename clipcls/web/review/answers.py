"""A classifier's answer for one image, as a review keeps it and its page shows it."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from clipcls.labels.names import join_levels
from clipcls.predictions import UNKNOWN, Prediction

MOST_SHOWN = 5  # labels per image


@dataclass(frozen=True, slots=True)
class Answer:
    """A classifier's answer for an image.

    Attributes:
        label: its label, or `unknown`.
        score: of the best label, or None.
        margin: the difference between the best two scores; 0 if that is not known.
        top: the best labels and their scores, best first.
        guess: for `unknown` the best label, "" if the results do not name it; None for every other
            answer.
    """

    label: str
    score: float | None
    margin: float
    top: tuple[tuple[str, float], ...] = ()
    guess: str | None = None

    @property
    def best(self) -> str:
        """The best label, sure enough or not; "" if the results do not name it."""
        return self.label if self.guess is None else self.guess

    def to_row(self) -> list[Any]:
        """A list for the page."""
        top = [[label, round(score, 4)] for label, score in self.top]
        return [self.label, self.score, self.margin, top, self.guess]


NO_ANSWER = Answer(UNKNOWN, None, 0.0, guess="")


def known_scores(result: Prediction) -> list[tuple[str, float]]:
    """A result's labels with known scores, best first."""
    return [
        (candidate.label, candidate.score)
        for candidate in result.top
        if candidate.label != UNKNOWN and not math.isnan(candidate.score)
    ]


def name_answer(result: Prediction, known: Container[str]) -> str:
    """The answer's name: its path if that is in `known`, where several share a name."""
    if not result.label_paths:
        return UNKNOWN
    (lineage,) = result.label_paths
    path = join_levels(lineage)
    return path if path in known else lineage[-1]


def make_answer(result: Prediction, label: str) -> Answer:
    """A result's answer, whose label is spelled like this."""
    top = known_scores(result)
    score = None if math.isnan(result.score) else result.score
    # A csv does not name the best label of an image whose answer is `unknown`.
    scores = [value for _, value in top]
    if score is not None and scores[:1] != [score]:
        scores = [score, *scores]
    margin = 0.0
    if result.by_person:
        margin = 1.0
    elif len(scores) > 1:
        margin = max(0.0, scores[0] - scores[1])
    elif score is not None:
        margin = max(0.0, 2 * score - 1)  # the second has at most what the best leaves
    guess = None
    if not result.given:
        guess = top[0][0] if top and top[0][1] == score else ""
    return Answer(label, score, margin, tuple(top[:MOST_SHOWN]), guess)
