"""Puts the parts together: an OpenCLIP model directory, in half precision, token vectors in 8 bits.

Usage: export.py WORK OUT. Reads WORK/towers.pt and WORK/train.pt; writes open_clip_config.json and
open_clip_model.safetensors into OUT. open_clip copies whatever type the file has into its own, so
float8 (e4m3: 3 bits of mantissa) needs nothing else to be read.

The logit scale is the one that makes the softmax over mini-ImageNet's 100 class names fit best
(least negative log-likelihood) on training photos.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from teacher import backbone, read_wordnet

HERE = Path(__file__).parent
TOKENS = "token_embedding.weight"
FACTOR = 16  # token vectors have a spread of 0.05, and float8's steps are even below 0.016


def fit_scale(network: torch.nn.Module, work: Path) -> float:
    """The logit scale of least negative log-likelihood on labelled training photos."""
    stored = torch.load(work / "train.pt", weights_only=True)
    found = [
        re.search(r"mini-imagenet.*/n(\d{8})", path) if kind == "photo" else None
        for path, kind in zip(stored["paths"], stored["kinds"], strict=True)
    ]
    kept = [i for i, match in enumerate(found) if match]
    wnids = [match[1] for match in found if match]
    names = sorted(set(wnids))
    lemmas, _ = read_wordnet()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    with torch.inference_mode():
        texts = [f"a photo of a {lemmas[name][0]}." for name in names]
        weights = normalize(network.encode_text(tokenizer(texts)))
        images = normalize(network.visual.head(stored["features"][kept].float()))
        cosines = images @ weights.T
        truth = torch.tensor([names.index(wnid) for wnid in wnids])
        print(f"{len(kept):,} photos, {(cosines.argmax(1) == truth).float().mean():.1%} right")
        scales = torch.arange(1.0, 101.0)
        losses = torch.stack([cross_entropy(scale * cosines, truth) for scale in scales])
    return float(scales[losses.argmin()])


def magnified(text: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text tower with FACTOR times the residual stream.

    Layer norms take the factor out again, but for their epsilon's share.
    """
    written = (TOKENS, "positional_embedding")
    return {
        name: FACTOR * tensor
        if name in written or ".attn.out_proj." in name or ".mlp.c_proj." in name
        else tensor
        for name, tensor in text.items()
    }


def main(work: Path, out: Path) -> None:
    """Writes the model directory."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "open_clip_config.json", out)
    config = json.loads((HERE / "open_clip_config.json").read_text())["model_cfg"]
    config.pop("custom_text")
    network = open_clip.CustomTextCLIP(**config).eval()
    trunk = backbone().state_dict()
    network.visual.trunk.load_state_dict(
        {name: tensor for name, tensor in trunk.items() if not name.startswith("classifier")}
    )
    towers = torch.load(work / "towers.pt", weights_only=True, map_location="cpu")
    network.visual.head.mlp.load_state_dict(towers["head"])
    text = magnified({name: tensor.float() for name, tensor in towers["text"].items()})
    text[TOKENS] = text[TOKENS].to(torch.float8_e4m3fn)
    network.text.load_state_dict(text, strict=False)
    scale = fit_scale(network, work)
    print(f"logit scale {scale}")
    with torch.no_grad():
        network.logit_scale.fill_(math.log(scale))
    tensors: dict[str, Tensor] = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous()
        for name, tensor in network.state_dict().items()
    }
    tensors[f"text.{TOKENS}"] = text[TOKENS]
    tensors["logit_scale"] = network.logit_scale.detach()
    save_file(tensors, out / "open_clip_model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
