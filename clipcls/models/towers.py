"""OpenCLIP's towers, exported as OpenVINO graphs and checked against torch.

An image graph takes uint8 (n, height, width, 3) and includes the normalisation. A text graph takes
int64 (n, length) of any length, or only of the context length if its vectors depend on padding
(`padding`).
"""

from __future__ import annotations

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


def export_tower(key: GraphKey, model: TorchModel, tokenizer: Tokenizer | None = None) -> Graph:
    """Exports a tower, checks it against torch, and stores it if possible.

    A text tower that sees padding takes texts of the context length only.

    Args:
        key: as for `openvino.load`.
        model: with the tower, float32 on the CPU.
        tokenizer: a text tower's.

    Raises:
        GraphError: OpenVINO cannot run the tower, or computes other vectors.
    """
    if tokenizer is None:
        probe: list[NDArray[Any]] = [image_probe(model.preprocess)]
        shape = [-1, *probe[0].shape[1:]]
    else:
        probe, shape = text_probe(tokenizer), [-1, -1]
        if not can_leave_out(model.network, tokenizer.padding):
            probe, shape = probe[1:], [-1, probe[1].shape[1]]
    # First, since it caches what a trace must not record.
    expected = np.concatenate([model(inputs) for inputs in probe])
    return _check(key, lambda: _convert(model, probe[0], shape), probe, expected)


def build_tower(key: GraphKey, tokenizer: Tokenizer | None = None) -> Graph:
    """As `export_tower`, for the bundled model and without torch."""
    if tokenizer is None:
        preprocess = Preprocess.from_config(mini.read_settings()["preprocess"])
        expected = mini.read_expected("image")
        return _check(key, mini.build_image_tower, [image_probe(preprocess)], expected)
    return _check(key, mini.build_text_tower, text_probe(tokenizer), mini.read_expected("text"))


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


def _check(
    key: GraphKey,
    make_model: Callable[[], Any],
    probe: Sequence[NDArray[Any]],
    expected: NDArray[np.float32],
) -> Graph:
    """Compiles an openvino.Model and stores it if the probe's vectors are the expected ones."""
    try:
        compiled = openvino.compile_graph(make_model(), key.precision)
        graph = Graph(compiled)
        found = np.concatenate([graph(inputs) for inputs in probe])
    except MemoryError as error:
        raise NoMemoryError("not enough memory to export it") from error
    except Exception as error:  # OpenVINO raises what it likes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = (lines[-1] if lines else type(error).__name__)[:200]
        raise GraphError(f"OpenVINO cannot run this model ({reason})") from error
    cosine = least_cosine(found, expected)
    if not cosine >= LEAST_COSINE[key.precision]:  # or is nan
        raise GraphError(f"OpenVINO's vectors differ from torch's (cosine {cosine:.6f})")
    openvino.store(key, compiled)
    return graph


def _convert(model: TorchModel, example: NDArray[Any], shape: Sequence[int]) -> Any:
    """A tower as an openvino.Model, whose input has this shape, -1 standing for any size."""
    import torch

    class Module(torch.nn.Module):  # which is what can be traced
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return model.forward(inputs)

    ov = openvino.import_openvino()
    with quiet(), torch.inference_mode():
        return ov.convert_model(
            Module().eval(),
            example_input=torch.from_numpy(example[[0, 0]]),
            input=[ov.PartialShape(shape)],
        )
