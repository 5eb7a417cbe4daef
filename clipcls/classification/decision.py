"""Unit vectors -> `Prediction`s: which answers are sure enough, and at which level."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.head import log_sum_exp
from clipcls.embeddings.embedded import Embedded, StoredRows
from clipcls.errors import CalibrationError, ClipclsError
from clipcls.output.answer_blocks import PlainAnswers
from clipcls.predictions import NO_CLASS, UNKNOWN, Candidate, Prediction, Provenance

if TYPE_CHECKING:
    from clipcls.calibration.single_label import Calibration, Threshold
    from clipcls.classification.explain import Explainer
    from clipcls.classification.head import LinearHead
    from clipcls.classification.nearness import Nearness
    from clipcls.labels.taxonomy import Level

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Abstain:
    """When a classifier answers `unknown`.

    Attributes:
        min_score: when the best score is below it. With labels in a hierarchy, unless one level was
            asked for, the deepest level is answered whose best score, summed along the tree,
            reaches it.
        min_margin: when the best score leads the second by less than this.
        min_similarity: when the best label's similarity is fewer standard deviations than this
            above the mean similarity of everyday names (see `Nearness`).
        coverage: answer only the surest images, at least this share of images like those of the
            calibration.
        max_error: answer as many images as possible with at most this share of the answers wrong.

    Raises:
        ValueError: both `coverage` and `max_error` are given.
    """

    min_score: float = 0.0
    min_margin: float = 0.0
    min_similarity: float = -math.inf
    coverage: float | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        if self.coverage is not None and self.max_error is not None:
            raise ValueError("give either coverage or max_error, not both")

    def accepts(self, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which images reach `min_score` and `min_margin`; scores best first, (n, k) -> (n,)."""
        enough = scores[:, 0] >= self.min_score
        if self.min_margin and scores.shape[1] > 1:
            enough &= scores[:, 0] - scores[:, 1] >= self.min_margin
        return enough

    def threshold(self, calibration: Calibration | None) -> Threshold | None:
        """The threshold that `coverage` or `max_error` asks for; None if neither is given.

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

    level: Level | None
    scores: NDArray[Any]
    similarities: NDArray[Any]
    classes: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Decision:
    """Decides the answers to embedded images.

    Attributes:
        head: the scores.
        classes: the classes' names, str (n_classes,).
        provenance: the provenance of its predictions.
        levels: the levels of the labels' hierarchy, the last with the head's classes as nodes;
            images that are not sure enough there are answered at a higher one. () without a
            hierarchy.
        top: how many labels each prediction carries.
        abstain: when an image is `unknown`.
        threshold: the score that the model's own best must exceed, or None.
        set_threshold: the softmax score from which labels are in a prediction set, or None.
        explainer: explains each prediction, or None.
        nearness: gives each prediction its `nearness`, or None.
        refine: whether the images decide together (see `transductive`).
        given: the class number that a person gave an image file, `NO_CLASS` or None.

    Raises:
        CalibrationError: `refine` with a calibration, whose promises would not hold.
        ClipclsError: `refine` with a hierarchy of labels or a learnt classifier.
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
    nearness: Nearness | None = None
    refine: bool = False
    given: Callable[[str, bytes], int | None] | None = None

    def __post_init__(self) -> None:
        if self.refine and self.provenance.calibration:
            raise CalibrationError(
                "refined scores are not those of the calibration: its promises would not hold"
            )
        if self.refine and self.levels:
            raise ClipclsError("answers are not refined if labels have a hierarchy")
        if self.refine and self.provenance.classifier:
            raise ClipclsError("answers of a learnt classifier are not refined")

    def answer(self, images: Sequence[Embedded]) -> Iterable[Prediction]:
        """Answers some images at once; with `refine`, of a list, whose vectors it replaces."""
        if isinstance(images, StoredRows):
            paths, vectors = images.paths, images.vectors
        else:
            paths = [image.path for image in images]
            vectors = np.stack([image.vector for image in images])
        if self.refine:  # one copy of many vectors is enough
            rows = zip(images, vectors, strict=True)
            images[:] = [replace(image, vector=row) for image, row in rows]  # type: ignore[index]
        found = self._refine(vectors) if self.refine else self.head.top(vectors, self._shown)
        near = self._measure_nearness(vectors, found[1][:, 0])
        within = self._is_above_threshold(vectors) & ~(near < self.abstain.min_similarity)
        sure = within & self.abstain.accepts(found[0])
        if not (self.given or self.levels or self.explainer or self.set_threshold is not None):
            nearness = near if self.nearness else None
            scores, similarities, classes = (part[:, : self.top] for part in found)
            best = scores, similarities, classes
            return PlainAnswers(paths, self.classes, *best, sure, nearness, self.provenance)
        above = self._answers_above(vectors, np.flatnonzero(within & ~sure))
        return self._answer_each(images, vectors, found, sure, near, above)

    def _answer_each(
        self,
        images: Sequence[Embedded],
        vectors: NDArray[np.float32],
        found: tuple[NDArray[Any], ...],
        sure: NDArray[np.bool_],
        near: NDArray[np.float64],
        above: dict[int, _Answer],
    ) -> Iterator[Prediction]:
        sets = self._prediction_sets(vectors)
        level = self.levels[-1] if self.levels else None
        for number, (image, label_set) in enumerate(zip(images, sets, strict=True)):
            is_sure, answer = bool(sure[number]), _Answer(level, *(part[number] for part in found))
            given = None
            if self.given and (image.is_file or image.content):
                given = self.given(image.path, image.content)
            if given is not None:  # learning from a label does not overrule it
                is_sure = given != NO_CLASS
                if is_sure:
                    answer = self._put_first(given, answer, image.vector)
                    if label_set is not None:
                        label_set = tuple(dict.fromkeys((str(self.classes[given]), *label_set)))
            elif number in above:
                is_sure, answer = True, above[number]
            yield self._predict(
                image,
                answer,
                is_sure,
                nearness=float(near[number]) if self.nearness else None,
                label_set=label_set,
                by_person=given is not None,
            )

    def _predict(
        self, image: Embedded, answer: _Answer, is_sure: bool, **others: Any
    ) -> Prediction:
        level, *columns = answer
        names = self.classes if level is None else level.names
        candidates = tuple(
            Candidate(str(names[number]), float(score), float(similarity))
            for score, similarity, number in zip(*columns, strict=True)
        )
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
        """How many classes to look at: margins and explanations need the second one too."""
        return max(self.top, 2)

    def _put_first(self, given: int, answer: _Answer, vector: NDArray[np.float32]) -> _Answer:
        """The answer with a given class first, then the best of the others."""
        if answer.classes[0] == given:
            return answer
        found = self.head.top(vector[None], len(self.classes))
        order = np.argsort(found[2][0] != given, kind="stable")[: self._shown]
        return _Answer(answer.level, *(part[0][order] for part in found))

    def _measure_nearness(
        self, vectors: NDArray[np.float32], similarities: NDArray[Any]
    ) -> NDArray[np.float64]:
        """The nearness of each image to its best label, (n,); NaN, below nothing, without it."""
        if self.nearness is None:
            return np.full(len(vectors), np.nan)
        return self.nearness.measure(vectors, similarities)

    def _is_above_threshold(self, vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which images the model is sure enough of for the coverage or the error, bool (n,)."""
        if self.threshold is None:
            return np.ones(len(vectors), bool)
        return self.head.raw.top(vectors, 1)[0][:, 0] > self.threshold

    def _answers_above(
        self, vectors: NDArray[np.float32], unsure: NDArray[np.int64]
    ) -> dict[int, _Answer]:
        """Image number -> answer at the deepest higher level that is sure enough."""
        answers: dict[int, _Answer] = {}
        for level in reversed(self.levels[:-1]):
            found = self.head.at(level).top(vectors[unsure], self._shown)
            sure = self.abstain.accepts(found[0])
            for row in np.flatnonzero(sure):
                answers[int(unsure[row])] = _Answer(level, *(part[row] for part in found))
            unsure = unsure[~sure]
        return answers

    def _prediction_sets(self, vectors: NDArray[np.float32]) -> list[tuple[str, ...]] | list[None]:
        if self.set_threshold is None:
            return [None] * len(vectors)
        found = []
        for _, logits in self.head.raw.blocks(vectors):
            order = np.argsort(-logits, axis=1, kind="stable")
            scores = np.exp(logits - log_sum_exp(logits))
            # The best label is in every set, so that no set is empty.
            sizes = np.maximum((scores >= self.set_threshold).sum(axis=1), 1)
            found += [
                tuple(self.classes[row[:size]].tolist())
                for row, size in zip(order, sizes, strict=True)
            ]
        return found

    def _refine(
        self, vectors: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]:
        """As `LinearHead.top`, of all images together."""
        from clipcls.classification.transductive import refine

        logger.info("refining the answers of %d images together", len(vectors))
        found = refine(
            vectors,
            self.head.raw.logits,
            len(self.classes),
            temperature=self.head.temperature,
            kept=self._shown,
        )
        scores = found.scores[:, : self._shown].astype(np.float64)
        classes = found.classes[:, : self._shown]
        weights, rows = self.head.weights, zip(classes, vectors, strict=True)
        similarities = np.array([weights[best] @ row.astype(np.float64) for best, row in rows])
        return scores, similarities, classes
