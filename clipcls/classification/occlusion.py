"""Heat maps: where in an image its answer lies, found by hiding one place after the other.

The image is embedded again with each place hidden, and the heat there is how far the answer's
log-odds fall: occlusion (Zeiler and Fergus 2013, arXiv 1311.2901, section 4.2). Places have soft
edges and overlap; the heat of a pixel is the mean over its places, weighted by how far they hide
it, as in RISE (Petsiuk et al. 2018, arXiv 1806.07421) but on a grid instead of at random. The map
is measured, not derived from the inside of a network, so it holds for every tower.

research/heatmaps.md compares it with other methods.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipcls.classification.labelled import find_answered, find_classes
from clipcls.data.inputs import has_no_file, open_input
from clipcls.data.sources import open_image
from clipcls.errors import ClipclsError, ImageError, OutputError, os_reason
from clipcls.files.atomic import write_new, writing
from clipcls.files.folders import is_inside
from clipcls.predictions import Prediction
from clipcls.questions import change_answers

if TYPE_CHECKING:
    from clipcls.classification.head import LinearHead
    from clipcls.classification.image_classifier import ImageClassifier
    from clipcls.data.inputs import ImageInput

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_PLACES = 7  # along each side of the model's input: 50 passes per image, with the whole one
_LONGEST_NAME = 230  # bytes, of the 255 that file systems take, with room for the suffix and " (2)"

# matplotlib's viridis at ten equal steps: lightness rises evenly, also for the colour-blind.
_VIRIDIS = np.array(
    [
        *((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142)),
        *((31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37)),
    ],
    float,
)


def heatmap(
    classifier: ImageClassifier, image: ImageInput, label: str | None = None
) -> NDArray[np.float32]:
    """The heat of each pixel for one label; see `ImageClassifier.heatmap`."""
    _check_encoder(classifier)
    numbers = None if label is None else find_classes(classifier, label)
    return HiddenPlaces(classifier.encoder_, open_input(image)).measure(classifier.head_, numbers)


class HiddenPlaces:
    """The vectors of an image, whole and with each place hidden, of which any head finds heat.

    Args:
        encoder: has `seen`.
        image: upright, RGB, as `open_image` gives it.
    """

    def __init__(self, encoder: Any, image: Image.Image) -> None:
        pixels = encoder.preprocess(image)
        self._masks = masks = make_masks(*pixels.shape[:2])
        hidden = np.rint(pixels.mean(axis=(0, 1)))
        changes = (mask[..., None] * (hidden - pixels) for mask in masks)
        views = itertools.chain(
            [pixels], (np.rint(pixels + change).astype(np.uint8) for change in changes)
        )
        batches = iter(lambda: list(itertools.islice(views, encoder.batch_size)), [])
        self._vectors = np.concatenate([encoder.encode_images(batch) for batch in batches])
        self._size, self.seen = image.size, encoder.seen(image.size)

    def measure(self, head: LinearHead, numbers: Sequence[int] | None) -> NDArray[np.float32]:
        """The heat of each pixel for the sum of some classes' scores.

        Args:
            head: whose classes they are.
            numbers: of the classes; None: the image's best.

        Returns:
            float32 (height, width) of the image; see `ImageClassifier.heatmap`.
        """
        masks, logits = self._masks, head.logits(self._vectors)
        odds = _log_odds(logits, [int(logits[0].argmax())] if numbers is None else numbers)
        heat = np.tensordot(odds[0] - odds[1:], masks, 1) / masks.sum(axis=0)
        # The part that the model sees, at its place in the image: 0 where the model does not look.
        left, top, right, bottom = self.seen
        x, y = heat.shape[1] / (right - left), heat.shape[0] / (bottom - top)
        placed = Image.fromarray(heat.astype(np.float32)).transform(
            self._size,
            Image.Transform.AFFINE,
            (x, 0, -left * x, 0, y, -top * y),
            Image.Resampling.BILINEAR,
        )
        return np.asarray(placed)


def make_masks(height: int, width: int) -> NDArray[np.float32]:
    """How far each place is hidden: float32 (49, height, width), 0 to 1.

    Gaussian bumps, whose width at half their height is 1.65 times the distance between two.
    """

    def bumps(length: int) -> NDArray[np.float64]:
        at = (np.arange(length) + 0.5) / length * _PLACES
        middles = np.arange(_PLACES) + 0.5
        found: NDArray[np.float64] = np.exp(-(((at - middles[:, None]) / 0.7) ** 2) / 2)
        return found

    masks = bumps(height)[:, None, :, None] * bumps(width)[None, :, None, :]
    return masks.reshape(-1, height, width).astype(np.float32)


def _log_odds(logits: NDArray[np.float64], numbers: Sequence[int]) -> NDArray[np.float64]:
    """The log-odds of the sum of some classes' scores, float64 (n, n_classes) -> (n,).

    If there are no other classes, the log of the sum of exp of their logits.
    """
    chosen = np.zeros(logits.shape[1], bool)
    chosen[list(numbers)] = True
    odds: NDArray[np.float64] = np.logaddexp.reduce(logits[:, chosen], axis=1)
    if not chosen.all():
        odds -= np.logaddexp.reduce(logits[:, ~chosen], axis=1)
    return odds


def _check_encoder(classifier: ImageClassifier) -> None:
    if not hasattr(classifier.encoder_, "seen"):
        raise ClipclsError(
            f"{classifier.encoder_.name}: heat maps are offered for OpenCLIP's models only, not "
            "for an Encoder that cannot say which part of an image it sees"
        )


def overlay(
    image: Image.Image, heat: NDArray[np.float32], box: tuple[float, float, float, float]
) -> Image.Image:
    """The heat as colour over a grey image, darkened where the model does not look.

    Colours go from dark violet at 0 and below over green to yellow at the map's highest value
    (viridis).

    Args:
        image: RGB.
        heat: float32 (height, width) of the image.
        box: the part that the model sees: left, top, right, bottom.
    """
    share = np.clip(heat / max(float(heat.max()), 1e-9), 0, 1)
    colour = np.stack(
        [np.interp(share, np.linspace(0, 1, len(_VIRIDIS)), channel) for channel in _VIRIDIS.T],
        axis=-1,
    )
    grey = np.asarray(image.convert("L"), float)[..., np.newaxis]
    height, width = heat.shape
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    is_seen = ((box[1] < y) & (y < box[3]))[:, None] & ((box[0] < x) & (x < box[2]))
    mixed = np.where(is_seen[..., np.newaxis], 0.5 * grey + 0.5 * colour, 0.3 * grey)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


class Heatmaps:
    """Draws the heat map of each answer of a run into a folder.

    The folder mirrors the images' paths: `a/b.jpg` and `../a/b.jpg` both become `a/b.jpg.heat.jpg`,
    the second one `a/b.jpg.heat (2).jpg`. No file is ever overwritten.

    Args:
        classifiers: of each question with one label per image, by its name; "" if there is one
            question without a name.
        folder: made if it is missing.

    Raises:
        ClipclsError: there are no heat maps for the classifier's encoder.
        OutputError: the folder cannot be made.
    """

    def __init__(
        self, classifiers: Mapping[str, ImageClassifier], folder: str | os.PathLike[str]
    ) -> None:
        if not classifiers:
            raise ClipclsError("heat maps are of one label per image; no question has that")
        for classifier in classifiers.values():
            _check_encoder(classifier)
        self._classifiers = classifiers
        self._folder = Path(folder)
        _make_folder(self._folder)

    def draw_each(self, results: Iterable[Answer]) -> Iterator[Answer]:
        """The results as they come, each answer with the path of its picture.

        An `unknown` image gets the map of its best label. An image that can no longer be read gets
        none, which is logged.

        Raises:
            OutputError: a picture cannot be written, or would lie next to its image.
            ValueError: an answer is of an image that is no file.
        """
        for result in results:
            if not isinstance(result, ImageError):
                try:
                    result = self._draw(result)
                except ImageError as error:
                    logger.warning("%s: no heat map (%s)", error.path, error.reason)
            yield result

    def _draw(self, result: Any) -> Any:
        if has_no_file(result.path):
            raise ValueError("heat maps are drawn of files; of an open image use heatmap()")
        encoder: Any = next(iter(self._classifiers.values())).encoder_
        image = open_image(result.path, least_side=encoder.least_side)
        places = HiddenPlaces(encoder, image)

        def draw(name: str, answer: Prediction) -> Prediction:
            if (classifier := self._classifiers.get(name)) is None:
                return answer
            heat = places.measure(classifier.head_, find_answered(classifier, answer))
            stream = io.BytesIO()
            overlay(image, heat, places.seen).save(stream, "JPEG", quality=90)
            picture = self._write(self._folder / name, result.path, stream.getvalue())
            return replace(answer, heatmap=str(picture))

        return change_answers(result, draw)

    def _write(self, within: Path, path: str, data: bytes) -> Path:
        place = mirror_path(within, path)
        name, folder = _shorten(place.name), place.parent
        if not is_inside(folder, self._folder):
            raise OutputError(
                f"{folder}: is a link to outside {self._folder}; replace it by a folder"
            )
        _make_folder(folder)
        if os.path.samefile(folder, os.path.dirname(path) or os.curdir):
            raise OutputError(
                f"{self._folder}: heat maps would lie among the images; name another folder"
            )
        for number in itertools.count(1):
            mark = "" if number == 1 else f" ({number})"
            picture = folder / f"{name}.heat{mark}.jpg"
            with writing(picture), contextlib.suppress(FileExistsError):
                write_new(picture, data)
                break
        return picture


def mirror_path(folder: Path, path: str) -> Path:
    """A path's place in a folder: that of `a/b`, `../a/b` and `/a/b` is `a/b`."""
    pure = PurePath(path)
    parts = [part for part in pure.parts if part != os.pardir]
    return folder.joinpath(*parts[bool(pure.anchor) :])


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot make the folder ({os_reason(error)})") from error


def _shorten(name: str) -> str:
    """A name that leaves room for what is added to it."""
    raw = os.fsencode(name)
    if len(raw) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:8]
    return raw[: _LONGEST_NAME - 9].decode(errors="ignore") + f"~{digest}"
