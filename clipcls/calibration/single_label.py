"""`Calibration`: a temperature that makes scores probabilities, thresholds, prediction sets."""

from __future__ import annotations

import functools
import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from clipcls.calibration.base import BaseCalibration
from clipcls.calibration.temperature import HOTTEST
from clipcls.errors import CalibrationError

CONFIDENCE = 0.95

_USUAL_ERROR, _USUAL_ALPHA = 0.05, 0.1  # what people ask for first

# The tests for `max_error` start at the number of images that allows 4 mistakes, or fewer until it
# is at most half of the calibration; and at no less than a tenth of it. Chosen on eight development
# sets (docs/evidence/doubt.md).
_MISTAKES, _LEAST_START, _MOST_START = 4, 0.1, 0.5


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
        set_scores: rows (rank, score, size): the rank-th highest softmax score of a right label,
            and how many labels per image reach it on average, the best one included; at most 2,000.
        identity, images, note, metrics, versions, made_from: see `BaseCalibration`; the metrics
            are `nll` and `ece`.
    """

    form = "clipcls calibration 1"
    purpose = "one label per image; make one for several by `clipcls calibrate --multi-label`"

    temperature: float
    thresholds: tuple[tuple[float, int, int], ...]
    set_scores: tuple[tuple[int, float, float], ...]

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

        That holds with 95 % confidence, by fixed-sequence testing (Learn then Test, Angelopoulos
        et al. 2021, arXiv 2110.01052): each threshold from a strict one downwards is tested with
        the exact binomial p-value of its mistakes at 5 %, until the first test fails. The start
        depends on `max_error` and the number of images alone.

        Raises:
            CalibrationError: the first test fails, or `max_error` is not a share.
        """
        _check_share("an error of", max_error)
        if promised := list(self._promised(max_error)):
            return self._threshold(promised[-1])
        line = f"an error of at most {max_error:g} cannot be promised from {self.images:,} images"
        for _, above, wrong in self._rows(self._start(max_error))[:1]:
            line += f": {wrong:,} of the {above:,} surest are answered wrong"
        if least := self._least_error():
            *_, (_, above, _) = self._promised(least)
            line += f"; the least with {CONFIDENCE:.0%} confidence is {least:g}, answering "
            line += f"{above / self.images:.0%}"
        count = self._estimate(max_error)
        more = f"about {count:,} images like these" if count else "more images"
        raise CalibrationError(f"{line}; allow more error, or calibrate with {more}")

    def _promised(self, error: float) -> Iterator[tuple[float, int, int]]:
        """The rows of `thresholds` that pass their tests."""
        from scipy.special import bdtr  # scipy.stats would take a second to import

        start = self._start(error)
        for number, row in enumerate(self._rows(start)):
            # Where scores tie, the first row may hold more images than the test starts with. To
            # count its mistakes but no more images keeps the test exact.
            answered = row[1] if number else start
            if bdtr(min(row[2], answered), answered, error) > 1 - CONFIDENCE:
                return
            yield row

    def _start(self, error: float) -> int:
        """How many images the first test is of."""
        needed = (images_needed(error, mistakes) for mistakes in range(_MISTAKES, 0, -1))
        few = next((n for n in needed if n <= _MOST_START * self.images), images_needed(error))
        return max(few, math.ceil(_LEAST_START * self.images))

    def _rows(self, images: int) -> tuple[tuple[float, int, int], ...]:
        """The rows of `thresholds` that answer at least so many images."""
        return self.thresholds[bisect_left(self.thresholds, images, key=lambda row: row[1]) :]

    def _least_error(self) -> float:
        """The least error from which on every one can be promised, to three digits; 0 if none."""
        refused = (e for e in range(999, 0, -1) if not any(self._promised(e / 1000)))
        return (next(refused, 0) + 1) % 1000 / 1000

    def _estimate(self, error: float) -> int:
        """About how many images like these would promise an error; 0 if unknown."""
        start = max(1, min(self._start(error), self.images // 2))
        found = []
        for _, above, wrong in (self._rows(start)[0], self.thresholds[-1]):
            if wrong < 0.8 * error * above:
                counts = ((m, images_needed(error, m)) for m in itertools.count())
                needed = next(images for m, images in counts if wrong * images <= m * above)
                found.append(math.ceil(needed * self.images / above))
        return min((n for n in found if n > self.images), default=0)

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
        least, alpha = self._least_error(), 1 / (self.images + 1)
        can = f"--max-error can be {least:g} or more" if least else "no --max-error can be promised"
        line = (
            f"with these images {can}, --prediction-sets {math.ceil(1000 * alpha) / 1000:g} or more"
        )
        if alpha <= _USUAL_ALPHA:
            size = self._set_row(_USUAL_ALPHA)[2]
            line += f" (at {_USUAL_ALPHA:g} a set has {size:.3g} labels on average)"
        if not 0 < least <= _USUAL_ERROR and (images := self._estimate(_USUAL_ERROR)):
            line += f"; --max-error {_USUAL_ERROR:g} needs about {images:,} images like these"
        return line

    def set_threshold(self, alpha: float) -> float:
        """The score, by the model's own softmax, that labels in a set reach.

        The least ambiguous classifier (Sadinle et al. 2019, arXiv 1609.00451): split conformal
        prediction with the score of the right label. For images drawn as the calibration's were,
        a set holds a right label with probability at least 1 - `alpha`.

        Raises:
            CalibrationError: there are too few images for this `alpha`, or it is not a share.
        """
        _check_share("sets that miss at most", alpha)
        if alpha * (self.images + 1) < 1 - 1e-9:
            raise CalibrationError(
                f"sets that miss at most {alpha:g} need {math.ceil(1 / alpha) - 1:,} calibration "
                f"images; this calibration has {self.images:,}"
            )
        return self._set_row(alpha)[1]

    def _set_row(self, alpha: float) -> tuple[int, float, float]:
        rank = math.ceil((self.images + 1) * (1 - alpha) - 1e-9)
        return next(row for row in self.set_scores if row[0] >= rank)

    def _threshold(self, row: tuple[float, int, int]) -> Threshold:
        score, above, wrong = row
        return Threshold(score, above / self.images, wrong / above if above else 0.0)

    def find_damage(self) -> str:
        """A description of damage to numbers that come from a file, or ""."""
        above, wrong = [row[1] for row in self.thresholds], [row[2] for row in self.thresholds]
        ranks = [row[0] for row in self.set_scores]
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


@functools.lru_cache(maxsize=8192)  # for every error that a message could name
def images_needed(error: float, mistakes: int = 0) -> int:
    """How many images with this many mistakes promise an error of at most this share."""
    from scipy.special import nbdtrik

    # Below a billionth no number of images is worth naming.
    right = float(nbdtrik(CONFIDENCE, mistakes + 1, max(error, 1e-9)))
    return mistakes + 1 + math.ceil(right - 1e-9)


def _check_share(what: str, share: float) -> None:
    if not 0 < share <= 1:
        raise CalibrationError(f"{what} {share:g}: give a share above 0, at most 1")
