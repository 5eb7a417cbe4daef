"""A model's files -> a loaded OpenCLIP model, whole or one tower of it; no network."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clipcls.errors import ModelError, install_command
from clipcls.models import cuda
from clipcls.models.architectures import quiet
from clipcls.models.backend import Precision
from clipcls.models.padding import needed_lengths, shortened
from clipcls.models.preprocess import Preprocess
from clipcls.models.registry import ModelSource

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["Model", "Precision", "Tower", "dtype", "load"]

Tower = Literal["image", "text"]

# create_model insists on both towers; the one that is not wanted is the smallest there can be.
_NO_IMAGE_TOWER = {"layers": 1, "width": 8, "head_width": 8, "image_size": 1, "patch_size": 1}
_NO_TEXT_TOWER = {"layers": 1, "width": 8, "heads": 1, "vocab_size": 1, "context_length": 1}


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model; where one tower was asked for, only its half works.

    Attributes:
        network: open_clip's model.
        tokenizer: list of n texts -> int64 (n, context_length).
        preprocess_config: open_clip's preprocessing: size, mean, std, interpolation, ...
        dim: length of its vectors.
        logit_scale: what cosine similarities are multiplied with.
        logit_bias: what is then added (SigLIP), or None.
        device: the torch device it is on.
        precision: what it computes in.
        channels_last: whether its image tower takes pixels with a pixel's channels side by side.
    """

    network: Any
    tokenizer: Callable[..., torch.Tensor]
    preprocess_config: dict[str, Any]
    dim: int
    logit_scale: float
    logit_bias: float | None
    device: str
    precision: Precision
    channels_last: bool = False

    @property
    def preprocess(self) -> Preprocess:
        """open_clip's validation transform: RGB image -> uint8 (height, width, 3)."""
        if not self.preprocess_config:
            _not_loaded()
        return Preprocess.from_config(self.preprocess_config)

    def encode_image(self, pixels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """Preprocessed images, uint8 (height, width, 3) -> vectors (n, dim), not normalised.

        On CUDA the vectors are still being computed when this returns.
        """
        import torch

        preprocess = self.preprocess
        if cuda.is_cuda(self.device):
            batch = cuda.copied(pixels, self.device)
        else:
            batch = torch.from_numpy(np.stack(pixels)).to(self.device)
        batch = batch.permute(0, 3, 1, 2)
        if not self.channels_last:
            batch = batch.contiguous()
        mean, std = (_column(values, self.device) for values in (preprocess.mean, preprocess.std))
        batch = ((batch.float() / 255 - mean) / std).to(dtype(self.precision))
        with self._exact():
            vectors: torch.Tensor = self.network.encode_image(batch, normalize=False)
        return vectors

    def needed_lengths(self, tokens: torch.Tensor) -> torch.Tensor:
        """How many tokens of each text its vector depends on: int64 (n,)."""
        return needed_lengths(self.network, tokens)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (n, context_length) -> vectors (n, dim), not normalised.

        What the vectors do not depend on is left out, so texts of like length are best together.
        """
        with shortened(self.network, tokens) as needed, self._exact():
            vectors: torch.Tensor = self.network.encode_text(
                needed.to(self.device), normalize=False
            )
        return vectors

    def _exact(self) -> contextlib.AbstractContextManager[None]:
        """Meanwhile float32 on CUDA is float32."""
        if cuda.is_cuda(self.device) and self.precision == "fp32":
            return cuda.exact_float32()
        return contextlib.nullcontext()


@functools.cache
def _column(values: tuple[float, ...], device: str) -> torch.Tensor:
    """A number a channel, float32 (n, 1, 1); kept: copying it waits for all of CUDA's work."""
    import torch

    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(-1, 1, 1)


def dtype(precision: Precision) -> torch.dtype:
    """What pixels are cast to for a model of this precision."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def load(
    source: ModelSource,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    tower: Tower | None = None,
) -> Model:
    """Builds a model by open_clip and reads its weights; never uses the network.

    Args:
        source: the model, from `resolve`.
        device: a torch device.
        precision: what the towers compute in (open_clip's meaning of it: norms stay float32).
        tower: build and read only this tower.

    Raises:
        ModelError: the weights are damaged, do not fit the architecture or the memory, or need
            a package that is not installed; there is no such CUDA device.
    """
    import torch

    if cuda.is_cuda(device):
        cuda.check(device)
    needs_transformers = source.tokenizer or source.text_config
    if tower != "image" and needs_transformers and not importlib.util.find_spec("transformers"):
        raise ModelError(f"{source.name}: its texts need transformers: {install_command('hf')}")
    try:
        with quiet():
            network = _network(source, device, precision, tower)
            tokenizer = _not_loaded if tower == "image" else _tokenizer(source)
            config = {} if tower == "text" else _preprocess_config(network)
            if config:
                Preprocess.from_config(config)  # raises where it is unusable
            channels_last = cuda.is_cuda(device) and _is_convolutional(network.visual)
            if channels_last:
                network.visual.to(memory_format=torch.channels_last)
    except Exception as error:  # open_clip, torch, safetensors, transformers: each has its own
        raise ModelError(_explain(error, source, device)) from error
    bias = network.logit_bias
    return Model(
        network,
        tokenizer,
        config,
        dim=source.config["embed_dim"],
        logit_scale=float(network.logit_scale.detach().exp()),
        logit_bias=None if bias is None else float(bias),
        device=device,
        precision=precision,
        channels_last=channels_last,
    )


def _is_convolutional(tower: torch.nn.Module) -> bool:
    """Whether an image tower convolves in more than its first layer, as a ViT does.

    cuDNN computes half precision with a pixel's channels side by side; else it transposes.
    """
    import torch

    return sum(isinstance(module, torch.nn.Conv2d) for module in tower.modules()) > 1


def _network(source: ModelSource, device: str, precision: Precision, tower: Tower | None) -> Any:
    """open_clip's model with its weights, ready for inference."""
    from open_clip import load_checkpoint

    network = _build(source, device, precision, tower)
    if tower is None:
        load_checkpoint(network, str(source.weights))
    else:
        wanted = {k: v for k, v in _shapes(network.state_dict()).items() if _belongs(k, tower)}
        tensors = _read(source.weights, tower)
        if _shapes(tensors) != wanted:  # an old or a foreign form, which open_clip converts
            whole = _build(source, "cpu", "fp32", None)
            load_checkpoint(whole, str(source.weights))
            tensors = {key: tensor for key, tensor in whole.state_dict().items() if key in wanted}
        network.load_state_dict(tensors, strict=False)
    return network.eval().requires_grad_(False)


def _build(source: ModelSource, device: str, precision: Precision, tower: Tower | None) -> Any:
    """open_clip's model without weights; a tower that is not wanted is a stand-in."""
    from open_clip import create_model

    mode: str = precision
    towers = {key: source.config[key] for key in ("vision_cfg", "text_cfg")}
    if source.text_config:
        local = {"hf_model_name": str(source.text_config), "hf_model_pretrained": False}
        towers["text_cfg"] = towers["text_cfg"] | local
    if tower == "image":
        towers["text_cfg"] = _NO_TEXT_TOWER
    if tower == "text":
        towers["vision_cfg"] = _NO_IMAGE_TOWER
    if tower and "multimodal_cfg" in source.config:  # CoCa's captioner
        towers["multimodal_cfg"] = _NO_TEXT_TOWER
    preprocess = source.preprocess
    if preprocess is None:
        preprocess = _usual_preprocess(source.architecture)
    text = source.config["text_cfg"]
    if precision != "fp32" and (
        "multimodal_cfg" in source.config or text.get("hf_model_name") or text.get("proj_bias")
    ):
        mode = f"pure_{precision}"  # open_clip's mixed precision knows its plain towers only
    with _undrawn():
        network = create_model(
            source.architecture,
            load_weights=False,
            pretrained_text=False,
            device=device,
            precision=mode,
            force_preprocess_cfg={k: v for k, v in preprocess.items() if k != "size"},
            quick_gelu=source.quick_gelu,
            **towers,
        )
    # Half precision is too coarse for these: bf16 turns a scale of 100 into 98.9.
    for scalar in (network.logit_scale, network.logit_bias):
        if scalar is not None:
            scalar.data = scalar.data.float()
    return network


def _undrawn() -> contextlib.AbstractContextManager[Any]:
    """In this thread no random weights are drawn meanwhile: the file's replace all of them.

    On two cores ViT-L-14's image tower is built in 0.05 s instead of 2.3 s.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    init, tensor = torch.nn.init, torch.Tensor
    drawing = {
        *(tensor.normal_, tensor.uniform_, tensor.erfinv_),
        *(init.normal_, init.uniform_, init.trunc_normal_, init.kaiming_normal_),
        *(init.kaiming_uniform_, init.xavier_normal_, init.xavier_uniform_),
    }

    class Undrawn(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if function in drawing:
                return args[0] if args else kwargs["tensor"]
            return function(*args, **(kwargs or {}))

    return Undrawn()


def _belongs(key: str, tower: Tower) -> bool:
    """Whether a tensor of a state dict is one that this tower (or a score) needs."""
    if tower == "image" or key.startswith("logit_"):
        return key.startswith(("visual.", "logit_"))
    return not key.startswith(("visual.", "text_decoder."))


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def _read(weights: Path, tower: Tower) -> dict[str, torch.Tensor]:
    """One tower's tensors, where the file's form allows reading them alone; else none."""
    if weights.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys() if _belongs(key, tower)}  # noqa: SIM118


def _usual_preprocess(architecture: str) -> Mapping[str, Any]:
    """For a checkpoint that does not say: that of the published weights, where they agree.

    open_clip itself would take CLIP's for all, which costs SigLIP's models accuracy silently.
    """
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model

    known = []
    for tag in list_pretrained_tags_by_model(architecture):
        config = get_pretrained_cfg(architecture, tag)
        known.append({k: config[k] for k in ("mean", "std", "interpolation", "resize_mode")})
    return known[0] if known and known.count(known[0]) == len(known) else {}


def _preprocess_config(network: Any) -> dict[str, Any]:
    from open_clip import get_model_preprocess_cfg

    return dict(get_model_preprocess_cfg(network))


def _tokenizer(source: ModelSource) -> Callable[..., torch.Tensor]:
    from open_clip import get_tokenizer
    from open_clip.tokenizer import HFTokenizer

    if source.tokenizer is None:
        tokenizer: Callable[..., torch.Tensor] = get_tokenizer(source.architecture)
        return tokenizer
    text = source.config["text_cfg"]
    tokenizer = HFTokenizer(  # as get_tokenizer does, from files that are here
        str(source.tokenizer),
        context_length=source.context_length,
        tokenizer_mode=text.get("tokenizer_mode"),
        **(text.get("tokenizer_kwargs") or {}),
    )
    return tokenizer


def _not_loaded(*_: Any) -> Any:
    raise RuntimeError("this tower was not loaded")


def _explain(error: Exception, source: ModelSource, device: str) -> str:
    """One line that names the file and the cure."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    text = " ".join(lines)
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return (
            f"{source.name}: not enough memory on {device}; try --precision bf16 or a smaller "
            "model (`clipcls models`)"
        )
    if "loading state_dict" in text:
        return (
            f"{source.weights}: does not fit the architecture {source.architecture} "
            f"({_shorten(lines[1])}); name the one that it was trained with"
        )
    if "TorchScript" in text or (isinstance(error, pickle.UnpicklingError) and "GLOBAL" in text):
        return (
            f"{source.weights}: holds code and not only weights, which is not run; convert it to "
            "safetensors where you trust it"
        )
    if isinstance(error, ImportError):
        return f"{source.name}: {_shorten(text)}; try {install_command('hf')}"
    if isinstance(error, pickle.UnpicklingError):  # whose text recommends to run what is in it
        lines = ["not a file of weights"]
    reason = _shorten(lines[0]) if lines else type(error).__name__
    return f"{source.weights}: cannot be loaded as {source.architecture} on {device} ({reason})"


def _shorten(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
