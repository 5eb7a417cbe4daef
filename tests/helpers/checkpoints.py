"""Small checkpoints with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from clipcls.models import architectures

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


VISION = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}


TIMM = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "image_size": 64}


POOLED = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}


CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"vision_cfg": VISION, "text_cfg": TEXT},
    "quick-gelu": {"vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True},
    "timm": {"vision_cfg": {**TIMM, "timm_proj": "mlp"}, "text_cfg": TEXT, "custom_text": True},
    "timm-clip": {"vision_cfg": {**TIMM, "timm_proj": "linear"}, "text_cfg": TEXT},
    "siglip": {
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_pool": "token",
            "image_size": 224,
        },
        "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        "custom_text": True,
        "init_logit_bias": -10,
    },
    "coca": {
        "vision_cfg": {**VISION, **POOLED},
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "context_length": 76, "attn_pooler_heads": 2},
        "custom_text": True,
    },
}


PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "resize_mode": "squash"}


def write_model(directory: Path, config: dict[str, Any], weights: str = "safetensors") -> Path:
    """A model directory as open_clip writes it, with random weights."""
    directory.mkdir(parents=True)
    content = {"model_cfg": {"embed_dim": 16, **config}, "preprocess_cfg": PREPROCESS}
    (directory / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    with architectures.quiet():
        network = open_clip.create_model(f"local-dir:{directory}", pretrained_text=False)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    # So that no statistic or bias is a default that goes unnoticed. Matrices stay: with a mean that
    # is not 0 in them a tower magnifies rounding, as no trained one does.
    for value in state.values():
        if value.is_floating_point() and value.ndim < 2:
            value += 0.05 * torch.rand_like(value)
    if weights == "safetensors":
        save_file(state, directory / "open_clip_model.safetensors")
    else:
        torch.save(state, directory / f"open_clip_pytorch_model.{weights}")
    return directory


def write_text_tower(directory: Path) -> None:
    """A tiny Hugging Face RoBERTa: its config and a tokenizer of words."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast, RobertaConfig

    words = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "a", "cat", "dog"])}
    tokenizer = Tokenizer(kinds.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(directory)
    RobertaConfig(
        vocab_size=7,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    ).save_pretrained(directory)
