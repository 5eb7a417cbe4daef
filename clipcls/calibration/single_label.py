"""The `Calibration` object: which classifier it applies to, how it maps scores, its file format.

`calibration_fit.py` fits it; what both kinds of calibration share is here too.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from clipcls.calibration.conformal import threshold_rank
from clipcls.errors import CalibrationError, InputError
from clipcls.files.jsonfiles import build, read_json
from clipcls.metrics.single_label import binomial_bound

if TYPE_CHECKING:
    from typing import Self

    from clipcls.labels.prompts import PromptSet
    from clipcls.models.encoder import Encoder

__all__ = [
    "LEAST_IMAGES",
    "Calibration",
    "Identity",
    "Kept",
    "Threshold",
    "read_calibration",
]

LEAST_IMAGES = 10  # that a calibration of either kind is made from
CONFIDENCE = 0.95
_USUAL_ERROR = 0.05  # what people ask for first

HOTTEST = 20.0  # bounds of the temperature: this, and one over it

_FORMAT = "clipcls calibration 1"
MULTI_FORMAT = "clipcls multi-label calibration 1"
_HASH_BYTES, _HASHES = 6, 5000  # that are kept of an image file's SHA-256, and of how many images
_COVERAGES = 20  # tried for `max_error`, equally spaced: fixed before any data is seen


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


class Threshold(NamedTuple):
    """Where answers begin: an image is answered if the model's own best score is above `score`.

    `coverage` and `risk` are the calibration images' share above it and the share wrong of these.
    """

    score: float
    coverage: float
    risk: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What both kinds of calibration share: the classifier they are for, and a file.

    Attributes:
        identity: the classifier it is for.
        made_from: first 12 hex of the SHA-256 of the image files it was made from, sorted; of more
            than 5,000 the smallest. They tell whether an image was among them, not what it shows.
    """

    form: ClassVar[str]
    identity: Identity
    made_from: tuple[str, ...] = field(default=(), kw_only=True)

    def knows(self, digest: bytes) -> bool:
        """Whether it was made from an image file with this SHA-256, as far as it has kept them."""
        key = digest[:_HASH_BYTES].hex()
        at = bisect.bisect_left(self.made_from, key)
        return self.made_from[at : at + 1] == (key,)

    def keep_images(self, digests: Iterable[bytes]) -> Self:
        """With the images it was made from, by the SHA-256 of their files; b"" is none."""
        kept = {digest[:_HASH_BYTES].hex() for digest in digests if digest}
        return replace(self, made_from=tuple(sorted(kept)[:_HASHES]))

    def check(self, identity: Identity, source: str = "the calibration") -> None:
        """Whether it is for this classifier.

        Raises:
            CalibrationError: it is not; the difference is named.
        """
        if difference := self.identity.difference(identity):
            raise CalibrationError(f"{source}: {difference}; calibrate anew")

    def record(self) -> dict[str, Any]:
        """As in its file."""
        record = {**asdict(self), "made_from": ",".join(self.made_from)}
        del record["identity"]
        return {"format": self.form, **self.identity.record(), **record}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes its file, which is whole or not there.

        Raises:
            OutputError: it cannot be written.
        """
        from clipcls.output.writing import open_output

        with open_output(Path(path), "document") as writer:
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
        thresholds: rows (score, above, wrong): of the images whose best score, by the model's own
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
    thresholds: tuple[tuple[float, int, int], ...]
    set_scores: tuple[tuple[int, float], ...]
    versions: dict[str, str]

    def for_coverage(self, coverage: float) -> Threshold:
        """The highest threshold above which a new image lies with probability `coverage` at least.

        Raises:
            CalibrationError: `coverage` is no share above 0.
        """
        if not 0 < coverage <= 1:
            raise CalibrationError(f"a coverage of {coverage:g}: give a share above 0, at most 1")
        above = math.ceil(coverage * (self.images + 1) - 1e-9) - 1
        return self._threshold(next(row for row in self.thresholds if row[1] >= above))

    def for_error(self, max_error: float) -> Threshold:
        """The lowest threshold above which at most a share `max_error` of new images is wrong.

        That holds with a confidence of 95 %: of 20 fixed coverages those are taken whose exact
        binomial upper bound is low enough, each at 5 %/20, so that all 20 bounds hold together
        (Learn then Test, Angelopoulos et al. 2021, arXiv 2110.01052; the aim is that of Geifman
        and El-Yaniv 2017, arXiv 1705.08500).

        Raises:
            CalibrationError: no coverage has so low a bound, or `max_error` is not between 0 and 1.
        """
        _check_share("an error", max_error)
        best = None
        for bound, row in self._error_bounds():
            if bound <= max_error:
                best = row
        if best is None:
            least, row = min(self._error_bounds())
            raise CalibrationError(
                f"an error of at most {max_error:g} cannot be promised from {self.images:,} "
                f"images: the least with {CONFIDENCE:.0%} confidence is {_rounded_up(least):g}, "
                f"answering {row[1] / self.images:.0%}; allow more error, or calibrate with more "
                f"images ({images_needed(max_error):,} or more that are answered without a mistake)"
            )
        return self._threshold(best)

    def _error_bounds(self) -> Iterator[tuple[float, tuple[float, int, int]]]:
        """What error each of the fixed coverages promises, and its row of `thresholds`."""
        for step in range(1, _COVERAGES + 1):
            row = next(row for row in self.thresholds if row[1] * _COVERAGES >= step * self.images)
            yield binomial_bound(row[2], row[1], (1 - CONFIDENCE) / _COVERAGES), row

    def promises(self) -> str:
        """One line: the least `max_error` and `prediction_sets` that these images allow."""
        least = _rounded_up(min(self._error_bounds())[0])
        sets = _rounded_up(1 / (self.images + 1))
        if least >= 1:
            line = "with these images no --max-error can be promised"
        else:
            line = f"with these images --max-error can be {least:g} or more"
        line += f", --prediction-sets {sets:g} or more"
        if least > _USUAL_ERROR:
            line += (
                f"; --max-error {_USUAL_ERROR:g} needs at least {images_needed(_USUAL_ERROR)} "
                "images that are answered without a mistake"
            )
        return line

    def set_threshold(self, alpha: float) -> float:
        """The conformal score up to which labels are in a set.

        Raises:
            CalibrationError: there are too few images for this `alpha`, or it is not between 0
                and 1.
        """
        _check_share("sets that miss at most", alpha)
        rank = threshold_rank(self.images, alpha)
        if rank is None:
            raise CalibrationError(
                f"sets that miss at most {alpha:g} need {math.ceil(1 / alpha) - 1:,} calibration "
                f"images; this calibration has {self.images:,}"
            )
        return next(score for row_rank, score in self.set_scores if row_rank >= rank)

    def _threshold(self, row: tuple[float, int, int]) -> Threshold:
        score, above, wrong = row
        return Threshold(score, above / self.images, wrong / above if above else 0.0)


def _rounded_up(share: float) -> float:
    """To three digits, so that what a message names is accepted."""
    return math.ceil(1000 * share) / 1000


def images_needed(error: float) -> int:
    """How many images, all answered rightly, promise an error of at most this share."""
    # Below a billionth no number of images is worth telling, and the quotient would overflow.
    return math.ceil(math.log((1 - CONFIDENCE) / _COVERAGES) / math.log1p(-max(error, 1e-9)))


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Reads a calibration's file.

    Raises:
        CalibrationError: it cannot be read, or is no calibration.
    """
    found = read_record(path, Calibration)
    above, wrong = [row[1] for row in found.thresholds], [row[2] for row in found.thresholds]
    ranks = [rank for rank, _ in found.set_scores]
    if not 0.99 / HOTTEST <= found.temperature <= 1.01 * HOTTEST:
        raise damaged(path, f"`temperature` is not between {1 / HOTTEST:g} and {HOTTEST:g}")
    # The last rows are of all images, so that whatever is asked for, some row has it.
    if (
        not above[-1:] == [found.images] == ranks[-1:]
        or not all(0 <= e <= k for k, e in zip(above, wrong, strict=True))
        or not found.images > 0 < ranks[0]
        or above != sorted(above)
        or ranks != sorted(ranks)
    ):
        raise damaged(path, "rows are missing or out of order")
    return found


