"""Forecasts how long each model with a short name takes for a folder on this machine."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from clipcls.data.sources import open_image
from clipcls.embeddings.benchmark import time_best
from clipcls.errors import ImageError, ModelError
from clipcls.models import openvino
from clipcls.models.aliases import ALIASES, ModelInfo
from clipcls.models.backend import Backend
from clipcls.models.open_clip_encoder import OpenClipEncoder
from clipcls.models.registry import ModelSource, resolve

_SAMPLE = 32  # images that are decoded
_BATCH = 8  # of them encoded at a time, since a large model takes seconds for each


@dataclass(frozen=True, slots=True)
class Forecast:
    """The time that an image takes with a model.

    Attributes:
        model: its short name, or its full name if it has none.
        seconds: from the file to its vector, per image.
        is_measured: whether its image tower ran here; else its time is estimated from another
            model's, by how their speeds compare on the machine that `ModelInfo.speed` is from.
    """

    model: str
    seconds: float
    is_measured: bool


def forecast(
    images: Sequence[str],
    source: ModelSource | None = None,
    *,
    backend: Backend | None = None,
    seconds: float = 1.0,
) -> Iterator[Forecast]:
    """Measures the models that are on this machine, and estimates the others.

    Args:
        images: the names of images; a sample of them, evenly spread, is read.
        source: another model to measure.
        backend: how the models run.
        seconds: about how long to measure each.

    Raises:
        ImageError: no image of the sample can be read.
        ModelError: a model that is on this machine cannot be loaded.
    """
    backend = backend or Backend()
    sample = images[:: max(1, len(images) // _SAMPLE)][:_SAMPLE]
    decoding, encoding = 0.0, {}
    reference, is_half = ALIASES["mini"], openvino.has_bf16()
    for alias, present in _find_present(source).items():
        encoder = OpenClipEncoder(present, backend)
        few = sample[:_BATCH] if decoding else sample
        took, pixels = _decode(encoder, few, backend.threads, 0 if decoding else seconds)
        decoding = decoding or took
        encode = functools.partial(encoder.encode_images, (pixels * _BATCH)[:_BATCH])
        encoding[alias] = time_best(encode, seconds) / _BATCH
        if alias in ALIASES and alias != "mini":
            reference, is_half = ALIASES[alias], encoder.precision != "fp32"
    for alias in dict.fromkeys([*ALIASES, *encoding]):
        each = encoding.get(alias)
        if each is None:
            ratio = _speed(reference, is_half) / _speed(ALIASES[alias], is_half)
            each = encoding[reference.alias] * ratio
        together = decoding + each if encoder.device == "cpu" else max(decoding, each)
        yield Forecast(alias, together, alias in encoding)


def _find_present(source: ModelSource | None) -> dict[str, ModelSource]:
    """The models on this machine, `mini` first, which always is, and the given one."""
    found = {}
    for alias in ALIASES:
        with contextlib.suppress(ModelError):  # some of its files are missing
            found[alias] = resolve(alias, offline=True)
    if source and source.name not in {each.name for each in found.values()}:
        found[source.name] = source
    return found


def _speed(info: ModelInfo, is_half: bool) -> float:
    return info.speed_bf16 if is_half and info.alias != "mini" else info.speed


def _decode(
    encoder: OpenClipEncoder, names: Sequence[str], threads: int, seconds: float
) -> tuple[float, list[NDArray[Any]]]:
    """Seconds per image to read and decode images in threads, and the images for the encoder."""

    def prepare(name: str) -> NDArray[Any] | ImageError:
        try:
            return encoder.preprocess(open_image(name, least_side=encoder.least_side))
        except ImageError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(prepare, names))
        pixels = [item for item in found if not isinstance(item, ImageError)]
        if not pixels:
            raise next(item for item in found if isinstance(item, ImageError))
        took = time_best(lambda: list(pool.map(prepare, names)), seconds) if seconds else 0.0
    return took / len(names), pixels
