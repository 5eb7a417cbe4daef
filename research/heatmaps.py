"""Which heat map is faithful: deletion, insertion and pointing, several ways side by side.

    python research/heatmaps.py NAME.npz... [--images 12] [--mosaics 6] [--model mini]

A file has the arrays paths (n,), labels (n,), vectors (n, dim), text (n_classes, dim) and scale. An
image's map is of the log-odds of its answer among the file's classes. All maps are brought to 9 x 9
places first. Printed, mean over images and standard error of the difference to a random map:

    hide 10/20/50  fall of the log-odds with the hottest 10, 20, 50 % painted in the mean colour
    keep 20        log-odds with all but the hottest 20 % blurred
    inside         share of the heat (what is above 0) in the right quarter of a mosaic of four
                   photos of different classes that are each answered rightly, asked for each of
                   its classes (chance: 25)
    peak           share of the maps whose hottest point lies there

research/heatmaps.md has results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from clipcls.classification.occlusion import make_masks
from clipcls.data.images import decode_image, read_bytes
from clipcls.models import loading
from clipcls.models.backend import Backend
from clipcls.models.encoder import open_encoder
from clipcls.numerics import unit_rows


def log_odds(logits, number):
    """Of one class against all others together, (..., n_classes) -> (...)."""
    others = np.delete(logits, number, axis=-1)
    highest = others.max(axis=-1, keepdims=True)
    total = highest[..., 0] + np.log(np.exp(others - highest).sum(axis=-1))
    return logits[..., number] - total


def blurred(pixels):
    """An image without its details, uint8 (height, width, 3) both."""
    radius = pixels.shape[0] / 10
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def resized(heat, height, width):
    """A map at another size, float32 (height, width)."""
    image = Image.fromarray(np.asarray(heat, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def coarse(heat, height, width):
    """A map of 9 x 9 places, at the size of the image: scattered holes alone would lower scores."""
    image = Image.fromarray(np.asarray(heat, np.float32))
    return resized(image.resize((9, 9), Image.Resampling.BOX), height, width)


class Gradients:
    """Maps from one pass forward and one back through a convolutional trunk of timm."""

    def __init__(self, encoder) -> None:
        self._network = loading.load(encoder.source, tower="image").network
        self._preprocess = encoder._preprocess
        trunk = self._network.visual.trunk
        self._kept = {}
        stages = {"stride 8": trunk.blocks[2], "stride 16": trunk.blocks[4], "last": trunk.bn2}
        for name, module in stages.items():
            module.register_forward_hook(lambda _m, _i, out, name=name: self._keep(name, out))

    def _keep(self, name, out):
        out.retain_grad()
        self._kept[name] = out

    def __call__(self, pixels, text, scale, numbers):
        """Maps of several classes, name -> list of (h, w)."""
        import torch

        normal = (pixels / 255 - self._preprocess.mean) / self._preprocess.std
        batch = torch.from_numpy(normal.transpose(2, 0, 1)[None].astype(np.float32))
        batch.requires_grad_(True)
        vector = torch.nn.functional.normalize(self._network.encode_image(batch), dim=-1)[0]
        logits = scale * (torch.from_numpy(text) @ vector)
        found = defaultdict(list)
        for number in numbers:
            rest = torch.cat([logits[:number], logits[number + 1 :]])
            tensors = [*self._kept.values(), batch]
            target = logits[number] - rest.logsumexp(0)
            grads = torch.autograd.grad(target, tensors, retain_graph=True)
            parts = {}
            for name, values, slopes in zip([*self._kept, "input"], tensors, grads, strict=True):
                values, slopes = values[0].detach(), slopes[0]
                parts[name] = (slopes * values).sum(0).numpy()
                found[f"gradient x activation, {name}"].append(parts[name])
            last, middle = (
                resized(parts[n], *parts["stride 16"].shape) for n in ("last", "stride 16")
            )
            both = last / np.abs(last).max() + middle / np.abs(middle).max()
            found["gradient x activation, both"].append(both)
        return found


def mean_colour(pixels):
    """An image of its mean colour, uint8 (height, width, 3) both."""
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return np.broadcast_to(np.rint(mean).astype(np.uint8), pixels.shape)


def occlusions(encode, size, hide=mean_colour):
    """Maps by hiding: `clipcls.classification.occlusion` with size x size places."""

    def maps(pixels, text, scale, numbers):
        masks = make_masks(*pixels.shape[:2], size)
        hidden = hide(pixels)
        views = [pixels, *(_mix(pixels, hidden, mask) for mask in masks)]
        logits = scale * encode(views).astype(np.float64) @ text.T
        found = []
        for number in numbers:
            values = log_odds(logits, number)
            falls = values[0] - values[1:]
            found.append(np.tensordot(falls, masks, 1) / masks.sum(axis=0))
        return {f"occlusion, {size} x {size}, {hide.__name__}": found}

    return maps


FILLS = (mean_colour, blurred)


def _mix(pixels, hidden, mask):
    share = mask[..., None]
    return np.rint(pixels * (1 - share) + hidden * share).astype(np.uint8)


def priors(seed):
    """What knows nothing of the image: random smooth maps, and the middle."""
    rng = np.random.default_rng(seed)

    def maps(pixels, text, scale, numbers):
        y, x = (np.linspace(-1, 1, n) for n in pixels.shape[:2])
        middle = -(y[:, None] ** 2) - x[None] ** 2
        return {
            "random": [rng.normal(size=(9, 9)) for _ in numbers],
            "middle": [middle - middle.min() for _ in numbers],
        }

    return maps


class Test:
    """Collects figures of maps, name -> figure -> a value an image."""

    def __init__(self, encode: Callable, ways: Sequence[Callable]) -> None:
        self._encode, self._ways = encode, ways
        self.figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def resume(self, file: Path) -> None:
        """Goes on from the figures of earlier runs."""
        if file.exists():
            before = json.loads(file.read_text())
            for name, figures in before["figures"].items():
                self.figures[name].update(figures)
            self.seconds.update(before["seconds"])

    def keep(self, file: Path) -> None:
        """Writes all figures."""
        kept = {"figures": self.figures, "seconds": self.seconds}
        file.write_text(json.dumps(kept, default=float))

    def _maps(self, pixels, text, scale, numbers):
        for way in self._ways:
            start = time.perf_counter()
            found = way(pixels, text, scale, numbers)
            spent = (time.perf_counter() - start) / len(numbers)
            for name, maps in found.items():
                self.seconds[name].append(spent)
                yield name, [coarse(heat, *pixels.shape[:2]) for heat in maps]

    def deletion(self, pixels, text, scale):
        """Hides and keeps what is hottest for the image's answer."""
        before = scale * self._encode([pixels]).astype(np.float64) @ text.T
        number = int(before[0].argmax())
        start = log_odds(before[0], number)
        mean = np.broadcast_to(pixels.mean(axis=(0, 1)).round().astype(np.uint8), pixels.shape)
        views, names = [], []
        for name, (heat,) in self._maps(pixels, text, scale, [number]):
            order = np.argsort(-heat, axis=None, kind="stable").argsort().reshape(heat.shape)
            rank = order[..., None] / heat.size
            views += [np.where(rank < share, mean, pixels) for share in (0.1, 0.2, 0.5)]
            views.append(np.where(rank < 0.2, pixels, blurred(pixels)))
            names.append(name)
        values = log_odds(scale * self._encode(views).astype(np.float64) @ text.T, number)
        for name, (ten, twenty, fifty, kept) in zip(names, values.reshape(-1, 4), strict=True):
            figures = self.figures[name]
            for share, value in (("10", ten), ("20", twenty), ("50", fifty)):
                figures[f"hide {share}"].append(start - value)
            figures["keep 20"].append(kept)

    def pointing(self, mosaic, text, scale, numbers, places):
        """Where the heat of each class lies; `places` are bool (n, height, width)."""
        for name, maps in self._maps(mosaic, text, scale, numbers):
            for heat, place in zip(maps, places, strict=True):
                hot = np.maximum(heat, 0)
                self.figures[name]["inside"].append(
                    100 * (hot * place).sum() / max(hot.sum(), 1e-9)
                )
                self.figures[name]["peak"].append(100 * place.flat[heat.argmax()])

    def show(self) -> None:
        """Prints the table."""
        columns = ("hide 10", "hide 20", "hide 50", "keep 20", "inside", "peak")
        print(f"{'':32}" + "".join(f"{c:>15}" for c in columns) + f"{'s':>8}")
        for name, figures in self.figures.items():
            cells = []
            for column in columns:
                values = np.array(figures.get(column, [np.nan]))
                other = np.array(self.figures["random"].get(column, [np.nan]))
                error = (
                    (values - other).std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0
                )
                cells.append(f"{values.mean():8.2f} ±{error:5.2f}")
            print(f"{name:32}" + "".join(cells) + f"{np.median(self.seconds[name]):8.3f}")


