"""What comes out of a run: predictions and search hits, as objects and as records.

A record is a dict as jsonl holds it; every other format is derived from it, or from `COLUMNS`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, get_type_hints

from clipcls.errors import ImageError

__all__ = [
    "COLUMNS",
    "NO_CLASS",
    "PERSON",
    "PROVENANCE",
    "REJECT",
    "UNKNOWN",
    "Candidate",
    "Explanation",
    "Hit",
    "Prediction",
    "Provenance",
    "Result",
    "SimilarImage",
    "SimilarText",
    "as_record",
    "to_record",
]

UNKNOWN = "unknown"
REJECT = "none of these"
PERSON = "person"
"""In the column `labelled_by` of a reviewed table: a person gave this label."""
NO_CLASS = -1
"""In place of a class number: a person said that the image has none of the labels."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One label as an answer, with its score and its cosine similarity; NaN where not known."""

    label: str
    score: float
    similarity: float


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
        refined: whether the other images of the batch influenced it.
    """

    model: str
    weights: str
    precision: str
    prompts: str
    calibration: str = ""
    classifier: str = ""
    refined: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Its part of a record, without what has its default."""
        values = ((field, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {field.name: value for field, value in values if value != field.default}


PROVENANCE = tuple(field.name for field in dataclasses.fields(Provenance))
"""The fields of a record that are the same in every record of a run."""


class SimilarText(NamedTuple):
    """A text, and its cosine similarity to the image."""

    text: str
    similarity: float


class SimilarImage(NamedTuple):
    """The path of an image, and its cosine similarity to the one that is explained."""

    path: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What an answer rests on.

    Attributes:
        texts: the label's texts that are most similar to the image, best first, 5 at most; ()
            where the answer is not made of texts.
        runner_up: the second best label, or "" with a single label.
        margin: the best label's score less the second's; 1 without a second.
        nearest: the most similar images that were in the cache before the run, best first, 3 at
            most; () without a cache.
    """

    texts: tuple[SimilarText, ...]
    runner_up: str
    margin: float
    nearest: tuple[SimilarImage, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one image: one label, or several that are each scored on their own.

    Attributes:
        path: the image as the caller named it, or `images[3]` for one that has no name
            (`clipcls.data.inputs`).
        label: the best label that it is given, or `UNKNOWN` where none is sure enough.
        top: the best labels, given or not, best first; of several labels per image the best one
            alone. Empty only where a result file names none.
        provenance: what made it; None where a result file does not say.
        label_set: with prediction sets, the labels that together hold a right one with the
            probability asked for, best first; else None.
        lineages: where the labels have a hierarchy, of each label that it is given the names from
            the root to the label; else None.
        explanation: what the answer rests on, where that was asked for; else None.
        heatmap: the path of its heat map's picture, where one was asked for and drawn; else None.
        by_person: whether the label is the one that a person gave this image when the classifier
            was learnt; its score is the classifier's all the same.
        labels: of several labels per image those that it is given, best first; else None.
    """

    path: str
    label: str
    top: tuple[Candidate, ...]
    provenance: Provenance | None
    label_set: tuple[str, ...] | None = None
    lineages: tuple[tuple[str, ...], ...] | None = None
    explanation: Explanation | None = None
    heatmap: str | None = None
    by_person: bool = False
    labels: tuple[Candidate, ...] | None = None

    @property
    def score(self) -> float:
        """Score of the best label, whether it was given or not; NaN where not known."""
        return self.top[0].score if self.top else math.nan

    @property
    def lineage(self) -> tuple[str, ...] | None:
        """`lineages` of the label: () if that is `UNKNOWN`."""
        if self.lineages is None:
            return None
        return self.lineages[0] if self.lineages else ()

    @property
    def given(self) -> tuple[Candidate, ...]:
        """The labels that it is given; () where that is `UNKNOWN`."""
        if self.labels is not None:
            return self.labels
        best = self.top[0] if self.top else Candidate(self.label, math.nan, math.nan)
        return () if self.label == UNKNOWN else (dataclasses.replace(best, label=self.label),)

    @property
    def label_paths(self) -> tuple[tuple[str, ...], ...]:
        """Of each label that it is given the names from the root; without levels its name alone."""
        if self.lineages is not None:
            return self.lineages
        return tuple((candidate.label,) for candidate in self.given)

    def to_dict(self) -> dict[str, Any]:
        """Its record, nested; numbers have six decimals, and what is not known is left out."""
        record: dict[str, Any] = {"path": self.path}
        if self.labels is None:
            record |= {"label": self.label, "lineage": self.lineage}
            record |= {"score": self.score, "top": self.top}
        else:
            labels = [as_record(candidate) for candidate in self.labels]
            for label, lineage in zip(labels, self.lineages or (), strict=False):
                label["lineage"] = list(lineage)
            record |= {"labels": labels, "best": self.top[0] if self.top else None}
        record |= {
            "set": self.label_set,
            "explain": self.explanation,
            "heatmap": self.heatmap,
            "labelled_by": PERSON if self.by_person else None,
        }
        known: dict[str, Any] = as_record(record)
        return known | (self.provenance.to_dict() if self.provenance else {})

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Prediction:
        """What `to_dict` wrote, as far as the record holds it.

        Raises:
            ValueError: it is no such record; the message says why.
        """
        path = record.get("path")
        if not isinstance(path, str) or not path or "\0" in path:
            raise ValueError("has no path of an image")
        labels = lineages = None
        if record.get("labels") is not None:
            given = {
                _names(entry.get("lineage") or [entry.get("label")], "lineage"): _candidate(entry)
                for entry in _entries(record["labels"], "labels")
            }
            given.pop((UNKNOWN,), None)
            labels = tuple(given.values())
            if any(len(names) > 1 for names in given):
                lineages = tuple(given)
            label = labels[0].label if labels else UNKNOWN
            best = record.get("best")
            top = labels[:1] if best is None else (_candidate(*_entries([best], "best")),)
        elif "label" in record:
            label = _label(record["label"])
            if record.get("lineage") is not None:
                names = _names(record["lineage"], "lineage")
                lineages = (names,) if names else () if label == UNKNOWN else ((label,),)
            top = tuple(map(_candidate, _entries(record.get("top") or [], "top")))
        else:
            raise ValueError("has no label; these are not results of `clipcls classify`")
        label_set = record.get("set")
        made = [record.get(field.name, field.default) for field in dataclasses.fields(Provenance)]
        is_known = all(isinstance(text, str) for text in made[:-1])
        return cls(
            path,
            label,
            top,
            _provenance(*made[:-1], made[-1] is True) if is_known else None,
            None if label_set is None else _names(label_set, "set"),
            lineages,
            by_person=record.get("labelled_by") == PERSON,
            labels=labels,
        )


Result: TypeAlias = Prediction | ImageError
"""What became of one image."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One image found by `clipcls search`: its rank from 1 and cosine similarity to the query."""

    rank: int
    path: str
    similarity: float
    model: str
    weights: str
    precision: str

    def to_dict(self) -> dict[str, Any]:
        """Its record."""
        record: dict[str, Any] = as_record(self)
        return record


COLUMNS: dict[str, Any] = {
    "path": str,
    "label": str,
    "score": float,
    "similarity": float,
    "top": list[Candidate],
    "labels": list[Candidate],
    "best": Candidate,
    "lineage": list[str],
    "set": list[str],
    "explain": Explanation,
    "heatmap": str,
    "labelled_by": str,
    **get_type_hints(Provenance),
    "error": str,
}
"""The fields of the records of predictions and errors -> their types.

`similarity` is that of the best label, which tables have in a column of its own.
"""


def as_record(value: Any) -> Any:
    """A value as JSON holds it: objects as dicts, without fields that are None or NaN."""
    if isinstance(value, float):
        return round(value, 6)
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        known = (item for item in value.items() if item[1] is not None and item[1] == item[1])
        return {key: as_record(item) for key, item in known}
    return [as_record(item) for item in value] if isinstance(value, list | tuple) else value


def to_record(item: Any) -> Mapping[str, Any]:
    """The record of a prediction, an error or a hit; what is a record is returned as it is."""
    return item if isinstance(item, Mapping) else item.to_dict()


_provenance = functools.lru_cache(maxsize=64)(Provenance)  # a million predictions share a few


def _candidate(entry: Mapping[str, Any]) -> Candidate:
    label = _label(entry.get("label"))
    return Candidate(label, _number(entry.get("score")), _number(entry.get("similarity")))


def _entries(value: object, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"`{name}` is not a list of labels with scores")
    return value


def _label(value: object) -> str:
    if not isinstance(value, str) or not _has_text(value):
        raise ValueError("a label is not a text")
    return value


def _names(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"`{name}` is not a list of labels")
    return tuple(map(_label, value))


@functools.lru_cache(maxsize=4096)
def _has_text(label: str) -> bool:
    """Whether something of a label can be seen, and it can be written anywhere."""
    label = label.strip()
    has_control = any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in label)
    return not has_control and any(c.isprintable() and not c.isspace() for c in label)


def _number(value: object) -> float:
    if value is None:
        return math.nan
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"the score {value!r} is not a number")
    return number
