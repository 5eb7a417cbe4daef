"""open_clip's text transformer in training: short texts at their own length, not at 77 tokens."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from open_clip.model import CLIPTextCfg, _build_text_tower
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

HERE = Path(__file__).parent
CONFIG = CLIPTextCfg(
    **json.loads((HERE / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
)


class Tower(nn.Module):
    """Tokens -> unit vectors, matrix products in bfloat16."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.text = _build_text_tower(dim, CONFIG)

    def forward(self, tokens: Tensor, last: Tensor) -> Tensor:
        """Tokens (n, length) and each text's last place (n,) -> unit vectors (n, dim).

        Attention is causal, so what stands after a text's last token does not matter.
        """
        text, (count, length) = self.text, tokens.shape
        x = text.token_embedding(tokens) + text.positional_embedding[:length]
        with torch.autocast(tokens.device.type, torch.bfloat16):
            for block in text.transformer.resblocks:
                attention = block.attn
                every = linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
                query, key, value = every.view(count, length, 3, CONFIG.heads, -1).permute(
                    2, 0, 3, 1, 4
                )
                found = scaled_dot_product_attention(query, key, value, is_causal=True)
                x = x + attention.out_proj(found.transpose(1, 2).flatten(2))
                x = x + block.mlp(block.ln_2(x))
        found = x[torch.arange(count, device=x.device), last].float()
        return normalize(text.ln_final(found) @ text.text_projection)