def photos(files: Sequence[str], model: str, images: int, mosaics: int, keep: Path | None) -> None:
    """The comparison on photos."""
    encoder = open_encoder(model, backend=Backend(precision="fp32"))

    def encode(views):
        return encoder.encode_images(list(views))

    test = Test(
        encode, [priors(0), Gradients(encoder), *(occlusions(encode, 7, hide) for hide in FILLS)]
    )
    if keep:
        test.resume(keep)
    for file in files:
        data = np.load(file)
        text, scale = unit_rows(data["text"]), float(data["scale"])
        order = np.random.default_rng(0).permutation(len(data["paths"]))
        for row in order[:images]:
            test.deletion(
                encoder.preprocess(decode_image(read_bytes(str(data["paths"][row])))), text, scale
            )
            if keep:
                test.keep(keep)
        is_right = (data["vectors"] @ text.T).argmax(axis=1) == data["labels"]
        rest = iter(row for row in order[images:] if is_right[row])
        for _ in range(mosaics):
            chosen: dict[int, int] = {}
            while len(chosen) < 4:
                row = next(rest)
                chosen.setdefault(int(data["labels"][row]), row)
            numbers = list(chosen)
            tiles = [
                Image.fromarray(
                    encoder.preprocess(decode_image(read_bytes(str(data["paths"][row]))))
                )
                for row in chosen.values()
            ]
            width, height = tiles[0].size
            canvas = Image.new("RGB", (2 * width, 2 * height))
            places = np.zeros((4, height, width), bool)
            for n, tile in enumerate(tiles):
                y, x = divmod(n, 2)
                canvas.paste(tile, (x * width, y * height))
                half = slice(y * height // 2, (y + 1) * height // 2)
                places[n, half, x * width // 2 : (x + 1) * width // 2] = True
            mosaic = np.asarray(canvas.resize((width, height), Image.Resampling.BICUBIC))
            # Among its four classes alone: which of them, not which of all.
            test.pointing(mosaic, text[numbers], scale, range(4), places)
            if keep:
                test.keep(keep)
    test.show()


def main() -> None:
    """Reads the options and compares."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--mosaics", type=int, default=6)
    parser.add_argument("--keep", type=Path, help="add to the figures of this file")
    options = parser.parse_args()
    photos(options.files, options.model, options.images, options.mosaics, options.keep)


if __name__ == "__main__":
    main()
