"""Runs the backbone once over folders of images.

Usage: features.py OUT.pt COUNT FOLDER... Writes {"paths": [...], "features": float16 (n, 1280)} of
at most COUNT images, drawn at random with a fixed seed.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import torch
from open_clip import image_transform
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from teacher import backbone


class Photos(Dataset[torch.Tensor]):
    """Image files as the model sees them."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        half = (0.5, 0.5, 0.5)
        self.transform = image_transform(260, is_train=False, mean=half, std=half)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def main(out: Path, count: int, folders: list[Path]) -> None:
    """Writes the features."""
    suffixes = {".jpg", ".jpeg", ".png"}
    paths = sorted(p for f in folders for p in f.rglob("*") if p.suffix.lower() in suffixes)
    paths = random.Random(0).sample(paths, min(count, len(paths)))
    network = backbone().to(memory_format=torch.channels_last)
    parts, started = [], time.time()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for batch in DataLoader(Photos(paths), 64, num_workers=0):
            batch = batch.contiguous(memory_format=torch.channels_last)
            parts.append(network.global_pool(network.forward_features(batch)).half())
            if len(parts) % 20 == 0:
                print(
                    f"{len(parts) * 64:,} {len(parts) * 64 / (time.time() - started):.0f}/s",
                    flush=True,
                )
    torch.save({"paths": [str(p) for p in paths], "features": torch.cat(parts)}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [Path(p) for p in sys.argv[3:]])
