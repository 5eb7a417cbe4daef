"""`Calibration`: a temperature that makes scores probabilities, thresholds, prediction sets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from clipcls.calibration.base import BaseCalibration
from clipcls.calibration.conformal import threshold_rank
from clipcls.calibration.temperature import HOTTEST
from clipcls.errors import CalibrationError
from clipcls.metrics.intervals import binomial_bound

__all__ = ["Calibration", "Threshold", "images_needed"]

CONFIDENCE = 0.95

_USUAL_ERROR = 0.05  # what people ask for first
_COVERAGES = 20  # tried for `max_error`, equally spaced: fixed before any data is seen


class Threshold(NamedTuple):
    """An image is answered if the model's own best score is above `score`.

    `coverage` is the share of the calibration's images above it, `risk` the share of these that are
    wrong.
    """

    score: float
    coverage: float
    risk: float


@dataclass(frozen=True, slots=True)
class Calibration(BaseCalibration):
    """A calibration of a classifier that gives one label per image.

    Attributes:
        temperature: the divisor of the logits.
        thresholds: rows (score, above, wrong): how many images have a best score, by the model's
            own softmax, above `score`, and how many of these are wrong; by falling score, at most
            2,000, the last for all images.
        set_scores: rows (rank, score) of the sorted conformal scores; at most 2,000.
        identity, images, note, metrics, versions, made_from: see `BaseCalibration`; the metrics
            are `nll` and `ece`.
    """

    form = "clipcls calibration 1"
    purpose = "one label per image; make one for several by `clipcls calibrate --multi-label`"

    temperature: float
    thresholds: tuple[tuple[float, int, int], ...]
    set_scores: tuple[tuple[int, float], ...]

    def for_coverage(self, coverage: float) -> Threshold:
        """The highest threshold that a new image exceeds with at least probability `coverage`.

        Raises:
            CalibrationError: `coverage` is not a share.
        """
        _check_share("a coverage of", coverage)
        above = math.ceil(coverage * (self.images + 1) - 1e-9) - 1
        return self._threshold(next(row for row in self.thresholds if row[1] >= above))

    def for_error(self, max_error: float) -> Threshold:
        """The lowest threshold above which at most a share `max_error` of new images is wrong.

        That holds with 95 % confidence: each of 20 fixed coverages has an exact binomial upper
        bound at 5 %/20, so that all 20 bounds hold together (Learn then Test, Angelopoulos et al.
        2021, arXiv 2110.01052; the aim is that of Geifman and El-Yaniv 2017, arXiv 1705.08500).

        Raises:
            CalibrationError: no coverage has so low a bound, or `max_error` is not a share.
        """
        _check_share("an error of", max_error)
        bounds = list(self._error_bounds())
        promised = [row for bound, row in bounds if bound <= max_error]
        if not promised:
            least, row = min(bounds)
            raise CalibrationError(
                f"an error of at most {max_error:g} cannot be promised from {self.images:,} "
                f"images: the least with {CONFIDENCE:.0%} confidence is {_rounded_up(least):g}, "
                f"answering {row[1] / self.images:.0%}; allow more error, or calibrate with more "
                f"images ({images_needed(max_error):,} or more that are answered without a mistake)"
            )
        return self._threshold(promised[-1])

    def _error_bounds(self) -> Iterator[tuple[float, tuple[float, int, int]]]:
        """The error that each of the fixed coverages promises, and its row of `thresholds`."""
        for step in range(1, _COVERAGES + 1):
            row = next(row for row in self.thresholds if row[1] * _COVERAGES >= step * self.images)
            yield binomial_bound(row[2], row[1], (1 - CONFIDENCE) / _COVERAGES), row

    def summary(self) -> str:
        """One line: the temperature, and the metrics before and after."""
        ece, nll = self.metrics["ece"], self.metrics["nll"]
        return (
            f"temperature {self.temperature:.3f} from {self.images:,} images; calibration error "
            f"{ece['before']:.1%} before, {ece['after']:.1%} after; negative log-likelihood "
            f"{nll['before']:.3f} before, {nll['after']:.3f} after"
        )

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
            CalibrationError: there are too few images for this `alpha`, or it is not a share.
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

    def find_damage(self) -> str:
        """A description of damage to numbers that come from a file, or ""."""
        above, wrong = [row[1] for row in self.thresholds], [row[2] for row in self.thresholds]
        ranks = [rank for rank, _ in self.set_scores]
        if not 0.99 / HOTTEST <= self.temperature <= 1.01 * HOTTEST:
            return f"`temperature` is not between {1 / HOTTEST:g} and {HOTTEST:g}"
        # The last rows are for all images, so that some row always meets what is asked for.
        if (
            not above[-1:] == [self.images] == ranks[-1:]
            or not all(0 <= e <= k for k, e in zip(above, wrong, strict=True))
            or not self.images > 0 < ranks[0]
            or above != sorted(above)
            or ranks != sorted(ranks)
        ):
            return "rows are missing or out of order"
        return ""


def _rounded_up(share: float) -> float:
    """To three digits, so that what a message names is accepted."""
    return math.ceil(1000 * share) / 1000


def images_needed(error: float) -> int:
    """How many images, all answered rightly, promise an error of at most this share."""
    # Below a billionth no number of images is worth naming, and the quotient would overflow.
    return math.ceil(math.log((1 - CONFIDENCE) / _COVERAGES) / math.log1p(-max(error, 1e-9)))


def _check_share(what: str, share: float) -> None:
    if not 0 < share <= 1:
        raise CalibrationError(f"{what} {share:g}: give a share above 0, at most 1")
