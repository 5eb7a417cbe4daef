"""A classifier's scores -> `Prediction`s: what is sure enough to be answered, at which level."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.embed import Embedded
from clipcls.errors import CalibrationError, ClipclsError, ImageError
from clipcls.predictions import NO_CLASS, UNKNOWN, Candidate, Prediction

if TYPE_CHECKING:
    from clipcls.classification.explain import Explainer
    from clipcls.classification.zero_shot import ZeroShotClassifier

__all__ = ["Rule", "blocks", "check_refinable", "classify_each", "classify_together", "predictions"]

logger = logging.getLogger(__name__)

_MATCHED_TOGETHER = 1024  # images; bounds memory


@dataclass(frozen=True, slots=True)
class Rule:
    """When an image is answered, what its label set is made of, and what explains the answer."""

    min_score: float
    min_margin: float
    raw_above: float | None  # of the model's own best score
    set_threshold: float | None
    explainer: Explainer | None = None

    def accepts(self, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which images' scores, best first, (n, k), reach the least score and margin, bool (n,)."""
        enough = scores[:, 0] >= self.min_score
        if self.min_margin and scores.shape[1] > 1:
            enough &= scores[:, 0] - scores[:, 1] >= self.min_margin
        return enough


def classify_each(
    classifier: ZeroShotClassifier,
    embedded: Iterable[Embedded | ImageError],
    top: int,
    rule: Rule,
) -> Iterator[Prediction | ImageError]:
    """Answers one after the other, in their order, with bounded memory."""
    for block in blocks(embedded):
        yield from predictions(classifier, block, top, rule)


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


def classify_together(
    classifier: ZeroShotClassifier,
    embedded: Iterable[Embedded | ImageError],
    top: int,
    rule: Rule,
    watch: Callable[[ImageError | None], None] | None,
) -> Iterator[Prediction | ImageError]:
    """Answers that all images decide together (see `transductive`), once all are embedded."""
    from clipcls.classification.transductive import objection, refine

    items: list[str | ImageError] = []
    rows: list[NDArray[np.float32]] = []
    for image in embedded:
        if not isinstance(image, ImageError):
            rows.append(image.vector)
        items.append(image if isinstance(image, ImageError) else image.path)
        if watch:
            watch(image if isinstance(image, ImageError) else None)
    vectors = np.stack(rows) if rows else np.empty((0, classifier.weights_.shape[1]), np.float32)
    rows.clear()
    if reason := objection(classifier.match(vectors, 1)[2][:, 0], len(classifier.classes_)):
        if len(vectors):
            logger.warning("%s: answered as without refining", reason)
        alone = iter(vectors)
        plain = [i if isinstance(i, ImageError) else Embedded(i, next(alone)) for i in items]
        for start in range(0, len(plain), _MATCHED_TOGETHER):
            yield from predictions(classifier, plain[start : start + _MATCHED_TOGETHER], top, rule)
        return
    logger.info("refining the answers of %d images together", len(vectors))
    found = refine(vectors, classifier.logits, len(classifier.classes_), kept=max(top, 2))
    scores, made_by = found.scores.astype(np.float64), replace(classifier.made_by_, refined=True)
    shown = max(top, 2) if rule.explainer else top
    answers = zip(vectors, found.classes[:, :shown], scores, rule.accepts(scores), strict=True)
    for item in items:
        if isinstance(item, ImageError):
            yield item
            continue
        vector, classes, shares, is_sure = next(answers)
        similarities = classifier.weights_[classes].astype(np.float64) @ vector.astype(np.float64)
        candidates = tuple(
            Candidate(str(classifier.classes_[number]), float(score), float(similarity))
            for number, score, similarity in zip(classes, shares, similarities, strict=False)
        )
        explanation = None
        if rule.explainer:
            texts = classifier.texts_of(int(classes[0]))
            explanation = rule.explainer.explain(item, vector, texts, candidates)
        label = candidates[0].label if is_sure else UNKNOWN
        yield Prediction(item, label, candidates[:top], made_by, explanation=explanation)


def check_refinable(classifier: ZeroShotClassifier) -> None:
    """A classifier that `classify_together` is not for.

    Raises:
        CalibrationError: it has a calibration.
        ClipclsError: its labels have a hierarchy, or it was learnt.
    """
    if classifier.calibration_ is not None:
        raise CalibrationError(
            "refined scores are not those of the calibration: what it promises would not hold"
        )
    if classifier.hierarchy_ is not None:
        raise ClipclsError("answers are not refined where labels have a hierarchy")
    if classifier.made_by_.classifier:
        raise ClipclsError("answers of a learnt classifier are not refined")


