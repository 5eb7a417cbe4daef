"""A model directory: its configuration, checked, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipcls.errors import ModelError, raising
from clipcls.files.jsonfiles import read_json

CONFIG_NAME = "open_clip_config.json"
# open_clip's own order of preference (factory._find_checkpoint_in_dir, pretrained).
_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
# The most that a configuration may ask for: ten times what the largest models have.
_SIZES = {
    "embed_dim": 100_000,
    "context_length": 1_000_000,
    "vocab_size": 10_000_000,
    "image_size": 10_000,
    "patch_size": 10_000,
    "layers": 1_000,
    "width": 100_000,
}


@raising(ModelError)
def read_config(file: Path) -> dict[str, Any]:
    """Reads a model directory's configuration.

    Raises:
        ModelError: it is missing, or not that of a model.
    """
    if not file.exists():
        raise ModelError(f"{file.parent}: not an OpenCLIP model (it has no {file.name})")
    content: dict[str, Any] = read_json(file)
    config = content.get("model_cfg") if isinstance(content, dict) else None
    if not isinstance(config, dict) or not (
        isinstance(config.get("embed_dim"), int)
        and isinstance(config.get("vision_cfg"), dict)
        and isinstance(config.get("text_cfg"), dict)
    ):
        raise ModelError(f"{file}: needs a model_cfg with embed_dim, vision_cfg and text_cfg")
    if not isinstance(content.get("preprocess_cfg", {}), dict):
        raise ModelError(f"{file}: `preprocess_cfg` is not an object")
    if not isinstance(config["text_cfg"].get("tokenizer_kwargs", {}), dict):
        raise ModelError(f"{file}: `tokenizer_kwargs` is not an object")
    for part in (config, config["vision_cfg"], config["text_cfg"]):
        for key, value in part.items():
            if key.startswith("hf_") and key.endswith("_name") and not isinstance(value, str):
                raise ModelError(f"{file}: `{key}` is not text")
            # open_clip builds the model before it compares it with the weights.
            numbers = value if isinstance(value, list) else [value]
            if key in _SIZES and not all(type(n) is int and 0 < n <= _SIZES[key] for n in numbers):
                raise ModelError(f"{file}: `{key}` is not a whole number from 1 to {_SIZES[key]:,}")
    return content


def find_weights(directory: Path) -> Path:
    """The checkpoint that open_clip would take from a model directory."""
    found = [f for suffix in ("safetensors", "bin", "pth") for f in directory.glob(f"*.{suffix}")]
    if not found:
        raise ModelError(f"{directory}: has no weights (*.safetensors, *.bin or *.pth)")

    names = {file.name: file for file in found}
    others = sorted(found, key=lambda file: (file.suffix != ".safetensors", file.name))
    return next((names[name] for name in _WEIGHTS if name in names), others[0])
