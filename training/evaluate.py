"""Measures a model directory and the teacher on labelled folders; never used to choose anything.

Usage: evaluate.py MODEL_DIR NAME=FOLDER... where a class is the last folder of a photo's path
below FOLDER. At most 1,500 photos a set, drawn with a fixed seed; `a photo of a {}.` for both.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch.nn.functional import normalize

from teacher import Teacher, backbone

NOT_CLASSES = {"BACKGROUND_Google"}


def label(folder: str) -> str:
    """A folder's name as a person would write it."""
    return folder.replace("_", " ").replace("-", " ").lower()


def measure(model: Path, folder: Path, teacher: Teacher, trunk: torch.nn.Module) -> str:
    """One row of the table: photos, classes, top-1 of the teacher and of the model."""
    network, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    network.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
    photos = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in {".jpg", ".png"}]
    photos = [p for p in photos if p.parent.name not in NOT_CLASSES]
    names = sorted({p.parent.name for p in photos})
    photos = random.Random(0).sample(photos, min(1500, len(photos)))
    truth = torch.tensor([names.index(p.parent.name) for p in photos])
    words = [label(name) for name in names]
    features, images = [], []
    with torch.inference_mode():
        for start in range(0, len(photos), 50):
            batch = torch.stack(
                [transform(Image.open(p).convert("RGB")) for p in photos[start : start + 50]]
            )
            pooled = trunk.global_pool(trunk.forward_features(batch))
            features.append(teacher.images(pooled))
            images.append(normalize(network.visual.head(pooled)))
        weights = normalize(network.encode_text(tokenizer([f"a photo of a {w}." for w in words])))
        rows = []
        for vectors, classes in ((features, teacher.labels(words)), (images, weights)):
            right = (torch.cat(vectors) @ classes.T).argmax(1) == truth
            rows.append(f"{right.float().mean():.1%}")
    return f"{len(photos):,} | {len(names)} | {rows[0]} | {rows[1]}"


def main(model: Path, sets: list[str]) -> None:
    """Prints a Markdown table."""
    teacher, trunk = Teacher(), backbone()
    print("| set | photos | classes | teacher | mini |\n|---|---|---|---|---|")
    for item in sets:
        name, folder = item.split("=")
        print(f"| {name} | {measure(model, Path(folder), teacher, trunk)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
