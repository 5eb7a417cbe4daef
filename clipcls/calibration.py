"""From labelled images to a `Calibration`: scores that mean what they say, and when to answer.

- The temperature (Guo et al. 2017, arXiv 1706.04599) is the one of least negative log-likelihood.
  For CLIP one temperature carries over to other labels and prompts of a model (LeVine et al. 2023,
  arXiv 2303.12748) and few images suffice (Tu et al. 2024, arXiv 2402.07417); here it is bound to
  the labels and prompts all the same, since thresholds and sets are.
- Thresholds for `coverage` and `error`, and the scores of conformal sets, are taken from the
  model's own softmax (temperature 1). That was not fitted to these images, so that what is
  promised for new images like them holds exactly.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipcls.conformal import rank_scores, threshold_rank
from clipcls.errors import CalibrationError, InputError
from clipcls.evaluation import Watch, embed_known, logit_blocks, outcomes_of, right_columns
from clipcls.labelled import LabelledLike, SetAside
from clipcls.metrics import binomial_bound, calibration_error

if TYPE_CHECKING:
    from clipcls.classifier import ZeroShotClassifier
    from clipcls.encoder import Encoder
    from clipcls.prompts import PromptSet

__all__ = [
    "LEAST_IMAGES",
    "Calibration",
    "Cut",
    "Identity",
    "Kept",
    "calibrate",
    "calibrate_vectors",
    "fit_temperatures",
    "read_calibration",
]

LEAST_IMAGES = 10
CONFIDENCE = 0.95

_FORMAT = "clipcls calibration 1"
MULTI_FORMAT = "clipcls multi-label calibration 1"
_FOLDS = 5
_HOTTEST = 20.0  # bounds of the temperature: this, and one over it
_ROWS = 2000  # of a table in the file
_COVERAGES = 20  # tried for `error`, equally spaced: fixed before any data is seen
_LOGITS_KEPT = 20_000_000

Blocks: TypeAlias = Callable[[], Iterable[tuple[slice, NDArray[np.float64]]]]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a calibration is made for, and refused without.

    Attributes:
        model: the model's name; not compared.
        weights: SHA-256 of its weights, hex.
        precision: what it computes in; not compared, since scores are the same but for rounding.
        prompts: the template set's name; not compared.
        templates: the templates.
        labels: each label and the first 8 hex of the SHA-256 of its texts.
        background: where each label is scored on its own, first 12 hex of the SHA-256 of the
            vocabulary that it is set against; else "".
        classifier: first 12 hex of the SHA-256 of a learnt classifier's file, or "".
    """

    model: str
    weights: str
    precision: str
    prompts: str
    templates: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    background: str = ""
    classifier: str = ""

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        prompts: PromptSet,
        names: Sequence[str],
        texts: Sequence[Sequence[str]],
    ) -> Identity:
        """From a model, the templates, and each label's name and texts."""
        hashes = (hashlib.sha256(json.dumps(group).encode()).hexdigest()[:8] for group in texts)
        return cls(
            encoder.name,
            encoder.weights,
            encoder.precision,
            prompts.name,
            prompts.templates,
            tuple(zip(names, hashes, strict=True)),
        )

    def difference(self, other: Identity) -> str:
        """How the calibration's identity differs from a classifier's `other`; "" if it does not."""
        if self.weights != other.weights:
            return (
                f"it is for the model {self.model} (weights {self.weights[:12]}), "
                f"not for {other.model} ({other.weights[:12]})"
            )
        if self.classifier != other.classifier:
            mine, its = (
                f"the classifier {identity.classifier}"
                if identity.classifier
                else "zero-shot answers"
                for identity in (self, other)
            )
            return f"it is for {mine}, not for {its}"
        ours, theirs = dict(self.labels), dict(other.labels)
        parts = [
            f"it was made {how} the label{'s' * (len(names) > 1)} "
            f"{', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''}"
            for how, names in (
                ("without", [name for name in theirs if name not in ours]),
                ("with", [name for name in ours if name not in theirs]),
            )
            if names
        ]
        if parts:
            return " and ".join(parts)
        if self.templates != other.templates:
            return f"it is for the prompts {self.prompts}, not for {other.prompts}" + (
                " as they are now" if self.prompts == other.prompts else ""
            )
        changed = [name for name in theirs if ours[name] != theirs[name]]
        if changed:
            return f"the label {changed[0]!r} had other synonyms or prompts"
        if self.background != other.background:
            return "labels were set against another vocabulary"
        return ""

    def record(self) -> dict[str, Any]:
        """As in a calibration's file."""
        record = asdict(self)
        for name in ("background", "classifier"):
            if not record[name]:
                del record[name]
        return record

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Identity:
        """Out of a calibration's file.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        return cls(
            model=str(data["model"]),
            weights=str(data["weights"]),
            precision=str(data["precision"]),
            prompts=str(data["prompts"]),
            templates=tuple(str(text) for text in data["templates"]),
            labels=tuple((str(label), str(digest)) for label, digest in data["labels"]),
            background=str(data.get("background", "")),
            classifier=str(data.get("classifier", "")),
        )


class Cut(NamedTuple):
    """Where answers begin: an image is answered if the model's own best score is above `score`.

    `coverage` and `risk` are the calibration images' share above it and the share wrong of these.
    """

    score: float
    coverage: float
    risk: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What calibrations of both kinds have: whom they are for, and a file.

    Attributes:
        identity: the classifier it is for.
    """

    form: ClassVar[str]
    identity: Identity

    def check(self, identity: Identity, source: str = "the calibration") -> None:
        """Whether it is for this classifier.

        Raises:
            CalibrationError: it is not; the difference is named.
        """
        if difference := self.identity.difference(identity):
            raise CalibrationError(f"{source}: {difference}; calibrate anew")

    def record(self) -> dict[str, Any]:
        """As in its file."""
        record = asdict(self)
        del record["identity"]
        return {"format": self.form, **self.identity.record(), **record}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes its file, which is whole or not there.

        Raises:
            OutputError: it cannot be written.
        """
        from clipcls.writers import open_output

        with open_output(Path(path), "json", 1) as writer:
            writer.write(self.record())

    @property
    def digest(self) -> str:
        """First 12 hex of a SHA-256 of all of it; records of predictions carry it."""
        return hashlib.sha256(json.dumps(self.record()).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Calibration(Kept):
    """What was learned from labelled images about a classifier's scores.

    Attributes:
        identity: the classifier it is for.
        images: how many images it was made from.
        temperature: what logits are divided by.
        note: why the temperature is not simply the optimum, or "".
        figures: `nll` and `ece`, each `before` and `after`, by 5-fold cross-validation: no image
            is measured with a temperature that was fitted to it.
        cuts: rows (score, above, wrong): of the images whose best score, by the model's own
            softmax, is above `score`, how many they are and how many are wrong; by falling score,
            at most 2,000, the last for all images.
        set_scores: rows (rank, score) of the sorted conformal scores; at most 2,000.
        versions: of what made it.
    """

    form = _FORMAT

    images: int
    temperature: float
    note: str
    figures: dict[str, dict[str, float]]
    cuts: tuple[tuple[float, int, int], ...]
    set_scores: tuple[tuple[int, float], ...]
    versions: dict[str, str]

    def for_coverage(self, coverage: float) -> Cut:
        """The highest cut above which a new image lies with probability `coverage` at least."""
        above = math.ceil(coverage * (self.images + 1) - 1e-9) - 1
        return self._cut(next(row for row in self.cuts if row[1] >= above))

    def for_error(self, error: float) -> Cut:
        """The lowest cut above which at most a share `error` of new images is wrong.

        That holds with a confidence of 95 %: of 20 fixed coverages those are taken whose exact
        binomial upper bound is low enough, each at 5 %/20, so that all 20 bounds hold together
        (Learn then Test, Angelopoulos et al. 2021, arXiv 2110.01052; the aim is that of Geifman
        and El-Yaniv 2017, arXiv 1705.08500).

        Raises:
            CalibrationError: no coverage has so low a bound.
        """
        best, least = None, (1.0, 0.0)
        for step in range(1, _COVERAGES + 1):
            row = next(row for row in self.cuts if row[1] * _COVERAGES >= step * self.images)
            bound = binomial_bound(row[2], row[1], (1 - CONFIDENCE) / _COVERAGES)
            least = min(least, (bound, row[1] / self.images))
            if bound <= error:
                best = row
        if best is None:
            raise CalibrationError(
                f"an error of at most {error:g} cannot be promised from {self.images:,} images: "
                f"the least with {CONFIDENCE:.0%} confidence is {least[0]:.3f}, answering "
                f"{least[1]:.0%}; calibrate with more images or allow more error"
            )
        return self._cut(best)

    def set_threshold(self, alpha: float) -> float:
        """The conformal score up to which labels are in a set.

        Raises:
            CalibrationError: there are too few images for this `alpha`.
        """
        rank = threshold_rank(self.images, alpha)
        if rank is None:
            raise CalibrationError(
                f"sets that miss at most {alpha:g} need {math.ceil(1 / alpha) - 1:,} calibration "
                f"images; this calibration has {self.images:,}"
            )
        return next(score for row_rank, score in self.set_scores if row_rank >= rank)

    def _cut(self, row: tuple[float, int, int]) -> Cut:
        score, above, wrong = row
        return Cut(score, above / self.images, wrong / above if above else 0.0)


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Reads a calibration's file.

    Raises:
        CalibrationError: it cannot be read, or is no calibration.
    """
    data = read_record(path, _FORMAT)
    try:
        return Calibration(
            Identity.from_record(data),
            images=int(data["images"]),
            temperature=_positive(data["temperature"]),
            note=str(data["note"]),
            figures=dict(data["figures"]),
            cuts=tuple((float(s), int(k), int(e)) for s, k, e in data["cuts"]),
            set_scores=tuple((int(rank), float(s)) for rank, s in data["set_scores"]),
            versions=dict(data["versions"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path) from error


def read_record(path: str | os.PathLike[str], form: str) -> dict[str, Any]:
    """What is in a calibration's file of the format `form`.

    Raises:
        CalibrationError: it cannot be read, or is none.
    """
    name = os.fspath(path)
    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CalibrationError(f"{name}: cannot be read: {reason}") from error
    except ValueError as error:
        raise CalibrationError(f"{name}: is no calibration: not JSON") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found == form:
        return dict(data)
    if found == _FORMAT:
        raise CalibrationError(
            f"{name}: is for one label an image, not for --multi; "
            "make one by `clipcls calibrate --multi`"
        )
    if found == MULTI_FORMAT:
        raise CalibrationError(f"{name}: is for several labels an image; use it with --multi")
    raise CalibrationError(
        f"{name}: is no calibration of this version of clipcls; make it by `clipcls calibrate`"
    )


def damaged(path: str | os.PathLike[str]) -> CalibrationError:
    """The error of a file that is a calibration's but lacks something."""
    return CalibrationError(f"{os.fspath(path)}: is a damaged calibration; make it anew")


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{number} is no temperature")
    return number


def calibrate(
    classifier: ZeroShotClassifier, data: LabelledLike, *, watch: Watch | None = None
) -> tuple[Calibration, SetAside]:
    """Fits a `Calibration` for a fitted classifier that has none.

    An image with several right labels counts as in `evaluate`; a prediction set is right if it
    holds one of them.

    Args:
        classifier: fitted, without a calibration.
        data: a folder with a folder per class, a csv file, or pairs (see `make_labelled`).
        watch: called after each image, with the `ImageError` if it could not be read.

    Returns:
        the calibration, and what of the data it does not rest on.

    Raises:
        InputError: there are fewer than 10 images that can be used.
        CalibrationError: the classifier has a calibration already.
    """
    if classifier.calibration_ is not None:
        raise CalibrationError("this classifier is calibrated already; take one without")
    known = embed_known(classifier, data, watch)
    return calibrate_vectors(classifier, known.vectors, known.truth), known.set_aside


def calibrate_vectors(
    classifier: ZeroShotClassifier,
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
    if n < LEAST_IMAGES:
        raise InputError(
            f"{n} labelled image{'s are' if n > 1 else ' is'} too few to calibrate with; "
            f"give {LEAST_IMAGES} or more"
        )
    outcomes = outcomes_of(classifier, vectors, truth)
    blocks = _remembered(classifier, vectors)
    folds = np.random.default_rng(0).permutation(np.arange(n) % _FOLDS)
    temperatures = fit_temperatures(blocks, outcomes.truth, folds)
    temperature, held_out = float(temperatures[-1]), temperatures[folds]
    note = ""
    if outcomes.correct.all():
        note = f"all {n:,} answers are right, which determines no temperature: it is left at 1"
    elif math.isclose(temperature, _HOTTEST, rel_tol=1e-5):
        note = "the scores say next to nothing of what is right: the temperature is at its bound"
    elif math.isclose(temperature, 1 / _HOTTEST, rel_tol=1e-5):
        note = "the scores are far too low: the temperature is at its bound"
    after_loss, after_score = _at(blocks, outcomes.truth, outcomes.answer, held_out)
    before_loss, before_score = _at(blocks, outcomes.truth, outcomes.answer, np.ones(n))
    return Calibration(
        identity=classifier.identity_,
        images=n,
        temperature=temperature,
        note=note,
        figures={
            "nll": {"before": float(before_loss.mean()), "after": float(after_loss.mean())},
            "ece": {
                "before": calibration_error(before_score, outcomes.correct),
                "after": calibration_error(after_score, outcomes.correct),
            },
        },
        cuts=_cuts(before_score, outcomes.correct),
        set_scores=_set_scores(blocks, truth),
        versions=versions(),
    )


def fit_temperatures(
    blocks: Blocks, truth: NDArray[np.int64], folds: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """The temperature of least mean negative log-likelihood, of all images and without each fold.

    With b = 1/T the loss, log sum exp(b z) - b z_right, is convex; its minimum is found by
    Newton's method inside a bracket, until a step is below a millionth.

    Args:
        blocks: called for an iterator over (rows, logits float64 (rows, n_classes)).
        truth: the right class of each image, int64 (n,).
        folds: each image's fold, int64 (n,), from 0; None: no folds.

    Returns:
        float64 (folds + 1,): without fold 0, 1, ..., and last with all images. Within 1/20 and 20;
        1 where the answers are all right, since then less is always better.
    """
    everything = np.ones((1, len(truth)), bool)
    whole = _least_loss(blocks, truth, everything, 1.0)
    if folds is None:
        return 1 / whole
    without = folds != np.arange(folds.max() + 1)[:, None]
    return 1 / np.append(_least_loss(blocks, truth, without, float(whole[0])), whole)


def _least_loss(
    blocks: Blocks, truth: NDArray[np.int64], groups: NDArray[np.bool_], start: float
) -> NDArray[np.float64]:
    """b = 1/T of each group of images, bool (groups, n) -> float64 (groups,)."""
    done = _all_right(blocks, truth, groups)
    b = np.where(done, 1.0, start)
    low, high = np.full(len(groups), 1 / _HOTTEST), np.full(len(groups), _HOTTEST)
    open_ones = np.flatnonzero(~done)
    while len(open_ones):
        first, second = _slopes(blocks, truth, groups[open_ones], b[open_ones])
        for k, slope, curve in zip(open_ones, first, second, strict=True):
            low[k], high[k] = (b[k], high[k]) if slope < 0 else (low[k], b[k])
            step = b[k] - slope / curve if curve > 0 else math.nan
            before, b[k] = b[k], step if low[k] < step < high[k] else math.sqrt(low[k] * high[k])
            if slope == 0 or abs(b[k] - before) <= 1e-6 * before:
                done[k] = True
        open_ones = np.flatnonzero(~done)
    return b


def _slopes(
    blocks: Blocks, truth: NDArray[np.int64], groups: NDArray[np.bool_], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and second derivative of each group's loss at its own b, float64 (groups,) each."""
    first, second = np.zeros(len(groups)), np.zeros(len(groups))
    for rows, logits in blocks():
        z = logits - logits.max(axis=1, keepdims=True)
        right = z[np.arange(len(z)), truth[rows]]
        for k, inside in enumerate(groups[:, rows]):
            weights = np.exp(b[k] * z)
            total = weights.sum(axis=1)
            weights *= z
            mean = weights.sum(axis=1) / total
            square = np.einsum("ij,ij->i", weights, z) / total
            first[k] += (mean - right)[inside].sum()
            second[k] += (square - mean**2)[inside].sum()
    return first, second


def _all_right(
    blocks: Blocks, truth: NDArray[np.int64], groups: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    wrong = np.empty(len(truth), bool)
    for rows, logits in blocks():
        wrong[rows] = logits.argmax(axis=1) != truth[rows]
    return np.array([not (inside & wrong).any() for inside in groups])


def _remembered(classifier: ZeroShotClassifier, vectors: NDArray[np.float32]) -> Blocks:
    """The logits of all images, kept where they are few enough, else computed each time."""
    if len(vectors) * len(classifier.classes_) > _LOGITS_KEPT:
        return lambda: logit_blocks(classifier, vectors)
    kept = list(logit_blocks(classifier, vectors))
    return lambda: kept


def _at(
    blocks: Blocks,
    truth: NDArray[np.int64],
    answer: NDArray[np.int64],
    temperatures: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each image's loss and the score of its answer at its own temperature, float64 (n,) each."""
    loss, score = np.empty(len(truth)), np.empty(len(truth))
    for rows, logits in blocks():
        z = logits / temperatures[rows, None]
        z -= z.max(axis=1, keepdims=True)
        total = np.log(np.exp(z).sum(axis=1))
        at = np.arange(len(z))
        loss[rows] = total - z[at, truth[rows]]
        score[rows] = np.exp(z[at, answer[rows]] - total)
    return loss, score


def _cuts(
    scores: NDArray[np.float64], correct: NDArray[np.bool_]
) -> tuple[tuple[float, int, int], ...]:
    """`Calibration.cuts` of best scores and whether the answers are right."""
    order = np.argsort(-scores, kind="stable")
    falling, wrong = scores[order], np.cumsum(~correct[order])
    # One row an image at most: the images before it whose scores are truly above its own.
    above = np.unique(np.searchsorted(-falling, -falling, side="left"))
    kept = above[np.unique(np.linspace(0, len(above) - 1, _ROWS - 1).round().astype(int))]
    rows = [(float(falling[k]), int(k), int(wrong[k - 1]) if k else 0) for k in kept]
    return (*rows, (-1.0, len(scores), int(wrong[-1])))


def _set_scores(blocks: Blocks, truth: Sequence[tuple[int, ...]]) -> tuple[tuple[int, float], ...]:
    """`Calibration.set_scores`: the conformal score of each image's best right label, sorted."""
    found = np.empty(len(truth))
    for rows, logits in blocks():
        order, scores = rank_scores(logits)
        right = np.take_along_axis(right_columns(truth[rows], logits.shape[1]), order, 1)
        found[rows] = scores[np.arange(len(scores)), right.argmax(axis=1)]
    found.sort()
    ranks = np.unique(np.ceil(np.linspace(0, 1, _ROWS + 1)[1:] * len(found)).astype(int))
    return tuple((int(rank), float(found[rank - 1])) for rank in ranks)


def versions() -> dict[str, str]:
    """Of what makes a calibration."""
    import importlib.metadata

    from clipcls import __version__

    return {
        "clipcls": __version__,
        "open_clip_torch": importlib.metadata.version("open_clip_torch"),
        "numpy": np.__version__,
    }
