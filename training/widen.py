"""Widens the text tower from 256 to 384, which says nearly what it said before.

Usage: widen.py WORK. Reads WORK/teacher.pt, words.json and towers.pt; writes the last again.

All labels lie in as many dimensions as the tower is wide. The new 128 begin as what the narrow one
cannot say: of each token, the leading principal components of the difference to the teacher's
vector. Two new heads in the first block hand the mean over a text's tokens to its last place; all
else that reads or writes the new dimensions begins at or near zero. A layer norm also divides by
the new dimensions' spread: its weights make up for that, on average.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from teacher import DIM, Teacher
from tower import CONFIG, NARROW, Tower
from words import TOKENIZER

OLD, NEW = NARROW.width, CONFIG.width
SAMPLE = 600  # names of a group to measure the layer norms with
FREQUENT = 3000  # the rank of a token that counts half; the vocabulary is in order of frequency


@torch.no_grad()
def missing(tower: Tower, teacher: Teacher) -> Tensor:
    """What the tower does not say of each token: (tokens, NEW - OLD), as spread as the old ones."""
    wanted = teacher.labels([word.replace("</w>", "") for word in TOKENIZER.encoder])
    count = len(wanted)
    tokens = torch.tensor(
        [[TOKENIZER.sot_token_id, token, TOKENIZER.eot_token_id] for token in range(count)]
    )
    given = torch.cat([tower(some, torch.full((len(some),), 2)) for some in tokens.split(2048)])
    left = wanted - (given * wanted).sum(1, keepdim=True) * given
    weights = FREQUENT / (FREQUENT + torch.arange(count))
    _, _, axes = torch.pca_lowrank(left * weights[:, None].sqrt(), NEW - OLD, False, niter=4)
    found = left @ axes
    found *= tower.text.token_embedding.weight.std() / found.std()
    found[[TOKENIZER.sot_token_id, TOKENIZER.eot_token_id]] = 0
    return found


def widened(
    narrow: dict[str, Tensor], wide: dict[str, Tensor], tokens: Tensor
) -> dict[str, Tensor]:
    """The wide tower's state dict: the narrow one's in its corner."""
    found = {}
    for name, new in wide.items():
        old, tensor = narrow[name], torch.zeros_like(new)
        kind = ".".join(name.split(".")[-2:])
        if kind.startswith("attn.in_proj"):  # queries, keys and values, one below the other
            three, small = tensor.view(3, NEW, -1), old.view(3, OLD, -1)
            if tensor.ndim == 2 and not name.startswith("transformer.resblocks.0."):
                three[:, OLD:] = 0.03 * torch.randn(3, NEW - OLD, NEW)
            elif tensor.ndim == 2:
                three[:2, OLD:] = 0.01 * torch.randn(2, NEW - OLD, NEW)  # nearly the mean
                three[2, OLD:, OLD:] = torch.eye(NEW - OLD)
            three[:, :OLD, : small.shape[2]] = small
        elif old.ndim == 1:
            if kind.startswith("ln") and kind.endswith("weight"):
                tensor[:] = 1
            tensor[: len(old)] = old
        else:
            if kind == "c_fc.weight":
                tensor[len(old) :] = 0.04 * torch.randn(len(new) - len(old), NEW)
            tensor[: old.shape[0], : old.shape[1]] = old
        found[name] = tensor
    found["token_embedding.weight"][:, OLD:] = tokens
    found["transformer.resblocks.0.attn.out_proj.weight"][OLD:, OLD:] = torch.eye(NEW - OLD)
    return found


def streams(tower: Tower, tokens: Tensor, last: Tensor) -> dict[str, Tensor]:
    """What each layer norm is given at the texts' last places: (n, width)."""
    found: dict[str, list[Tensor]] = {}
    hooks = []
    for name, module in tower.named_modules():
        if isinstance(module, nn.LayerNorm):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _, given, name=name: found.setdefault(name, []).append(given[0].float())
                )
            )
    tower.ends(tokens, last)
    for hook in hooks:
        hook.remove()
    rows = torch.arange(len(tokens))
    return {name: torch.cat(parts)[rows, last] for name, parts in found.items()}


@torch.no_grad()
def level(narrow: Tower, wide: Tower, tokens: Tensor, last: Tensor) -> None:
    """Sets the wide tower's layer norms so that the old dimensions leave them as before."""
    before = streams(narrow, tokens, last)
    for name, module in wide.named_modules():
        if name in before:  # in order: each depends on those before it
            old, new = before[name], streams(wide, tokens, last)[name]
            spread = old.std(1, correction=0)
            ratio = (new.std(1, correction=0) / spread).mean()
            shift = ((new.mean(1) - old.mean(1)) / spread).mean()
            module.bias[:OLD] += module.weight[:OLD] * shift
            module.weight[:OLD] *= ratio


def main(work: Path) -> None:
    """Widens the tower."""
    torch.manual_seed(0)
    teacher = Teacher.load(work)
    towers = torch.load(work / "towers.pt", weights_only=True)
    narrow, wide = Tower(DIM, NARROW), Tower(DIM, CONFIG)
    given = {name: tensor.float() for name, tensor in towers["text"].items()}
    narrow.text.load_state_dict(given, strict=False)
    fresh = {name: x for name, x in wide.text.state_dict().items() if name in given}
    wide.text.load_state_dict(widened(given, fresh, missing(narrow, teacher)), strict=False)
    words, dice = json.loads((work / "words.json").read_text()), random.Random(0)
    names = [n for group in ("likely", "things") for n in dice.sample(sorted(words[group]), SAMPLE)]
    texts = [f"a photo of a {name}." if i % 2 else name for i, name in enumerate(names)]
    tokens = open_clip.get_tokenizer("ViT-B-32")(texts)
    last = tokens.argmax(1)
    tokens = tokens[:, : last.max() + 1]
    level(narrow, wide, tokens, last)
    with torch.no_grad():
        before, now, wanted = narrow(tokens, last), wide(tokens, last), teacher.labels(names)
    print(f"cosine to the narrow tower {(before * now).sum(1).mean():.4f}; to the teacher", end=" ")
    print(f"{(before * wanted).sum(1).mean():.4f}, now {(now * wanted).sum(1).mean():.4f}")
    towers["text"] = {name: wide.text.state_dict()[name].half() for name in given}
    torch.save(towers, work / "towers.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