def predictions(
    classifier: ZeroShotClassifier, block: Sequence[Any], top: int, rule: Rule
) -> Iterator[Prediction | ImageError]:
    """The answers for images that are embedded, in their order; errors are handed through."""
    images = [item for item in block if not isinstance(item, ImageError)]
    if images:
        vectors = np.stack([item.vector for item in images])
        shown = max(top, 2) if rule.explainer else top
        scores, similarities, rows = classifier.match(
            vectors, max(shown, 2 if rule.min_margin else 1)
        )
        within = _is_above_threshold(classifier, vectors, similarities, rule)
        sure = within & rule.accepts(scores)
        sets = _label_sets(classifier, vectors, rule)
        above = _answers_above(classifier, vectors, within & ~sure, shown, rule)
        parts = scores[:, :shown], similarities[:, :shown], rows[:, :shown]
        matches = enumerate(zip(*parts, sure, sets, strict=True))
    for item in block:
        if isinstance(item, ImageError):
            yield item
            continue
        number, (*best, is_sure, label_set) = next(matches)
        level = classifier.level_
        given = classifier.given_class(item.path) if item.is_file else None
        if given is not None:  # which a classifier learnt from it does not overrule
            is_sure = given != NO_CLASS
            if is_sure and given != best[2][0]:
                best = _with_first(classifier, item.vector, given, shown)
        elif number in above:
            is_sure, (level, *best) = True, above[number]
        names = classifier.classes_ if level is None else level.names
        candidates = tuple(
            Candidate(str(names[row]), float(score), float(similarity))
            for score, similarity, row in zip(*best, strict=True)
        )
        label = candidates[0].label if is_sure else UNKNOWN
        if given is not None and is_sure and label_set is not None:
            label_set = tuple(dict.fromkeys((label, *label_set)))
        lineages = None
        if level is not None:
            lineages = (level.paths[best[2][0]],) if is_sure else ()
        explanation = None
        if rule.explainer:
            texts = classifier.texts_of(int(best[2][0]), level)
            explanation = rule.explainer.explain(item.path, item.vector, texts, candidates)
        yield Prediction(
            item.path,
            label,
            candidates[:top],
            classifier.made_by_,
            label_set,
            lineages,
            explanation,
            by_person=given is not None,
        )


def _with_first(
    classifier: ZeroShotClassifier, vector: NDArray[np.float32], given: int, k: int
) -> list[NDArray[Any]]:
    """Scores, similarities and numbers of k classes: the given one, then the best of the others."""
    found = classifier.match(vector[None], len(classifier.classes_))
    first = np.argsort(found[2][0] != given, kind="stable")[:k]
    return [part[0][first] for part in found]


def _is_above_threshold(
    classifier: ZeroShotClassifier,
    vectors: NDArray[np.float32],
    similarities: NDArray[np.float64],
    rule: Rule,
) -> NDArray[np.bool_]:
    """Which images the model is surer of than a coverage or an error asks for, bool (n,)."""
    if rule.raw_above is None:
        return np.ones(len(vectors), bool)
    within: NDArray[np.bool_] = classifier.raw_best(vectors, similarities) > rule.raw_above
    return within


def _answers_above(
    classifier: ZeroShotClassifier,
    vectors: NDArray[np.float32],
    unsure: NDArray[np.bool_],
    k: int,
    rule: Rule,
) -> dict[int, tuple[Any, ...]]:
    """Answers at a higher level of the hierarchy for images without one at the lowest.

    Returns:
        number of the image -> level, and scores, similarities and node numbers of the k best.
    """
    found: dict[int, tuple[Any, ...]] = {}
    numbers = np.flatnonzero(unsure)
    for rows, level, scores, similarities, nodes in classifier.match_above(vectors[numbers], k):
        for row in np.flatnonzero(rule.accepts(scores)):
            answer = scores[row, :k], similarities[row, :k], nodes[row, :k]
            found.setdefault(int(numbers[rows][row]), (level, *answer))
    return found


def _label_sets(
    classifier: ZeroShotClassifier, vectors: NDArray[np.float32], rule: Rule
) -> list[tuple[str, ...]] | list[None]:
    if rule.set_threshold is None:
        return [None] * len(vectors)
    from clipcls.calibration.conformal import rank_scores, set_sizes

    found = []
    for logits in classifier.raw_logits(vectors):
        order, scores = rank_scores(logits)
        sizes = set_sizes(scores, rule.set_threshold)
        found += [
            tuple(classifier.classes_[row[:size]].tolist())
            for row, size in zip(order, sizes, strict=True)
        ]
    return found
