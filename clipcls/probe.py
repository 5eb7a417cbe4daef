"""A linear classifier of image vectors that starts from what the labels' words say.

A ridge regression of the labels on the images, a linear discriminant with the same ridge on its
covariance (as in Wang et al. 2024, arXiv 2402.04087) and a logistic regression are added to the
words' logits. The share of the words is learnt, as in LP++ (Huang et al. 2024, arXiv 2404.02285),
and so are the others: shares of least cross-validated negative log-likelihood, a ridge of least
cross-validated Brier score. What is learnt without a fold is exact: regression and discriminant for
all ridges at once, out of sums over the folds and two eigenvalue problems a fold, the logistic
regression by learning it anew. Where images times classes are many, one or a few of the folds tell
enough, also which penalty the logistic regression is to have, and it is learnt less exactly there.
No images are set aside for validation.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from clipcls.logistic import MANY_LOGITS, logistic_regression, softmax_and_losses

if TYPE_CHECKING:
    from typing import TypeAlias

    Floats: TypeAlias = NDArray[np.float64]
    Numbers: TypeAlias = NDArray[np.int64]

__all__ = ["LinearProbe", "held_out_folds"]

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
_MANY, _FOLDS_OF_MANY = 10_000, 5
_LOGITS_ASKED = MANY_LOGITS // 2
_ROWS_A_BLOCK = 8192
# The penalty of the logistic regression, as scikit-learn's C, and those tried on many images.
_C, _CS = 10.0, (10.0, 100.0, 1000.0)
_MOST_LOGITS = 20_000_000  # images x classes beyond which it would take minutes, and is left out
_RANK = 1e-10  # eigenvalues below this share of the largest are rounding


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
        self.classes_, codes, text, has_words = self._labels(np.asarray(y), vectors.shape[1])
        n_classes = len(self.classes_)
        folds = self.folds if len(vectors) <= _MANY else min(self.folds, _FOLDS_OF_MANY)
        self.folds_ = held_out_folds(codes, folds, groups)
        self._images = images = _Images(vectors, codes, text, self.folds_)
        whole = images.learn()
        parts = {fold: images.learn(fold) for fold in self._folds_asked(len(vectors), n_classes)}
        alone, share = self._words_alone(vectors, codes, whole, has_words)
        usual = _USUAL_WORDS * alone + [0.0, 0.0, share, 0.0, 0.0]
        self.penalty_ = 0.0
        if parts and len(vectors) * n_classes <= _MOST_LOGITS:
            self.penalty_ = images.learn_logistic(whole, parts, scored)
        self._choose(vectors, codes, whole, parts, usual, scored)
        self._found = self.ridge_, self.shares_, alone
        self.coef_, self.intercept_ = whole.linear(*self._found)
        self._held_out = {fold: fit.linear(*self._found) for fold, fit in parts.items()}
        if len(self._held_out) == (0 if self.folds_ is None else self.folds_.max() + 1):
            del self._images  # all that may be asked is known
        return self

    def _most_rows(self, n: int, n_seen: int) -> int:
        """How many of n images, of so many classes that have any, tell enough of shares."""
        return n if n * n_seen <= MANY_LOGITS else _LOGITS_ASKED // n_seen

    def _folds_asked(self, n: int, n_classes: int) -> range:
        """The folds that shares and ridge are chosen by; where images are many, as few as do."""
        folds = 0 if self.folds_ is None else int(self.folds_.max()) + 1
        if n * n_classes <= MANY_LOGITS:
            return range(folds)
        return range(min(folds, max(1, round(folds * _LOGITS_ASKED / (n * n_classes)))))

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
        self, X: Any, codes: Numbers, whole: _Fit, has_words: bool
    ) -> tuple[Floats, float]:
        """The best shares where the images have none, float64 (5,); the images' usual share."""
        if not has_words:
            return np.zeros(_PARTS), _USUAL_ALONE
        seen, truth = np.unique(codes, return_inverse=True)
        rows = _some(np.arange(len(codes)), self._most_rows(len(codes), len(seen)))
        words = X[rows] @ whole.text[seen].T
        alone = _best_shares(
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
        whole: _Fit,
        fits: dict[int, _Fit],
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
            shares = _best_shares(parts, truth, usual, spread, start=shares)
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

    def _rows_tried(
        self, codes: Numbers, whole: _Fit, fits: dict[int, _Fit], scored: ArrayLike | None
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
            for start in range(0, len(inside), _ROWS_A_BLOCK):
                rows = inside[start : start + _ROWS_A_BLOCK]
                yield rows, softmax_and_losses(X[rows] @ coef.T + intercept)[0]

    def _logits(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        logits: Floats = X @ self.coef_.T + self.intercept_
        return logits


def held_out_folds(codes: Numbers, folds: int, groups: ArrayLike | None = None) -> Numbers | None:
    """Stratified folds in which each class has as many images as in any other, or one more.

    Args:
        codes: class numbers, int64 (n,).
        folds: how many at most; never more than the largest class has groups.
        groups: (n,); a group is in one fold. None: each row is its own.

    Returns:
        int64 (n,), from 0; None where no class has two groups.
    """
    if groups is None:
        first = group = np.arange(len(codes))
    else:
        _, first, group = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    classes = codes[first]
    number = min(folds, int(np.bincount(classes).max()))
    if number < 2:
        return None
    order = np.lexsort((np.random.default_rng(0).permutation(len(classes)), classes))
    fold = np.empty(len(classes), np.int64)
    fold[order] = np.arange(len(classes)) % number
    return fold[group]


@dataclass(frozen=True, slots=True)
class _Moments:
    """Sums over images: counts (n_classes,), sums (n_classes, dim), products (dim, dim)."""

    counts: Numbers
    sums: Floats
    products: Floats

    @classmethod
    def of(cls, X: Any, codes: Numbers, n_classes: int) -> _Moments:
        sums, products = np.zeros((n_classes, X.shape[1])), np.zeros((X.shape[1],) * 2)
        for start in range(0, len(X), _ROWS_A_BLOCK):
            block = X[start : start + _ROWS_A_BLOCK].astype(np.float64)
            np.add.at(sums, codes[start : start + _ROWS_A_BLOCK], block)
            products += block.T @ block
        return cls(np.bincount(codes, minlength=n_classes), sums, products)

    def without(self, part: _Moments) -> _Moments:
        return _Moments(
            self.counts - part.counts, self.sums - part.sums, self.products - part.products
        )


class _Images:
    """What is learnt from."""

    def __init__(self, X: Any, codes: Numbers, text: Floats, folds: Numbers | None) -> None:
        self.X, self.codes, self.text, self.folds = X, codes, text, folds
        self._moments = _Moments.of(X, codes, len(text))

    def learn(self, fold: int | None = None) -> _Fit:
        """What is learnt without a fold, but for the logistic regression; from all for None."""
        if fold is None:
            return _Fit(self.X, self.codes, self._moments, self.text)
        inside = self.folds == fold
        part = _Moments.of(self.X[inside], self.codes[inside], len(self.text))
        rest = self._moments.without(part)
        return _Fit(self.X[~inside], self.codes[~inside], rest, self.text)

    def learn_logistic(
        self, whole: _Fit, fits: dict[int, _Fit], scored: ArrayLike | None = None
    ) -> float:
        """Adds the logistic regression to what was learnt from all images, and without folds.

        Where images are few a usual penalty does: the other parts make up for it. Where they are
        many it is the one that tells most of the first of the folds, of its `scored` rows.

        Returns:
            the penalty, as C.
        """
        if len(self.X) * len(self.text) <= MANY_LOGITS:
            for fold, fit in fits.items():
                self.add_logistic(fit, fold, _C)
            self.add_logistic(whole, None, _C)
            return _C
        (fold, first), penalty, least = next(iter(fits.items())), 0.0, np.inf
        good = (self.folds == fold) & first.seen[self.codes]
        asked = np.flatnonzero(good if scored is None else good & np.asarray(scored, bool))
        # Labels without images take no part, as for the shares.
        truth = (np.cumsum(whole.seen) - 1)[self.codes[asked]]
        best = first.logistic
        for tried in _CS:
            start = first.logistic if penalty else None
            self.add_logistic(first, fold, tried, start, again=True)
            coef, intercept = (part[whole.seen] for part in first.logistic)
            losses = softmax_and_losses(self.X[asked] @ coef.T + intercept)[1]
            loss = float(losses[np.arange(len(asked)), truth].sum())
            if loss >= least:
                break
            penalty, least, best = tried, loss, first.logistic
        first.logistic, first.rows = best, None
        for fold, fit in fits.items():
            if fit is not first:
                self.add_logistic(fit, fold, penalty)
        self.add_logistic(whole, None, penalty, best)
        return penalty

    def add_logistic(
        self,
        fit: _Fit,
        fold: int | None,
        penalty: float,
        start: tuple[Floats, Floats] | None = None,
        *,
        again: bool = False,
    ) -> None:
        """Adds the logistic regression to what was learnt without a fold, or from all for None."""
        rest = slice(None) if fold is None else self.folds != fold
        fit.learn_logistic(
            self.X[rest], self.codes[rest], penalty, start, roughly=fold is not None, again=again
        )


class _Fit:
    """What the images say by each method for any ridge, and the words beside it."""

    def __init__(self, X: Any, codes: Numbers, moments: _Moments, text: Floats) -> None:
        counts, n = moments.counts, len(X)
        self.text = text
        self.centre = moments.sums.sum(axis=0) / n
        if n < X.shape[1]:
            _, roots, axes = np.linalg.svd(X - self.centre, full_matrices=False)
            spectrum, axes = roots**2, axes.T
        else:
            spread = moments.products - n * np.outer(self.centre, self.centre)
            spectrum, axes = np.linalg.eigh(spread)
        kept = spectrum > _RANK * max(spectrum.max(), np.finfo(float).tiny)
        spectrum, axes = spectrum[kept], axes[:, kept]
        self.scale = spectrum.sum() / n
        self.seen = seen = counts > 0
        self.within = n - int(seen.sum())  # degrees of freedom
        pull = axes.T @ (moments.sums - counts[:, None] * self.centre).T
        # Targets are 1 for the right label, less their mean: a label without images has none.
        self._level = np.where(seen, counts / n - 1 / seen.sum(), 0.0)
        # Within classes there is what there is in all, less that between their means.
        away = pull / np.maximum(counts, 1)
        within, turn = np.linalg.eigh(np.diag(spectrum) - (counts * away) @ away.T)
        self._regression = axes, spectrum, pull
        self._discriminant = axes @ turn, np.maximum(within, 0), turn.T @ away
        self.mean_words = text @ (moments.sums[seen] / counts[seen, None]).mean(axis=0)
        self.logistic = np.zeros_like(text), np.zeros(len(text))
        self.rows: Floats | None = None  # of the logistic regression, where it is learnt again

    def learn_logistic(
        self,
        X: Any,
        codes: Numbers,
        penalty: float,
        start: tuple[Floats, Floats] | None = None,
        *,
        roughly: bool = False,
        again: bool = False,
    ) -> None:
        """Learns the logistic regression, from the images that the rest was learnt from.

        `start` is another's, learnt from images none of which this one is asked about. For `again`,
        with another penalty, `rows` are kept, which take as much memory as the images.
        """
        n_seen = int(self.seen.sum())
        if n_seen < 2:
            return  # nothing to tell apart
        axes, spectrum, _ = self._regression
        rows = (X - self.centre) @ axes if self.rows is None else self.rows
        self.rows = rows if again else None
        number = np.cumsum(self.seen) - 1
        begin = None
        if start is not None:
            coef, level = start[0][self.seen], start[1][self.seen]
            begin = coef @ axes, level + coef @ self.centre
        coef, level = logistic_regression(
            rows, number[codes], spectrum, n_seen, penalty, start=begin, roughly=roughly
        )
        own = np.einsum("nd,nd->n", rows, coef[number[codes]]) + level[number[codes]]
        # A label without images is as unlikely as a wrong one is on average: logits sum to 0.
        intercept = np.full(len(self.seen), -own.mean() / (n_seen - 1))
        whole = np.zeros((len(self.seen), X.shape[1]))
        whole[self.seen] = coef @ axes.T
        intercept[self.seen] = level
        self.logistic = whole, intercept - whole @ self.centre

    def images(self, ridge: float) -> list[tuple[Floats, Floats]]:
        """What the images say by ridge regression, by a discriminant and by logistic regression.

        In the first two a class's mean image has a logit near 1, and near 0 for other classes.

        Returns:
            coefficients (n_classes, dim) and intercepts (n_classes,) of each.
        """
        found = []
        axes, spectrum, pull = self._regression
        coef = (axes @ (pull / (spectrum + ridge * self.scale)[:, None])).T
        found.append((coef, self._level - coef @ self.centre))
        axes, spectrum, means = self._discriminant
        pulled = means / (spectrum + ridge * self.scale)[:, None]
        own = (means * pulled).sum(axis=0)
        usual = max(own[self.seen].mean(), np.finfo(float).tiny)
        coef = (axes @ pulled).T / usual
        level = np.where(self.seen, 0.5 * (1 - own / usual), 0.0)
        found.append((coef, level - coef @ self.centre))
        return [*found, self.logistic]

    def linear(self, ridge: float, shares: Floats, alone: Floats) -> tuple[Floats, Floats]:
        """Coefficients (n_classes, dim) and intercepts (n_classes,) of all parts together.

        A label without images has the words' shares as they are `alone`: beside images they get
        less, which it has not.
        """
        words, mean = (np.where(self.seen, shares[i], alone[i]) for i in (0, 1))
        coef, intercept = words[:, None] * self.text, -mean * self.mean_words
        for share, (rows, level) in zip(shares[2:], self.images(ridge), strict=True):
            coef = coef + share * rows
            intercept = intercept + share * level
        return coef, intercept


def _best_shares(
    parts: list[Floats],
    truth: Numbers,
    usual: Floats,
    spread: Floats,
    *,
    start: Floats | None = None,
) -> Floats:
    """The shares of the parts' logits with the least loss, by Newton's method.

    The loss, negative log-likelihood + half the squared distance from `usual` in units of
    `spread`, is convex.

    Args:
        parts: float64 (n, n_classes) each.
        truth: right classes, int64 (n,).
        usual, spread: float64 (len(parts),).
        start: where to begin.
    """
    rows = np.arange(len(truth))

    def loss_at(shares: Floats) -> tuple[float, Floats]:
        scores, losses = softmax_and_losses(
            sum(s * part for s, part in zip(shares, parts, strict=True))
        )
        away = (shares - usual) / spread
        return float(losses[rows, truth].sum() + 0.5 * away @ away), scores

    shares = usual if start is None else start
    loss, scores = loss_at(shares)
    for _ in range(100):
        weighted = [part * scores for part in parts]
        means = np.stack([w.sum(axis=1) for w in weighted])
        slope = (means - np.stack([part[rows, truth] for part in parts])).sum(axis=1)
        slope += (shares - usual) / spread**2
        curve = np.diag(1 / spread**2) - means @ means.T
        for i, w in enumerate(weighted):
            for j, part in enumerate(parts):
                curve[i, j] += np.vdot(w, part)
        # Where no part tells classes apart, the curve is flat but for rounding.
        step = np.linalg.lstsq(curve, slope, rcond=None)[0]
        if slope @ step <= 1e-6 * max(1.0, len(truth) / 1000):
            break
        size = 1.0
        while True:
            nearer, scores = loss_at(shares - size * step)
            if nearer < loss or size < 1e-6:
                break
            size /= 2
        if nearer >= loss:
            break
        shares, loss = shares - size * step, nearer
    return shares


def _some(rows: Numbers, most: int) -> Numbers:
    """All rows or, where they are too many, `most` of them by chance, the same each time."""
    if len(rows) <= max(most, 1):
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, max(most, 1), replace=False))
