"""The bundled model `mini` as OpenVINO graphs, built from its weights without torch.

Importing torch and exporting the towers takes ten seconds, too long for the first command on a new
machine. The image tower is timm's `tf_efficientnet_lite2` (Tan and Le 2019, arXiv 1905.11946), the
text tower OpenCLIP's `TextTransformer`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcls.models import openvino
from clipcls.models.aliases import MINI
from clipcls.models.config import CONFIG_NAME, find_weights, read_config

_DTYPES = {"F8_E4M3": np.uint8, "F16": np.float16, "F32": np.float32, "I64": np.int64}
_HALVING_STAGES = (1, 2, 3, 5)  # the first block of each has stride 2


def read_settings() -> dict[str, Any]:
    """The model's `logit_scale`, `logit_bias` and `preprocess`, as `OpenClipEncoder` needs them."""
    config = read_config(MINI / CONFIG_NAME)
    side = config["model_cfg"]["vision_cfg"]["image_size"]
    return {
        "logit_scale": float(np.exp(_read_tensors()["logit_scale"])),
        "logit_bias": None,
        "preprocess": {**config["preprocess_cfg"], "size": [side, side]},
    }


def read_expected(tower: str) -> NDArray[np.float32]:
    """Torch's vectors for the probe batch of `tower`, "image" or "text": float32 (n, dim)."""
    with np.load(MINI / "probe.npz") as arrays:
        vectors: NDArray[np.float32] = arrays[tower]
    return vectors


def build_image_tower() -> Any:
    """An openvino.Model: uint8 (n, 260, 260, 3) -> float32 (n, 896)."""
    build, preprocess = _Builder("visual."), read_settings()["preprocess"]
    ops = build.ops
    pixels = ops.parameter([-1, *preprocess["size"], 3], np.uint8)
    mean, std = (
        build.floats(255 * np.reshape(preprocess[key], (1, 3, 1, 1))) for key in ("mean", "std")
    )
    x = ops.transpose(ops.convert(pixels, "f32"), build.integers(0, 3, 1, 2))
    x = ops.divide(ops.subtract(x, mean), std)
    x = build.convolve(x, "trunk.conv_stem", "trunk.bn1", stride=2)
    first = "trunk.blocks.0.0"  # the only block that does not widen its input
    x = build.convolve(x, f"{first}.conv_dw", f"{first}.bn1")
    x = build.convolve(x, f"{first}.conv_pw", f"{first}.bn2", is_linear=True)
    for stage in build.count("trunk.blocks.{}.0.conv_pwl.weight", start=1):
        for number in build.count(f"trunk.blocks.{stage}.{{}}.conv_pwl.weight"):
            block = f"trunk.blocks.{stage}.{number}"
            stride = 2 if number == 0 and stage in _HALVING_STAGES else 1
            y = build.convolve(x, f"{block}.conv_pw", f"{block}.bn1")
            y = build.convolve(y, f"{block}.conv_dw", f"{block}.bn2", stride=stride)
            y = build.convolve(y, f"{block}.conv_pwl", f"{block}.bn3", is_linear=True)
            x = ops.add(x, y) if number else y
    x = build.convolve(x, "trunk.conv_head", "trunk.bn2")
    x = build.project(ops.reduce_mean(x, build.integers(2, 3)), "head.mlp.fc1.")
    return build.model(build.project(ops.gelu(x, "erf"), "head.mlp.fc2."), pixels)