KeptT = TypeVar("KeptT", bound=Kept)


def read_record(path: str | os.PathLike[str], kind: type[KeptT]) -> KeptT:
    """Read a calibration's file; its numbers are only checked for their types.

    Raises:
        CalibrationError: the file cannot be read, or is not a calibration of this kind.
    """
    name = os.fspath(path)
    data = read_json(name, CalibrationError)
    found = data.get("format") if isinstance(data, dict) else None
    if found == kind.form:
        made_from = data.get("made_from")
        hashes = sorted(filter(None, made_from.split(","))) if isinstance(made_from, str) else None
        try:
            return build(kind, {**data, "identity": data, "made_from": hashes})
        except ValueError as error:
            raise damaged(path, str(error)) from error
    if found == _FORMAT:
        raise CalibrationError(
            f"{name}: is for one label per image; make one for several by "
            "`clipcls calibrate --multi-label`"
        )
    if found == MULTI_FORMAT:
        raise CalibrationError(
            f"{name}: is for several labels per image; use it with `clipcls tag`"
        )
    raise CalibrationError(
        f"{name}: is no calibration of this version of clipcls; make it by `clipcls calibrate`"
    )


def damaged(path: str | os.PathLike[str], reason: str) -> CalibrationError:
    """The error for a calibration's file that holds something else than it should."""
    return CalibrationError(f"{os.fspath(path)}: is a damaged calibration ({reason}); make it anew")


def check_uncalibrated(calibration: Kept | None) -> None:
    """Refuses to calibrate what has a calibration.

    Raises:
        CalibrationError: it has.
    """
    if calibration is not None:
        raise CalibrationError("this classifier is calibrated already; take one without")


def check_images(n: int) -> None:
    """Refuses to calibrate with too few images.

    Raises:
        InputError: they are.
    """
    if n < LEAST_IMAGES:
        raise InputError(
            f"{n} labelled image{'s are' if n > 1 else ' is'} too few to calibrate with; "
            f"give {LEAST_IMAGES} or more"
        )


def _check_share(what: str, share: float) -> None:
    """Refuses what is not between 0 and 1, which are left out."""
    if not 0 < share < 1:
        raise CalibrationError(f"{what} {share:g}: give a share between 0 and 1")


def versions() -> dict[str, str]:
    """Of what makes a calibration."""
    import importlib.metadata

    from clipcls import __version__

    return {
        "clipcls": __version__,
        "open_clip_torch": importlib.metadata.version("open_clip_torch"),
        "numpy": np.__version__,
    }
