"""What of OpenCLIP's towers becomes a graph (`graph`), and what the graph is checked with.

An image graph takes uint8 (n, height, width, 3) and does the normalisation too. A text graph takes
int64 (n, length) of any length: so only towers whose vectors do not depend on padding are exported
(`padding` says which), and only those with CLIP's tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.models import openvino
from clipcls.models.architectures import quiet
from clipcls.models.padding import needed_lengths, taking

if TYPE_CHECKING:
    import torch

    from clipcls.models.backend import Precision
    from clipcls.models.loading import Model
    from clipcls.models.preprocess import Preprocess
    from clipcls.models.tokenizer import ClipTokenizer

__all__ = ["ImageTower", "TextTower", "open_image_graph", "open_text_graph"]

# A short text, as labels are; and one as long as the model reads.
_PROBE_TEXTS = ("a photo of a cat.", " ".join(f"{number} dogs" for number in range(99)))
_SHORT_TEXTS = ("", "cat")


class ImageTower:
    """An image tower to be exported.

    Args:
        network: open_clip's model with its image tower, float32 on the CPU.
        preprocess: size, mean and standard deviation of its input.
    """

    def __init__(self, network: Any, preprocess: Preprocess) -> None:
        self._network = network
        self._preprocess = preprocess
        self.probe = [image_probe(preprocess)]

    def convert(self, openvino: Any) -> Any:
        """An openvino.Model: uint8 (n, height, width, 3) -> float32 (n, dim)."""
        import torch

        size = (self._preprocess.height, self._preprocess.width)
        with quiet(), torch.inference_mode():
            graph = openvino.convert_model(
                _module(self._encode),
                example_input=torch.zeros(2, 3, *size),
                input=[openvino.PartialShape([-1, 3, *size])],
            )
        steps = openvino.preprocess.PrePostProcessor(graph)
        layout = openvino.Layout
        steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(layout("NHWC"))
        steps.input().model().set_layout(layout("NCHW"))
        (
            steps.input()
            .preprocess()
            .convert_element_type(openvino.Type.f32)
            .mean([255 * value for value in self._preprocess.mean])
            .scale([255 * value for value in self._preprocess.std])
        )
        return steps.build()

    def by_torch(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Torch's vectors of preprocessed images, float32 (n, dim)."""
        import torch

        normal = (inputs / 255 - self._preprocess.mean) / self._preprocess.std
        batch = torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32))
        with torch.inference_mode():
            vectors: NDArray[np.float32] = self._encode(batch).numpy()
        return vectors

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self._network.encode_image(pixels, normalize=False)
        return vectors


class TextTower:
    """A text tower to be exported.

    Args:
        network: open_clip's model with its text tower, float32 on the CPU.
        tokenizer: CLIP's, for the probe.
    """

    def __init__(self, network: Any, tokenizer: ClipTokenizer) -> None:
        self._network = network
        self.probe = text_probe(tokenizer)

    def convert(self, openvino: Any) -> Any:
        """An openvino.Model: int64 (n, length) -> float32 (n, dim)."""
        import torch

        with quiet(), torch.inference_mode():
            return openvino.convert_model(
                _module(self._encode),
                example_input=torch.from_numpy(self.probe[0]).repeat(2, 1),
                input=[openvino.PartialShape([-1, -1])],
            )

    def by_torch(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Torch's vectors of token numbers, float32 (n, dim)."""
        import torch

        with torch.inference_mode():
            vectors: NDArray[np.float32] = self._encode(torch.from_numpy(inputs)).numpy()
        return vectors

    def _encode(self, tokens: torch.Tensor) -> torch.Tensor:
        with taking(self._network, tokens.shape[1]):  # symbolic while it is traced: any length
            vectors: torch.Tensor = self._network.encode_text(tokens, normalize=False)
        return vectors


def open_image_graph(
    key: str, precision: Precision, preprocess: Preprocess, load: Callable[[], Model]
) -> openvino.Graph:
    """The graph of an image tower, from the disk or, exported, from the model.

    Args:
        key, precision: as for `openvino.load`.
        preprocess: the model's.
        load: the model with its image tower, float32 on the CPU.

    Raises:
        openvino.GraphError: there is none.
    """
    found = openvino.load(key, precision, lambda: image_probe(preprocess))
    if found is None:
        model = load()
        found = openvino.export(key, precision, ImageTower(model.network, model.preprocess))
    return found


def open_text_graph(
    key: str,
    precision: Precision,
    make_tokenizer: Callable[[], ClipTokenizer],
    load: Callable[[], Model],
) -> openvino.Graph:
    """As `open_image_graph`, for a text tower.

    Raises:
        openvino.GraphError: there is none.
        ImportError, OSError, EOFError: the tokenizer cannot be made.
    """
    # Its vocabulary takes as long as the graph, and is read beside it.
    with ThreadPoolExecutor(1, thread_name_prefix="clipcls-tokenizer") as beside:
        probe = beside.submit(lambda: text_probe(make_tokenizer())[0])
        found = openvino.load(key, precision, probe.result)
    if found is not None:
        return found
    if not openvino.can_be_kept():  # exporting takes longer than a few texts by torch
        raise openvino.GraphError("it could not be kept")
    model, tokenizer = load(), make_tokenizer()
    if not tokenizer.agrees_with(model.tokenizer):
        raise openvino.GraphError("its tokenizer is not CLIP's")
    if sees_padding(model.network, tokenizer):
        raise openvino.GraphError("its text tower sees padding")
    return openvino.export(key, precision, TextTower(model.network, tokenizer))


def image_probe(preprocess: Preprocess) -> NDArray[np.uint8]:
    """Four images of noise, smooth and sharp: blocks of 16, 1, 4 and 32 pixels."""
    rng = np.random.default_rng(0)
    height, width = preprocess.height, preprocess.width
    images = []
    for side in (16, 1, 4, 32):
        blocks = rng.integers(0, 256, (-(-height // side), -(-width // side), 3), np.uint8)
        images.append(blocks.repeat(side, axis=0).repeat(side, axis=1)[:height, :width])
    return np.stack(images)


def text_probe(tokenizer: ClipTokenizer) -> list[NDArray[np.int64]]:
    """Token numbers of a short text alone, and of it beside one as long as the model reads."""
    tokens = tokenizer(_PROBE_TEXTS)
    length = int(tokens[0].argmax()) + 1  # the end of text has the highest number
    return [tokens[:1, :length], tokens]


def sees_padding(network: Any, tokenizer: ClipTokenizer) -> bool:
    """Whether a text's vector depends on more of its tokens than the text itself has."""
    import torch

    tokens = torch.from_numpy(tokenizer(_SHORT_TEXTS))
    return not torch.equal(needed_lengths(network, tokens), tokens.argmax(dim=1) + 1)


def _module(encode: Callable[[torch.Tensor], torch.Tensor]) -> torch.nn.Module:
    """A function as a module, which is what can be traced."""
    import torch

    class Module(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return encode(inputs)

    return Module().eval()
