"""The encoder that runs OpenCLIP models; each tower is loaded only when it is needed."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipcls.errors import ModelError
from clipcls.models import cuda, loading, mini, openvino, towers
from clipcls.models.backend import Backend, Precision, best_device
from clipcls.models.facts import ModelFacts
from clipcls.models.padding import can_leave_out
from clipcls.models.preprocess import Preprocess
from clipcls.models.registry import ModelSource
from clipcls.models.tokenizer import Tokenizer, count_tokens, open_tokenizer
from clipcls.models.torch_model import TorchModel, Tower
from clipcls.numerics import unit_rows

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

# The version of how a file becomes pixels: part of every image's key.
_PIXELS = "pixels 3"

# Texts per image of a batch: a text is less work.
_TEXTS_PER_IMAGE = 4


class OpenClipEncoder:
    """An OpenCLIP model; each tower is loaded on its first use.

    On a CPU the towers run as OpenVINO graphs (`openvino`) if possible, which after the first time
    needs no torch; otherwise torch runs them.

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
        self.source, self.name, self.version = source, source.name, source.version
        self.licence = source.licence
        self._backend = backend = backend or Backend()
        self._facts = facts or ModelFacts()
        try:
            self.weights = self._facts.file_hash(source.weights)
        except OSError as error:
            raise ModelError(f"{source.weights}: cannot be read ({error.strerror})") from error
        self._precision: Precision | Literal["auto"] = backend.precision
        self._identities: dict[Precision, str] = {}
        self._settings: dict[str, Any] | None = None  # what the image tower says of itself
        self._towers: dict[Tower, TorchModel] = {}
        self._graphs: dict[Tower, openvino.Graph | None] = {}
        self._announced: set[Tower] = set()
        self._loading = threading.RLock()  # decoding threads ask for the image tower together
        self._running = threading.RLock()  # no tower runs in two threads at once
        if backend.name == "openvino" and not self._can_be_graph():
            raise ModelError(
                "openvino runs on a CPU, in fp32 or bf16, and only where it is installed (not on "
                f"{self.device} in {backend.precision}); leave --backend out"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy loads the model itself."""
        make = functools.partial(OpenClipEncoder, facts=self._facts)
        return make, (self.source, self._backend)

    @property
    def precision(self) -> Precision:
        """The precision of the towers; "auto" is decided now, if need be by trying."""
        with self._loading:
            if self._precision == "auto":
                self._precision = self._choose_precision()
            return self._precision

    @property
    def text_space(self) -> str:
        """Names everything that decides a text's vector besides the text."""
        return f"text {self._identify(self.precision)}"

    @property
    def image_space(self) -> str:
        """Names everything that decides an image's vector besides the image's bytes."""
        return f"image {self._identify(self.precision)}"

    @functools.cached_property
    def device(self) -> str:
        """The torch device in use."""
        device = self._backend.device or best_device()
        return "cpu" if device.startswith("cpu:") else device

    @property
    def batch_size(self) -> int:
        """The number of images encoded at a time."""
        return self._backend.batch_size or (32 if self.device == "cpu" else 256)

    @property
    def logit_scale(self) -> float:
        """The factor of cosine similarities before the softmax."""
        return float(self._setting("logit_scale"))

    @property
    def logit_bias(self) -> float:
        """The number added after scaling (SigLIP), or 0."""
        return float(self._setting("logit_bias") or 0.0)

    @property
    def least_side(self) -> int:
        """A JPEG may be decoded at a reduced scale while neither side falls below it; pixels."""
        return self._preprocess.least_side

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How images are resized and normalised: size, mean, std, interpolation, ..."""
        return dict(self._setting("preprocess"))

    @property
    def image_backend(self) -> Literal["openvino", "torch"]:
        """The backend of the image tower, which is prepared for it now."""
        with self._running:
            return "torch" if isinstance(self._tower("image"), TorchModel) else "openvino"

    def load_image_tower(self) -> None:
        """Does what the first call of `encode_images` would otherwise begin with.

        Raises:
            ModelError: the image tower cannot be loaded.
        """
        with self._running:
            self._tower("image")

    def preprocess(self, image: Image) -> NDArray[np.uint8]:
        """One RGB image -> uint8 (height, width, 3), resized and cropped for the model."""
        return self._preprocess(image)

    def seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of an image of this width and height that `preprocess` keeps, in its pixels:
        left, top, right, bottom; beyond the image where a margin is filled.
        """
        return self._preprocess.seen(size)

    def encode_images(self, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Preprocessed images -> unit rows: float32 (n, dim).

        Apart from the rounding of sums a row does not depend on the other images: in fp32 below
        1e-5 on a CPU, 1e-4 on CUDA, whose libraries sum in another order for another number of
        images; 1e-2 in bf16 and fp16 (tests/models).

        Raises:
            ModelError: a GPU has not enough memory for one image.
        """
        if not pixels:
            return np.empty((0, self.source.config["embed_dim"]), np.float32)
        batch = self.batch_size
        with self._running:
            tower = self._tower("image")
            parts = [pixels[start : start + batch] for start in range(0, len(pixels), batch)]
            return unit_rows(np.concatenate([tower(part) for part in parts]))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> unit rows: float32 (n, dim)."""
        if not texts:
            return np.empty((0, self.source.config["embed_dim"]), np.float32)
        batch = _TEXTS_PER_IMAGE * self.batch_size
        with self._running:
            tower, tokens = self._tower("text"), self._tokenizer(texts)
            padding, lengths = self._tokenizer.padding, np.full(len(texts), tokens.shape[1])
            if (
                can_leave_out(tower.network, padding)
                if isinstance(tower, TorchModel)
                else tower.takes_any_length
            ):
                lengths = count_tokens(tokens, padding)
            # Short texts first: a batch takes as long as its longest one.
            order = lengths.argsort(kind="stable")
            parts = [order[start : start + batch] for start in range(0, len(texts), batch)]
            rows = np.concatenate([tower(tokens[part, : lengths[part[-1]]]) for part in parts])
            return unit_rows(rows[order.argsort()])

    def describe_cut(self, texts: Sequence[str]) -> list[str]:
        """A warning per text that is longer than the model reads."""
        length = self.source.context_length
        # With start and end; no token is shorter than a byte.
        long = [text for text in texts if len(text.encode()) + 2 > length]
        if not long:
            return []
        with self._running:
            return [
                f"{text[:40]}...: longer than {length} tokens, the rest is ignored"
                for text in long
                if self._tokenizer.is_cut(text)
            ]

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return open_tokenizer(self.source)

    @property
    def _preprocess(self) -> Preprocess:
        return Preprocess.from_config(self._setting("preprocess"))

    def _tower(self, tower: Tower) -> openvino.Graph | TorchModel:
        """A tower, opened on its first use. Needs the lock `_running`."""
        if tower not in self._graphs:
            self._graphs[tower] = self._open_graph(tower)
        if graph := self._graphs[tower]:
            self._towers.pop(tower, None)  # torch's is no longer needed
            return graph
        return self._load(tower)

    def _open_graph(self, tower: Tower) -> openvino.Graph | None:
        """A tower's graph, loaded or, the first time, exported."""
        if not self._can_be_graph():
            return None
        key = self._graph_key(tower, self.precision)
        refusal = f"no graph {key.stem()}"
        known = self._facts.get(refusal)
        try:
            if known:
                raise towers.GraphError(known["reason"])
            openvino.import_openvino()  # a broken one says nothing about the model's graph
            graph = self._load_graph(tower, key)
            # Exporting takes longer than a few texts by torch.
            if graph is None and (tower == "image" or openvino.can_store()):
                graph = self._export(tower, key)
            return graph
        except ImportError as error:
            logger.warning("%s runs on torch: OpenVINO cannot be imported (%s)", self.name, error)
        except towers.GraphError as error:
            if not known and not isinstance(error, towers.NoMemoryError):
                self._facts.set(refusal, {"reason": str(error)})
            if tower == "image":  # for texts, which are embedded once, it hardly matters
                hint = "`clipcls cache clear` makes it try again"
                logger.warning("%s runs on torch, which is slower: %s; %s", self.name, error, hint)
        return None

    def _graph_key(self, tower: Tower, precision: Precision) -> openvino.GraphKey:
        space = f"{tower} {self._identify(precision)}"
        return openvino.GraphKey(space, self.version, precision)

    def _load_graph(self, tower: Tower, key: openvino.GraphKey) -> openvino.Graph | None:
        if tower == "image":
            return openvino.load(key)
        # The vocabulary takes as long as the graph, and is read at the same time.
        with ThreadPoolExecutor(1, thread_name_prefix="clipcls-tokenizer") as pool:
            tokenizer = pool.submit(lambda: self._tokenizer)
            graph = openvino.load(key)
            tokenizer.result()
        return graph

    def _export(self, tower: Tower, key: openvino.GraphKey) -> openvino.Graph:
        tokenizer = self._tokenizer if tower == "text" else None
        if self.source.is_bundled:
            return towers.build_tower(key, tokenizer)
        self._announce(tower)
        if self.precision == "fp32":
            model = self._load(tower)
        else:  # OpenVINO converts a graph's precision itself
            model = loading.load(self.source, tower=tower)
        return towers.export_tower(key, model, tokenizer)

    def _announce(self, tower: Tower) -> None:
        if tower not in self._announced:
            message = "preparing %s for %ss on this machine, once"
            logger.info(message, self.name, tower, extra={"is_preparing": True})
            self._announced.add(tower)

    def _can_be_graph(self) -> bool:
        return (
            self._backend.name != "torch"
            and self._precision != "fp16"
            and self.device == "cpu"
            and openvino.is_supported()
        )

    def _choose_precision(self) -> Precision:
        """The fastest precision that keeps float32's vectors; tried once per model and backend."""
        halves: tuple[Literal["bf16", "fp16"], ...] = ()
        if cuda.is_cuda(self.device):
            halves = cuda.half_precisions(self.device)
        elif self.device == "cpu" and not self.source.is_bundled and openvino.has_bf16():
            halves = ("bf16",)
        backend = f"by {openvino.build()}" if self._can_be_graph() else ""
        key = f"best of {halves} within {towers.LEAST_COSINE} {backend} {self._fact('fp32')}"
        best: Precision = "fp32"
        if found := self._facts.get(key):
            best = found["precision"]
            return best
        is_same: bool | None = None
        for half in halves:
            if is_same := self._try_in(half):
                best = half
                break
        if is_same is not None:
            self._facts.set(key, {"precision": best})
        return best

    def _try_in(self, half: Literal["bf16", "fp16"]) -> bool | None:
        """Whether images' vectors are those of float32; None if memory did not suffice to try.

        The tower loaded and exported to find out serves the precision that is chosen.
        """
        self._announce("image")
        model = loading.load(self.source, tower="image")
        is_same: bool | None = False
        if self._can_be_graph():
            try:
                key = self._graph_key("image", half)
                self._graphs["image"] = towers.export_tower(key, model)
                is_same = True
            except towers.NoMemoryError:
                is_same = None
            except towers.GraphError:
                pass
        else:
            halved = loading.load(self.source, device=self.device, precision=half, tower="image")
            probe = list(towers.image_probe(model.preprocess))
            cosine = towers.least_cosine(halved(probe), model(probe))
            is_same = cosine >= towers.LEAST_COSINE[half]
            if is_same:
                self._towers["image"] = halved
        if not is_same and self.device == "cpu":
            self._towers["image"] = model
        self._note(model, half if is_same else "fp32")
        return is_same

    def _identify(self, precision: Precision) -> str:
        if precision not in self._identities:
            parts = json.dumps([_PIXELS, self.weights, self.source.key(), precision])
            self._identities[precision] = hashlib.sha256(parts.encode()).hexdigest()[:32]
        return self._identities[precision]

    def _fact(self, precision: Precision) -> str:
        """Names what is known of the model, as this version of open_clip has it."""
        return f"{self._identify(precision)} {self.version}"

    def _load(self, tower: Tower) -> TorchModel:
        with self._loading:
            precision = self.precision  # which may load it
            if tower not in self._towers:
                how: dict[str, Any] = {"device": self.device, "precision": precision}
                model = self._towers[tower] = loading.load(self.source, tower=tower, **how)
                if tower == "image":
                    self._note(model, precision)
            return self._towers[tower]

    def _note(self, model: TorchModel, precision: Precision) -> None:
        """Remembers what an image tower says of itself, so that it need not be loaded to ask."""
        self._settings = model.settings
        self._facts.set(self._fact(precision), self._settings)

    def _setting(self, name: str) -> Any:
        if self._settings is None:
            with self._loading:
                self._settings = self._facts.get(self._fact(self.precision))
                if self._settings is None and self.source.is_bundled:
                    self._settings = mini.read_settings()  # of all its weights: once
                    self._facts.set(self._fact(self.precision), self._settings)
                if self._settings is None:
                    self._load("image")
        assert self._settings is not None
        return self._settings[name]
