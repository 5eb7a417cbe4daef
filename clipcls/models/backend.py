"""`Backend`: how a model runs, for classifiers, embedders and encoders."""

from __future__ import annotations

import numbers
import os
import platform
import sys
from dataclasses import dataclass
from typing import Literal, get_args

from clipcls.errors import ModelError

BackendName = Literal["auto", "openvino", "torch"]
Precision = Literal["fp32", "bf16", "fp16"]

_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mlu", "musa")


@dataclass(frozen=True, slots=True)
class Backend:
    """How a model runs: library, device, precision, batch size, threads.

    Attributes:
        name: the library that runs the towers on a CPU: "openvino", "torch" or "auto" (OpenVINO if
            it is installed).
        device: a torch device such as "cuda" or "cpu"; None: CUDA if available, else Apple's GPU,
            else the CPU. Whether it exists is checked when it is used.
        precision: what the towers compute in; results are always float32. "auto" is fp16 on CUDA
            (or bf16, if a model leaves fp16's range) and bf16 on a CPU, provided that the hardware
            supports it and this model's vectors stay the same (tried once, with images: cosine at
            least 0.999, in fp16 0.9999), else fp32.
        batch_size: images encoded at a time; None: 256 on a GPU, 32 on the CPU; fewer if a GPU runs
            out of memory.
        workers: threads that read and decode images; None: one per CPU core, at most 8.

    Raises:
        ModelError: a value is invalid.
    """

    name: BackendName = "auto"
    device: str | None = None
    precision: Precision | Literal["auto"] = "auto"
    batch_size: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for setting, value, allowed in (
            ("backend", self.name, get_args(BackendName)),
            ("precision", self.precision, ("auto", *get_args(Precision))),
        ):
            if value not in allowed:
                names = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
                raise ModelError(f"{setting} {value!r}: not available; choose {names}")
        for setting, number in (("batch_size", self.batch_size), ("workers", self.workers)):
            if number is not None and (not isinstance(number, numbers.Integral) or number < 1):
                raise ModelError(f"{setting} {number!r}: give a whole number from 1, or None")
        if self.device is not None:
            kind, colon, index = self.device.partition(":")
            if kind not in _DEVICES or (colon and not index.isdecimal()):
                raise ModelError(f"{self.device}: no such device; try cpu, cuda, cuda:1 or mps")

    @property
    def threads(self) -> int:
        """The number of threads that read and decode images."""
        return self.workers or min(8, os.cpu_count() or 1)


def best_device() -> str:
    """CUDA if available, else Apple's GPU, else the CPU, as torch names them."""
    if not _may_have_gpu():
        return "cpu"  # without importing torch
    try:
        import torch
    except Exception:  # missing or broken; whoever needs it says so
        return "cpu"
    mps = torch.backends.mps.is_available()
    return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"


def _may_have_gpu() -> bool:
    """Whether there may be a GPU that torch can use; False is certain."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if sys.platform == "win32":
        return os.path.exists(os.path.expandvars(r"%SystemRoot%\System32\nvcuda.dll"))
    return any(map(os.path.exists, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")))
