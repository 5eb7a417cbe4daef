"""Results: predictions and search hits, as objects and as records.

A record is a dict as in jsonl; every other format is derived from it, or from `COLUMNS`.
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

UNKNOWN = "unknown"
PERSON = "person"
"""`labelled_by` of a reviewed table's row: a person gave this label."""
NO_CLASS = -1
"""Instead of a class number: a person said that the image has none of the labels."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A label with its score and cosine similarity, NaN if unknown."""

    label: str
    score: float
    similarity: float


@dataclass(frozen=True, slots=True)
class Provenance:
    """The model and everything else that made an answer.

    Attributes:
        model: the model's name.
        weights: first 12 hex of its weights' SHA-256.
        precision: the precision it computed in.
        prompts: the template set's name.
        calibration: first 12 hex of the calibration's SHA-256, or "".
        classifier: first 12 hex of the SHA-256 of the learnt classifier's file, or "".
        licence: of the model's weights; "" if unknown.
        shard: the share of the images as I/N, or "" for all of them.
        run: with a share, first 12 hex of the SHA-256 of the labels and options, else "".
        refined: whether the other images of the batch influenced the answer.
    """

    model: str
    weights: str
    precision: str
    prompts: str
    calibration: str = ""
    classifier: str = ""
    licence: str = ""
    shard: str = ""
    run: str = ""
    refined: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Its part of a record, without fields that have their default."""
        return dict(_known_provenance(self))


PROVENANCE = tuple(field.name for field in dataclasses.fields(Provenance))
"""The fields that are the same in every record of a run."""


class SimilarText(NamedTuple):
    """A text and its cosine similarity to the image."""

    text: str
    similarity: float


class SimilarImage(NamedTuple):
    """An image's path and its cosine similarity to the image that is explained."""

    path: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """The reasons for an answer.

    Attributes:
        texts: the label's texts that are most similar to the image, best first, at most 5; () if
            the label is not made of texts.
        runner_up: the second best label, or "" with a single label.
        margin: the best label's score less the second's; 1 without a second.
        nearest: the most similar images that were in the cache before the run, best first, at most
            3; () without a cache.
    """

    texts: tuple[SimilarText, ...]
    runner_up: str
    margin: float
    nearest: tuple[SimilarImage, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one image: one label, or several that are each scored on their own.

    Attributes:
        path: the image as the caller named it, or `images[3]` if it has no name (see
            `clipcls.data.inputs`).
        label: the best label that it is given, or `UNKNOWN` if none is sure enough.
        top: the best labels, given or not, best first; with several labels per image only the best
            one. Empty only if a result file names none.
        provenance: what made the answer; None if a result file does not say.
        label_set: the prediction set, best first: labels of which one is right with the probability
            asked for; or None.
        lineages: if the labels have a hierarchy, the names from the root to each given label; else
            None.
        explanation: the reasons for the answer, or None.
        heatmap: the path of the heat map's picture, or None.
        nearness: how many standard deviations the best label's similarity is above the mean
            similarity of everyday names; None if it was not measured.
        by_person: whether a person gave the image this label when the classifier was learnt; the
            score is the classifier's all the same.
        labels: with several labels per image the given ones, best first; else None.
        frames: of a whole video, the names of the frames that the best label fits best; else None.
        kept: further fields of the record, such as cells of the table that lists the image; or
            None.
    """

    path: str
    label: str
    top: tuple[Candidate, ...]
    provenance: Provenance | None
    label_set: tuple[str, ...] | None = None
    lineages: tuple[tuple[str, ...], ...] | None = None
    explanation: Explanation | None = None
    heatmap: str | None = None
    nearness: float | None = None
    by_person: bool = False
    labels: tuple[Candidate, ...] | None = None
    frames: tuple[str, ...] | None = None
    kept: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)

    @property
    def questions(self) -> Mapping[str, Prediction]:
        """As the only answer about the image, by the name "" (see `Answers.questions`)."""
        return {"": self}

    @property
    def score(self) -> float:
        """The score of the best label, given or not; NaN if unknown."""
        return self.top[0].score if self.top else math.nan

    @property
    def lineage(self) -> tuple[str, ...] | None:
        """The label's names from the root, () if it is `UNKNOWN`; None without a hierarchy."""
        return None if self.lineages is None else next(iter(self.lineages), ())

    @property
    def given(self) -> tuple[Candidate, ...]:
        """The labels that the image is given; () if that is `UNKNOWN`."""
        if self.labels is not None:
            return self.labels
        best = self.top[0] if self.top else Candidate(self.label, math.nan, math.nan)
        return () if self.label == UNKNOWN else (dataclasses.replace(best, label=self.label),)

    @property
    def label_paths(self) -> tuple[tuple[str, ...], ...]:
        """The names from the root to each given label; without a hierarchy its name alone."""
        if self.lineages is not None:
            return self.lineages
        return tuple((candidate.label,) for candidate in self.given)

    def to_dict(self) -> dict[str, Any]:
        """Its record, nested; numbers have six decimals, and unknown values are left out."""
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
            "nearness": self.nearness,
            "frames": self.frames,
            "labelled_by": PERSON if self.by_person else None,
        }
        return {
            **as_record(record),
            **(self.provenance.to_dict() if self.provenance else {}),
            **(self.kept or {}),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Prediction:
        """The prediction of a record, which may lack fields.

        Raises:
            ValueError: it is no such record; the message says why.
        """
        path = record.get("path")
        if not isinstance(path, str) or not path or "\0" in path:
            raise ValueError("has no path of an image")
        labels = lineages = None
        if record.get("labels") is not None:
            found = _candidates(record["labels"], "labels")
            given = {
                _lineage(entry, candidate.label): candidate
                for entry, candidate in zip(record["labels"], found, strict=True)
            }
            given.pop((UNKNOWN,), None)
            labels = tuple(given.values())
            if any(len(names) > 1 for names in given):
                lineages = tuple(given)
            label = labels[0].label if labels else UNKNOWN
            best = record.get("best")
            top = labels[:1] if best is None else _candidates([best], "best")
        elif "label" in record:
            label = _label(record["label"])
            if record.get("lineage") is not None:
                names = _lineage(record, label)
                lineages = () if label == UNKNOWN else (names,)
            top = _candidates(record.get("top") or [], "top")
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
            frames=None if record.get("frames") is None else _names(record["frames"], "frames"),
        )


