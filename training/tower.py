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
NARROW = CLIPTextCfg(context_length=77, vocab_size=49408, width=256, heads=4, layers=4)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention, (n, heads, length, width of a head) each.

    On a CPU torch's own takes ten times as long for texts this short, on the way back.
    """
    if query.is_cuda:
        return scaled_dot_product_attention(query, key, value, is_causal=True)
    length, width = query.shape[2:]
    later = torch.full((length, length), float("-inf")).triu(1)
    scores = (query @ key.transpose(2, 3)).float() * width**-0.5 + later
    return scores.softmax(-1).to(value.dtype) @ value


class Tower(nn.Module):
    """Tokens -> unit vectors, matrix products in bfloat16."""

    def __init__(self, dim: int, config: CLIPTextCfg = CONFIG) -> None:
        super().__init__()
        self.text, self.heads = _build_text_tower(dim, config), config.heads

    def forward(self, tokens: Tensor, last: Tensor) -> Tensor:
        """Tokens (n, length) and each text's last place (n,) -> unit vectors (n, dim).

        Attention is causal, so what stands after a text's last token does not matter: short texts
        are computed apart from long ones.
        """
        order = last.argsort()
        parts = order.chunk(1 if tokens.is_cuda else 3)
        with torch.autocast(tokens.device.type, torch.bfloat16):
            # Not indexed by length on a GPU, which would have to wait for it.
            lengths = [len(tokens[0]) if tokens.is_cuda else int(last[p[-1]]) + 1 for p in parts]
            found = torch.cat(
                [
                    self.ends(tokens[part, :length], last[part])
                    for part, length in zip(parts, lengths, strict=True)
                ]
            )[order.argsort()]
        return normalize(self.text.ln_final(found.float()) @ self.text.text_projection)

    def ends(self, tokens: Tensor, last: Tensor) -> Tensor:
        """The residual stream (n, width) at each text's last place."""
        text, (count, length) = self.text, tokens.shape
        x = text.token_embedding(tokens) + text.positional_embedding[:length]
        for block in text.transformer.resblocks:
            attention = block.attn
            every = linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
            query, key, value = every.view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            found = attend(query, key, value)
            x = x + attention.out_proj(found.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.ln_2(x))
        return x[torch.arange(count, device=x.device), last]
