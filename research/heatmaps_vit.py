"""Which heat map is faithful for a vision transformer, where the evidence is known.

    python research/heatmaps_vit.py [--steps 300] [--images 40]

No trained ViT of CLIP is at hand, so a small one (open_clip's VisionTransformer: 64 pixels, patches
of 8, 4 blocks) is trained on boxes of six hues among grey boxes, on noise; the hue decides on the
class. Maps are compared as in `heatmaps.py`; `inside` and `peak` are of the box.
research/heatmaps.md has results.
"""

from __future__ import annotations

import argparse
import colorsys
from collections import defaultdict

import numpy as np
import torch
from heatmaps import FILLS, Test, log_odds, occlusions, priors
from open_clip.transformer import VisionTransformer

SIDE, PATCH, BOX, SCALE = 64, 8, 18, 20.0
HUES = np.array([colorsys.hsv_to_rgb(n / 6, 0.8, 0.9) for n in range(6)])


def scenes(rng, count):
    """Pictures uint8 (n, side, side, 3), their classes, and places, bool (n, side, side)."""
    pictures = rng.normal(128, 25, (count, SIDE, SIDE, 3))
    labels = rng.integers(0, len(HUES), count)
    places = np.zeros((count, SIDE, SIDE), bool)
    for number, label in enumerate(labels):
        for kind in ("grey", "grey", "grey", "hue"):  # the last lies on top
            y, x = rng.integers(0, SIDE - BOX, 2)
            box = (slice(y, y + BOX), slice(x, x + BOX))
            colour = HUES[label] if kind == "hue" else rng.uniform(0.1, 0.9) * np.ones(3)
            noise = rng.normal(0, 10, (BOX, BOX, 3))
            pictures[number][box] = 255 * colour * rng.uniform(0.6, 1) + noise
            if kind == "hue":
                places[number][box] = True
    return np.clip(pictures, 0, 255).astype(np.uint8), labels, places


def trained(steps):
    """The tower, and the classes' unit vectors."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tower = VisionTransformer(SIDE, PATCH, width=64, layers=4, heads=4, mlp_ratio=2, output_dim=32)
    words = torch.nn.Parameter(torch.randn(len(HUES), 32))
    optimizer = torch.optim.AdamW([*tower.parameters(), words], 1e-3)
    for step in range(steps):
        pictures, labels, _ = scenes(rng, 48)
        unit = torch.nn.functional.normalize
        logits = SCALE * unit(tower(_batch(pictures)), dim=-1) @ unit(words, dim=-1).T
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 49:
            hits = (logits.argmax(1).numpy() == labels).mean()
            print(f"step {step + 1}: loss {float(loss.detach()):.3f}, right {hits:.0%}", flush=True)
    text = torch.nn.functional.normalize(words, dim=-1).detach().numpy()
    return tower.eval().requires_grad_(False), text


def _batch(pictures):
    return torch.from_numpy(np.asarray(pictures).transpose(0, 3, 1, 2) / 255 - 0.5).float()


class Inside:
    """Maps that look into the tower."""

    def __init__(self, tower) -> None:
        self._tower = tower
        self._kept: list[dict[str, torch.Tensor]] = []
        for block in tower.transformer.resblocks:
            block.attention = lambda q_x, block=block, **_: self._attention(block.attn, q_x)

    def _attention(self, layer, x):
        """nn.MultiheadAttention with its weights at hand."""
        n, length, width = x.shape
        parts = torch.nn.functional.linear(x, layer.in_proj_weight, layer.in_proj_bias)
        heads = parts.view(n, length, 3, layer.num_heads, width // layer.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        values = v.transpose(1, 2).reshape(n, length, width)
        self._kept.append({"tokens": x, "weights": weights, "values": layer.out_proj(values)})
        return layer.out_proj((weights @ v).transpose(1, 2).reshape(n, length, width))

    def __call__(self, pixels, text, scale, numbers):
        """Maps of several classes, name -> list of (h, w)."""
        tower, words = self._tower, torch.from_numpy(text)
        found = defaultdict(list)
        for number in numbers:
            self._kept.clear()
            x = tower._embeds(_batch([pixels]).requires_grad_(True))
            targets = []
            for block in tower.transformer.resblocks:
                x = block(x)
                targets.append(self._odds(x, words, scale, number))
            grads = [
                torch.autograd.grad(t, kept["weights"], retain_graph=True)[0][0]
                for t, kept in zip(targets, self._kept, strict=True)
            ]
            found["LeGrad"].append(sum(g.relu().mean(0)[0, 1:] for g in grads))
            last = [kept["weights"] for kept in self._kept]
            relevance = torch.eye(x.shape[1])
            for slope, weights in zip(
                torch.autograd.grad(targets[-1], last, retain_graph=True), last, strict=True
            ):
                relevance = relevance + (slope[0] * weights[0]).relu().mean(0) @ relevance
            found["attention x gradient"].append(relevance[0, 1:].detach())
            tokens = self._kept[-1]["tokens"]
            slope = torch.autograd.grad(targets[-1], tokens, retain_graph=True)[0]
            found["gradient x token"].append((slope * tokens)[0].sum(-1)[1:].detach())
            values = tower.ln_post(self._kept[-1]["values"]) @ tower.proj
            logits = scale * torch.nn.functional.normalize(values[0, 1:], dim=-1) @ words.T
            odds = log_odds(logits.detach().numpy(), number)
            found["value similarity"].append(torch.from_numpy(odds))
        grid = SIDE // PATCH
        return {n: [m.numpy().reshape(grid, grid) for m in maps] for n, maps in found.items()}

    def _odds(self, x, words, scale, number):
        pooled, _ = self._tower._pool(x)
        vector = torch.nn.functional.normalize(pooled @ self._tower.proj, dim=-1)[0]
        logits = scale * words @ vector
        rest = torch.cat([logits[:number], logits[number + 1 :]])
        return logits[number] - rest.logsumexp(0)


def main() -> None:
    """Trains and compares."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=40)
    options = parser.parse_args()
    tower, text = trained(options.steps)

    def encode(views):
        with torch.inference_mode():
            vectors = tower(_batch(np.stack(views)))
        return torch.nn.functional.normalize(vectors, dim=-1).numpy()

    test = Test(
        encode, [priors(0), Inside(tower), *(occlusions(encode, 7, hide) for hide in FILLS)]
    )
    pictures, labels, places = scenes(np.random.default_rng(1), options.images)
    for picture, label, place in zip(pictures, labels, places, strict=True):
        test.deletion(picture, text, SCALE)
        test.pointing(picture, text, SCALE, [int(label)], [place])
    test.show()


if __name__ == "__main__":
    main()
