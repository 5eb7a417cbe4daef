"""Unit vectors -> `Prediction`s: what is sure enough to be answered, at which level."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.embed import Embedded
from clipcls.errors import CalibrationError, ClipclsError, ImageError
from clipcls.predictions import NO_CLASS, UNKNOWN, Candidate, Prediction, Provenance

if TYPE_CHECKING:
    from clipcls.calibration.single_label import Calibration, Threshold
    from clipcls.classification.explain import Explainer
    from clipcls.classification.head import LinearHead
    from clipcls.labels.taxonomy import Level

__all__ = ["Abstain", "Decision", "blocks"]

logger = logging.getLogger(__name__)

_MATCHED_TOGETHER = 1024  # images; bounds memory


@dataclass(frozen=True, slots=True)
class Abstain:
    """When a classifier answers `unknown`.

    Attributes:
        min_score: an image whose best score is below it is `unknown`. Labels in a hierarchy, where
            no level was asked for, are answered at the deepest level where the best score, summed
            along the tree, reaches it.
        min_margin: so is an image whose best score leads the second by less than this.
        coverage: answer only the surest images, at least this share of images like those of the
            calibration.
        max_error: answer as many images as possible with at most this share of the answers wrong.

    Raises:
        ValueError: both `coverage` and `max_error` are given.
    """

    min_score: float = 0.0
    min_margin: float = 0.0
    coverage: float | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        if self.coverage is not None and self.max_error is not None:
            raise ValueError("give coverage or max_error: one of the two")

    def accepts(self, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which images' scores, best first, (n, k), reach the least score and margin, bool (n,)."""
        enough = scores[:, 0] >= self.min_score
        if self.min_margin and scores.shape[1] > 1:
            enough &= scores[:, 0] - scores[:, 1] >= self.min_margin
        return enough

    def threshold(self, calibration: Calibration | None) -> Threshold | None:
        """Where answers begin for the coverage or the error; None where neither is given.

        Raises:
            CalibrationError: the calibration is missing, or cannot promise that much.
        """
        if self.coverage is None and self.max_error is None:
            return None
        if calibration is None:
            raise CalibrationError("coverage and max_error need a calibration")
        if self.coverage is not None:
            return calibration.for_coverage(self.coverage)
        assert self.max_error is not None
        return calibration.for_error(self.max_error)


class _Answer(NamedTuple):
    """The best classes of one image, best first: (k,) each, of a level or of plain labels."""

    scores: NDArray[Any]
    similarities: NDArray[Any]
    classes: NDArray[Any]
    level: Level | None

    @classmethod
    def of(cls, found: Sequence[NDArray[Any]], at: Any, level: Level | None) -> _Answer:
        """Out of what `LinearHead.top` found, at some index."""
        scores, similarities, classes = found
        return cls(scores[at], similarities[at], classes[at], level)


