"""A linear classifier of image vectors that starts from what the labels' words say.

A ridge regression of the labels on the images, a linear discriminant with the same ridge on its
covariance (as in Wang et al. 2024, arXiv 2402.04087) and a logistic regression are added to the
words' logits. The share of the words is learnt, as in LP++ (Huang et al. 2024, arXiv 2404.02285),
and so are the others: shares of least cross-validated negative log-likelihood, a ridge of least
cross-validated Brier score. Where images times classes are many, one or a few of the folds tell
enough, also which penalty the logistic regression is to have, and it is learnt less exactly there.
No images are set aside for validation.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from clipcls.few_shot.logistic import MANY_LOGITS, softmax_and_losses
from clipcls.few_shot.stacking import (
    ROWS_A_BLOCK,
    BaseLearners,
    TrainingSet,
    best_shares,
    held_out_folds,
)
from clipcls.few_shot.unseen import Trial, estimate_corrections

if TYPE_CHECKING:
    from typing import TypeAlias

    Floats: TypeAlias = NDArray[np.float64]
    Numbers: TypeAlias = NDArray[np.int64]

__all__ = ["LinearProbe"]

# The ridges tried, as shares of the images' mean squared distance from their mean.
_RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# What is believed before the cross-validation, and all there is with one image a class; chosen on
# sets that no figure is reported of.
_USUAL_RIDGE, _RIDGE_SPREAD = 0.1, 1.0  # spread of its logarithm
_USUAL_WORDS = 0.6  # of what they get alone
# Where the words are always right, more for the odds that they miss, and at most; where there are
# none. Words that mostly are right are worth more than one image a class.
_USUAL_IMAGES, _USUAL_ALONE = (2.8, 0.8, 11.5), 6.5
_IMAGES_SPREAD = 6.0
_LEAST_SPREAD = 0.3
_LOGISTIC_SPREAD = 0.5  # of its share, which is 1 where it is alone
_PARTS = 5
_SMALL = 1_000_000  # numbers in the vectors up to which one thread is the fastest
_MANY, _FOLDS_OF_MANY = 10_000, 5
_LABEL_GROUPS = 5  # in which labels are held back
_LOGITS_ASKED = MANY_LOGITS // 2
_MOST_LOGITS = 20_000_000  # images x classes beyond which it would take minutes, and is left out


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Learns from vectors of images, and from vectors of their labels' words where there are any.

    Logits are `X @ coef_.T + intercept_`: shares of those of the words, less what the words say of
    the mean image of all classes, of a ridge regression, of a linear discriminant and of a logistic
    regression.

    Args:
        text: unit vectors of the labels' words, float (n_text, dim); a row of NaN is a label whose
            words say nothing. None: no words at all, an ordinary linear classifier.
        text_classes: the labels of these rows, (n_text,). One without images keeps its words; one
            of `y` that is not here is learnt from images alone.
        logit_scale: the model's; what cosine similarities with `text` are multiplied with.
        folds: of the cross-validation, at most; never more than the largest class has images, and
            not more than 5 where there are over 10,000 images.

    Attributes:
        classes_: the labels, (n_classes,): `text_classes`, then others of `y`, sorted.
        coef_: float64 (n_classes, dim).
        intercept_: float64 (n_classes,).
        ridge_: the ridge, as a share of the images' mean squared distance from their mean.
        penalty_: that of the logistic regression, as scikit-learn's C; 0 where there is none.
        shares_: float64 (5,): of the words, of the words' mean that is taken off, of the ridge
            regression, of the discriminant and of the logistic regression.
        offset_: what is added to the logits of labels without images; 0 where there are none.
        nearness_: the share, in the logits of labels with images, of the image's product with the
            label's mean image of length 1; 0 where all labels have images.
        folds_: the fold of each row, int64 (n,); None where no class has two images.
        cv_accuracy_, cv_loss_, cv_text_accuracy_: accuracy, negative log-likelihood and accuracy
            of the words alone on the images that the cross-validation asked about; nan without
            folds. The ridge and the shares were chosen on the same images, and the penalty where
            images times classes are many.
        cv_images_: how many these are.

    >>> X, y = np.eye(4)[[0, 1, 0, 1]] + 0.1, ["cat", "dog", "cat", "dog"]
    >>> LinearProbe().fit(X, y).predict(X)
    array(['cat', 'dog', 'cat', 'dog'], dtype='<U3')
    """

    classes_: NDArray[Any]
    coef_: Floats
    intercept_: Floats

    def __init__(
        self,
        text: ArrayLike | None = None,
        text_classes: ArrayLike | None = None,
        *,
        logit_scale: float = 100.0,
        folds: int = 10,
    ) -> None:
        self.text = text
        self.text_classes = text_classes
        self.logit_scale = logit_scale
        self.folds = folds

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        scored: ArrayLike | None = None,
    ) -> LinearProbe:
        """Learns from images' vectors.

        Args:
            X: float (n, dim), finite.
            y: labels, (n,).
            groups: (n,); rows of one group (views or copies of an image) are in one fold.
            scored: bool (n,); which rows the cross-validation asks about. None: all.

        Raises:
            ValueError: `X` is not finite, or shapes do not fit each other.
        """
        vectors: NDArray[Any]
        vectors, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        with warnings.catch_warnings():
            # One image a class is nothing odd here.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            check_classification_targets(y)
        # Threads cost small products more time than they save.
        with threadpool_limits(1 if vectors.size <= _SMALL else None):
            self._learn(vectors, np.asarray(y), groups, scored)
        return self

    def _learn(
        self, vectors: Any, y: NDArray[Any], groups: ArrayLike | None, scored: ArrayLike | None
    ) -> None:
        """`fit`, of checked vectors and labels."""
        self.classes_, codes, text, has_words = self._labels(y, vectors.shape[1])
        n_classes = len(self.classes_)
        folds = self.folds if len(vectors) <= _MANY else min(self.folds, _FOLDS_OF_MANY)
        self.folds_ = held_out_folds(codes, folds, groups)
        self._images = images = TrainingSet(vectors, codes, text, self.folds_)
        whole = images.learn()
        asked = _folds_asked(self.folds_, len(vectors), n_classes)
        parts = {fold: images.learn(fold) for fold in asked}
        alone, share = self._words_alone(vectors, codes, whole, has_words)
        usual = _USUAL_WORDS * alone + [0.0, 0.0, share, 0.0, 0.0]
        self.penalty_ = 0.0
        if parts and len(vectors) * n_classes <= _MOST_LOGITS:
            self.penalty_ = images.learn_logistic(whole, parts, scored)
        self._choose(vectors, codes, whole, parts, usual, scored)
        self.offset_ = self.nearness_ = 0.0
        if has_words and not whole.seen.all():
            self.offset_, self.nearness_ = self._estimate_corrections(
                images, whole, parts, alone[0], scored
            )
        self._found = self.ridge_, self.shares_, alone[0], self.offset_, self.nearness_
        self.coef_, self.intercept_ = whole.linear(*self._found)
        self._held_out = {fold: fit.linear(*self._found) for fold, fit in parts.items()}
        if len(self._held_out) == (0 if self.folds_ is None else self.folds_.max() + 1):
            del self._images  # all that may be asked is known

    def _most_rows(self, n: int, n_seen: int) -> int:
        """How many of n images, of so many classes that have any, tell enough of shares."""
        return n if n * n_seen <= MANY_LOGITS else _LOGITS_ASKED // n_seen

    def _labels(self, y: NDArray[Any], dim: int) -> tuple[NDArray[Any], Numbers, Floats, bool]:
        """Classes, class numbers (n,), text logits' weights (n_classes, dim), whether any."""
        found, codes = np.unique(y, return_inverse=True)
        if self.text is None:
            return found, codes, np.zeros((len(found), dim)), False
        text = np.asarray(self.text, np.float64)
        names = np.asarray(self.text_classes)
        if text.ndim != 2 or text.shape[1] != dim or names.shape != text.shape[:1]:
            raise ValueError(
                f"text has shape {text.shape} and text_classes {names.shape}; for X with {dim} "
                f"columns they are (n, {dim}) and (n,)"
            )
        number = {name: n for n, name in enumerate(names.tolist())}
        if len(number) < len(names):
            raise ValueError("text_classes names a label twice")
        others = [label for label in found.tolist() if label not in number]
        number.update({label: len(names) + n for n, label in enumerate(others)})
        classes = np.concatenate([names, np.array(others, found.dtype)]) if others else names
        codes = np.array([number[label] for label in found.tolist()], np.int64)[codes]
        known = np.zeros(len(classes), bool)
        known[: len(names)] = np.isfinite(text).all(axis=1)
        weights = np.zeros((len(classes), dim))
        if known.any():
            rows = text[known[: len(names)]]
            # Taking off the mean changes no score of a label with words, and leaves one without
            # at their middle.
            weights[known] = self.logit_scale * (rows - rows.mean(axis=0))
        return classes, codes, weights, bool(known.any())

    def _words_alone(
        self, X: Any, codes: Numbers, whole: BaseLearners, has_words: bool
    ) -> tuple[Floats, float]:
        """The best shares where the images have none, float64 (5,); the images' usual share."""
        if not has_words:
            return np.zeros(_PARTS), _USUAL_ALONE
        seen, truth = np.unique(codes, return_inverse=True)
        rows = _some(np.arange(len(codes)), self._most_rows(len(codes), len(seen)))
        words = X[rows] @ whole.text[seen].T
        alone = best_shares(
            [words, np.broadcast_to(-whole.mean_words[seen], words.shape)],
            truth[rows],
            np.array([1.0, 0.0]),
            np.array([1.5, 0.5]),
        )
        missed = (words.argmax(axis=1) != truth[rows]).sum()
        # A few images that all are right do not prove that words never miss.
        odds = (missed + 1) / (len(rows) - missed + 1)
        least, more, most = _USUAL_IMAGES
        return np.array([*alone, 0.0, 0.0, 0.0]), float(min(least + more * odds, most))

    def _choose(
        self,
        X: Any,
        codes: Numbers,
        whole: BaseLearners,
        fits: dict[int, BaseLearners],
        usual: Floats,
        scored: ArrayLike | None,
    ) -> None:
        """Sets `ridge_`, `shares_` and the figures of the cross-validation.

        Args:
            X, codes, scored: as for `fit`.
            whole: what was learnt from all images.
            fits: what was learnt without a fold, by the fold's number.
            usual: what the shares are pulled to.
        """
        self.ridge_, self.shares_ = _USUAL_RIDGE, usual
        self.cv_accuracy_ = self.cv_loss_ = self.cv_text_accuracy_ = float("nan")
        rows = self._rows_tried(codes, whole, fits, scored)
        self.cv_images_ = len(rows)
        if not len(rows):
            return
        assert self.folds_ is not None
        # Labels without images take no part: that none of these images is theirs says nothing.
        seen, truth = np.unique(codes, return_inverse=True)
        truth = truth[rows]
        inside = [(fit, np.flatnonzero(self.folds_[rows] == fold)) for fold, fit in fits.items()]
        parts = [np.empty((len(rows), len(seen))) for _ in range(_PARTS)]
        for fit, at in inside:
            parts[0][at] = X[rows[at]] @ fit.text[seen].T
            parts[1][at] = -fit.mean_words[seen]
        words = max(usual[0], _LEAST_SPREAD)
        images = max(usual[2], _IMAGES_SPREAD)
        # Few images say little about how they spread within a class. A discriminant that was learnt
        # from one image a class knows nothing of it, and is no guide to one that was from two.
        known = np.mean([fit.within for fit in fits.values()]) / max(whole.within, 1)
        discriminant = max(images / 4 * known, 0.01)
        spread = np.array([words, words, images, discriminant, _LOGISTIC_SPREAD])
        best, shares = np.inf, usual
        for ridge in _RIDGES:
            for fit, at in inside:
                for part, (coef, level) in zip(parts[2:], fit.images(ridge), strict=True):
                    part[at] = X[rows[at]] @ coef[seen].T + level[seen]
            shares = best_shares(parts, truth, usual, spread, start=shares)
            logits = sum(share * part for share, part in zip(shares, parts, strict=True))
            scores, losses = softmax_and_losses(logits)
            right = scores[np.arange(len(truth)), truth]
            brier = float((scores**2).sum() - 2 * right.sum())
            brier += 0.5 * (np.log(ridge / _USUAL_RIDGE) / _RIDGE_SPREAD) ** 2
            if brier < best:
                best, self.ridge_, self.shares_ = brier, ridge, shares
                self.cv_accuracy_ = float((logits.argmax(axis=1) == truth).mean())
                self.cv_loss_ = float(losses[np.arange(len(truth)), truth].mean())
        if usual[0]:
            self.cv_text_accuracy_ = float((parts[0].argmax(axis=1) == truth).mean())

    def _estimate_corrections(
        self,
        images: TrainingSet,
        whole: BaseLearners,
        fits: dict[int, BaseLearners],
        words: float,
        scored: ArrayLike | None,
    ) -> tuple[float, float]:
        """Offset and share of nearness, by images whose labels are held back in turn.

        Args:
            images, whole, fits, scored: as elsewhere: what is learnt from, and from all images and
                without folds.
            words: the words' share for a label without images.
        """
        X, codes, text = images.X, images.codes, images.text
        seen = np.flatnonzero(whole.seen)
        good = np.ones(len(X), bool) if scored is None else np.asarray(scored, bool)
        most = self._most_rows(len(X), len(seen))

        def compete(fit: BaseLearners, rows: Numbers, lone: float = 0.0) -> Trial:
            coef, level = fit.linear(self.ridge_, self.shares_, words)
            said = X[rows] @ text.T
            logits = X[rows] @ coef.T + level
            # Fewer labels with images compete than there will be.
            logits[:, fit.seen] += np.log(len(seen) / fit.seen.sum())
            if fit.seen.sum() == 1:
                logits[:, fit.seen] += lone
            nearness = X[rows] @ fit.means.T
            return Trial.of(logits, nearness, said, codes[rows], fit.seen, whole.seen)

        def learnt_part(fit: BaseLearners, rows: Numbers) -> Floats:
            coef, level = fit.linear(self.ridge_, self.shares_ * [0, 0, 1, 1, 1], 0.0)
            part: Floats = (X[rows] * coef[codes[rows]]).sum(axis=1) + level[codes[rows]]
            return part

        learnt = compete(whole, _some(np.flatnonzero(good), most))
        tried = self._rows_tried(codes, whole, fits, scored)
        held_out, lone = learnt.without_itself(), 0.0
        if len(tried):
            assert self.folds_ is not None
            inside = [(fit, tried[self.folds_[tried] == fold]) for fold, fit in fits.items()]
            held_out = Trial.joined([compete(*part) for part in inside])
            # A label alone has none to be told from, so images teach nothing of it. Images of
            # other labels are then taken to have as high a logit from them as its own images have.
            lone = max(float(np.concatenate([learnt_part(*part) for part in inside]).mean()), 0.0)
        group = np.empty(len(text), np.int64)
        group[np.random.default_rng(0).permutation(seen)] = np.arange(len(seen)) % _LABEL_GROUPS
        others = TrainingSet(X, codes, text, group[codes])
        held_back = []
        for number in _folds_asked(others.folds, len(X), len(text)):
            fit = others.learn(number)
            if self.penalty_:
                others.add_logistic(fit, number, self.penalty_)
            rows = _some(np.flatnonzero(good & (others.folds == number)), most)
            held_back.append(compete(fit, rows, lone))
        share = 1 - len(seen) / len(text)
        return estimate_corrections(Trial.joined(held_back), held_out, learnt, share)

    def _rows_tried(
        self,
        codes: Numbers,
        whole: BaseLearners,
        fits: dict[int, BaseLearners],
        scored: ArrayLike | None,
    ) -> Numbers:
        """Rows of the folds whose class has images outside their fold too; enough of them."""
        good = np.zeros(len(codes), bool)
        for fold, fit in fits.items():
            good |= (self.folds_ == fold) & fit.seen[codes]
        if scored is not None:
            good &= np.asarray(scored, bool)
        return _some(np.flatnonzero(good), self._most_rows(len(codes), int(whole.seen.sum())))

    def decision_function(self, X: ArrayLike) -> Floats:
        """Logits, float64 (n, n_classes); as scikit-learn has it, (n,) for two classes."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Softmax over all classes, float64 (n, n_classes)."""
        scores: Floats = softmax_and_losses(self._logits(X))[0]
        return scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The best label of each row, (n,)."""
        best = self._logits(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def cross_validated(self, X: ArrayLike) -> Iterator[tuple[Numbers, Floats]]:
        """What is said of each training row by the probe learnt without its fold.

        Where images times classes are many, most of these are learnt when first asked for, out of
        the `X` that `fit` was given: until then it is kept, not copied, and pickled too.

        Args:
            X: as given to `fit`, float (n, dim), or its first rows.

        Yields:
            rows int64 (m,) and their scores float64 (m, n_classes), until each row came once;
            nothing where there are no folds.
        """
        check_is_fitted(self)
        X = np.asarray(X)
        if self.folds_ is None:
            return
        for fold in range(int(self.folds_.max()) + 1):
            if fold not in self._held_out:
                fit = self._images.learn(fold)
                if self.penalty_:
                    self._images.add_logistic(fit, fold, self.penalty_)
                self._held_out[fold] = fit.linear(*self._found)
            coef, intercept = self._held_out[fold]
            inside = np.flatnonzero(self.folds_[: len(X)] == fold)
            for start in range(0, len(inside), ROWS_A_BLOCK):
                rows = inside[start : start + ROWS_A_BLOCK]
                yield rows, softmax_and_losses(X[rows] @ coef.T + intercept)[0]

    def _logits(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        rows: Floats = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        logits: Floats = rows @ self.coef_.T + self.intercept_
        return logits


def _folds_asked(folds: Numbers | None, n: int, n_classes: int) -> range:
    """Which folds of n images are asked about; where images are many, as few as tell enough."""
    number = 0 if folds is None else int(folds.max()) + 1
    if n * n_classes <= MANY_LOGITS:
        return range(number)
    return range(min(number, max(1, round(number * _LOGITS_ASKED / (n * n_classes)))))


def _some(rows: Numbers, most: int) -> Numbers:
    """All rows or, where they are too many, `most` of them by chance, the same each time."""
    if len(rows) <= max(most, 1):
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, max(most, 1), replace=False))
