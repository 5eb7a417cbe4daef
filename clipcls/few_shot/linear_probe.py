"""A linear classifier of image vectors that starts from the labels' text.

Its logits are a weighted sum of four linear parts, all in closed form: the zero-shot logits; what
the text says of the mean image, which is subtracted since some texts are close to every picture; a
ridge regression of the labels on the images; and a linear discriminant whose covariance has the
same ridge (Wang et al. 2024, arXiv 2402.04087). The weights minimize the cross-validated negative
log-likelihood plus a Gaussian prior, as in stacking (Wolpert 1992).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from clipcls.numerics import row_blocks

if TYPE_CHECKING:
    from typing import TypeAlias

    Floats: TypeAlias = NDArray[np.float64]
    Integers: TypeAlias = NDArray[np.int64]
    Sums: TypeAlias = tuple[Integers, Floats, Floats]  # counts, sums and outer products
    Trial: TypeAlias = tuple[Sums, Integers]  # the images to learn from; rows of others, to predict

# Priors, chosen on fashion, breeds, gtsrb, cats and four styles of mini-imagenet. With one image
# per label they are all there is.
_RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # to try
_RIDGE, _RIDGE_SPREAD = 0.1, 1.0  # the usual one, and the standard deviation of its logarithm
_ALONE = np.array([1.0, 0.0]), np.array([1.5, 0.5])  # weights of the text and its mean, alone
_TEXT = 0.6  # share of these next to images
_IMAGES, _IMAGES_SPREAD = [3.5, 0.0], [6.0, 3.0]  # weights of regression and discriminant
_NEARNESS = 2.0  # weight of the similarity to a label's mean image, where some labels have none
_CAUTION = 0.1  # added to the offset: labels without images must not lose
_LABEL_FOLDS = 5  # in which labels are held back
_LOGITS = 1_000_000  # how many held-out logits are enough to choose the weights
BLOCK = 8192  # images per block, which bounds the memory
_TINY = np.finfo(np.float64).tiny
# Below these, differences of images, and of labels, are rounding: copies with several labels.
_LEAST_VARIANCE, _LEAST_CONTRAST = 1e-9, 1e-6
_SMALL = 1_000_000  # numbers in the vectors up to which one thread is the fastest


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Learns from vectors of images and, where available, of their labels' text.

    Args:
        text: unit vectors of the labels' text, float (n_text, dim); a row of NaN is a label without
            meaningful text. None: an ordinary linear classifier.
        text_classes: the labels of these rows, (n_text,). Labels without images keep their text;
            labels of `y` that are missing here are learnt from images alone.
        logit_scale: the model's; it multiplies the cosine similarities with `text`.
        folds: of the cross-validation, at most; never more than the largest class has images.

    Attributes:
        classes_: the labels, (n_classes,): `text_classes`, then others of `y`, sorted.
        coef_: float64 (n_classes, dim).
        intercept_: float64 (n_classes,).
        ridge_: the ridge, as a share of the images' mean squared distance from their mean.
        weights_: float64 (4,): of the text, of the text's mean, of the regression and of the
            discriminant.
        offset_: what is added to the logits of labels without images; 0 where all have images.
        folds_: the fold of each row, int64 (n,); None where no class has two images.
        cv_images_, cv_accuracy_, cv_loss_, cv_text_accuracy_: number of held-out images, and their
            accuracy, negative log-likelihood and accuracy of the text alone, among the labels with
            images; nan without any. Ridge and weights were chosen on the same images.

    >>> X, y = np.eye(4)[[0, 1, 0, 1]] + 0.1, ["cat", "dog", "cat", "dog"]
    >>> LinearProbe().fit(X, y).predict(X)
    array(['cat', 'dog', 'cat', 'dog'], dtype='<U3')
    """

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

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> LinearProbe:
        """Learn from vectors of images.

        Args:
            X: float (n, dim), finite.
            y: labels, (n,).
            groups: (n,); of rows of one group (copies of an image), all are held out
                together and the first is predicted. None: each row is its own.

        Raises:
            ValueError: `X` is not finite, or shapes do not fit each other.
        """
        vectors: NDArray[Any]
        vectors, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        with warnings.catch_warnings():
            # One image per class is nothing odd here.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            check_classification_targets(y)
        # Threads cost small products more time than they save.
        with threadpool_limits(1 if vectors.size <= _SMALL else None):
            self._fit(vectors, np.asarray(y), np.arange(len(vectors)) if groups is None else groups)
        return self

    def _fit(self, X: Any, y: NDArray[Any], groups: ArrayLike) -> None:
        self.classes_, codes, zero_shot = self._match_text(y, X.shape[1])
        self._seen, codes = np.unique(codes, return_inverse=True)
        n_seen = len(self._seen)
        _, asked, group = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
        fold = _split_folds(codes[asked], self.folds)
        self.folds_ = None if fold is None else fold[group]
        # Of the space, images need their span only.
        self._axes, self._text = None, zero_shot
        if len(X) < X.shape[1]:
            self._axes = np.linalg.svd(X.astype(np.float64), full_matrices=False)[2].T
            X, self._text = X @ self._axes, zero_shot @ self._axes
        asked = np.random.default_rng(0).permutation(asked)[: max(_LOGITS // n_seen, 1)]

        def leave_out(part_of: Integers) -> tuple[Sums, list[Trial]]:
            """Sums over all images, and a trial for each part of them."""
            rows = [np.flatnonzero(part_of == part) for part in range(int(part_of.max()) + 1)]
            parts = [_sum_images(X[inside], codes[inside], n_seen) for inside in rows]
            counts, totals, products = (sum(kind) for kind in zip(*parts, strict=True))
            rests = [(counts - c, totals - t, products - p) for c, t, p in parts]
            whole = counts, totals, products
            return whole, [(r, np.intersect1d(i, asked)) for r, i in zip(rests, rows, strict=True)]

        whole, trials = leave_out(np.zeros_like(codes) if self.folds_ is None else self.folds_)
        self._rest = [] if fold is None else [rest for rest, _ in trials]
        known = [(rest, rows[rest[0][codes[rows]] > 0]) for rest, rows in trials]
        held_out = [trial for trial in known if len(trial[1])]
        self._choose(X, codes, whole, held_out, asked)
        self.offset_ = 0.0
        if n_seen < len(self.classes_):
            labels = np.random.default_rng(0).permutation(n_seen) % _LABEL_FOLDS
            held_back = leave_out(labels[codes])[1] if n_seen > 1 else [(whole, asked)]
            kinds = [trials for trials in (held_back, held_out) if trials]
            raised = [self._measure_raise(X, codes, trials) for trials in kinds]
            self.offset_ = float(np.mean(raised)) / (1 if n_seen > 1 else 2) + _CAUTION
        self.coef_, self.intercept_ = self._combine(whole)
        if self._axes is not None:
            weights = np.ones((len(zero_shot), 1))
            weights[self._seen] = self.weights_[0]
            self.coef_ = self.coef_ @ self._axes.T
            self.coef_ += weights * (zero_shot - self._text @ self._axes.T)

    def _match_text(self, y: NDArray[Any], dim: int) -> tuple[NDArray[Any], Integers, Floats]:
        """Classes, class numbers (n,) and the coefficients of zero-shot logits (n_classes, dim)."""
        if self.text is None:
            classes, codes = np.unique(y, return_inverse=True)
            return classes, codes, np.zeros((len(classes), dim))
        text, classes = np.asarray(self.text, np.float64), np.asarray(self.text_classes)
        if text.ndim != 2 or text.shape[1] != dim or classes.shape != text.shape[:1]:
            raise ValueError(
                f"text has shape {text.shape} and text_classes {classes.shape}; for X with {dim} "
                f"columns they must be (n, {dim}) and (n,)"
            )
        number = {label: n for n, label in enumerate(classes.tolist())}
        if len(number) < len(classes) or not number.keys() >= set(y.tolist()):
            raise ValueError("text_classes must name every label of y, and no label twice")
        known = np.isfinite(text.sum(axis=1))
        # Subtracting the mean changes no score, and leaves a label without text in the middle.
        mean = text[known].sum(axis=0) / max(known.sum(), 1)
        zero_shot = self.logit_scale * np.where(known[:, None], text - mean, 0.0)
        return classes, np.array([number[label] for label in y.tolist()], np.int64), zero_shot

    def _choose(
        self, X: Any, codes: Integers, whole: Sums, held_out: list[Trial], rows: Integers
    ) -> None:
        """Set `ridge_`, `weights_` and the figures of the cross-validation."""
        has_text, n_seen = self._text.any(), len(self._seen)
        usual = np.array([0.0, 0.0, *_IMAGES])
        if has_text:
            # The text has not seen the images, so all of them tell its weights where it is alone.
            parts = self._score_parts(X[rows], whole, _RIDGE)[:2]
            usual[:2] = _fit_weights(parts, codes[rows], *_ALONE) * (_TEXT if n_seen > 1 else 1.0)
        self.ridge_, self.weights_ = _RIDGE, usual
        self.cv_accuracy_ = self.cv_loss_ = self.cv_text_accuracy_ = float("nan")
        self.cv_images_ = sum(len(rows) for _, rows in held_out)
        if not held_out:
            return
        spread = np.array([max(usual[0], 0.3)] * 2 + _IMAGES_SPREAD)
        truth = codes[np.concatenate([rows for _, rows in held_out])]
        weights, least = usual, np.inf
        for ridge in _RIDGES:
            scored = [self._score_parts(X[rows], sums, ridge) for sums, rows in held_out]
            parts = np.concatenate(scored, axis=1)
            weights = _fit_weights(parts, truth, usual, spread, weights)
            scores = softmax(np.tensordot(weights, parts, 1), axis=1)
            right = scores[np.arange(len(truth)), truth]
            brier = float((scores**2).sum() - 2 * right.sum())
            brier += 0.5 * (np.log(ridge / _RIDGE) / _RIDGE_SPREAD) ** 2
            if brier < least:
                least, self.ridge_, self.weights_ = brier, ridge, weights
                self.cv_accuracy_ = float((scores.argmax(axis=1) == truth).mean())
                self.cv_loss_ = float(-np.log(np.maximum(right, 1e-300)).mean())
        if has_text:
            self.cv_text_accuracy_ = float((parts[0].argmax(axis=1) == truth).mean())

    def _score_parts(self, X: Any, sums: Sums, ridge: float) -> Floats:
        """Logits of the four parts among the labels with images, float64 (4, n, n_seen)."""
        text = self._text[self._seen]
        means, coefs, levels = _learn(sums, ridge)
        said = X @ text.T
        centre = np.broadcast_to(-text @ means[sums[0] > 0].mean(axis=0), said.shape)
        return np.stack([said, centre, *(X @ coefs.transpose(0, 2, 1) + levels[:, None])])

    def _combine(self, sums: Sums) -> tuple[Floats, Floats]:
        """Coefficients (n_classes, rank) and intercepts (n_classes,) of all parts together."""
        taught = sums[0] > 0
        seen = self._seen[taught]
        means, coefs, levels = _learn(sums, self.ridge_)
        text, centre, *images = self.weights_.tolist()
        coef, intercept = self._text.copy(), np.full(len(self._text), self.offset_)
        coef[seen] *= text
        coef[seen] += np.tensordot(images, coefs[:, taught], 1)
        mean_text = self._text[seen] @ means[taught].mean(axis=0)
        intercept[seen] = images @ levels[:, taught] - centre * mean_text
        if len(self._seen) < len(coef):
            lengths = np.linalg.norm(means[taught], axis=1, keepdims=True)
            coef[seen] += _NEARNESS * means[taught] / np.maximum(lengths, _TINY)
        return coef, intercept

    def _measure_raise(self, X: Any, codes: Integers, trials: list[Trial]) -> float:
        """How far learning raises the best logit of the labels learnt from, averaged over labels.

        With this offset, images of labels held back are answered with a label without images about
        as often as by text alone, and held-out images with a label that has images. Without text of
        their own, images count by their lead over the labels without images.
        """
        gains, labels = [], []
        for sums, rows in trials:
            seen = self._seen[sums[0] > 0]
            coef, intercept = self._combine(sums)
            best = (X[rows] @ coef[seen].T + intercept[seen]).max(axis=1)
            said = X[rows] @ self._text.T
            by_text = np.where(
                self._text[self._seen[codes[rows]]].any(axis=1),
                said[:, seen].max(axis=1),
                np.delete(said, seen, axis=1).max(axis=1),
            )
            gains.append(best - by_text)
            labels.append(codes[rows])
        per_label = np.bincount(np.concatenate(labels), np.concatenate(gains))
        counts = np.bincount(np.concatenate(labels))
        return float((per_label[counts > 0] / counts[counts > 0]).mean())

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Softmax over all classes, float64 (n, n_classes)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return np.asarray(softmax(rows @ self.coef_.T + self.intercept_, axis=1))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The best label of each row, (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def cross_validated(self, X: ArrayLike) -> Iterator[tuple[Integers, Floats]]:
        """Scores of the training rows, by the probe learnt without their fold.

        Args:
            X: as given to `fit`, float (n, dim), or its first rows.

        Yields:
            rows int64 (m,) and their scores float64 (m, n_classes), until each row came once;
            nothing where there are no folds.
        """
        check_is_fitted(self)
        X = np.asarray(X)
        for fold, rest in enumerate(self._rest):
            coef, intercept = self._combine(rest)
            rows = np.flatnonzero(np.asarray(self.folds_)[: len(X)] == fold)
            vectors = X[rows] if self._axes is None else X[rows] @ self._axes
            yield rows, softmax(vectors @ coef.T + intercept, axis=1)


def _split_folds(codes: Integers, folds: int) -> Integers | None:
    """Up to `folds` stratified folds, int64 (n,); None where no class has two images."""
    number = min(folds, int(np.bincount(codes).max()))
    order = np.lexsort((np.random.default_rng(0).permutation(len(codes)), codes))
    fold = np.empty_like(codes)
    fold[order] = np.arange(len(codes)) % number
    return fold if number > 1 else None


def _sum_images(X: Any, codes: Integers, n_classes: int) -> Sums:
    sums, products = np.zeros((n_classes, X.shape[1])), np.zeros((X.shape[1],) * 2)
    for rows in row_blocks(len(X), BLOCK):
        block = X[rows].astype(np.float64)
        np.add.at(sums, codes[rows], block)
        products += block.T @ block
    return np.bincount(codes, minlength=n_classes), sums, products


def _learn(sums: Sums, ridge: float) -> tuple[Floats, Floats, Floats]:
    """Learn a ridge regression of the classes on the images, and a linear discriminant.

    In both, a class's mean image has a logit near 1, and near 0 for other classes.

    Returns:
        mean images (n_classes, rank), coefficients (2, n_classes, rank) and intercepts
        (2, n_classes); 0 for classes without images.
    """
    counts, totals, products = sums
    seen, n = counts > 0, counts.sum()
    centre = totals.sum(axis=0) / n
    means = np.where(seen[:, None], totals / np.maximum(counts, 1)[:, None], 0.0)
    away = np.where(seen[:, None], means - centre, 0.0)
    spread = products - n * np.outer(centre, centre)
    within = spread - (counts[:, None] * away).T @ away
    penalty = ridge * max(np.trace(spread) / n, _LEAST_VARIANCE) * np.eye(len(spread))
    regression = np.linalg.solve(spread + penalty, (counts[:, None] * away).T).T
    discriminant = np.linalg.solve(within + penalty, away.T).T
    own = (discriminant * away).sum(axis=1)
    usual = max(own[seen].mean(), _LEAST_CONTRAST)
    coefs = np.stack([regression, discriminant / usual])
    levels = np.stack([counts / n - 1 / seen.sum(), 0.5 * (1 - own / usual)])
    return means, coefs, np.where(seen, levels - coefs @ centre, 0.0)


def _fit_weights(
    parts: Floats, truth: Integers, usual: Floats, spread: Floats, start: Floats | None = None
) -> Floats:
    """Weights of the parts' logits (n_parts, n, n_classes) of least negative log-likelihood.

    `usual` and `spread`, (n_parts,), are the mean and standard deviation of their Gaussian prior.
    """
    at = np.arange(len(truth))
    right = parts[:, at, truth].sum(axis=1)

    def loss(weights: Floats) -> tuple[float, Floats]:
        losses = log_softmax(np.tensordot(weights, parts, 1), axis=1)
        away = (weights - usual) / spread
        slope = np.tensordot(parts, np.exp(losses), 2) - right + away / spread
        return float(0.5 * away @ away - losses[at, truth].sum()), slope

    begin = usual if start is None else start
    return np.asarray(minimize(loss, begin, jac=True, method="L-BFGS-B").x)
