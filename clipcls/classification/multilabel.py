"""Several labels per image, each scored on its own.

A softmax over the labels gives a score of 1 away to an image of none of them, and a cosine that is
high for one image or model is low for another. So labels are compared with names that nobody asked
for:

1. An image's similarities are standardised by their mean and deviation over the names of a
   background vocabulary.
2. Unrelated labels are expected to reach the vocabulary's quantile 1 - 3/n, for n labels: three of
   n would be above it.
3. The image shows any of the labels if the best one is at least 15 % of the way from there to the
   vocabulary's best name: an image of something else has a better name.
4. It shows another label too if that is 40 % of the way from unrelated labels to the best label.
   Where many labels resemble the best one, the sixth label stands for unrelated ones.

A label's score is the logistic function of its distance to these levels: 0.5 is at the higher one.
docs/evidence/several-labels.md has the figures; research/multi_label.py measures them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from clipcls.calibration.base import fingerprint
from clipcls.calibration.file import load_calibration
from clipcls.calibration.multilabel import DEFAULT_THRESHOLD, MultiLabelCalibration
from clipcls.classification.estimator import Estimator
from clipcls.classification.in_blocks import answer_in_blocks
from clipcls.data.inputs import OnError, apply_on_error
from clipcls.embeddings.embed import compute_rows, embed_texts
from clipcls.errors import CalibrationError, ClipclsError, ImageError, LabelsError
from clipcls.labels.prompts import everyday_texts
from clipcls.numerics import PROBE, logistic, row_blocks
from clipcls.predictions import UNKNOWN, Candidate, Prediction

if TYPE_CHECKING:
    from clipcls.calibration.base import Identity
    from clipcls.classification.image_classifier import ImageClassifier
    from clipcls.data.inputs import Images
    from clipcls.embeddings.embedded import Embedded
    from clipcls.models.encoder import Encoder

# Chosen on captions and on collages of mini-ImageNet, fashion and breeds: research/multi_label.py.
_UNRELATED = 3  # labels that may reach the level of unrelated ones
_MOST_RIGHT = 5  # labels of an image; the next one stands for those that resemble the best
_TOWARDS_BEST_NAME, _TOWARDS_BEST_LABEL = 0.15, 0.4
_MOST_ODDS = 30.0  # keeps scores between 0 and 1 exclusively, so that they have log odds
_SCORES_A_BLOCK = 4_000_000


@dataclass(eq=False, repr=False)
class MultiLabelClassifier(Estimator):
    """Gives each image all labels that fit, which may be none.

    Args:
        classifier: has the labels, prompts and model; `fit` fits it unless it is fitted. It has no
            level and no calibration.
        calibration: a `MultiLabelCalibration`, or its file.

    Attributes:
        classes_: the labels, str (n_classes,).
        thresholds_: the score from which a label is given, float64 (n_classes,).
        background_: the vocabulary's unit vectors, float64 (n_names, dim).
        calibration_: the `MultiLabelCalibration` in use, or None.
        provenance_: the `Provenance` that its predictions carry.

    >>> from clipcls import ZeroShotClassifier
    >>> labels = ZeroShotClassifier(["cat", "dog"], model="mini", cache=False)
    >>> clf = MultiLabelClassifier(labels).fit()
    >>> clf.predict(["examples/photos/chelsea.jpg"])
    array([[ True, False]])
    """

    classifier: ImageClassifier
    _: KW_ONLY
    calibration: MultiLabelCalibration | str | os.PathLike[str] | None = None

    _fitted: ClassVar = "thresholds_"

    def fit(self, X: object = None, y: object = None) -> MultiLabelClassifier:
        """Embeds the labels and the vocabulary; ignores `X` and `y`.

        Raises:
            LabelsError: the classifier has a level.
            CalibrationError: the calibration is for another classifier.
            ClipclsError: the classifier was learnt from images.
        """
        self._forget()
        base = self.classifier
        if base.level is not None:
            raise LabelsError("a level is for one label per image; leave it out")
        if base.calibration is not None:
            raise CalibrationError("give the calibration to the MultiLabelClassifier")
        if not base.__sklearn_is_fitted__():
            base.fit()
        if base.identity_.classifier:
            raise ClipclsError(
                "a learnt classifier chooses one label per image; its scores do not say whether "
                "two are right: give labels alone, and calibrate them"
            )
        texts = everyday_texts()
        self.background_ = embed_texts(base.encoder_, texts, base.cache_).astype(np.float64)
        self.classes_ = base.classes_
        tried = [score_odds(k * PROBE[:, :n], PROBE[:, 20:]) for k, n in ((1, 2), (1, 20), (2, 20))]
        self._formula = fingerprint(base.identity_.formula, *texts, *tried)
        calibration = load_calibration(self.calibration, MultiLabelCalibration, self.identity_)
        thresholds: NDArray[np.float64] = np.full(len(self.classes_), DEFAULT_THRESHOLD)
        if calibration:
            self._offsets, thresholds = calibration.in_order(self.classes_.tolist())
        self.provenance_ = replace(
            base.provenance_, calibration=calibration.digest if calibration else ""
        )
        self.calibration_, self.thresholds_ = calibration, thresholds
        return self

    @property
    def encoder_(self) -> Encoder:
        """The model."""
        return self.classifier.encoder_

    @property
    def identity_(self) -> Identity:
        """The identity that a calibration of this classifier carries."""
        return replace(self.classifier.identity_, formula=self._formula)

    # -- scikit-learn's methods: X is as for `ImageClassifier` ---------------------------------

    def predict_proba(
        self, X: Images | NDArray[Any], *, on_error: OnError = "raise"
    ) -> NDArray[np.float64]:
        """Each label's score, float64 (n, n_classes), between 0 and 1; rows have no fixed sum.

        With a calibration a score is the probability that the image has the label; without one it
        only says which labels fit best.

        Arguments and errors are those of `ZeroShotClassifier.decision_function`.
        """
        self._check_fitted()
        vectors = self.classifier.vectors(X, on_error=on_error)
        return compute_rows(self.scores, vectors, np.nan)

    def predict(
        self, X: Images | NDArray[Any], *, on_error: OnError = "raise"
    ) -> NDArray[np.bool_]:
        """Which labels each image is given, bool (n, n_classes).

        Arguments and errors are those of `ZeroShotClassifier.decision_function`; with
        `on_error="yield"` an image that cannot be read is given no label.
        """
        return np.greater_equal(self.predict_proba(X, on_error=on_error), self.thresholds_)

    # -- classifying files --------------------------------------------------------------------

    def classify(
        self,
        images: Images,
        *,
        top: int | None = None,
        min_score: float | None = None,
        on_error: OnError = "yield",
    ) -> Iterator[Prediction | ImageError]:
        """Labels images one by one, in their order, with bounded memory.

        Args:
            images, on_error: as for `ZeroShotClassifier.classify`.
            top: the most labels that an image is given; None: all that reach their threshold.
            min_score: the score from which a label is given, in place of `thresholds_`.

        Yields:
            a `Prediction` with `labels` per image, or the `ImageError` that says why there is none.

        Raises:
            ImageError: with `on_error="raise"`, at its turn.
            TypeError: `images` is neither an image nor an iterable of them.
        """
        answer = self.answerer(top=top, min_score=min_score)
        return apply_on_error(answer_in_blocks(self.classifier.embed(images), answer), on_error)

    def answerer(
        self, *, top: int | None = None, min_score: float | None = None
    ) -> Callable[[list[Embedded]], Iterator[Prediction]]:
        """The function that answers embedded images; its arguments are those of `classify`."""
        self._check_fitted()
        if top is not None and top < 1:
            raise ValueError(f"top is {top}; the least is 1")
        thresholds = self.thresholds_
        if min_score is not None:
            thresholds = np.full(len(thresholds), min_score)

        def predict(block: list[Embedded]) -> Iterator[Prediction]:
            rows = self._score_each(np.stack([image.vector for image in block]))
            for image, (similarities, scores) in zip(block, rows, strict=True):
                order = np.lexsort((-similarities, -scores))
                given = order[scores[order] >= thresholds[order]][:top]
                best, *labels = (
                    Candidate(str(self.classes_[k]), float(scores[k]), float(similarities[k]))
                    for k in (order[0], *given)
                )
                label = labels[0].label if labels else UNKNOWN
                yield Prediction(image.path, label, (best,), self.provenance_, labels=tuple(labels))

        return predict

    def scores(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """`predict_proba` of unit rows, float32 (n, dim) -> float64 (n, n_classes)."""
        self._check_fitted()
        found = np.empty((len(vectors), len(self.classes_)))
        for number, (_, scores) in enumerate(self._score_each(vectors)):
            found[number] = scores
        return found

    def _score_each(
        self, vectors: NDArray[np.float32]
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Similarities and scores of each image, float64 (n_classes,) each."""
        step = max(1, _SCORES_A_BLOCK // (len(self.classes_) + len(self.background_)))
        for block in row_blocks(len(vectors), step):
            rows = vectors[block].astype(np.float64)
            similarities = rows @ self.classifier.head_.weights.T
            odds = score_odds(similarities, rows @ self.background_.T)
            if self.calibration_ is not None:
                odds = self.calibration_.slope * odds + self._offsets
            yield from zip(similarities, logistic(odds), strict=True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def find_base(classifier: ImageClassifier | MultiLabelClassifier) -> ImageClassifier:
    """The classifier that has the encoder and the cache."""
    return classifier.classifier if isinstance(classifier, MultiLabelClassifier) else classifier


def score_odds(
    similarities: NDArray[np.float64], background: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The log odds of each label's score.

    Args:
        similarities: cosines of images and labels, float64 (n, n_classes).
        background: cosines of images and the vocabulary, float64 (n, n_names).

    Returns:
        float64 (n, n_classes), at least 0 for the labels that each image shows.
    """
    mean = background.mean(axis=1, keepdims=True)
    unit = 1 / np.maximum(background.std(axis=1, keepdims=True), 1e-9)
    labels, names = unit * (similarities - mean), unit * (background - mean)
    count = labels.shape[1]
    unrelated = np.quantile(names, 1 - min(0.5, _UNRELATED / count), axis=1, keepdims=True)
    best = labels.max(axis=1, keepdims=True)
    any_level = unrelated + _TOWARDS_BEST_NAME * (names.max(axis=1, keepdims=True) - unrelated)
    if count > _MOST_RIGHT:
        at = count - _MOST_RIGHT - 1
        unrelated = np.maximum(unrelated, np.partition(labels, at, axis=1)[:, [at]])
    level = unrelated + _TOWARDS_BEST_LABEL * (best - unrelated)
    odds = np.minimum(best - any_level, labels - level)
    return np.asarray(np.clip(odds, -_MOST_ODDS, _MOST_ODDS))