Result: TypeAlias = Prediction | ImageError
"""The outcome for one image."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An image found by `clipcls search`: its rank from 1, its cosine similarity to the query."""

    rank: int
    path: str
    similarity: float
    model: str
    weights: str
    precision: str
    licence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Its record, without a licence that is unknown."""
        record: dict[str, Any] = as_record(self)
        return {key: value for key, value in record.items() if value != ""}


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
    "nearness": float,
    "frames": list[str],
    "labelled_by": str,
    **get_type_hints(Provenance),
    "error": str,
}
"""The fields of records of predictions and errors, and their types.

Only tables have `similarity`, the best label's, as a column.
"""


def as_record(value: Any) -> Any:
    """A value for JSON: objects as dicts, without fields that are None or NaN."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list) or type(value) is tuple:
        return [as_record(item) for item in value]
    if names := _field_names(value.__class__):
        value = {name: getattr(value, name) for name in names}
    if not isinstance(value, Mapping):
        return value
    known = (item for item in value.items() if item[1] is not None and item[1] == item[1])
    return {key: as_record(item) for key, item in known}


@functools.lru_cache(maxsize=64)
def _field_names(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass or named tuple; () of any other type."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return getattr(kind, "_fields", ())


def to_record(item: Any) -> Mapping[str, Any]:
    """The record of a prediction, an error or a hit; a record is returned as it is."""
    return item if isinstance(item, Mapping) else item.to_dict()


_provenance = functools.lru_cache(maxsize=64)(Provenance)  # a million predictions share a few


@functools.lru_cache(maxsize=64)
def _known_provenance(provenance: Provenance) -> dict[str, Any]:
    values = ((field, getattr(provenance, field.name)) for field in dataclasses.fields(provenance))
    return {field.name: value for field, value in values if value != field.default}


def _candidates(value: object, name: str) -> tuple[Candidate, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"`{name}` is not a list of labels with scores")
    return tuple(
        Candidate(
            _label(entry.get("label")),
            _number(entry.get("score")),
            _number(entry.get("similarity")),
        )
        for entry in value
    )


def _label(value: object) -> str:
    if not isinstance(value, str) or not _has_text(value):
        raise ValueError("a label is not a text")
    return value


def _names(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"`{name}` is not a list of labels")
    return tuple(map(_label, value))


def _lineage(record: Mapping[str, Any], label: str) -> tuple[str, ...]:
    """The names from the root to a label; those of another label, edited since, do not count."""
    names = _names(record.get("lineage") or [], "lineage")
    return names if names[-1:] == (label,) else (label,)


@functools.lru_cache(maxsize=4096)
def _has_text(label: str) -> bool:
    """Whether a label has a visible character, and none that cannot be written everywhere."""
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
