"""Texts and images -> unit float32 rows, by an OpenCLIP model loaded only when it is needed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipcls import models, store
from clipcls.models import Precision, Tower

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

__all__ = ["Encoder", "OpenClipEncoder", "Precision", "unit_rows"]


class Encoder(Protocol):
    """What the rest of clipcls asks of a model."""

    @property
    def name(self) -> str:
        """What records call the model."""

    @property
    def weights(self) -> str:
        """SHA-256 of its weights, hex."""

    @property
    def text_space(self) -> str:
        """Names all that decides a text's vector besides the text; begins with "text "."""

    @property
    def image_space(self) -> str:
        """Names all that decides an image's vector besides its bytes; begins with "image "."""

    @property
    def batch_size(self) -> int:
        """How many images `encode_images` is best given at a time."""

    @property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied with before the softmax."""

    @property
    def logit_bias(self) -> float:
        """What is then added (SigLIP), or 0."""

    def preprocess(self, image: Image) -> NDArray[np.float32]:
        """One RGB image -> what the image tower takes: float32 (3, height, width)."""

    def encode_images(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Preprocessed images -> unit rows: float32 (n, dim)."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> unit rows: float32 (n, dim)."""


class OpenClipEncoder:
    """An OpenCLIP model; each tower is loaded on its first use and not before.

    Args:
        source: the model, from `models.resolve`.
        device: a torch device, e.g. "cuda" or "cpu"; None takes CUDA where there is one, then
            Apple's GPU, then the CPU.
        precision: what the towers compute in; results are float32 always.
        batch_size: images or texts a forward pass; None: 256 on a GPU, 32 on the CPU.
        known: where to find what is known of the model without loading it.
    """

    def __init__(
        self,
        source: models.ModelSource,
        *,
        device: str | None = None,
        precision: Precision = "fp32",
        batch_size: int | None = None,
        known: store.Store | None = None,
    ) -> None:
        self.source = source
        self.precision = precision
        self.weights = (known.file_hash if known else store.hash_file)(str(source.weights))
        self._device = device
        self._batch_size = batch_size
        self._known = known
        self._towers: dict[Tower, models.Model] = {}
        self._loading = threading.Lock()  # decoding threads ask for the image tower together
        identity = json.dumps([self.weights, source.key(), precision])
        self._identity = hashlib.sha256(identity.encode()).hexdigest()
        self._facts = known.facts(self._identity) if known else None

    @property
    def name(self) -> str:
        """What records call the model."""
        return self.source.name

    @property
    def text_space(self) -> str:
        """Names all that decides a text's vector besides the text."""
        return f"text {self._identity}"

    @property
    def image_space(self) -> str:
        """Names all that decides an image's vector besides the image's bytes."""
        return f"image {self._identity}"

    @property
    def device(self) -> str:
        """The torch device in use."""
        if self._device is None:
            import torch

            mps = torch.backends.mps.is_available()
            self._device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        return self._device

    @property
    def batch_size(self) -> int:
        """How many images or texts a forward pass takes."""
        if self._batch_size is None:
            self._batch_size = 32 if self.device == "cpu" else 256
        return self._batch_size

    @property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied with before the softmax."""
        return float(self._fact("logit_scale"))

    @property
    def logit_bias(self) -> float:
        """What is then added (SigLIP), or 0."""
        return float(self._fact("logit_bias") or 0.0)

    def preprocess(self, image: Image) -> NDArray[np.float32]:
        """One RGB image -> what the image tower takes: float32 (3, height, width)."""
        pixels: NDArray[np.float32] = self._tower("image").preprocess(image).numpy()
        return pixels

    def encode_images(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Preprocessed images -> unit rows: float32 (n, dim)."""
        import torch

        tower = self._tower("image")
        return self._encode(tower.encode_image, torch.from_numpy(np.stack(pixels)))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> unit rows: float32 (n, dim)."""
        tower = self._tower("text")
        return self._encode(tower.encode_text, tower.tokenizer(list(texts)))

    def _encode(
        self, encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor
    ) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            rows = [
                encode(batch).float().cpu().numpy()
                for batch in torch.split(inputs, self.batch_size)
            ]
        return unit_rows(np.concatenate(rows))

    def _tower(self, tower: Tower) -> models.Model:
        with self._loading:
            if tower not in self._towers:
                model = models.load(
                    self.source, device=self.device, precision=self.precision, tower=tower
                )
                self._towers[tower] = model
                if self._facts is None:
                    self._facts = {"logit_scale": model.logit_scale, "logit_bias": model.logit_bias}
                    if self._known:
                        self._known.set_facts(self._identity, self._facts)
            return self._towers[tower]

    def _fact(self, name: str) -> Any:
        if self._facts is None:
            self._tower("image")
        assert self._facts is not None
        return self._facts[name]


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row divided by its L2 norm; a row of zeros stays one. float32 (n, dim) both."""
    rows = np.asarray(rows, np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit
