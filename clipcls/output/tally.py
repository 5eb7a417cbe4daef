"""Counts results by their outcome."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from clipcls.errors import ImageError
from clipcls.output.answer_blocks import PlainAnswers
from clipcls.predictions import UNKNOWN, Result
from clipcls.questions import Answers


@dataclass(slots=True)
class Tally:
    """How many images were classified, are `unknown` or could not be read.

    Attributes:
        classified: images with an answer.
        unknown: per question, images that are `unknown`.
        skipped: images that could not be read.
        sets: per question, the sizes of prediction sets.
    """

    classified: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    sets: dict[str, Counter[int]] = field(default_factory=dict)

    def count(self, result: Result | Answers) -> None:
        """Count one result."""
        if isinstance(result, ImageError):
            self.skipped += 1
        else:
            self.classified += 1
            for question, answer in result.questions.items():
                if answer.label == UNKNOWN:
                    self.unknown[question] += 1
                if answer.label_set is not None:
                    self.sets.setdefault(question, Counter())[len(answer.label_set)] += 1

    def count_block(self, answers: PlainAnswers) -> None:
        """Count many results."""
        self.classified += len(answers)
        if unknown := len(answers) - int(answers.sure.sum()):
            self.unknown[""] += unknown

    def add(self, other: Tally) -> None:
        """Count the results that another tally counted."""
        self.classified += other.classified
        self.skipped += other.skipped
        self.unknown += other.unknown
        for question, sizes in other.sets.items():
            self.sets.setdefault(question, Counter()).update(sizes)
