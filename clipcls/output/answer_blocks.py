"""Answers to many images at once: arrays, of which predictions are made only if asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipcls.predictions import UNKNOWN, Candidate, Prediction, Provenance, Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(eq=False)
class PlainAnswers:
    """One label per image, without reasons, levels or sets; iterating gives each `Prediction`.

    Attributes:
        paths: the images, (n,).
        names: the classes' names, str (n_classes,).
        scores, similarities: of the best classes, best first, float64 (n, k).
        classes: their numbers, int64 (n, k).
        sure: whether the best label is given, bool (n,).
        nearness: float64 (n,), or None.
        provenance: of all.
        kept: the further fields of each record, or None.
    """

    paths: Sequence[str]
    names: NDArray[np.str_]
    scores: NDArray[Any]
    similarities: NDArray[Any]
    classes: NDArray[Any]
    sure: NDArray[np.bool_]
    nearness: NDArray[np.float64] | None
    provenance: Provenance
    kept: Sequence[Mapping[str, Any] | None] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Prediction]:
        nearness = self.nearness.tolist() if self.nearness is not None else itertools.repeat(None)
        columns = self.names[self.classes], self.scores, self.similarities
        rows = zip(*(column.tolist() for column in columns), strict=True)
        every_kept = self.kept or itertools.repeat(None)
        answers = zip(self.paths, rows, self.sure.tolist(), nearness, every_kept, strict=False)
        for path, row, is_sure, near, kept in answers:
            top = tuple(map(Candidate, *row))
            label = top[0].label if is_sure else UNKNOWN
            yield Prediction(path, label, top, self.provenance, nearness=near, kept=kept)


class Results(Iterator[Result]):
    """Results one by one, or in blocks for those who can make use of that."""

    def __init__(self, blocks: Iterable[Iterable[Result]]) -> None:
        self._blocks = iter(blocks)
        self._each = itertools.chain.from_iterable(self._blocks)

    def __next__(self) -> Result:
        return next(self._each)

    def blocks(self) -> Iterator[Iterable[Result]]:
        """The results in blocks, if none was taken yet."""
        return self._blocks

    def close(self) -> None:
        """Ends the work on later results."""
        if close := getattr(self._blocks, "close", None):
            close()


def as_blocks(results: Iterable[Any]) -> Iterator[Iterable[Any]]:
    """Results in blocks if they come so, else one by one."""
    return results.blocks() if isinstance(results, Results) else ([result] for result in results)
