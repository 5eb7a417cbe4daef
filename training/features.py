"""Runs the frozen backbone once over photos, some of them in several views.

Usage: features.py OUT.pt FOLDER:COUNT:CROPS:STYLES:SURFACES... Of each folder at most COUNT photos
are drawn with a fixed seed. Each gives its own features, those of CROPS random crops (one in six a
close-up), those of STYLES pictures of the whole, as somebody might have drawn, painted or shrunk
it, and those of SURFACES close-ups: a surface rather than a thing. Writes {"paths": [...],
"kinds": [...] ("photo", "crop", "style" or "surface"), "features": float16 (n, 1280)}, in random
order.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import openvino
import torch
from open_clip import image_transform
from PIL import Image, ImageChops, ImageFilter, ImageOps
from torch import Tensor, nn

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


def run(images: Iterable[Callable[[], Image.Image]], batch: int = 32) -> Iterator[Tensor]:
    """Functions that make images -> features, batch by batch, by OpenVINO in float32."""
    shape = openvino.PartialShape([-1, 3, 260, 260])
    example = torch.zeros(2, 3, 260, 260)
    with torch.no_grad():
        graph = openvino.convert_model(Pooled().eval(), example_input=example, input=[shape])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(graph, "CPU", settings)
    todo, ahead = iter(images), deque[list[Future[np.ndarray]]]()
    with ThreadPoolExecutor(2) as pool:
        while True:
            while len(ahead) < 3 and (chunk := list(islice(todo, batch))):
                ahead.append(
                    [pool.submit(lambda make: TRANSFORM(make()).numpy(), x) for x in chunk]
                )
            if not ahead:
                return
            pixels = np.stack([made.result() for made in ahead.popleft()])
            yield torch.from_numpy(compiled(pixels)[0].copy())


def part(image: Image.Image, share: float, dice: random.Random, least: int = 1) -> Image.Image:
    """A rectangle somewhere in a photo, of that share of its area, its sides at least so long."""
    ratio = math.exp(dice.uniform(-0.3, 0.3))  # as in torchvision's RandomResizedCrop
    sides = (
        math.sqrt(share * image.width * image.height * ratio),
        math.sqrt(share * image.width * image.height / ratio),
    )
    width, height = (
        min(whole, max(least, round(side))) for whole, side in zip(image.size, sides, strict=True)
    )
    left, top = dice.randint(0, image.width - width), dice.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def crop(image: Image.Image, dice: random.Random) -> Image.Image:
    """A part of a photo, perhaps mirrored."""
    share = dice.uniform(0.01, 0.1) if dice.random() < 1 / 6 else dice.uniform(0.2, 1)
    image = part(image, share, dice)
    return ImageOps.mirror(image) if dice.random() < 0.5 else image


def surface(image: Image.Image, dice: random.Random) -> Image.Image:
    """What a photo's things are made of, rather than the things: fur, water, cloth, a wall."""
    return part(image, math.exp(dice.uniform(math.log(0.008), math.log(0.12))), dice, least=24)


def style(image: Image.Image, dice: random.Random) -> Image.Image:
    """The whole photo as a drawing, a cartoon, a painting, in odd colours or small."""
    look = dice.choice(["pencil", "lines", "cartoon", "painting", "colours", "small"])
    if look == "small":
        side = dice.randint(32, 96)
        return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    image = ImageOps.contain(image, (300, 300))  # the filters' widths are in pixels of this size
    grey = ImageOps.grayscale(image)
    if look == "pencil":  # colour dodge of the blurred negative
        blurred = np.asarray(grey.filter(ImageFilter.GaussianBlur(dice.uniform(2, 8))), np.float32)
        light = np.asarray(grey, np.float32) * 255 / blurred.clip(1)
        return Image.fromarray(light.clip(0, 255).astype(np.uint8)).convert("RGB")
    limit = dice.randint(180, 240)
    lines = grey.filter(ImageFilter.GaussianBlur(1)).filter(ImageFilter.CONTOUR)
    lines = lines.point([255 * (level > limit) for level in range(256)])
    if look == "lines":
        return lines.convert("RGB")
    if look == "cartoon":
        flat = ImageOps.posterize(image.filter(ImageFilter.MedianFilter(5)), dice.randint(2, 3))
        return ImageChops.darker(flat, lines.convert("RGB"))
    if look == "painting":
        return image.filter(ImageFilter.ModeFilter(dice.choice([5, 7])))
    hue, saturation, value = image.convert("HSV").split()
    hue = ImageChops.add_modulo(hue, Image.new("L", hue.size, dice.randrange(256)))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def view(path: str, kind: str, number: int = 0) -> Image.Image:
    """The photo itself, a crop or a picture of it; depends on nothing but the arguments."""
    image = Image.open(path).convert("RGB")
    if kind == "photo":
        return image
    dice = random.Random(f"{Path(path).name} {kind} {number}")
    return {"crop": crop, "style": style, "surface": surface}[kind](image, dice)


def main(out: Path, sources: list[str]) -> None:
    """Writes the features."""
    todo: list[tuple[str, str, int]] = []
    for source in sources:
        folder, *numbers = source.rsplit(":", 4)
        count, *views = map(int, numbers)
        photos = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
        for photo in random.Random(0).sample(photos, min(count, len(photos))):
            todo.append((str(photo), "photo", 0))
            for kind, several in zip(("crop", "style", "surface"), views, strict=True):
                todo += [(str(photo), kind, number) for number in range(several)]
    random.Random(0).shuffle(todo)
    parts, started = [], time.time()
    for batch in run(partial(view, *item) for item in todo):
        parts.append(batch.half())
        if len(parts) % 50 == 0:
            done = len(parts) * len(parts[0])
            print(f"{done:,} of {len(todo):,}, {done / (time.time() - started):.0f}/s", flush=True)
    paths, kinds = [path for path, _, _ in todo], [kind for _, kind, _ in todo]
    torch.save({"paths": paths, "kinds": kinds, "features": torch.cat(parts)}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
