"""Teaches the text tower what the teacher says of WordNet's visible things.

Writes WORK/text.pt: the state dict of open_clip's text transformer.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import torch
from open_clip import get_tokenizer
from open_clip.model import CLIPTextCfg, _build_text_tower
from torch import Tensor, nn
from torch.nn.functional import normalize

from teacher import DIM, PHYSICAL_ENTITY, Teacher, ancestors, read_wordnet

STEPS, BATCH, RATE, WARMUP = 1200, 256, 1.5e-3, 100
HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "open_clip_config.json").read_text())

# Words people type that WordNet files elsewhere than under physical entities.
COMMON = set((HERE / "common.txt").read_text().split())


def vocabulary() -> list[str]:
    """Names of visible things: WordNet's nouns below physical entity, and `COMMON`."""
    lemmas, above = read_wordnet()
    visible = {
        name.lower()
        for offset, names in lemmas.items()
        if PHYSICAL_ENTITY in ancestors(offset, above)
        for name in names
    }
    return sorted(visible | COMMON)


def templates() -> list[str]:
    """The project's own templates; the bare label and the plain photo are drawn more often."""
    folder = HERE.parent / "prompts/templates"
    lines = [
        line
        for file in sorted(folder.glob("*.txt"))
        for line in file.read_text().splitlines()
        if line.count("{}") == 1 and not line.startswith("#")
    ]
    return lines + ["{}", "a photo of a {}.", "a {}", "{}."] * (len(lines) // 8)


def plural(name: str) -> str:
    """The regular plural, which is what most people would type."""
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    return name[:-1] + "ies" if name.endswith("y") and name[-2:-1] not in "aeiou" else name + "s"


class Tower(nn.Module):
    """open_clip's text tower, run at the length of the batch's longest text."""

    def __init__(self) -> None:
        super().__init__()
        self.text = _build_text_tower(DIM, CLIPTextCfg(**CONFIG["model_cfg"]["text_cfg"]))
        self.mask = self.text.attn_mask

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, 77) -> unit vectors (n, 512)."""
        length = int(tokens.argmax(-1).max()) + 1  # the end-of-text token has the highest id
        self.text.attn_mask = self.mask[:length, :length]
        return normalize(self.text(tokens[:, :length]).float())


def main(work: Path) -> None:
    """Trains and writes the tower."""
    random.seed(0)
    torch.manual_seed(0)
    names, forms, teacher = vocabulary(), templates(), Teacher()
    started = time.time()
    targets = teacher.labels(names)
    print(f"{len(names):,} names, {len(forms)} templates", flush=True)
    tokenizer = get_tokenizer("ViT-B-32")
    tower = Tower().train()
    optimizer = torch.optim.AdamW(tower.parameters(), RATE, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=STEPS, pct_start=WARMUP / STEPS
    )
    # Names of the classes themselves are what labels are most often: they come twice as often.
    known = {name.lower() for name in teacher.names}
    pool = [
        *range(len(names)),
        *(i for i, n in enumerate(names) if n in known),
        *(i for i, n in enumerate(names) if n in COMMON),
    ]
    for step in range(STEPS):
        chosen = random.sample(pool, BATCH)
        texts = [
            random.choice(forms).replace("{}", plural(n) if random.random() < 0.15 else n)
            for n in (names[i] for i in chosen)
        ]
        wanted = targets[chosen]
        with torch.autocast("cpu", torch.bfloat16):
            vectors = tower(tokenizer(texts))
        soft = (wanted @ wanted.T / 0.07).softmax(-1)
        contrast = -(soft * (vectors @ wanted.T / 0.07).log_softmax(-1)).sum(-1).mean()
        cosine = (vectors * wanted).sum(-1).mean()
        loss = 1 - cosine + 0.1 * contrast
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == STEPS - 1:
            print(f"{step:5} cosine {cosine:.4f} {time.time() - started:.0f} s", flush=True)
    torch.save(
        {k: v for k, v in tower.text.state_dict().items() if k != "attn_mask"}, work / "text.pt"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
