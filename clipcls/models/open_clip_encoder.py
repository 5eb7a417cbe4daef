"""The encoder that runs OpenCLIP models, each tower loaded only when it is needed."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipcls.errors import ModelError
from clipcls.models import cuda, loading, openvino, towers
from clipcls.models.backend import Backend, Precision, best_device
from clipcls.models.facts import ModelFacts
from clipcls.models.loading import Tower
from clipcls.models.preprocess import Preprocess
from clipcls.models.registry import ModelSource
from clipcls.models.tokenizer import ClipTokenizer
from clipcls.models.torch_runner import TorchRunner
from clipcls.numerics import unit_rows

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["OpenClipEncoder"]

logger = logging.getLogger(__name__)

# Counts the ways in which a file becomes pixels: part of every image's key.
_PIXELS = "pixels 2"

# How many texts a batch has for each image that it would have: a text is less work.
_TEXTS_AN_IMAGE = 4

# On CUDA a batch goes through in pieces: one is stacked and copied while others are computed. mini
# in fp16, 256 at a time, on an H200, one run: 8,464 images/s in 1, 8,622 in 2, 4,845 in 4.
_PIECES_ON_CUDA = 2


class OpenClipEncoder:
    """An OpenCLIP model; each tower is loaded on its first use and not before.

    On a CPU the towers run as OpenVINO graphs (`openvino`) where they can be had, which after the
    first time needs no torch; elsewhere they run on torch. So do always a text tower whose
    tokenizer is not CLIP's, and one that sees padding.

    Args:
        source: the model, from `resolve`.
        backend: how it runs; None: `Backend()`.
        facts: what is known of models without loading them; None: `ModelFacts()`.

    Raises:
        ModelError: OpenVINO is asked for and not installed, or cannot compute in this precision;
            the weights cannot be read.
    """

    def __init__(
        self,
        source: ModelSource,
        backend: Backend | None = None,
        *,
        facts: ModelFacts | None = None,
    ) -> None:
        backend = backend or Backend()
        self.source = source
        self._facts = facts or ModelFacts()
        self._backend = backend.name
        try:
            self.weights = self._facts.file_hash(source.weights)
        except OSError as error:
            raise ModelError(f"{source.weights}: cannot be read ({error.strerror})") from error
        kind = (backend.device or "").partition(":")[0]
        self._device = "cpu" if kind == "cpu" else backend.device
        self._batch_size = backend.batch_size
        self._towers: dict[Tower, loading.Model] = {}
        self._torch = TorchRunner(source.name)
        self._announced: set[Tower] = set()
        self._make_locks()
        self._precision: Precision | Literal["auto"] = backend.precision
        if backend.name == "openvino" and not self._can_be_graph():
            raise ModelError(
                "openvino runs on a CPU, in fp32 or bf16, and only where it is installed (not on "
                f"{self.device} in {backend.precision}); leave --backend out"
            )

    def _make_locks(self) -> None:
        self._loading = threading.RLock()  # decoding threads ask for the image tower together
        self._running = threading.RLock()  # neither backend's towers run in two threads at once

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs to load the model itself."""
        left_out = {"_towers", "_loading", "_running", "_image_graph", "_text_graph", "_tokenizer"}
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _towers={})
        self._make_locks()

    @property
    def name(self) -> str:
        """What records call the model."""
        return self.source.name

    @property
    def precision(self) -> Precision:
        """What the towers compute in; with "auto" and a model not known yet, it is tried now."""
        with self._loading:
            if self._precision == "auto":
                self._precision = self._best_precision()
            return self._precision

    @property
    def text_space(self) -> str:
        """Names all that decides a text's vector besides the text."""
        with self._loading:  # before the lock that cached_property has up to Python 3.11
            return f"text {self._identity}"

    @property
    def image_space(self) -> str:
        """Names all that decides an image's vector besides the image's bytes."""
        with self._loading:
            return f"image {self._identity}"

    @property
    def device(self) -> str:
        """The torch device in use."""
        if self._device is None:
            self._device = best_device()
        return self._device

    @property
    def batch_size(self) -> int:
        """How many images are encoded at a time."""
        if self._batch_size is None:
            self._batch_size = 32 if self.device == "cpu" else 256
        return self._batch_size

    @property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied with before the softmax."""
        return float(self._setting("logit_scale"))

    @property
    def logit_bias(self) -> float:
        """What is then added (SigLIP), or 0."""
        return float(self._setting("logit_bias") or 0.0)

    @property
    def least_side(self) -> int:
        """A JPEG may be decoded at a reduced scale while neither side falls below it; pixels."""
        return self._preprocess.least_side

    @property
    def image_backend(self) -> Literal["openvino", "torch"]:
        """What runs the image tower; it is prepared for that now."""
        return "torch" if self._image_graph is None else "openvino"

    def load_image_tower(self) -> None:
        """What the first call of `encode_images` would otherwise begin with.

        Raises:
            ModelError: the image tower cannot be loaded.
        """
        _ = self._preprocess  # first: locks are taken in the order of threads that decode
        with self._running:
            if self._image_graph is None:
                self._tower("image")

    def preprocess(self, image: Image) -> NDArray[np.uint8]:
        """One RGB image -> uint8 (height, width, 3), resized and cropped as the model has it."""
        return self._preprocess(image)

    def seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of an image of this width and height that `preprocess` keeps, in its pixels:
        left, top, right, bottom; beyond the image where a margin is filled.
        """
        return self._preprocess.seen(size)

    def encode_images(self, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Preprocessed images -> unit rows: float32 (n, dim).

        An image's row does not depend on the others' but for the rounding of sums: in fp32 below
        1e-5 on a CPU, 1e-4 on CUDA, whose libraries sum in another order for another number of
        images; 1e-2 in bf16 and fp16 (tests/models).

        Raises:
            ModelError: the memory of a GPU does not suffice for one image.
        """
        if not pixels:
            return np.empty((0, self.source.config["embed_dim"]), np.float32)
        batches = [
            pixels[start : start + self.batch_size]
            for start in range(0, len(pixels), self.batch_size)
        ]
        with self._running:
            if (run := self._image_graph) is not None:
                return unit_rows(np.concatenate([run(np.stack(batch)) for batch in batches]))
            model = self._tower("image")
            pieces = _PIECES_ON_CUDA if cuda.is_cuda(self.device) else 1
            at_once = -(-self.batch_size // pieces)
            rows = [self._torch.encode_images(model, batch, at_once) for batch in batches]
        return unit_rows(np.concatenate(rows))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> unit rows: float32 (n, dim)."""
        if not texts:
            return np.empty((0, self.source.config["embed_dim"]), np.float32)
        with self._running:
            batch = _TEXTS_AN_IMAGE * self.batch_size
            if (run := self._text_graph) is None:
                return unit_rows(self._torch.encode_texts(self._tower("text"), texts, batch))
            tokens = self._tokenizer(texts)
            lengths = tokens.argmax(axis=1) + 1  # the end of text has the highest number
            # Short texts first: a batch takes as long as its longest one.
            order = lengths.argsort(kind="stable")
            parts = [order[start : start + batch] for start in range(0, len(texts), batch)]
            rows = np.concatenate([run(tokens[part, : lengths[part[-1]]]) for part in parts])
            return unit_rows(rows[order.argsort()])

    def describe_cut(self, texts: Sequence[str]) -> list[str]:
        """A warning per text that is longer than the model reads."""
        length = self.source.context_length
        # With start and end; no token is shorter than a byte.
        long = [text for text in texts if len(text.encode()) + 2 > length]
        if not long:
            return []
        with self._running:
            tokenizer = (
                self._tower("text").tokenizer if self._text_graph is None else self._tokenizer
            )
        encode = getattr(tokenizer, "encode", str)
        return [
            f"{text[:40]}...: longer than {length} tokens, the rest is not seen"
            for text in long
            if len(encode(text)) + 2 > length
        ]

    @functools.cached_property
    def _preprocess(self) -> Preprocess:
        return Preprocess.from_config(self._setting("preprocess"))

    @functools.cached_property
    def _tokenizer(self) -> ClipTokenizer:
        return ClipTokenizer(self.source.context_length)

    @functools.cached_property
    def _image_graph(self) -> openvino.Graph | None:
        """The image tower as a graph; None where torch has to run it."""
        if not self._can_be_graph():
            return None
        key = _hash(self.image_space)
        try:
            found = towers.open_image_graph(
                key, self.precision, self._preprocess, lambda: self._to_export("image")
            )
        except openvino.GraphError as error:
            logger.warning("%s runs on torch, which is slower: %s", self.name, error)
            return None
        self._towers.pop("image", None)  # torch's is not needed any more
        return found

    @functools.cached_property
    def _text_graph(self) -> openvino.Graph | None:
        """The text tower as a graph; None where torch has to run it."""
        if not self._can_be_graph() or self.source.tokenizer:
            return None
        key = _hash(self.text_space)
        try:
            found = towers.open_text_graph(
                key, self.precision, lambda: self._tokenizer, lambda: self._to_export("text")
            )
        except (openvino.GraphError, ImportError, OSError, EOFError) as error:
            # Texts are embedded once: nothing that a user need be told of.
            logger.debug("%s: texts run on torch: %s", self.name, error)
            return None
        self._towers.pop("text", None)
        return found

    def _to_export(self, tower: Tower) -> loading.Model:
        """In float32: the graph's own precision is OpenVINO's affair."""
        self._announce(tower)
        if self.precision == "fp32":
            return self._tower(tower)
        return loading.load(self.source, precision="fp32", tower=tower)

    def _announce(self, tower: Tower) -> None:
        if tower not in self._announced:
            logger.info(
                "preparing %s for %ss on this machine, once",
                *(self.name, tower),
                extra={"is_preparing": True},
            )
            self._announced.add(tower)

    def _can_be_graph(self) -> bool:
        return (
            self._backend != "torch"
            and self._precision != "fp16"
            and self.device == "cpu"
            and openvino.is_supported()
        )

    def _best_precision(self) -> Precision:
        if cuda.is_cuda(self.device):
            cuda.check(self.device)
            halves = cuda.half_precisions(self.device)
            return next((half for half in halves if self._is_same_in(half)), "fp32")
        has_bf16 = self.device == "cpu" and openvino.has_bf16()
        return "bf16" if has_bf16 and self._is_same_in("bf16") else "fp32"

    def _is_same_in(self, half: Literal["bf16", "fp16"]) -> bool:
        """Whether images' vectors are those of float32, tried once a model and kind of backend."""
        backend = "cuda" if cuda.is_cuda(self.device) else f"graph {self._can_be_graph()}"
        key = f"same {openvino.LEAST_COSINE[half]} by {backend} {self._identity_in(half)}"
        found = self._facts.get(key)
        is_same = found["is_same"] if found else self._try_in(half)
        if not found and is_same is not None:
            self._facts.set(key, {"is_same": is_same})
        return bool(is_same)

    def _try_in(self, half: Literal["bf16", "fp16"]) -> bool | None:
        """Whether images' vectors are those of float32; None where there was no memory to try.

        Networks of small convolutions lose most in bf16. What is loaded and exported to find out
        serves the precision that is chosen.
        """
        self._announce("image")
        model = loading.load(self.source, tower="image")
        tower = towers.ImageTower(model.network, model.preprocess)
        is_same: bool | None = False
        if self._can_be_graph():
            try:
                key = _hash(f"image {self._identity_in(half)}")
                self._image_graph = openvino.export(key, half, tower)
                is_same = True
            except openvino.NoMemoryError:
                is_same = None
            except openvino.GraphError:
                pass
        else:
            halved = loading.load(self.source, device=self.device, precision=half, tower="image")
            (probe,) = tower.probe
            rows = self._torch.encode_images(halved, list(probe), len(probe))
            cosine = openvino.least_cosine(rows, tower.by_torch(probe))
            is_same = cosine >= openvino.LEAST_COSINE[half]
            if is_same:
                self._towers["image"] = halved
        if not is_same and self.device == "cpu":
            self._towers["image"] = model
        self._note(model, half if is_same else "fp32")
        return is_same

    def _identity_in(self, precision: Precision) -> str:
        return _hash(json.dumps([_PIXELS, self.weights, self.source.key(), precision]))

    @functools.cached_property
    def _identity(self) -> str:
        return self._identity_in(self.precision)

    @functools.cached_property
    def _settings(self) -> dict[str, Any] | None:
        """What the image tower says of itself, where that is known."""
        return self._facts.get(self._identity)

    def _tower(self, tower: Tower) -> loading.Model:
        with self._loading:
            precision = self.precision  # which may load it
            if tower not in self._towers:
                model = loading.load(
                    self.source, device=self.device, precision=precision, tower=tower
                )
                self._towers[tower] = model
            if tower == "image" and self._settings is None:
                self._note(self._towers[tower], precision)
            return self._towers[tower]

    def _note(self, model: loading.Model, precision: Precision) -> None:
        """Keeps what an image tower says of itself, so that it need not be loaded to ask."""
        self._settings = {
            "logit_scale": model.logit_scale,
            "logit_bias": model.logit_bias,
            "preprocess": model.preprocess_config,
        }
        self._facts.set(self._identity_in(precision), self._settings)

    def _setting(self, name: str) -> Any:
        with self._loading:
            if self._settings is None:
                self._tower("image")
            assert self._settings is not None
            return self._settings[name]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
