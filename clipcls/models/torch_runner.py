"""Running loaded towers by torch, as many inputs at a time as the memory suffices for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.errors import ModelError
from clipcls.models.loading import Model, Tower

if TYPE_CHECKING:
    import torch

__all__ = ["TorchRunner"]

logger = logging.getLogger(__name__)


class TorchRunner:
    """Vectors of images and texts, not normalised; not for several threads at once.

    Where a device's memory does not suffice, half as many inputs go through at once, from then on.

    Args:
        name: what messages call the model.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._fitting: dict[Tower, int] = {}  # how many at once fit a device's memory, if not all

    def encode_images(
        self, model: Model, pixels: Sequence[NDArray[np.uint8]], at_once: int
    ) -> NDArray[np.float32]:
        """Preprocessed images -> float32 (n, dim).

        Raises:
            ModelError: the memory does not suffice for one.
        """
        return self._encode("image", model.encode_image, pixels, at_once, model.device)

    def encode_texts(self, model: Model, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        """Texts -> float32 (n, dim).

        Raises:
            ModelError: the memory does not suffice for one.
        """
        import torch

        tokens = model.tokenizer(list(texts))
        order = model.needed_lengths(tokens).argsort(stable=True)
        rows = np.empty((len(texts), model.dim), np.float32)
        for part in torch.split(order, at_once):
            found = self._encode("text", model.encode_text, tokens[part], at_once, model.device)
            rows[part.numpy()] = found
        return rows

    def _encode(
        self,
        tower: Tower,
        encode: Callable[[Any], torch.Tensor],
        inputs: Any,
        at_once: int,
        device: str,
    ) -> NDArray[np.float32]:
        import torch

        wanted = step = min(at_once, self._fitting.get(tower, at_once), len(inputs))
        while True:
            try:
                with torch.inference_mode():
                    # On a GPU all are under way before the first is waited for.
                    starts = range(0, len(inputs), step)
                    parts = [encode(inputs[start : start + step]) for start in starts]
                    rows: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
                break
            except torch.cuda.OutOfMemoryError as error:
                if step == 1:
                    raise ModelError(
                        f"{self._name}: not enough memory on {device} for one {tower}; free some, "
                        "or try a smaller model or --device cpu"
                    ) from error
            step = self._fitting[tower] = step // 2
            torch.cuda.empty_cache()
        if step < wanted:
            message = "%s: not enough memory on %s for %d %ss at a time; going on with %d"
            logger.warning(message, self._name, device, wanted, tower, step)
        return rows
