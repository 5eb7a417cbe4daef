"""Stacking (Wolpert 1992, "Stacked generalization") of linear classifiers of image vectors.

The base learners are what the labels' words say, a ridge regression of the labels on the images, a
linear discriminant with the same ridge on its covariance (as in Wang et al. 2024, arXiv 2402.04087)
and a logistic regression. What they have learnt without a fold is exact: regression and
discriminant for all ridges at once, out of sums over the folds and two eigenvalue problems a fold,
the logistic regression by learning it anew. `best_shares` says what share each has in their sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipcls.few_shot.logistic import MANY_LOGITS, logistic_regression, softmax_and_losses

if TYPE_CHECKING:
    from typing import TypeAlias

    Floats: TypeAlias = NDArray[np.float64]
    Numbers: TypeAlias = NDArray[np.int64]

__all__ = ["ROWS_A_BLOCK", "BaseLearners", "TrainingSet", "best_shares", "held_out_folds"]

ROWS_A_BLOCK = 8192  # images that are gone through at once, so that memory stays small

# The penalty of the logistic regression, as scikit-learn's C, and those tried on many images.
_C, _CS = 10.0, (10.0, 100.0, 1000.0)
_RANK = 1e-10  # eigenvalues below this share of the largest are rounding


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
        for start in range(0, len(X), ROWS_A_BLOCK):
            block = X[start : start + ROWS_A_BLOCK].astype(np.float64)
            np.add.at(sums, codes[start : start + ROWS_A_BLOCK], block)
            products += block.T @ block
        return cls(np.bincount(codes, minlength=n_classes), sums, products)

    def without(self, part: _Moments) -> _Moments:
        return _Moments(
            self.counts - part.counts, self.sums - part.sums, self.products - part.products
        )


class TrainingSet:
    """What is learnt from, all of it or without a fold.

    Args:
        X: vectors of images, float (n, dim); kept, not copied.
        codes: their class numbers, int64 (n,).
        text: what the words' logits are products of images with, float64 (n_classes, dim); zeros
            for a label whose words say nothing.
        folds: the fold of each image, int64 (n,); None where there are none.
    """

    def __init__(self, X: Any, codes: Numbers, text: Floats, folds: Numbers | None) -> None:
        self.X, self.codes, self.text, self.folds = X, codes, text, folds
        self._moments = _Moments.of(X, codes, len(text))

    def learn(self, fold: int | None = None) -> BaseLearners:
        """What is learnt without a fold, but for the logistic regression; from all for None."""
        if fold is None:
            return BaseLearners(self.X, self.codes, self._moments, self.text)
        inside = self.folds == fold
        part = _Moments.of(self.X[inside], self.codes[inside], len(self.text))
        rest = self._moments.without(part)
        return BaseLearners(self.X[~inside], self.codes[~inside], rest, self.text)

    def learn_logistic(
        self, whole: BaseLearners, fits: dict[int, BaseLearners], scored: ArrayLike | None = None
    ) -> float:
        """Adds the logistic regression to what was learnt from all images, and without folds.

        Where images are few a usual penalty does: the other parts make up for it. Where they are
        many it is the one that tells most of the first of the folds, of its `scored` rows.

        Args:
            whole: what was learnt from all images.
            fits: what was learnt without a fold, by the fold's number; at least one.
            scored: bool (n,); which rows may be asked about. None: all.

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
        fit: BaseLearners,
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


class BaseLearners:
    """What the images say by each method for any ridge, and the words beside it.

    Args:
        X: vectors of images, float (n, dim).
        codes: their class numbers, int64 (n,).
        moments: sums over these images, as `TrainingSet` has them.
        text: as for `TrainingSet`.

    Attributes:
        text: float64 (n_classes, dim), as given.
        mean_words: what the words say of the mean image of all classes, float64 (n_classes,).
        seen: which labels have images, bool (n_classes,).
        means: mean image of each label, of length 1, float64 (n_classes, dim); zeros where it has
            no images.
        within: how many degrees of freedom the images have within their classes.
        logistic: coefficients (n_classes, dim) and intercepts (n_classes,) of the logistic
            regression, float64; zeros until it is learnt.
    """

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
        lengths = np.linalg.norm(moments.sums, axis=1, keepdims=True)
        self.means = moments.sums / np.where(lengths > 0, lengths, 1)
        self.means[~seen] = 0.0  # also where a fold's sums leave a rounding error
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
        whole, intercept = np.zeros_like(self.text), np.zeros(len(self.text))
        whole[self.seen] = coef @ axes.T
        intercept[self.seen] = level
        self.logistic = whole, intercept - whole @ self.centre

    def images(self, ridge: float) -> list[tuple[Floats, Floats]]:
        """What the images say by ridge regression, by a discriminant and by logistic regression.

        In the first two a class's mean image has a logit near 1, and near 0 for other classes.

        Args:
            ridge: as a share of the images' mean squared distance from their mean.

        Returns:
            coefficients (n_classes, dim) and intercepts (n_classes,) of each, float64.
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

    def linear(
        self,
        ridge: float,
        shares: Floats,
        words: float,
        offset: float = 0.0,
        nearness: float = 0.0,
    ) -> tuple[Floats, Floats]:
        """Coefficients (n_classes, dim) and intercepts (n_classes,) of all parts together.

        Args:
            ridge: as for `images`.
            shares: float64 (5,), as `LinearProbe.shares_`.
            words: the words' share for a label without images.
            offset: added to the logits of these labels.
            nearness: share of the product with a label's mean image, for a label with images.
        """
        coef = np.where(self.seen, shares[0], words)[:, None] * self.text + nearness * self.means
        intercept = np.where(self.seen, -shares[1] * self.mean_words, offset)
        # The images say nothing of the other labels: their coefficients and levels are 0.
        for share, (rows, level) in zip(shares[2:], self.images(ridge), strict=True):
            coef = coef + share * rows
            intercept = intercept + share * level
        return coef, intercept


def best_shares(
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
        start: where to begin, float64 (len(parts),). None: `usual`.

    Returns:
        float64 (len(parts),).
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
