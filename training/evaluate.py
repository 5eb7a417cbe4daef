"""Measures a model directory and the teacher on labelled folders; never used to choose anything.

Usage: evaluate.py MODEL_DIR WORK NAME=FOLDER... where a class is the last folder of a photo's path
below FOLDER. At most 1,500 photos a set, drawn with a fixed seed; `a photo of a {}.` for the model,
bare labels for the teacher. The backbone's features are kept in WORK/feat-NAME.pt.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from pathlib import Path

import open_clip
import torch
from torch import Tensor
from torch.nn.functional import normalize

from features import run, view
from teacher import Teacher

NOT_CLASSES = {"BACKGROUND_Google"}


def label(folder: str) -> str:
    """A folder's name as a person would write it."""
    return folder.replace("_", " ").replace("-", " ").lower()


def read(folder: Path, kept: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Features, true classes, and the classes' names."""
    if not kept.exists():
        photos = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in {".jpg", ".png"}]
        photos = [p for p in photos if p.parent.name not in NOT_CLASSES]
        names = sorted({p.parent.name for p in photos})
        photos = random.Random(0).sample(photos, min(1500, len(photos)))
        truth = torch.tensor([names.index(p.parent.name) for p in photos])
        features = torch.cat(list(run(partial(view, str(p), "photo") for p in photos)))
        torch.save({"X": features, "y": truth, "names": names}, kept)
    stored = torch.load(kept, weights_only=True)
    return stored["X"], stored["y"], stored["names"]


def main(model: Path, work: Path, sets: list[str]) -> None:
    """Prints a Markdown table."""
    teacher = Teacher.load(work)
    network = open_clip.create_model(f"local-dir:{model}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
    print("| set | photos | classes | teacher | mini |\n|---|---|---|---|---|")
    for item in sets:
        name, folder = item.split("=")
        features, truth, names = read(Path(folder), work / f"feat-{name}.pt")
        words = [label(name) for name in names]
        with torch.inference_mode():
            texts = tokenizer([f"a photo of a {word}." for word in words])
            classes = network.encode_text(texts, normalize=True)
            vectors = normalize(network.visual.head(features))
            given = (vectors @ classes.T).argmax(1)
            wanted = (teacher.images(features) @ teacher.labels(words).T).argmax(1)
        shares = [f"{(found == truth).float().mean():.1%}" for found in (wanted, given)]
        print(f"| {name} | {len(truth):,} | {len(names)} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
