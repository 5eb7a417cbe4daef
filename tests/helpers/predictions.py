"""Predictions as a result file holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

from clipcls.predictions import UNKNOWN, Candidate, Prediction

Item = TypeVar("Item")


def all_of(kind: type[Item], items: Iterable[object]) -> list[Item]:
    """The items as a list. An item of another kind, as an unreadable image, fails the test."""
    found = list(items)
    others = [item for item in found if not isinstance(item, kind)]
    assert not others
    return [item for item in found if isinstance(item, kind)]


def candidates(*pairs: tuple[str, float]) -> tuple[Candidate, ...]:
    return tuple(Candidate(label, score, math.nan) for label, score in pairs)


def predicted(
    path: str, *label_paths: tuple[str, ...], top: tuple[tuple[str, float], ...] = ()
) -> Prediction:
    """An image with these labels, each as the names from the root."""
    names = [names[-1] for names in label_paths]
    return Prediction(
        path,
        names[0] if names else UNKNOWN,
        candidates(*top),
        None,
        lineages=label_paths if any(len(names) > 1 for names in label_paths) else None,
        labels=candidates(*((name, math.nan) for name in names)) if len(names) > 1 else None,
    )
