"""Takes a part of what a stage has changed: weights between those before it and those after.

Usage: blend.py WORK BEFORE.pt SHARE. Makes WORK/towers.pt, which a stage has written, (1 - SHARE)
times BEFORE.pt (a copy of it from before the stage) plus SHARE times itself.

What a model knew before fine-tuning and what it learned by it are both kept better between the two
than at either end (WiSE-FT, arXiv 2109.01903).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch


def main(work: Path, before: Path, share: float) -> None:
    """Writes the blend."""
    old, new = (
        torch.load(x, weights_only=True, map_location="cpu") for x in (before, work / "towers.pt")
    )
    blend = {
        part: {
            name: torch.lerp(old[part][name].float(), tensor.float(), share).half()
            for name, tensor in tensors.items()
        }
        for part, tensors in new.items()
    }
    torch.save(blend, work / "towers.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
