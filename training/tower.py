"""open_clip's text transformer, without padding and with each template's beginning only once."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from open_clip.model import CLIPTextCfg, _build_text_tower
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

HERE = Path(__file__).parent
CONFIG = CLIPTextCfg(
    **json.loads((HERE / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
)


class Tower(nn.Module):
    """Groups of texts that begin alike -> unit vectors.

    Attention is causal, so what a template says before the name is the same for all names.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.text = _build_text_tower(dim, CONFIG)

    def forward(self, groups: list[tuple[list[int], list[list[int]]]]) -> Tensor:
        """(first tokens, the texts' other tokens) -> unit vectors (n, dim), group after group."""
        numbers, places, shapes, last, begin = [], [], [], [], 0
        for first, rests in groups:
            length = max(map(len, rests))
            shapes.append((len(first), len(rests), length))
            numbers += first
            places += range(len(first))
            begin += len(first)
            for rest in rests:
                numbers += rest + [0] * (length - len(rest))
                places += range(len(first), len(first) + length)
                last.append(begin + len(rest) - 1)
                begin += length
        text = self.text
        x = text.token_embedding(torch.tensor(numbers)) + text.positional_embedding[places]
        with torch.autocast("cpu", torch.bfloat16):
            for block in text.transformer.resblocks:
                x = x + block.attn.out_proj(self.attend(block, block.ln_1(x), shapes))
                x = x + block.mlp(block.ln_2(x))
        return normalize(text.ln_final(x[last].float()) @ text.text_projection)

    def attend(self, block: nn.Module, x: Tensor, shapes: list[tuple[int, int, int]]) -> Tensor:
        """Causal attention within each text, whose first tokens stand only once in x."""
        heads = CONFIG.heads
        # (tokens, 3 * width) -> (3, heads, tokens, width / heads)
        every = linear(x, block.attn.in_proj_weight, block.attn.in_proj_bias)
        every = every.view(len(x), 3, heads, -1).permute(1, 2, 0, 3)
        parts, begin = [], 0
        for first, count, length in shapes:
            q, k, v = every[:, :, begin : begin + first]
            begin += first
            mask = torch.full((first, first), -1e4).triu(1)
            scores = (q @ k.transpose(1, 2)).float() * q.shape[-1] ** -0.5 + mask
            parts.append((scores.softmax(-1).to(v.dtype) @ v).transpose(0, 1).flatten(1))
            own = every[:, :, begin : begin + count * length].unflatten(2, (count, length))
            begin += count * length
            query, key, value = own  # (heads, count, length, width / heads)
            mask = torch.full((length, length), -1e4).triu(1)
            before = (query.flatten(1, 2) @ k.transpose(1, 2)).view(heads, count, length, first)
            scores = torch.cat([before, query @ key.transpose(2, 3) + mask.to(query.dtype)], -1)
            shares = (scores.float() * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
            found = (shares[..., :first].flatten(1, 2) @ v).unflatten(1, (count, length))
            found = found + shares[..., first:] @ value
            parts.append(found.permute(1, 2, 0, 3).flatten(2).flatten(0, 1))
        return torch.cat(parts)
