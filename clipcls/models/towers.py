"""OpenCLIP's towers, exported as OpenVINO graphs and checked against torch.

An image graph takes uint8 (n, height, width, 3) and includes the normalisation. A text graph takes
int64 (n, length) of any length, or only of the context length if its vectors depend on padding
(`padding`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.models import mini, openvino
from clipcls.models.architectures import quiet
from clipcls.models.openvino import Graph, GraphKey
from clipcls.models.padding import can_leave_out
from clipcls.models.preprocess import Preprocess
from clipcls.models.tokenizer import Tokenizer, count_tokens

if TYPE_CHECKING:
    import torch

    from clipcls.models.torch_model import TorchModel

# Least cosine similarity to torch's float32 vectors that a graph (or, in fp16, a GPU) must reach on
# the probe batch. Photos lose more than its noise: up to nine times as much (1 - cosine) in models
# that magnify rounding. fp16 has the bits to leave that room and still have photos at 0.999.
LEAST_COSINE = {"fp32": 0.99999, "bf16": 0.999, "fp16": 0.9999}

# A short text, as labels are; and one as long as the model reads.
PROBE_TEXTS = ("a photo of a cat.", " ".join(f"{number} dogs" for number in range(99)))


class GraphError(Exception):
    """A tower has no graph, so torch runs it."""


class NoMemoryError(GraphError):
    """There was not enough memory to export it this time."""


def export_image_tower(key: GraphKey, model: TorchModel) -> Graph:
    """Exports an image tower, checks it against torch, and stores it if possible.

    Args:
        key: as for `openvino.load`.
        model: with its image tower, float32 on the CPU.

    Raises:
        GraphError: OpenVINO cannot run the tower, or computes other vectors.
    """
    probe = image_probe(model.preprocess)
    return _export(key, model.encode_pixels, [probe], [-1, *probe.shape[1:]])


def export_text_tower(key: GraphKey, model: TorchModel, tokenizer: Tokenizer) -> Graph:
    """As `export_image_tower`; a tower that sees padding takes texts of the context length only."""
    probe = text_probe(tokenizer)
    if can_leave_out(model.network, tokenizer.padding):
        return _export(key, model.encode_tokens, probe, [-1, -1])
    return _export(key, model.encode_tokens, probe[1:], [-1, probe[1].shape[1]])


def build_image_tower(key: GraphKey) -> Graph:
    """As `export_image_tower`, for the bundled model and without torch."""
    probe = image_probe(Preprocess.from_config(mini.read_settings()["preprocess"]))
    expected = [mini.read_expected("image")]
    return _check(key, mini.build_image_tower, [probe], expected)


def build_text_tower(key: GraphKey, tokenizer: Tokenizer) -> Graph:
    """As `export_text_tower`, for the bundled model and without torch."""
    expected = np.split(mini.read_expected("text"), [1])
    return _check(key, mini.build_text_tower, text_probe(tokenizer), expected)


def text_probe(tokenizer: Tokenizer) -> list[NDArray[np.int64]]:
    """A short text without padding; and with it one as long as the model reads."""
    tokens = tokenizer(PROBE_TEXTS)
    length = count_tokens(tokens, tokenizer.padding)[0]
    return [tokens[:1, :length], tokens]


def image_probe(preprocess: Preprocess) -> NDArray[np.uint8]:
    """Four images of noise, smooth and sharp: blocks of 16, 1, 4 and 32 pixels."""
    return np.stack(draw_noise(preprocess.height, preprocess.width, (16, 1, 4, 32)))


def draw_noise(height: int, width: int, sides: Sequence[int]) -> list[NDArray[np.uint8]]:
    """An image of noise per side of its blocks in pixels: uint8 (height, width, 3)."""
    rng = np.random.default_rng(0)
    images = []
    for side in sides:
        blocks = rng.integers(0, 256, (-(-height // side), -(-width // side), 3), np.uint8)
        images.append(blocks.repeat(side, axis=0).repeat(side, axis=1)[:height, :width])
    return images


def least_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The least cosine similarity of rows, float32 (n, dim) each; nan if a row is all zeros."""
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    with np.errstate(invalid="ignore"):
        return float(((ours * theirs).sum(axis=1) / norms).min())


def _export(
    key: GraphKey,
    encode: Callable[[torch.Tensor], torch.Tensor],
    probe: Sequence[NDArray[Any]],
    shape: Sequence[int],
) -> Graph:
    """Exports `encode`, whose input has this shape, -1 standing for any size."""
    import torch

    with torch.inference_mode():  # first, since it caches what a trace must not record
        expected = [encode(torch.from_numpy(inputs)).numpy() for inputs in probe]
    make_model = functools.partial(_convert, encode, probe[0], shape)
    return _check(key, make_model, probe, expected)


def _check(
    key: GraphKey,
    make_model: Callable[[], Any],
    probe: Sequence[NDArray[Any]],
    expected: Sequence[NDArray[np.float32]],
) -> Graph:
    """Compiles an openvino.Model and stores it if the probe's vectors are the expected ones."""
    try:
        compiled = openvino.compile_graph(make_model(), key.precision)
        graph = Graph(compiled)
        found = [graph(inputs) for inputs in probe]
    except MemoryError as error:
        raise NoMemoryError("not enough memory to export it") from error
    except Exception as error:  # OpenVINO raises what it likes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = (lines[-1] if lines else type(error).__name__)[:200]
        raise GraphError(f"OpenVINO cannot run this model ({reason})") from error
    cosine = float(np.min(list(map(least_cosine, found, expected))))  # nan if one is
    if not cosine >= LEAST_COSINE[key.precision]:
        raise GraphError(f"OpenVINO's vectors differ from torch's (cosine {cosine:.6f})")
    openvino.store(key, compiled)
    return graph


def _convert(
    encode: Callable[[torch.Tensor], torch.Tensor], example: NDArray[Any], shape: Sequence[int]
) -> Any:
    """A function of torch's as an openvino.Model."""
    import torch

    class Module(torch.nn.Module):  # which is what can be traced
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return encode(inputs)

    ov = openvino.import_openvino()
    with quiet(), torch.inference_mode():
        return ov.convert_model(
            Module().eval(),
            example_input=torch.from_numpy(example[[0, 0]]),
            input=[ov.PartialShape(shape)],
        )
