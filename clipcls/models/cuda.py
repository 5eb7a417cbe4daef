"""Nvidia (or ROCm) GPUs: whether one exists, its fast precisions, fast copies to it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clipcls.errors import ModelError
from clipcls.models.architectures import require_torch

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Torch's settings belong to the whole process: they are restored before the next change.
_settings = threading.RLock()


def is_cuda(device: str) -> bool:
    """Whether a torch device is one of CUDA's; no import."""
    return device.partition(":")[0] == "cuda"


def check(device: str) -> None:
    """Checks that a CUDA device ("cuda" or "cuda:N") exists.

    Raises:
        ModelError: it does not, or torch is missing.
    """
    with require_torch(device):
        import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise ModelError(f"{device}: torch finds no CUDA device here; leave --device out")
    if int(device.partition(":")[2] or 0) >= count:
        known = ", ".join(f"cuda:{number}" for number in range(count))
        raise ModelError(f"{device}: no such device; choose from {known}")


def half_precisions(device: str) -> tuple[Literal["fp16", "bf16"], ...]:
    """The half precisions that a CUDA device multiplies faster than float32, the better first.

    Both are equally fast. fp16 has three more bits, so its vectors are closer to float32's; bf16
    has float32's range, for models whose activations exceed 65,504. Tensor cores for fp16 came with
    Volta (before, it is up to 64 times slower than float32), for bf16 with Ampere.

    Raises:
        ModelError: the device does not exist.
    """
    check(device)
    import torch

    major, _ = torch.cuda.get_device_capability(device)
    if major < 7:
        return ()
    return ("fp16",) if major < 8 else ("fp16", "bf16")


def copy_to_device(pixels: Sequence[NDArray[np.uint8]], device: str) -> torch.Tensor:
    """Arrays of one shape, stacked in pinned memory and copied without waiting: uint8 (n, ...)."""
    import torch

    pinned = torch.empty((len(pixels), *pixels[0].shape), dtype=torch.uint8, pin_memory=True)
    np.stack(pixels, out=pinned.numpy())
    return pinned.to(device, non_blocking=True)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Makes float32 convolutions and matrix products multiply in float32, not in TF32.

    Torch allows TF32 in convolutions by default; in products a user may allow it, or an environment
    variable that Nvidia's containers set. TF32 has the ten bits of fp16: vectors would differ from
    other machines' under the same key.
    """
    import torch

    backends: Any = torch.backends
    places = backends.cudnn.conv, backends.cuda.matmul
    with _settings:
        before = [place.fp32_precision for place in places]
        try:
            for place in places:
                place.fp32_precision = "ieee"
            yield
        finally:
            for place, value in zip(places, before, strict=True):
                place.fp32_precision = value
