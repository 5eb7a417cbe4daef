"""What an Nvidia (or ROCm) GPU asks for: is it there, which precisions pay, copies beside the work.

`benchmarks/gpu.py` measures it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from clipcls.errors import ModelError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["check", "copied", "exact_float32", "half_precisions", "is_cuda"]

# Torch's settings are the whole process's: who changes them puts them back before the next does.
_settings = threading.RLock()


def is_cuda(device: str) -> bool:
    """Whether a torch device is one of CUDA's; no import."""
    return device.partition(":")[0] == "cuda"


def check(device: str) -> None:
    """Nothing, where the CUDA device is there.

    Args:
        device: "cuda" or "cuda:N".

    Raises:
        ModelError: it is not.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise ModelError(f"{device}: torch finds no CUDA device here; leave --device out")
    if int(device.partition(":")[2] or 0) >= count:
        there = ", ".join(f"cuda:{number}" for number in range(count))
        raise ModelError(f"{device}: no such device; there is {there}")


def half_precisions(device: str) -> tuple[Literal["fp16", "bf16"], ...]:
    """The half precisions that a CUDA device multiplies sooner than float32, the better first.

    Both are equally fast. fp16 has three more bits, so vectors stay nearer to float32's; bf16 has
    float32's range, for models whose activations exceed 65,504. Tensor cores for fp16 came with
    Volta (before, it is up to 64 times slower than float32), for bf16 with Ampere.
    """
    import torch

    major, _ = torch.cuda.get_device_capability(device)
    if major < 7:
        return ()
    return ("fp16",) if major < 8 else ("fp16", "bf16")


def copied(pixels: Sequence[NDArray[np.uint8]], device: str) -> torch.Tensor:
    """Arrays of one shape, stacked on a CUDA device: uint8 (n, ...).

    Nothing is waited for: they are stacked in pinned memory and copied by a stream of its own
    while the device computes what it was given before.
    """
    import torch

    pinned = torch.empty((len(pixels), *pixels[0].shape), dtype=torch.uint8, pin_memory=True)
    np.stack(pixels, out=pinned.numpy())
    copying, computing = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copying):
        batch = pinned.to(device, non_blocking=True)
    computing.wait_stream(copying)
    batch.record_stream(computing)  # not to be overwritten by a later copy before it is read
    return batch


@functools.cache
def _copy_stream(device: str) -> torch.cuda.Stream:
    """One a device: torch keeps freed memory for the stream that it was taken for."""
    import torch

    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Float32 convolutions and products of matrices multiply in float32 meanwhile, not in TF32.

    By default torch allows TF32 in convolutions; in products a user may have, or an environment
    variable that Nvidia's containers set. TF32 has the ten bits of fp16: vectors would differ from
    other machines' under the same key.
    """
    import torch

    places: list[Any] = [torch.backends.cudnn]
    name, exact = "allow_tf32", cast("bool | str", False)
    if hasattr(places[0], "conv"):  # torch 2.9; it refuses the older name once the newer was used
        places, name, exact = [places[0].conv], "fp32_precision", "ieee"
    places.append(torch.backends.cuda.matmul)
    with _settings:
        before = [getattr(place, name) for place in places]
        try:
            for place in places:
                setattr(place, name, exact)
            yield
        finally:
            for place, value in zip(places, before, strict=True):
                setattr(place, name, value)
