"""What a request asks of its images, within limits: its labels and templates, and their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipcls.errors import ClipclsError, LabelsError, PromptsError
from clipcls.labels.label_set import LabelSet, make_labels
from clipcls.labels.names import split_levels
from clipcls.labels.presets import list_sets
from clipcls.labels.prompts import PromptSet, make_prompts, make_texts, read_prompts

__all__ = ["Limits", "Question", "prepare_question"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for, and how much may be asked at a time.

    Attributes:
        bytes: of a request's body.
        pixels: that an image is decoded to; JPEGs are decoded no larger than the model needs.
        images: in a request.
        labels: in a request.
        length: of a label, synonym, prompt or template, characters.
        levels: of a label in a hierarchy.
        texts: that a request's labels and templates make together.
        seconds: that a request may take.
        queue: images accepted and not answered yet, of all requests.
        held: bytes of bodies held at a time, of all requests.
    """

    bytes: int = 64 << 20
    pixels: int = 50_000_000
    images: int = 32
    labels: int = 1_000
    length: int = 200
    levels: int = 16
    texts: int = 10_000
    seconds: float = 30.0
    queue: int = 64
    held: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks of its images.

    Attributes:
        labels: as for `make_labels`, but no name of a file or set; None: the server's.
        prompts: a ready set's name or templates; None: the server's.
        reject: whether `none of these` is an answer; None: as the server's.
        top, min_score, min_margin: as for `ZeroShotClassifier.classify`.
    """

    labels: Sequence[Any] | None = None
    prompts: str | tuple[str, ...] | None = None
    reject: bool | None = None
    top: int = 1
    min_score: float = 0.0
    min_margin: float = 0.0


def prepare_question(
    question: Question, limits: Limits, own_labels: LabelSet | None, own_prompts: PromptSet
) -> tuple[LabelSet, PromptSet, list[str]]:
    """A question's labels, templates, and the texts that these make.

    Args:
        question: what is asked.
        limits: what may be asked.
        own_labels: the server's, for a question without; None: it has none in words.
        own_prompts: the server's templates.

    Raises:
        LabelsError, PromptsError: they cannot be used, or pass a limit.
    """
    labels = own_labels if question.labels is None else _labels(question.labels, limits)
    if labels is None:
        raise LabelsError(
            "the server's classifier was learnt from images: prompts and reject need labels"
        )
    prompts = own_prompts if question.prompts is None else _prompts(question.prompts, limits)
    count = sum(len(la.words) * len(prompts.templates) + len(la.prompts) for la in labels)
    if count > limits.texts:
        raise LabelsError(
            f"labels, synonyms and templates make {count:,} texts; the most are {limits.texts:,}"
        )
    return labels, prompts, [text for texts in make_texts(labels, prompts) for text in texts]


def _labels(given: Sequence[Any], limits: Limits) -> LabelSet:
    if len(given) > limits.labels:
        raise LabelsError(f"{len(given):,} labels; the most are {limits.labels:,}")
    for entry in given:  # before they are made: that costs the levels' third power
        name = entry.get("label") if isinstance(entry, Mapping) else entry
        if isinstance(name, str) and len(split_levels(name)) > limits.levels:
            raise LabelsError(
                f"{name[:20]!r}... has {len(split_levels(name)):,} levels; the most are "
                f"{limits.levels}"
            )
    labels = make_labels(given)
    for label in labels:
        _check_lengths(LabelsError, limits.length, *label.path, *label.synonyms, *label.prompts)
    return labels


def _prompts(given: str | tuple[str, ...], limits: Limits) -> PromptSet:
    if isinstance(given, str) and "{" in given:
        given = (given,)
    if not isinstance(given, str):
        _check_lengths(PromptsError, limits.length, *given)
        return make_prompts(given)
    sets = list_sets("templates")  # and no file of that name
    if given not in sets:
        raise PromptsError(f"no ready template set {given[:50]!r}; they are {', '.join(sets)}")
    return PromptSet(given, read_prompts(sets[given]).templates)


def _check_lengths(kind: type[ClipclsError], most: int, *texts: str) -> None:
    for text in texts:
        if len(text) > most:
            raise kind(f"{text[:20]!r}... has {len(text):,} characters; the most are {most:,}")
