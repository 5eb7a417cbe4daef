"""open_clip's text transformer in training: short texts at their own length, not at 77 tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip.model import CLIPTextCfg, _build_text_tower
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

from clipcls.models.openvino import has_bf16

HERE = Path(__file__).parent
CONFIG = CLIPTextCfg(
    **json.loads((HERE / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
)
NARROW = CLIPTextCfg(context_length=77, vocab_size=49408, width=256, heads=4, layers=4)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor | None = None,
    values: Tensor | None = None,
) -> Tensor:
    """Causal attention, (n, heads, length, width of a head) each.

    `keys` and `values`, (1, heads, any length, width of a head), are of what stands before all n;
    on a CPU only. There torch's own takes ten times as long for texts this short, on the way back.
    """
    if query.is_cuda:
        return scaled_dot_product_attention(query, key, value, is_causal=True)
    length, width = query.shape[2:]
    later = torch.full((length, length), float("-inf")).triu(1)
    scores = (query @ key.transpose(2, 3)).float() * width**-0.5 + later
    if keys is None or values is None:
        return scores.softmax(-1).to(value.dtype) @ value
    earlier = (query @ keys.transpose(2, 3)).float() * width**-0.5
    shares = torch.cat([earlier, scores], -1).softmax(-1).to(value.dtype)
    before = keys.shape[2]
    return shares[..., :before] @ values + shares[..., before:] @ value


@dataclass(frozen=True)
class Rows:
    """A list of texts that begin alike, token by token: what they share, then each one's own.

    Attributes:
        shared: how many tokens they share.
        own: how many tokens they have besides, all together.
        index: int64 (texts, longest), the rows of each text's own tokens.
        real: bool (texts, longest), False behind a text's end.
    """

    shared: int
    own: int
    index: Tensor
    real: Tensor


class Tower(nn.Module):
    """Tokens -> unit vectors, matrix products in bfloat16 where the device has it."""

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
        with self.half(tokens.device.type):
            # Not indexed by length on a GPU, which would have to wait for it.
            lengths = [len(tokens[0]) if tokens.is_cuda else int(last[p[-1]]) + 1 for p in parts]
            found = torch.cat(
                [
                    self.ends(tokens[part, :length], last[part])
                    for part, length in zip(parts, lengths, strict=True)
                ]
            )[order.argsort()]
        return normalize(self.text.ln_final(found.float()) @ self.text.text_projection)

    @staticmethod
    def half(device: str) -> torch.autocast:
        """Without it in hardware a CPU takes a hundred times as long."""
        return torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or has_bf16())

    def lists(self, tokens: Tensor, last: Tensor, shared: list[int]) -> Tensor:
        """As `forward`, for lists of equally many texts, one after the other, on a CPU.

        Args:
            tokens: int64 (n, length).
            last: int64 (n,), each text's last place.
            shared: for each list, how many tokens all its texts begin with. Attention is causal,
                so that what becomes of these is the same for all, and is computed once.

        Returns:
            unit vectors (n, dim), float32.
        """
        text, size = self.text, len(tokens) // len(shared)
        words, places, lists, ends, start = [], [], [], [], 0
        for given, stop, count in zip(tokens.split(size), last.split(size), shared, strict=True):
            lengths = stop + 1 - count
            place = torch.arange(int(lengths.max())).expand(size, -1)
            real = place < lengths[:, None]
            index = (real.flatten().cumsum(0).view(real.shape) - 1).where(real, 0)
            words += [given[0, :count], given[:, count:][:, : real.shape[1]][real]]
            places += [torch.arange(count), count + place[real]]
            lists.append(Rows(count, len(words[-1]), index, real))
            ends.append(start + count + lengths.cumsum(0) - 1)
            start += count + len(words[-1])
        final, blocks = torch.cat(ends), text.transformer.resblocks
        with self.half("cpu"):
            x = (
                text.token_embedding(torch.cat(words))
                + text.positional_embedding[torch.cat(places)]
            )
            for block in blocks:
                found = self.attended(block, x, lists)
                if block is blocks[-1]:  # the others' rows are of no further use
                    found, x = found[final], x[final]
                x = x + block.attn.out_proj(found)
                x = x + block.mlp(block.ln_2(x))
        return normalize(text.ln_final(x.float()) @ text.text_projection)

    def attended(self, block: nn.Module, x: Tensor, lists: list[Rows]) -> Tensor:
        """Rows (all lists' tokens, width) -> what a block's attention finds for each."""
        attention, found = block.attn, []
        every = linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        parts = iter(every.split([count for rows in lists for count in (rows.shared, rows.own)]))

        def heads(part: Tensor) -> Tensor:
            """(texts, length, 3 * width) -> (3, texts, heads, length, width of a head)."""
            return part.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

        for rows in lists:
            before = heads(next(parts)[None])
            own = heads(next(parts)[rows.index])
            found.append(attend(*before).transpose(1, 2).flatten(2)[0])
            found.append(attend(*own, *before[1:]).transpose(1, 2).flatten(2)[rows.real])
        return torch.cat(found)

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
