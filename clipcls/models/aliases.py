"""The models with a short name."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipcls.models import hub
from clipcls.models.architectures import fold, require_torch
from clipcls.models.licences import find_licence

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
class ModelInfo:
    """A row of `clipcls models`.

    Attributes:
        name: its full name, which `resolve` takes.
        use: what it is for.
        licence: of its weights, as its model card says.
        parameters: in millions.
        megabytes: of its weights.
        imagenet: published ImageNet-1k zero-shot top-1 accuracy in %, or None; the sources are in
            docs/evidence/models.md.
        image_size: pixels per side.
        speed: images per second of its image tower in float32 on a CPU, as multiples of `base`
            (benchmarks/models.py).
        speed_bf16: the same in bfloat16, as multiples of `base` in float32.
        extra: the extra of clipcls that its text tower needs, if any.
        present: whether its weights are on this machine.
    """

    alias: str
    name: str
    use: str
    licence: str
    parameters: float
    megabytes: int
    imagenet: float | None
    image_size: int
    speed: float
    speed_bf16: float
    extra: str | None = None
    present: bool = True


# Written out so that a known model is found without importing open_clip (5 s); a test compares them
# with open_clip.
PRETRAINED = {
    known.name: known
    for known in (
        Pretrained(
            "ViT-B-32-256",
            "datacomp_s34b_b86k",
            "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
            _OPENAI,
        ),
        *(
            Pretrained(f"ViT-{size}", "webli", f"timm/ViT-{size}", _SIGLIP)
            for size in ("B-16-SigLIP2-256", "L-16-SigLIP2-256", "SO400M-16-SigLIP2-384")
        ),
    )
}

# fmt: off
ALIASES = {
    row[0]: ModelInfo(*row)
    for row in (
        # alias, name, use, licence, millions of parameters, MB, ImageNet, pixels, speeds, extra
        ("mini", "mini", "trying things out", "MIT AND Apache-2.0",
         34.03, 49, None, 260, 18.2, 18.2),
        ("fast", "ViT-B-32-256/datacomp_s34b_b86k", "many images", "MIT",
         151.29, 605, 72.8, 256, 3.62, 7.05),
        ("base", "ViT-B-16-SigLIP2-256/webli", "most photos", "Apache-2.0",
         375.23, 1501, 79.1, 256, 1.0, 2.08),
        ("accurate", "ViT-L-16-SigLIP2-256/webli", "fewer mistakes", "Apache-2.0",
         881.53, 3526, 82.5, 256, 0.267, 0.522),
        ("best", "ViT-SO400M-16-SigLIP2-384/webli", "fewest mistakes, on a GPU", "Apache-2.0",
         1136.04, 4544, 84.1, 384, 0.0766, 0.167),
        ("biology", "hf-hub:imageomics/bioclip-2", "species", "MIT",
         427.62, 1711, None, 224, 0.267, 0.522),
        ("fashion", "hf-hub:Marqo/marqo-fashionSigLIP", "clothes", "Apache-2.0",
         203.16, 813, None, 224, 1.18, 2.29),
        ("medical", "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
         "medical images", "MIT", 195.9, 784, None, 224, 1.18, 2.29, "hf"),
        ("remote-sensing", "hf-hub:joaodaniel/RS-M-CLIP", "aerial and satellite images", "MIT",
         366.12, 1464, None, 224, 4.83, 9.33, "hf"),
    )
}
# fmt: on
ALIASES["multilingual"] = replace(
    ALIASES["base"], alias="multilingual", use="labels in other languages"
)
"""The models with a short name. None is for research or non-commercial use only."""


@functools.cache
def read_twins() -> dict[str, str]:
    """Repositories whose weights OpenCLIP has in its own form: their names there."""
    lines = Path(__file__).with_name("hub_twins.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split() for line in lines)


def list_models() -> list[ModelInfo]:
    """The models with a short name, those for any photo first; no network."""
    return [replace(info, present=_is_present(info)) for info in ALIASES.values()]


def find_faster(name: str, share: float, factor: float) -> tuple[str, float] | None:
    """The most accurate general model that takes less time than another one.

    Args:
        name: the full name of the model in use.
        share: of its time that its image tower takes; the rest is the same for every model.
        factor: how many times as fast the other has to be.

    Returns:
        its alias, and the time it takes as a share of that of `name`.
    """
    general = [ALIASES[alias] for alias in ("best", "accurate", "base", "fast")]
    speed = next((info.speed for info in general if info.name == name), None)
    if speed is not None:
        for info in general:
            time = 1 - share + share * speed / info.speed
            if time * factor <= 1:
                return info.alias, time
    return None


def _is_present(info: ModelInfo) -> bool:
    known = PRETRAINED.get(info.name)
    repo = known.repo if known else info.name.removeprefix("hf-hub:")
    return repo == "mini" or hub.cached(repo, *HUB_FILES) is not None


@dataclass(frozen=True, slots=True)
class PretrainedInfo:
    """Published weights of OpenCLIP.

    Attributes:
        name: what `resolve` takes.
        repo: their repository on the Hugging Face hub; None if they are elsewhere.
        licence: as its model card says, or "".
        present: whether they are on this machine.
    """

    name: str
    repo: str | None
    licence: str
    present: bool


def list_pretrained(search: str = "") -> list[PretrainedInfo]:
    """The weights whose name, repository or twin's contains a text; imports open_clip.

    OpenCLIP's own come first, then those of the models with a short name.
    """
    with require_torch("the list of OpenCLIP's models"):
        from open_clip import get_pretrained_cfg
        from open_clip import list_pretrained as list_all
    places = {
        f"{architecture}/{tag}": split_place(get_pretrained_cfg(architecture, tag))
        for architecture, tag in list_all()
    }
    others = (info.name for info in ALIASES.values() if info.name.startswith("hf-hub:"))
    places |= {name: (name.removeprefix("hf-hub:"), HUB_FILES) for name in others}
    twins: dict[str, list[str]] = {}
    for twin, name in read_twins().items():
        twins.setdefault(name, []).append(twin)
    found = []
    for name, (repo, files) in places.items():
        if any(fold(search) in fold(each) for each in (name, repo, *twins.get(name, ()))):
            present = bool(repo) and hub.cached(repo, *files) is not None
            licence = find_licence(repo) if repo else ""
            found.append(PretrainedInfo(name, repo or None, licence, present))
    return found


def split_place(config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The repository in open_clip's `pretrained_cfg` ("" if none), and its files of weights.

    The files are in order of preference.
    """
    repo, _, file = config.get("hf_hub", "").rpartition("/")
    return repo, (f"{Path(file).stem}.safetensors", file) if file else HUB_FILES


def model_names() -> list[str]:
    """The short names of models, followed by their full names; reads no file."""
    return ["auto", *ALIASES, *(info.name for info in ALIASES.values() if info.name != "mini")]