@dataclass(frozen=True, slots=True)
class Decision:
    """Decides what embedded images are.

    Attributes:
        head: the scores.
        classes: the classes' names, str (n_classes,).
        provenance: what its predictions carry.
        levels: of the labels' hierarchy, the last with the head's classes as nodes; images that are
            not sure enough there are answered at a higher one. () without a hierarchy.
        top: how many labels each prediction carries.
        abstain: when an image is `unknown`.
        threshold: the score that the model's own best must exceed, or None.
        set_threshold: the conformal score up to which labels are in a prediction set, or None.
        explainer: explains each prediction, or None.
        given: the class number that a person gave an image file, `NO_CLASS` or None.
    """

    head: LinearHead
    classes: NDArray[np.str_]
    provenance: Provenance
    levels: tuple[Level, ...] = ()
    top: int = 1
    abstain: Abstain = Abstain()
    threshold: float | None = None
    set_threshold: float | None = None
    explainer: Explainer | None = None
    given: Callable[[str], int | None] = lambda path: None

    def classify_each(
        self, embedded: Iterable[Embedded | ImageError]
    ) -> Iterator[Prediction | ImageError]:
        """Answers one after the other, in their order, with bounded memory."""
        for block in blocks(embedded):
            yield from self.answer(block)

    def answer(self, block: Sequence[Embedded | ImageError]) -> Iterator[Prediction | ImageError]:
        """The predictions of some images at once; errors are handed through."""
        images = [item for item in block if not isinstance(item, ImageError)]
        answered = iter(self._answer(images) if images else ())
        for item in block:
            yield item if isinstance(item, ImageError) else next(answered)

    def _answer(self, images: Sequence[Embedded]) -> Iterator[Prediction]:
        vectors = np.stack([image.vector for image in images])
        found = self.head.top(vectors, max(self._shown, 2 if self.abstain.min_margin else 1))
        within = self._is_above_threshold(vectors)
        sure = within & self.abstain.accepts(found[0])
        above = self._answers_above(vectors, np.flatnonzero(within & ~sure))
        sets = self._prediction_sets(vectors)
        level = self.levels[-1] if self.levels else None
        for number, (image, label_set) in enumerate(zip(images, sets, strict=True)):
            answer = _Answer.of(found, number, level)
            is_sure = bool(sure[number])
            given = self.given(image.path) if image.is_file else None
            if given is not None:  # which a classifier learnt from it does not overrule
                is_sure = given != NO_CLASS
                if is_sure:
                    if given != answer.classes[0]:
                        answer = self._with_first(given, image.vector)
                    if label_set is not None:
                        label_set = tuple(dict.fromkeys((str(self.classes[given]), *label_set)))
            elif number in above:
                is_sure, answer = True, above[number]
            yield self._prediction(
                image, answer, is_sure, label_set=label_set, by_person=given is not None
            )

    def _prediction(
        self, image: Embedded, answer: _Answer, is_sure: bool, **others: Any
    ) -> Prediction:
        level = answer.level
        names = self.classes if level is None else level.names
        candidates = tuple(
            Candidate(str(names[number]), float(score), float(similarity))
            for score, similarity, number in zip(*answer[:3], strict=True)
        )[: self._shown]
        best = int(answer.classes[0])
        if level is not None:
            others["lineages"] = (level.paths[best],) if is_sure else ()
        if self.explainer:
            labels = [best] if level is None else level.labels(best)
            others["explanation"] = self.explainer.explain(
                image.path, image.vector, labels, candidates
            )
        label = candidates[0].label if is_sure else UNKNOWN
        return Prediction(image.path, label, candidates[: self.top], self.provenance, **others)

    @property
    def _shown(self) -> int:
        """How many classes are looked at: an explanation tells of the second too."""
        return max(self.top, 2) if self.explainer else self.top

    def _with_first(self, given: int, vector: NDArray[np.float32]) -> _Answer:
        """The answer with the given class first, then the best of the others."""
        found = self.head.top(vector[None], len(self.classes))
        first = np.argsort(found[2][0] != given, kind="stable")[: self._shown]
        level = self.levels[-1] if self.levels else None
        return _Answer.of([part[0] for part in found], first, level)

    def _is_above_threshold(self, vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which images the model is surer of than a coverage or an error asks for, bool (n,)."""
        if self.threshold is None:
            return np.ones(len(vectors), bool)
        return self.head.raw.top(vectors, 1)[0][:, 0] > self.threshold

    def _answers_above(
        self, vectors: NDArray[np.float32], unsure: NDArray[np.int64]
    ) -> dict[int, _Answer]:
        """Answers at the deepest higher level that is sure enough, by the number of the image."""
        answers: dict[int, _Answer] = {}
        for level in reversed(self.levels[:-1]):
            found = self.head.at(level).top(vectors[unsure], max(self._shown, 2))
            sure = self.abstain.accepts(found[0])
            for row in np.flatnonzero(sure):
                answers[int(unsure[row])] = _Answer.of(found, row, level)
            unsure = unsure[~sure]
        return answers

    def _prediction_sets(self, vectors: NDArray[np.float32]) -> list[tuple[str, ...]] | list[None]:
        if self.set_threshold is None:
            return [None] * len(vectors)
        from clipcls.calibration.conformal import rank_scores, set_sizes

        found = []
        for _, logits in self.head.raw.blocks(vectors):
            order, scores = rank_scores(logits)
            sizes = set_sizes(scores, self.set_threshold)
            found += [
                tuple(self.classes[row[:size]].tolist())
                for row, size in zip(order, sizes, strict=True)
            ]
        return found

    # -- all images together --------------------------------------------------------------------

    def check_refinable(self) -> None:
        """Refuses what `classify_together` is not for.

        Raises:
            CalibrationError: the classifier has a calibration.
            ClipclsError: its labels have a hierarchy, or it was learnt.
        """
        if self.provenance.calibration:
            raise CalibrationError(
                "refined scores are not those of the calibration: what it promises would not hold"
            )
        if self.levels:
            raise ClipclsError("answers are not refined where labels have a hierarchy")
        if self.provenance.classifier:
            raise ClipclsError("answers of a learnt classifier are not refined")

    def classify_together(
        self,
        embedded: Iterable[Embedded | ImageError],
        watch: Callable[[ImageError | None], None] | None = None,
    ) -> Iterator[Prediction | ImageError]:
        """Answers that all images decide together (see `transductive`), once all are embedded.

        Args:
            embedded: the images.
            watch: called after each image is embedded, with the `ImageError` if it could not be
                read.
        """
        from clipcls.classification.transductive import objection, refine

        items: list[str | ImageError] = []
        rows: list[NDArray[np.float32]] = []
        for image in embedded:
            if not isinstance(image, ImageError):
                rows.append(image.vector)
            items.append(image if isinstance(image, ImageError) else image.path)
            if watch:
                watch(image if isinstance(image, ImageError) else None)
        vectors = np.array(rows, np.float32).reshape(-1, self.head.weights.shape[1])
        rows.clear()
        each = iter(vectors)
        images = (i if isinstance(i, ImageError) else Embedded(i, next(each)) for i in items)
        if reason := objection(self.head.best(vectors), len(self.classes)):
            if len(vectors):
                logger.warning("%s: answered as without refining", reason)
            while block := list(itertools.islice(images, _MATCHED_TOGETHER)):
                yield from self.answer(block)
            return
        logger.info("refining the answers of %d images together", len(vectors))
        found = refine(vectors, self.head.logits, len(self.classes), kept=max(self._shown, 2))
        scores = found.scores.astype(np.float64)
        sure = self.abstain.accepts(scores)
        refined = replace(self, provenance=replace(self.provenance, refined=True))
        numbers = itertools.count()
        for item in images:
            if isinstance(item, ImageError):
                yield item
                continue
            number = next(numbers)
            classes = found.classes[number, : self._shown]
            similarities = self.head.weights[classes] @ item.vector.astype(np.float64)
            answer = _Answer(scores[number, : self._shown], similarities, classes, None)
            yield refined._prediction(item, answer, bool(sure[number]))


def blocks(
    embedded: Iterable[Embedded | ImageError],
) -> Iterator[list[Embedded | ImageError]]:
    """Images that are answered together, in their order, which bounds memory.

    What the encoder just finished goes out at once; what is stored comes many at a time.
    """
    block: list[Embedded | ImageError] = []
    for item in embedded:
        block.append(item)
        fresh = not isinstance(item, ImageError) and not item.stored
        if fresh or len(block) == _MATCHED_TOGETHER:
            yield block
            block = []
    if block:
        yield block
