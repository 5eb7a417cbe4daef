"""An OpenCLIP model with one loaded tower, run by torch."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clipcls.errors import ModelError
from clipcls.models import cuda
from clipcls.models.backend import Precision
from clipcls.models.padding import taking
from clipcls.models.preprocess import Preprocess

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Tower = Literal["image", "text"]


@dataclass(slots=True)
class TorchModel:
    """A model with one loaded tower; not for several threads at once.

    Attributes:
        name: the model's name in messages.
        network: open_clip's model.
        settings: `logit_scale`, the factor of cosine similarities; `logit_bias`, what is then added
            (SigLIP), or None; `preprocess`, open_clip's size, mean, std, interpolation, ..., empty
            with a text tower.
        channels_last: whether its image tower takes pixels in that memory format.
        at_once: inputs that are encoded at once; halved when a device runs out of memory.
    """

    name: str
    tower: Tower
    network: Any
    settings: dict[str, Any]
    device: str
    precision: Precision
    channels_last: bool = False
    at_once: int | None = None

    @property
    def preprocess(self) -> Preprocess:
        """open_clip's validation transform: RGB image -> uint8 (height, width, 3)."""
        return Preprocess.from_config(self.settings["preprocess"])

    def __call__(self, inputs: Sequence[NDArray[Any]] | NDArray[Any]) -> NDArray[np.float32]:
        """Preprocessed images, or tokens (n, length) -> float32 (n, dim), not normalised.

        From then on half as many go at once when the memory is used up.

        Raises:
            ModelError: there is not enough memory for one.
        """
        import torch

        is_exact = cuda.is_cuda(self.device) and self.precision == "fp32"
        wanted = step = min(self.at_once or len(inputs), len(inputs))
        while True:
            exact = cuda.exact_float32() if is_exact else contextlib.nullcontext()
            try:
                with torch.inference_mode(), exact:
                    starts = range(0, len(inputs), step)
                    parts = [self.encode(inputs[start : start + step]) for start in starts]
                    rows: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
                break
            except torch.cuda.OutOfMemoryError as error:
                if step == 1:
                    raise ModelError(
                        f"{self.name}: not enough memory on {self.device} for one {self.tower}; "
                        "free some, or try a smaller model or --device cpu"
                    ) from error
            step = self.at_once = step // 2
            torch.cuda.empty_cache()
        if step < wanted:
            message = "%s: not enough memory on %s for %d %ss at a time; continuing with %d"
            logger.warning(message, self.name, self.device, wanted, self.tower, step)
        return rows

    def encode(self, inputs: Any) -> torch.Tensor:
        """All inputs at once; on CUDA the vectors are still being computed."""
        import torch

        if self.tower == "image" and cuda.is_cuda(self.device):
            return self.forward(cuda.copy_to_device(inputs, self.device))
        return self.forward(torch.from_numpy(np.stack(inputs)).to(self.device))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Pixels uint8 (n, height, width, 3), or tokens int64 (n, length) -> vectors (n, dim)."""
        vectors: torch.Tensor
        if self.tower == "text":
            with taking(self.network, batch.shape[1]):
                vectors = self.network.encode_text(batch, normalize=False)
            return vectors
        preprocess = self.preprocess
        batch = batch.permute(0, 3, 1, 2)
        if not self.channels_last:
            batch = batch.contiguous()
        mean, std = (_column(values, self.device) for values in (preprocess.mean, preprocess.std))
        batch = ((batch.float() - mean) / std).to(dtype(self.precision))
        vectors = self.network.encode_image(batch, normalize=False)
        return vectors


def dtype(precision: Precision) -> torch.dtype:
    """The type of a model's input in this precision."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@functools.cache
def _column(values: tuple[float, ...], device: str) -> torch.Tensor:
    """A number per channel, for pixels from 0 to 255: float32 (n, 1, 1).

    Cached because copying it waits for all of CUDA's work.
    """
    import torch

    with torch.inference_mode(False):
        return 255 * torch.tensor(values, device=device).view(-1, 1, 1)
