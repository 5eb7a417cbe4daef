"""Fits a calibration to labelled images.

- The temperature (Guo et al. 2017, arXiv 1706.04599) minimises the negative log-likelihood. A
  model's temperature carries over to other labels and prompts (LeVine et al. 2023, arXiv
  2303.12748) and needs few images (Tu et al. 2024, arXiv 2402.07417); it is bound to the labels and
  prompts all the same, since thresholds and sets are.
- Thresholds for `coverage` and `max_error` and the scores of prediction sets come from the model's
  own softmax (temperature 1). It was not fitted to these images, so that the promises for new
  images like them hold exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from clipcls.calibration.base import collect_versions
from clipcls.calibration.multilabel import (
    DEFAULT_THRESHOLD,
    LEAST_SLOPE,
    MultiLabelCalibration,
    choose_thresholds,
    fit_probabilities,
)
from clipcls.calibration.single_label import Calibration
from clipcls.calibration.temperature import (
    HOTTEST,
    Blocks,
    apply_temperatures,
    fit_temperatures,
)
from clipcls.classification.head import log_sum_exp
from clipcls.classification.in_blocks import Watch
from clipcls.classification.labelled import embed_known, right_columns
from clipcls.classification.multilabel import MultiLabelClassifier
from clipcls.data.dataset import DatasetLike
from clipcls.data.matching import Excluded
from clipcls.errors import CalibrationError, InputError, not_fitted
from clipcls.evaluation.evaluate import compute_outcomes
from clipcls.metrics.intervals import Flags, Floats
from clipcls.metrics.multilabel import f1_scores
from clipcls.metrics.single_label import calibration_error
from clipcls.numerics import logistic

if TYPE_CHECKING:
    from clipcls.classification.image_classifier import ImageClassifier

_LEAST_IMAGES = 10
_FOLDS = 5
_ROWS = 2000  # of a table in the file
_LOGITS_KEPT = 20_000_000


@overload
def calibrate(
    classifier: ImageClassifier, data: DatasetLike, *, watch: Watch | None = None
) -> tuple[Calibration, Excluded]: ...


@overload
def calibrate(
    classifier: MultiLabelClassifier, data: DatasetLike, *, watch: Watch | None = None
) -> tuple[MultiLabelCalibration, Excluded]: ...


def calibrate(
    classifier: ImageClassifier | MultiLabelClassifier,
    data: DatasetLike,
    *,
    watch: Watch | None = None,
) -> tuple[Calibration | MultiLabelCalibration, Excluded]:
    """Fits a calibration for a fitted classifier that has none.

    With one label per image, an image with several right labels counts as in `evaluate`; a
    prediction set is right if it holds one of them. With several labels per image, an image does
    not have the labels that the data does not name.

    Args:
        classifier: fitted, without a calibration.
        data, watch: as for `evaluate`.

    Returns:
        the calibration, and the images that are left out.

    Raises:
        InputError: fewer than 10 images can be used.
        CalibrationError: the classifier has a calibration already.
        NotFittedError: the classifier is not fitted.
    """
    if not classifier.__sklearn_is_fitted__():
        raise not_fitted(classifier)
    if classifier.calibration_ is not None:
        raise CalibrationError("this classifier is calibrated already; take one without")
    known = embed_known(classifier, data, watch)
    if (n := len(known.paths)) < _LEAST_IMAGES:
        raise InputError(f"too few labelled images to calibrate: {n}; give {_LEAST_IMAGES} or more")
    found: Calibration | MultiLabelCalibration
    if isinstance(classifier, MultiLabelClassifier):
        truth = right_columns(known.truth, len(classifier.classes_))
        found = _calibrate_labels(classifier, classifier.scores(known.vectors), truth)
    else:
        found = calibrate_vectors(classifier, known.vectors, known.truth)
    return found.keep_images(known.hashes), known.excluded


def calibrate_vectors(
    classifier: ImageClassifier,
    vectors: NDArray[np.float32],
    truth: Sequence[tuple[int, ...]],
) -> Calibration:
    """`calibrate` from images' vectors.

    Args:
        classifier: fitted, without a calibration.
        vectors: float32 (n, dim), unit rows.
        truth: for each image the class numbers that are right, at least one.
    """
    n = len(vectors)
    outcomes = compute_outcomes(classifier, vectors, truth)
    blocks = _remembered(classifier, vectors)
    folds = _draw_folds(n)
    temperatures = fit_temperatures(blocks, outcomes.truth, outcomes.correct, folds)
    fitted, usual = float(temperatures[-1]), classifier.head_.temperature
    (before_loss, before_score), (after_loss, after_score), (_, own_score) = (
        apply_temperatures(blocks, outcomes.truth, outcomes.answer, each)
        for each in (np.full(n, usual), temperatures[folds], np.ones(n))
    )
    temperature, note = fitted, ""
    if outcomes.correct.all():
        temperature = usual
        note = f"all {n:,} answers are right, which determines no temperature: it stays {usual:.3g}"
    elif after_loss.mean() > before_loss.mean():
        temperature = usual
        note = (
            f"the temperature stays {usual:.3g}: on held-out images the log loss was "
            f"{before_loss.mean():.3f}, and {after_loss.mean():.3f} with fitted ones"
        )
    elif math.isclose(abs(math.log(fitted)), math.log(HOTTEST), rel_tol=1e-5):
        note = f"the temperature is at its bound, {fitted:g}: the scores tell next to nothing"
    if temperature == usual:
        after_loss, after_score = before_loss, before_score
    return Calibration(
        identity=classifier.identity_,
        images=n,
        temperature=temperature,
        note=note,
        metrics={
            "nll": {"before": float(before_loss.mean()), "after": float(after_loss.mean())},
            "ece": {
                "before": calibration_error(before_score, outcomes.correct),
                "after": calibration_error(after_score, outcomes.correct),
            },
        },
        thresholds=_thresholds(own_score, outcomes.correct),
        set_scores=_set_scores(blocks, truth),
        versions=collect_versions(),
    )


def _remembered(classifier: ImageClassifier, vectors: NDArray[np.float32]) -> Blocks:
    """The model's own logits of all images, kept if they are few, else computed each time."""
    if len(vectors) * len(classifier.classes_) > _LOGITS_KEPT:
        return lambda: classifier.head_.raw.blocks(vectors)
    kept = list(classifier.head_.raw.blocks(vectors))
    return lambda: kept


