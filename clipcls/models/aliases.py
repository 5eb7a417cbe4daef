"""The models with a short name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipcls.models import hub
from clipcls.models.architectures import quiet, read_architecture

MINI = Path(__file__).parents[1] / "mini"

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_OPENAI = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
_SIGLIP = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Published weights of a built-in architecture."""

    architecture: str
    tag: str
    repo: str
    preprocess: Mapping[str, Any]
    quick_gelu: bool = False
    files: tuple[str, ...] = HUB_FILES

    @property
    def name(self) -> str:
        """The name that `resolve` takes."""
        return f"{self.architecture}/{self.tag}"


@dataclass(frozen=True, slots=True)
class _Alias:
    pretrained: Pretrained
    licence: str  # as its model card says
    parameters: float  # millions; open_clip's docs/model_profile.csv
    imagenet: float  # zero-shot top-1, %; open_clip's docs/openclip_results.csv
    extra: str | None = None


# Written out so that a known model is found without importing open_clip (5 s); a test compares them
# with open_clip.
ALIASES = {
    "fast": _Alias(
        Pretrained(
            "ViT-B-32",
            "datacomp_xl_s13b_b90k",
            "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
            _OPENAI,
        ),
        "MIT",
        parameters=151.28,
        imagenet=69.17,
    ),
    "base": _Alias(
        Pretrained(
            "ViT-B-32-256",
            "datacomp_s34b_b86k",
            "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
            _OPENAI,
        ),
        "MIT",
        parameters=151.29,
        imagenet=72.81,
    ),
    "accurate": _Alias(
        Pretrained(
            "ViT-L-14",
            "datacomp_xl_s13b_b90k",
            "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
            _OPENAI,
        ),
        "MIT",
        parameters=427.62,
        imagenet=79.21,
    ),
    "multilingual": _Alias(
        Pretrained("ViT-B-16-SigLIP-i18n-256", "webli", "timm/ViT-B-16-SigLIP-i18n-256", _SIGLIP),
        "Apache-2.0",
        parameters=370.63,
        imagenet=75.13,
        extra="hf",
    ),
}

HUB_TWINS = {
    **{
        f"openai/clip-vit-{size}": f"ViT-{name}-quickgelu/openai"
        for size, name in (
            ("base-patch32", "B-32"),
            ("base-patch16", "B-16"),
            ("large-patch14", "L-14"),
            ("large-patch14-336", "L-14-336"),
        )
    },
    **{
        f"google/siglip-{size}": f"ViT-{name}/webli"
        for size, name in (
            ("base-patch16-224", "B-16-SigLIP"),
            ("base-patch16-256", "B-16-SigLIP-256"),
            ("base-patch16-384", "B-16-SigLIP-384"),
            ("base-patch16-512", "B-16-SigLIP-512"),
            ("base-patch16-256-multilingual", "B-16-SigLIP-i18n-256"),
            ("large-patch16-256", "L-16-SigLIP-256"),
            ("large-patch16-384", "L-16-SigLIP-384"),
            ("so400m-patch14-224", "SO400M-14-SigLIP"),
            ("so400m-patch14-384", "SO400M-14-SigLIP-384"),
        )
    },
    **{
        f"google/siglip2-{size}": f"ViT-{name}/webli"
        for size, name in (
            ("base-patch32-256", "B-32-SigLIP2-256"),
            ("base-patch16-224", "B-16-SigLIP2"),
            ("base-patch16-256", "B-16-SigLIP2-256"),
            ("base-patch16-384", "B-16-SigLIP2-384"),
            ("base-patch16-512", "B-16-SigLIP2-512"),
            ("large-patch16-256", "L-16-SigLIP2-256"),
            ("large-patch16-384", "L-16-SigLIP2-384"),
            ("large-patch16-512", "L-16-SigLIP2-512"),
            ("so400m-patch14-224", "SO400M-14-SigLIP2"),
            ("so400m-patch14-384", "SO400M-14-SigLIP2-378"),
            ("so400m-patch16-256", "SO400M-16-SigLIP2-256"),
            ("so400m-patch16-384", "SO400M-16-SigLIP2-384"),
            ("so400m-patch16-512", "SO400M-16-SigLIP2-512"),
            ("giant-opt-patch16-256", "gopt-16-SigLIP2-256"),
            ("giant-opt-patch16-384", "gopt-16-SigLIP2-384"),
        )
    },
    **{
        f"facebook/PE-Core-{size}": f"PE-Core-{name}/meta"
        for size, name in (
            ("T16-384", "T-16-384"),
            ("S16-384", "S-16-384"),
            ("B16-224", "B-16"),
            ("L14-336", "L-14-336"),
            ("G14-448", "bigG-14-448"),
        )
    },
}
"""Repositories whose weights OpenCLIP has in its own form: their names there."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A row of `clipcls models`.

    Attributes:
        licence: SPDX identifier of the weights' licence.
        imagenet: published ImageNet-1k zero-shot top-1 accuracy in % (open_clip's
            docs/openclip_results.csv), or None.
        extra: the extra of clipcls that its tokenizer needs, if any.
        present: whether its weights are on this machine.
    """

    alias: str
    name: str
    licence: str
    parameters: float  # millions
    megabytes: int  # of float32 weights
    imagenet: float | None
    image_size: int
    extra: str | None
    present: bool


def list_models() -> list[ModelInfo]:
    """The models with a short name; no network."""
    rows = [ModelInfo("mini", "mini", "Apache-2.0", 34.03, 49, None, 260, None, present=True)]
    for alias, known in ALIASES.items():
        pretrained, megabytes = known.pretrained, round(known.parameters * 4)
        size = read_architecture(pretrained.architecture)["vision_cfg"]["image_size"]
        numbers = known.licence, known.parameters, megabytes, known.imagenet, size, known.extra
        present = hub.cached(pretrained.repo, *pretrained.files) is not None
        rows.append(ModelInfo(alias, pretrained.name, *numbers, present))
    return rows


@dataclass(frozen=True, slots=True)
class PretrainedInfo:
    """Published weights of OpenCLIP.

    Attributes:
        name: what `resolve` takes.
        repo: their repository on the Hugging Face hub; None if they are elsewhere.
        present: whether they are on this machine.
    """

    name: str
    repo: str | None
    present: bool


def list_pretrained(search: str = "") -> list[PretrainedInfo]:
    """The published weights whose name or repository contains a text; imports open_clip."""
    with quiet():
        from open_clip import get_pretrained_cfg
        from open_clip import list_pretrained as list_all
    found = []
    for architecture, tag in list_all():
        repo = get_pretrained_cfg(architecture, tag).get("hf_hub", "").rpartition("/")[0] or None
        if search.casefold() in f"{architecture}/{tag} {repo}".casefold():
            present = repo is not None and hub.cached(repo, *HUB_FILES) is not None
            found.append(PretrainedInfo(f"{architecture}/{tag}", repo, present))
    return found


def model_names() -> list[str]:
    """The short names of models, followed by their full names; reads no file."""
    return ["auto", "mini", *ALIASES, *(known.pretrained.name for known in ALIASES.values())]
