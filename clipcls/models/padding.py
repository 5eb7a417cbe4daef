"""Texts without their padding, where a tower's attention makes that exact.

A CLIP tokenizer pads every text to the context length (77 tokens), and a label in a template has
about ten, so most of a text tower's work goes into padding. It can be left out if no token that
decides the vector attends to it:

- OpenCLIP's towers with a causal mask, read at the end-of-text token or before: a token attends
  only to those before it.
- Hugging Face towers: padding is masked out, and no position depends on it.

It cannot if padding is attended to (SigLIP's towers have no mask) or a token follows it (CoCa's
class token). Leaving it out changes sums by rounding alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def can_leave_out(network: Any, padding: int) -> bool:
    """Whether texts can do without the padding at their end.

    Args:
        network: open_clip's model.
        padding: the number that its tokenizer fills texts up with.
    """
    tower = getattr(network, "text", network)
    pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
    if type(tower).__name__ == "HFTextEncoder":
        own: int = tower.config.pad_token_id
    elif (
        getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and not getattr(tower, "use_pad_mask", False)
        and pool in ("argmax", "eos", "first")
    ):
        own = getattr(tower, "pad_id", 0)
    else:
        return False
    return own == padding


@contextlib.contextmanager
def taking(network: Any, length: int) -> Iterator[None]:
    """Makes the network take texts shorter than open_clip's one length.

    Args:
        network: open_clip's model; restored when the block ends. One thread at a time.
        length: tokens per text; may be symbolic, while the network is traced.
    """
    tower = getattr(network, "text", network)
    if length == getattr(tower, "context_length", None):
        yield
        return
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
