"""Texts without their padding, where a tower's attention makes that exact.

A CLIP tokenizer pads every text to the context length (77 tokens), and a label in a template has
about ten: most of a text tower's work goes into padding. It can be left out where no token that
decides the vector sees what stands behind the text:

- OpenCLIP's towers with a causal mask that are read at the end-of-text token (or the first): a
  token attends to those before it only.
- Hugging Face towers: padding is masked out, and no position depends on it.

It cannot where padding is seen (SigLIP's towers have no mask) or a token stands behind it (CoCa's
class token). What is left out changes sums by rounding alone; tests hold each kind to that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["needed_lengths", "shortened", "taking"]


def needed_lengths(network: Any, tokens: torch.Tensor) -> torch.Tensor:
    """How many tokens of each text its vector depends on.

    Args:
        network: open_clip's model.
        tokens: int64 (n, context_length).

    Returns:
        int64 (n,); the context length where it cannot be less.
    """
    import torch

    tower = getattr(network, "text", network)
    if type(tower).__name__ == "HFTextEncoder":
        return _last(tokens != tower.config.pad_token_id)
    causal = getattr(tower, "attn_mask", None) is not None
    masked_otherwise = getattr(tower, "use_pad_mask", False)
    class_token = getattr(tower, "cls_emb", None) is not None
    if causal and not masked_otherwise and not class_token:
        pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
        if pool == "argmax":  # CLIP's end of text has the highest number
            return tokens.argmax(dim=-1) + 1
        if pool == "eos":
            end = getattr(tower, "eos_id", getattr(tower, "text_eos_id", None))
            return _first(tokens == torch.as_tensor(end))
        if pool == "first":
            return tokens.new_ones(len(tokens))
    return tokens.new_full((len(tokens),), tokens.shape[1])


@contextlib.contextmanager
def shortened(network: Any, tokens: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tokens cut to the longest need among them, and the network made to take that many.

    Args:
        network: open_clip's model; as before when the block ends. One thread at a time.
        tokens: int64 (n, context_length).

    Yields:
        int64 (n, length) for `network.encode_text`.
    """
    length = int(needed_lengths(network, tokens).max())
    if length == tokens.shape[1]:
        yield tokens
        return
    with taking(network, length):
        yield tokens[:, :length]


@contextlib.contextmanager
def taking(network: Any, length: int) -> Iterator[None]:
    """Makes the network take texts of this many tokens, which open_clip's do at one length only.

    Args:
        network: open_clip's model; as before when the block ends. One thread at a time.
        length: tokens a text; may be symbolic, while the network is traced.
    """
    tower = getattr(network, "text", network)
    mask = getattr(tower, "attn_mask", None)
    parameters = network._parameters
    # open_clip's CLIP adds all of its positions; its text towers only as many as there are tokens.
    positions = parameters.pop("positional_embedding", None)
    try:
        if mask is not None:
            tower.attn_mask = mask[:length, :length]
        if positions is not None:
            network.positional_embedding = positions[:length]
        yield
    finally:
        if mask is not None:
            tower.attn_mask = mask
        if positions is not None:
            del network.positional_embedding
            parameters["positional_embedding"] = positions


def _last(present: torch.Tensor) -> torch.Tensor:
    """Number of the last true value in each row, from 1; the row's length where there is none."""
    return present.shape[1] - present.flip(-1).long().argmax(dim=-1)


def _first(present: torch.Tensor) -> torch.Tensor:
    """Number of the first true value in each row, from 1; the row's length where there is none."""
    found = present.long().argmax(dim=-1) + 1
    return found.where(present.any(dim=-1), found.new_tensor(present.shape[1]))
