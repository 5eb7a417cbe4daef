"""How fast this machine does each step of classifying, and what of its peak the model reaches."""

from __future__ import annotations

import functools
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clipcls.data.images import decode_image, read_bytes
from clipcls.embeddings.embed import embed_images
from clipcls.embeddings.index import FlatIndex
from clipcls.errors import ImageError
from clipcls.models import cuda, loading, openvino
from clipcls.models.backend import Backend, BackendName, Precision
from clipcls.models.open_clip_encoder import OpenClipEncoder
from clipcls.models.registry import ModelSource
from clipcls.numerics import unit_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["Measurement", "gemm_peak", "measure", "sample_photo"]

_LABELS = 1000
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Measurement:
    """One step's cost.

    Attributes:
        step: what was done.
        seconds: per image, the best of several rounds.
        share: of the GEMM peak in the same precision, 0 to 1; None where it means nothing.
    """

    step: str
    seconds: float
    share: float | None = None


def sample_photo(width: int = 4000, height: int = 3000) -> bytes:
    """A JPEG of soft random colours with some grain, quality 90; the same each time."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 50, width // 50, 3), np.uint8)
    soft = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.integers(-8, 9, (height, width, 1), np.int16)
    pixels = np.clip(np.asarray(soft, np.int16) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def gemm_peak(precision: Precision, device: str = "cpu", seconds: float = 1.0) -> float:
    """Multiplications and additions a second in a product of square matrices, by torch.

    Args:
        precision: the matrices' type.
        device: a torch device.
        seconds: how long to try; the best product counts.
    """
    import torch

    size = 2048 if device == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    left, right = left.to(loading.dtype(precision)), right.to(loading.dtype(precision))

    def multiply() -> None:
        torch.mm(left, right)
        if cuda.is_cuda(device):
            torch.cuda.synchronize()

    with torch.inference_mode():
        return 2 * size**3 / _best(multiply, seconds)


def measure(
    source: ModelSource,
    photos: Sequence[str] = (),
    *,
    backend: Backend | None = None,
    seconds: float = 1.0,
) -> Iterator[Measurement]:
    """Measures step after step; the first use of each, which is slower, does not count.

    Args:
        source: the model, from `registry.resolve`.
        photos: files to decode; none: `sample_photo`.
        backend: its device and batch size are measured, with each name and precision.
        seconds: about how long each step may take, once warm.

    Raises:
        ImageError: a photo cannot be read.
        ModelError: the model cannot be loaded.
    """
    encoder = OpenClipEncoder(source, backend)
    data = [read_bytes(path) for path in photos] or [sample_photo()]
    reduced = functools.partial(decode_image, least_side=encoder.least_side)
    images = [reduced(item, path) for item, path in zip(data, photos or [""], strict=True)]
    yield _per_image("decode whole", decode_image, data, seconds)
    yield _per_image("decode at the scale that is needed", reduced, data, seconds)
    yield _per_image("resize and crop", encoder.preprocess, images, seconds)
    batch = [encoder.preprocess(image) for image in images]
    batch = (batch * encoder.batch_size)[: encoder.batch_size]
    yield from _encoding(source, batch, encoder.device, seconds)
    yield _matching(len(encoder.encode_images(batch[:1])[0]), len(batch), seconds)
    yield _everything(encoder, data, seconds)


def _per_image(
    step: str, work: Callable[[Any], object], items: Sequence[Any], seconds: float
) -> Measurement:
    return Measurement(step, _best(lambda: [work(item) for item in items], seconds) / len(items))


def _encoding(
    source: ModelSource,
    batch: Sequence[NDArray[np.uint8]],
    device: str,
    seconds: float,
) -> Iterator[Measurement]:
    """Each backend and precision that the device has, one image at a time and many."""
    flops = _flops(source)
    for name, precision in _ways(device):
        encoder = OpenClipEncoder(source, Backend(name, device, precision, batch_size=len(batch)))
        if encoder.image_backend != name:
            continue  # it has said why
        encode = encoder.encode_images
        peak = gemm_peak(precision, device, seconds)
        for count in sorted({1, len(batch)}):
            taken = _best(functools.partial(encode, batch[:count]), seconds) / count
            step = f"encode, {name} {precision}, {count} at a time"
            yield Measurement(step, taken, flops / taken / peak)


def _matching(dim: int, count: int, seconds: float) -> Measurement:
    rng = np.random.default_rng(0)
    index = FlatIndex(unit_rows(rng.standard_normal((_LABELS, dim), np.float32)))
    rows = unit_rows(rng.standard_normal((count, dim), np.float32))
    taken = _best(lambda: index.search(rows, 5), seconds)
    return Measurement(f"match with {_LABELS:,} labels", taken / count)


def _everything(encoder: OpenClipEncoder, data: Sequence[bytes], seconds: float) -> Measurement:
    with tempfile.TemporaryDirectory(prefix="clipcls-bench-") as folder:
        paths = []
        for number in range(2 * encoder.batch_size):
            path = Path(folder) / f"{number}.jpg"
            path.write_bytes(data[number % len(data)])
            paths.append(os.fspath(path))
        taken = _best(lambda: _run(encoder, paths), seconds)
    step = f"files to vectors, decoding ahead, {encoder.precision}"
    return Measurement(step, taken / len(paths))


def _run(encoder: OpenClipEncoder, paths: Sequence[str]) -> None:
    for item in embed_images(encoder, paths):
        if isinstance(item, ImageError):
            raise item


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
        yield "torch", precision


def _flops(source: ModelSource) -> float:
    """Multiplications and additions that one image takes in the image tower."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = loading.load(source, tower="image")
    pixels = torch.zeros(1, 3, model.preprocess.height, model.preprocess.width)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know fused attention
    try:
        with FlopCounterMode(display=False) as counter:
            model.network.encode_image(pixels)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return float(counter.get_total_flops())


def _best(work: Callable[[], object], seconds: float) -> float:
    """The least time of `work`, after a first time that does not count."""
    work()
    times: list[float] = []
    while len(times) < _ROUNDS or sum(times) < seconds:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