def build_text_tower() -> Any:
    """An openvino.Model: int64 (n, length) -> float32 (n, 896)."""
    build = _Builder("text.")
    ops = build.ops
    heads = read_config(MINI / CONFIG_NAME)["model_cfg"]["text_cfg"]["heads"]
    tokens = ops.parameter([-1, -1], np.int64)
    zero, one = build.integers(0), build.integers(1)
    # By their codes, since OpenVINO would store the float8 vectors as float32.
    codes = build.tensors["token_embedding.weight"]
    width = codes.shape[1]
    x = ops.convert(ops.gather(ops.constant(codes), tokens, zero), "i32")
    x = ops.gather(build.floats(_decode_float8()), x, zero)
    length = ops.gather(ops.shape_of(tokens), one, zero)
    positions = build.floats(build.tensors["positional_embedding"])
    x = ops.add(x, ops.slice(positions, zero, length, one, zero))
    for number in build.count("transformer.resblocks.{}.ln_1.weight"):
        block = f"transformer.resblocks.{number}"
        y = build.project(build.normalise(x, f"{block}.ln_1."), f"{block}.attn.in_proj_")
        y = ops.reshape(y, build.integers(0, 0, 3 * heads, width // heads), special_zero=True)
        y = ops.split(ops.transpose(y, build.integers(0, 2, 1, 3)), ops.constant(1), 3)
        y = ops.scaled_dot_product_attention(*y.outputs(), causal=True)
        y = ops.transpose(y, build.integers(0, 2, 1, 3))
        y = ops.reshape(y, build.integers(0, 0, width), special_zero=True)
        x = ops.add(x, build.project(y, f"{block}.attn.out_proj."))
        y = build.project(build.normalise(x, f"{block}.ln_2."), f"{block}.mlp.c_fc.")
        x = ops.add(x, build.project(ops.gelu(y, "erf"), f"{block}.mlp.c_proj."))
    x = build.normalise(x, "ln_final.")
    # The end of text has the highest number.
    end = ops.topk(tokens, ops.constant(1), 1, "max", "none").output(1)
    x = ops.squeeze(ops.gather(x, end, one, batch_dims=1), one)
    projection = build.floats(build.tensors["text_projection"])
    model = build.model(ops.matmul(x, projection, False, False), tokens)
    openvino.store_as_float16(model)  # as its weights are
    return model


class _Builder:
    """Operations on the tensors whose names begin with `prefix`, which is left out."""

    def __init__(self, prefix: str) -> None:
        self.ops = openvino.import_operations()
        self.tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in _read_tensors().items()
            if name.startswith(prefix)
        }

    def floats(self, values: NDArray[Any]) -> Any:
        return self.ops.constant(np.asarray(values, np.float32))

    def integers(self, *values: int) -> Any:
        return self.ops.constant(np.array(values, np.int64))

    def count(self, name: str, start: int = 0) -> Iterator[int]:
        """The numbers for which a tensor of this name exists."""
        numbers = itertools.count(start)
        return itertools.takewhile(lambda number: name.format(number) in self.tensors, numbers)

    def convolve(
        self, x: Any, kernel: str, norm: str, *, stride: int = 1, is_linear: bool = False
    ) -> Any:
        """A convolution with its batch normalisation, and ReLU6 unless it is linear."""
        weight = self.tensors[f"{kernel}.weight"].astype(np.float32)
        names = ("weight", "bias", "running_mean", "running_var")
        gain, bias, mean, variance = (
            self.tensors[f"{norm}.{name}"].astype(np.float32) for name in names
        )
        gain /= np.sqrt(variance + 1e-3)
        weight *= gain[:, None, None, None]
        geometry = [stride, stride], [0, 0], [0, 0], [1, 1], "same_upper"
        if kernel.endswith("conv_dw"):
            x = self.ops.group_convolution(x, self.floats(weight[:, None]), *geometry)
        else:
            x = self.ops.convolution(x, self.floats(weight), *geometry)
        x = self.ops.add(x, self.floats((bias - mean * gain)[:, None, None]))
        return x if is_linear else self.ops.clamp(x, 0.0, 6.0)

    def project(self, x: Any, name: str) -> Any:
        x = self.ops.matmul(x, self.floats(self.tensors[f"{name}weight"]), False, True)
        bias = self.tensors.get(f"{name}bias")
        return x if bias is None else self.ops.add(x, self.floats(bias))

    def normalise(self, x: Any, name: str) -> Any:
        """A layer normalisation."""
        x = self.ops.mvn(x, self.integers(-1), True, 1e-5, "inside_sqrt")
        weight, bias = (self.floats(self.tensors[f"{name}{part}"]) for part in ("weight", "bias"))
        return self.ops.add(self.ops.multiply(x, weight), bias)

    def model(self, result: Any, parameter: Any) -> Any:
        return openvino.import_openvino().Model([result], [parameter])


@functools.cache
def _read_tensors() -> dict[str, NDArray[Any]]:
    import safetensors

    content = safetensors.deserialize(find_weights(MINI).read_bytes())  # type: ignore[no-untyped-call]
    return {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in content
    }


def _decode_float8() -> NDArray[np.float32]:
    """The numbers that the codes of float8 E4M3 stand for (arXiv 2209.05433): float32 (256,)."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, (codes & 7) / 8
    magnitude = np.where(exponent == 0, mantissa / 64, (1 + mantissa) * 2.0 ** (exponent - 7))
    return np.where(codes & 128, -magnitude, magnitude).astype(np.float32)
