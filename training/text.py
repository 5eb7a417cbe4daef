"""Teaches the text tower what the teacher says of words, together with the image head.

Usage: text.py WORK. Reads WORK/names.pt, WORK/train.pt and WORK/head.pt; writes WORK/text.pt, the
state dict of open_clip's text transformer, and WORK/head-tuned.pt.

The token embeddings begin as the sentence encoder's vectors of the tokens, so that words the
training names never use are not noise. Each tower alone may be near the teacher while together they
are not; so besides the cosine to the teacher's vectors, what is learned are the similarities of
names to ImageNet's classes, and of images to names, both ways.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import torch
from image import draw, head, split
from names import CONFIG, lines
from open_clip import get_tokenizer
from open_clip.model import _build_text_tower
from torch import Tensor, nn
from torch.nn.functional import kl_div, normalize

from teacher import DIM, Teacher

STEPS, RATE, HEAD_RATE = 2600, 1.5e-3, 2e-4
# Names of each group in a batch, and held out.
SHARES = {"likely": 112, "common": 64, "visible": 40, "adjectives": 16, "compounds": 24}
HELD_OUT = {"common": 300, "visible": 500, "compounds": 300}
SCALE = 25.0  # of similarities, in the divergences


def templates() -> list[str]:
    """The project's own templates; the bare label and the plain photo are drawn as often."""
    found = [
        x for sentences in lines("templates").values() for x in sentences if x.count("{}") == 1
    ]
    return found + ["{}", "a photo of a {}.", "a {}", "{}."] * (len(found) // 4)


def plural(name: str) -> str:
    """The regular plural, which is what most people would type."""
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    return name[:-1] + "ies" if name.endswith("y") and name[-2:-1] not in "aeiou" else name + "s"


class Tower(nn.Module):
    """open_clip's text tower, run on texts of like length at that length."""

    def __init__(self) -> None:
        super().__init__()
        self.text = _build_text_tower(DIM, CONFIG)
        self.mask = self.text.attn_mask

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, 77) -> unit vectors (n, 768)."""
        lengths = tokens.argmax(-1) + 1  # the end-of-text token has the highest id
        order = lengths.argsort()
        parts = []
        for some in order.chunk(4):
            length = int(lengths[some].max())
            self.text.attn_mask = self.mask[:length, :length]
            parts.append(self.text(tokens[some, :length]))
        return normalize(torch.cat(parts)[order.argsort()])


def divergence(given: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence of similarities (n, m), in rows and in columns, in nats."""
    parts = []
    for axis in (0, 1):
        target = (SCALE * wanted).softmax(axis)
        found = (SCALE * given).log_softmax(axis)
        parts.append(kl_div(found, target, reduction="sum") / given.shape[1 - axis])
    return parts[0] + parts[1]


def main(work: Path) -> None:
    """Trains and writes the tower and the head."""
    random.seed(0)
    torch.manual_seed(0)
    started, teacher = time.time(), Teacher()
    known = torch.load(work / "names.pt", weights_only=True)
    held_photos, features = split(torch.load(work / "train.pt", weights_only=True))
    names, vectors, forms = known["names"], known["vectors"], templates()
    rows = normalize(teacher.rows)
    tokenizer, tower, network = get_tokenizer("ViT-B-32"), Tower().train(), head()
    network.load_state_dict(torch.load(work / "head.pt", weights_only=True))
    with torch.no_grad():
        tower.text.token_embedding.weight.copy_(known["tokens"])
    pools, held, first = {}, {}, 0
    for group, some in known["groups"].items():
        order = random.sample(range(first, first + len(some)), len(some))
        held[group], pools[group] = (
            order[: HELD_OUT.get(group, 0)],
            order[HELD_OUT.get(group, 0) :],
        )
        first += len(some)
    held_tokens = {
        group: tokenizer([f"a photo of a {names[i]}." for i in some])
        for group, some in held.items()
        if some
    }
    likely = tokenizer([f"a photo of a {name}." for name in known["groups"]["likely"]])
    words = [tower.text.token_embedding.weight]
    rest = [p for name, p in tower.named_parameters() if "token_embedding" not in name]
    groups = [
        {"params": words, "weight_decay": 0.0},
        {"params": rest, "weight_decay": 0.05},
        {"params": network.parameters(), "weight_decay": 0.01},
    ]
    optimizer = torch.optim.AdamW(groups, RATE, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [RATE / 2, RATE, HEAD_RATE], total_steps=STEPS, pct_start=0.1
    )
    for step in range(STEPS):
        chosen = [i for group, n in SHARES.items() for i in random.sample(pools[group], n)]
        texts = [
            random.choice(forms).replace("{}", plural(n) if random.random() < 0.15 else n)
            for n in (names[i] for i in chosen)
        ]
        wanted, given = vectors[chosen], tower(tokenizer(texts))
        some = draw(features)
        seen, shown = teacher.images(some), normalize(network(some))
        loss = 2 - (given * wanted).sum(-1).mean() - (shown * seen).sum(-1).mean()
        loss = loss + 0.3 * divergence(given @ rows.T, wanted @ rows.T)
        loss = loss + 0.3 * divergence(shown @ rows.T, seen @ rows.T)
        loss = loss + 0.5 * divergence(shown @ given.T, seen @ wanted.T)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == STEPS - 1:
            print(f"{step:5} loss {loss:.3f}", end="; ")
            with torch.no_grad():
                for group, tokens in held_tokens.items():
                    wanted = vectors[held[group]]
                    print(f"{group} {(tower(tokens) * wanted).sum(-1).mean():.3f}", end="; ")
                if step % 600 == 0 or step == STEPS - 1:
                    labels = torch.cat([tower(some) for some in likely.split(512)])
                    seen = teacher.images(held_photos) @ vectors[: len(labels)].T
                    found = normalize(network(held_photos)) @ labels.T
                    same = (found.argmax(-1) == seen.argmax(-1)).float().mean()
                    print(f"same label of held-out photos {same:.1%}", end="; ")
            print(f"{time.time() - started:.0f} s", flush=True)
    state = {k: v for k, v in tower.text.state_dict().items() if k != "attn_mask"}
    torch.save(state, work / "text.pt")
    torch.save(network.state_dict(), work / "head-tuned.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
