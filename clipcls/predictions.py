"""What comes out of a run: predictions, search hits, and the count of what happened."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipcls.errors import ImageError

if TYPE_CHECKING:
    from clipcls.data.file_kinds import LeftOut

__all__ = [
    "NO_CLASS",
    "PERSON",
    "REJECT",
    "UNKNOWN",
    "Candidate",
    "Explanation",
    "Hit",
    "MultiLabelPrediction",
    "Prediction",
    "Provenance",
    "Report",
    "error_record",
]

UNKNOWN = "unknown"
REJECT = "none of these"
PERSON = "person"
"""In the column `labelled_by` of a reviewed table: a person gave this label."""
NO_CLASS = -1
"""In place of a class number: a person said that the image has none of the labels."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One label as an answer: its softmax score over all labels, and its cosine similarity."""

    label: str
    score: float
    similarity: float

    def record(self) -> dict[str, Any]:
        """As in a jsonl record."""
        return {
            "label": self.label,
            "score": round(self.score, 6),
            "similarity": round(self.similarity, 6),
        }


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made an answer.

    Attributes:
        model: the model's name.
        weights: first 12 hex of its weights' SHA-256.
        precision: what it computed in.
        prompts: the template set's name.
        calibration: first 12 hex of the calibration's SHA-256, or "".
        classifier: first 12 hex of the SHA-256 of the learnt classifier's file, or "".
        refined: whether the other images of the batch had a say.
    """

    model: str
    weights: str
    precision: str
    prompts: str
    calibration: str = ""
    classifier: str = ""
    refined: bool = False

    def record(self) -> dict[str, Any]:
        """As in a jsonl record."""
        return {
            "model": self.model,
            "weights": self.weights,
            "precision": self.precision,
            "prompts": self.prompts,
            **({"calibration": self.calibration} if self.calibration else {}),
            **({"classifier": self.classifier} if self.classifier else {}),
            **({"refined": True} if self.refined else {}),
        }


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one image.

    Attributes:
        path: the image as the caller named it, or `images[3]` for one that has no name
            (`clipcls.data.inputs`).
        label: the best label, or `UNKNOWN` where it is less sure than was asked for.
        top: the best labels, best first; never empty.
        made_by: what made it.
        label_set: where conformal sets were asked for, the labels that together hold a right one
            with the probability asked for, best first; else None.
        lineage: where the labels have a hierarchy, the names from its root to the answer, or () if
            that is `UNKNOWN`; else None.
        explanation: what the answer rests on, where that was asked for; else None.
        heatmap: the path of its heat map's picture, where one was asked for and drawn; else None.
        by_person: whether the label is the one that a person gave this image when the classifier
            was learnt; its score is the classifier's all the same.
    """

    path: str
    label: str
    top: tuple[Candidate, ...]
    made_by: Provenance
    label_set: tuple[str, ...] | None = None
    lineage: tuple[str, ...] | None = None
    explanation: Explanation | None = None
    heatmap: str | None = None
    by_person: bool = False

    @property
    def score(self) -> float:
        """Score of the best label, whether it was accepted or not."""
        return self.top[0].score

    def record(self) -> dict[str, Any]:
        """As in jsonl: nested."""
        return {
            "path": self.path,
            "label": self.label,
            **({} if self.lineage is None else {"lineage": list(self.lineage)}),
            "score": round(self.score, 6),
            "top": [candidate.record() for candidate in self.top],
            **({} if self.label_set is None else {"set": list(self.label_set)}),
            **({} if self.explanation is None else {"explain": self.explanation.record()}),
            **({} if self.heatmap is None else {"heatmap": self.heatmap}),
            **({"labelled_by": PERSON} if self.by_person else {}),
            **self.made_by.record(),
        }


@dataclass(frozen=True, slots=True)
class MultiLabelPrediction:
    """The labels of one image, each scored on its own.

    Attributes:
        path: as in `Prediction`.
        labels: the labels it is given, best first; none where no score is high enough.
        best: the label of the highest score, given or not.
        made_by: what made it.
    """

    path: str
    labels: tuple[Candidate, ...]
    best: Candidate
    made_by: Provenance

    @property
    def label(self) -> str:
        """The best of its labels, or `UNKNOWN` where it is given none."""
        return self.labels[0].label if self.labels else UNKNOWN

    @property
    def score(self) -> float:
        """Score of the best label, whether it was given or not."""
        return self.best.score

    def record(self) -> dict[str, Any]:
        """As in jsonl: nested."""
        return {
            "path": self.path,
            "labels": [candidate.record() for candidate in self.labels],
            "best": self.best.record(),
            **self.made_by.record(),
        }


@dataclass(frozen=True, slots=True)
class Hit:
    """One image found by `clipcls search`: its rank from 1 and cosine similarity to the query."""

    rank: int
    path: str
    similarity: float
    model: str
    weights: str
    precision: str

    def record(self) -> dict[str, Any]:
        """As in jsonl."""
        return {
            "rank": self.rank,
            "path": self.path,
            "similarity": round(self.similarity, 6),
            "model": self.model,
            "weights": self.weights,
            "precision": self.precision,
        }


def error_record(error: ImageError) -> dict[str, Any]:
    """The record of an input that could not be read."""
    return {"path": error.path, "error": error.reason}


@dataclass(slots=True)
class Report:
    """Counts what became of the images of a run, and sums it up."""

    classified: int = 0
    unknown: int = 0
    skipped: int = 0
    left_out: LeftOut | None = None
    started: float = field(default_factory=time.monotonic)

    def count(self, result: Prediction | MultiLabelPrediction | ImageError) -> None:
        """Takes one result into account."""
        if isinstance(result, ImageError):
            self.skipped += 1
        else:
            self.classified += 1
            self.unknown += result.label == UNKNOWN

    def summary(self, rate: str = "") -> str:
        """One line: how many images, what became of them, how long it took and how fast."""
        seconds = time.monotonic() - self.started
        parts = [f"{self.classified:,} classified"]
        if self.unknown:
            parts[0] += f" ({self.unknown:,} as {UNKNOWN})"
        if self.skipped:
            parts.append(f"{self.skipped:,} could not be read")
        besides = f"; {self.left_out}" if self.left_out and self.left_out.counts else ""
        return f"{', '.join(parts)} in {seconds:.1f} s{f' ({rate})' if rate else ''}{besides}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What an answer rests on.

    Attributes:
        texts: the label's texts that are most similar to the image, with the cosine similarity,
            best first, 5 at most; () where the answer is not made of texts.
        runner_up: the second best label, or "" where there is one label only.
        margin: the best label's score less the second's; 1 where there is no second.
        nearest: the most similar images that were in the cache before the run, with the cosine
            similarity, best first, 3 at most; () without a cache.
    """

    texts: tuple[tuple[str, float], ...]
    runner_up: str
    margin: float
    nearest: tuple[tuple[str, float], ...]

    def record(self) -> dict[str, Any]:
        """As in a jsonl record."""
        return {
            "texts": [{"text": text, "similarity": round(s, 6)} for text, s in self.texts],
            "runner_up": self.runner_up,
            "margin": round(self.margin, 6),
            "nearest": [{"path": path, "similarity": round(s, 6)} for path, s in self.nearest],
        }
