"""Measures how fast this machine does each step of classifying."""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipcls.data.images import decode_image, read_bytes
from clipcls.embeddings.embed import embed_array
from clipcls.models import cuda, openvino
from clipcls.models.backend import Backend, BackendName, Precision
from clipcls.models.open_clip_encoder import OpenClipEncoder
from clipcls.models.registry import ModelSource
from clipcls.numerics import unit_rows

_LABELS = 1000
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Measurement:
    """One step's time in seconds per image, the best of several rounds."""

    step: str
    seconds: float


def sample_photo(width: int = 4000, height: int = 3000) -> bytes:
    """A JPEG of soft random colours with some grain, quality 90; always the same."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 50, width // 50, 3), np.uint8)
    soft = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.integers(-8, 9, (height, width, 1), np.int16)
    pixels = np.clip(np.asarray(soft, np.int16) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def measure(
    source: ModelSource,
    photos: Sequence[str] = (),
    *,
    backend: Backend | None = None,
    seconds: float = 1.0,
) -> Iterator[Measurement]:
    """Measures one step after the other; the first use of each, which is slower, does not count.

    Args:
        source: the model.
        photos: files to decode; if none, `sample_photo`.
        backend: its device and batch size are used, with each name and precision.
        seconds: about how long to measure each step.

    Raises:
        ImageError: a photo cannot be read.
        ModelError: the model cannot be loaded.
    """

    def timed(step: str, count: int, work: Callable[[], object]) -> Measurement:
        return Measurement(step, time_best(work, seconds) / count)

    encoder = OpenClipEncoder(source, backend)
    data = [read_bytes(path) for path in photos] or [sample_photo()]
    reduced = functools.partial(decode_image, least_side=encoder.least_side)
    images = [reduced(item, path) for item, path in zip(data, photos or [""], strict=True)]
    yield timed("decode whole", len(data), lambda: [decode_image(item) for item in data])
    step = "decode at the scale that is needed"
    yield timed(step, len(data), lambda: [reduced(item) for item in data])
    step = "resize and crop"
    yield timed(step, len(data), lambda: [encoder.preprocess(image) for image in images])
    batch = [encoder.preprocess(image) for image in images]
    batch = (batch * encoder.batch_size)[: encoder.batch_size]
    for name, precision in _ways(encoder.device):
        settings = Backend(name, encoder.device, precision, batch_size=len(batch))
        other = OpenClipEncoder(source, settings)
        if other.image_backend == name:  # else a warning has said why
            for count in sorted({1, len(batch)}):
                encode = functools.partial(other.encode_images, batch[:count])
                yield timed(f"encode, {name} {precision}, {count} at a time", count, encode)
    rng = np.random.default_rng(0)
    rows = encoder.encode_images(batch)
    labels = unit_rows(rng.standard_normal((_LABELS, rows.shape[1]))).astype(np.float64)
    step = f"match with {_LABELS:,} labels"
    yield timed(step, len(rows), lambda: (rows.astype(np.float64) @ labels.T).argmax(axis=1))
    with tempfile.TemporaryDirectory(prefix="clipcls-bench-") as folder:
        paths = []
        for number in range(2 * encoder.batch_size):
            path = Path(folder) / f"{number}.jpg"
            path.write_bytes(data[number % len(data)])
            paths.append(os.fspath(path))
        step = f"files to vectors, decoding ahead, {encoder.precision}"
        yield timed(step, len(paths), functools.partial(embed_array, encoder, paths))


def _ways(device: str) -> Iterator[tuple[BackendName, Precision]]:
    """The backends and precisions that make sense on a device."""
    if device != "cpu":
        yield "torch", "fp32"
        for half in cuda.half_precisions(device) if cuda.is_cuda(device) else ("fp16",):
            yield "torch", half
        return
    for precision in ("fp32", "bf16") if openvino.has_bf16() else ("fp32",):
        if openvino.is_supported():
            yield "openvino", precision
        if importlib.util.find_spec("torch"):
            yield "torch", precision


def time_best(work: Callable[[], object], seconds: float) -> float:
    """The least time of `work`, repeated for so many seconds; the first time does not count."""
    work()
    times: list[float] = []
    while len(times) < _ROUNDS or sum(times) < seconds:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