def _thresholds(scores: Floats, correct: Flags) -> tuple[tuple[float, int, int], ...]:
    """`Calibration.thresholds` of best scores and whether the answers are right."""
    order = np.argsort(-scores, kind="stable")
    falling, wrong = scores[order], np.cumsum(~correct[order])
    # At most one row per image: the images before it whose scores are truly above its own.
    above = np.unique(np.searchsorted(-falling, -falling, side="left"))
    kept = above[np.unique(np.linspace(0, len(above) - 1, _ROWS - 1).round().astype(int))]
    rows = [(float(falling[k]), int(k), int(wrong[k - 1]) if k else 0) for k in kept]
    return (*rows, (-1.0, len(scores), int(wrong[-1])))


def _set_scores(
    blocks: Blocks, truth: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, float, float], ...]:
    """`Calibration.set_scores`, from the score of each image's best right label."""
    n = len(truth)
    right = np.empty(n)
    for rows, logits in blocks():
        scores = np.exp(logits - log_sum_exp(logits))
        known = right_columns(truth[rows], scores.shape[1])
        right[rows] = scores.max(axis=1, where=known, initial=0)
    ranks = np.unique(np.ceil(np.linspace(0, 1, _ROWS + 1)[1:] * n).astype(int))
    limits = np.sort(right)[n - ranks]
    labels = np.zeros(len(ranks), int)
    for _, logits in blocks():
        scores = np.exp(logits - log_sum_exp(logits))
        np.put_along_axis(scores, scores.argmax(axis=1)[:, None], 1, axis=1)  # always in the set
        labels += scores.size - np.searchsorted(np.sort(scores, axis=None), limits)
    return tuple(zip(ranks.tolist(), limits.tolist(), (labels / n).tolist(), strict=True))


def _calibrate_labels(
    classifier: MultiLabelClassifier, scores: Floats, truth: Flags
) -> MultiLabelCalibration:
    """From the scores and right labels of images, (n, n_classes) each."""
    n = len(scores)
    odds = np.log(scores) - np.log1p(-scores)
    slope, offsets = fit_probabilities(odds, truth)
    held_out, given = np.empty_like(odds), np.empty_like(truth)
    folds = _draw_folds(n)
    for fold in range(_FOLDS):
        inside, outside = folds != fold, folds == fold
        a, b = fit_probabilities(odds[inside], truth[inside])
        limits = choose_thresholds(logistic(a * odds[inside] + b))
        held_out[outside] = logistic(a * odds[outside] + b)
        given[outside] = held_out[outside] >= limits
    before, after = f1_scores(scores >= DEFAULT_THRESHOLD, truth), f1_scores(given, truth)
    thresholds = choose_thresholds(logistic(slope * odds + offsets))
    note = "the scores say next to nothing of what is right" if slope <= LEAST_SLOPE else ""
    if after[1] < before[1]:
        note = (
            f"learnt thresholds give worse labels than the default one (F1 {after[1]:.1%} against "
            f"{before[1]:.1%} on held-out images): the default stays, and scores are calibrated"
        )
        after = before
        thresholds = logistic(offsets)  # of log odds 0, the default
    return MultiLabelCalibration(
        identity=classifier.identity_,
        images=n,
        slope=slope,
        offsets=tuple(offsets.tolist()),
        thresholds=tuple(thresholds.tolist()),
        positives=tuple(truth.sum(axis=0).tolist()),
        note=note,
        metrics={
            "nll": {"before": _loss(scores, truth), "after": _loss(held_out, truth)},
            "f1_macro": {"before": before[0], "after": after[0]},
            "f1_micro": {"before": before[1], "after": after[1]},
        },
        versions=collect_versions(),
    )


def _loss(scores: Floats, truth: Flags) -> float:
    return float(-np.log(np.maximum(np.where(truth, scores, 1 - scores), 1e-15)).mean())


def _draw_folds(n: int) -> NDArray[np.int64]:
    """The fold of each image, int64 (n,)."""
    return np.random.default_rng(0).permutation(np.arange(n) % _FOLDS)
