"""Runs the frozen backbone once over photos, some of them in several views.

Usage: features.py OUT.pt FOLDER:COUNT:VIEWS... Of each folder at most COUNT photos are drawn with a
fixed seed. The first view of a photo is the model's own; the others are random crops, flipped,
shrunk or filtered, so that the head also meets small pictures, drawings and odd details. Writes
{"paths": [...], "views": [...], "features": float16 (n, 1280)}, in random order.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import openvino
import torch
from open_clip import image_transform
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop

from teacher import backbone

HALF = (0.5, 0.5, 0.5)
TRANSFORM = image_transform(260, is_train=False, mean=HALF, std=HALF)
SUFFIXES = {".jpg", ".jpeg", ".png"}


class Pooled(nn.Module):
    """The backbone up to its pooled features (n, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = backbone()

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, 260, 260) -> features (n, 1280)."""
        return self.trunk.global_pool(self.trunk.forward_features(images))


def run(images: Iterable[Image.Image], batch: int = 32) -> Iterator[Tensor]:
    """Images -> features, batch by batch, by OpenVINO in float32."""
    shape = openvino.PartialShape([-1, 3, 260, 260])
    example = torch.zeros(2, 3, 260, 260)
    with torch.no_grad():
        graph = openvino.convert_model(Pooled().eval(), example_input=example, input=[shape])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(graph, "CPU", settings)
    pixels = (TRANSFORM(image).numpy() for image in images)
    while chunk := list(islice(pixels, batch)):
        yield torch.from_numpy(compiled(np.stack(chunk))[0].copy())


def view(path: str, number: int) -> Image.Image:
    """The photo itself (0) or a random view of it, which only depends on path and number."""
    image = Image.open(path).convert("RGB")
    if number == 0:
        return image
    dice = random.Random(f"{Path(path).name} {number}")
    torch.manual_seed(dice.getrandbits(32))
    top, left, height, width = RandomResizedCrop.get_params(image, (0.2, 1.0), (0.75, 1.33))
    image = image.crop((left, top, left + width, top + height))
    if dice.random() < 0.5:
        image = ImageOps.mirror(image)
    look = dice.random()
    if look < 0.2:
        side = dice.randint(32, 128)
        return image.resize((side, side), Image.Resampling.BICUBIC)
    if look < 0.3:
        return ImageOps.grayscale(image).convert("RGB")
    if look < 0.4:
        return ImageOps.grayscale(image).filter(ImageFilter.CONTOUR).convert("RGB")
    if look < 0.5:
        return ImageOps.posterize(image.filter(ImageFilter.MedianFilter(7)), 3)
    return image


def main(out: Path, sources: list[str]) -> None:
    """Writes the features."""
    todo: list[tuple[str, int]] = []
    for source in sources:
        folder, count, views = source.rsplit(":", 2)
        photos = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
        photos = random.Random(0).sample(photos, min(int(count), len(photos)))
        todo += [(str(photo), number) for photo in photos for number in range(int(views))]
    random.Random(0).shuffle(todo)
    parts, started = [], time.time()
    for part in run(view(*item) for item in todo):
        parts.append(part.half())
        if len(parts) % 50 == 0:
            done = len(parts) * len(parts[0])
            print(f"{done:,} of {len(todo):,}, {done / (time.time() - started):.0f}/s", flush=True)
    paths, views = [path for path, _ in todo], [number for _, number in todo]
    torch.save({"paths": paths, "views": views, "features": torch.cat(parts)}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
