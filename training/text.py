"""Teaches the text tower what the teacher says of WordNet's visible things.

Usage: text.py WORK [MODEL.safetensors]. Writes WORK/text.pt, the state dict of open_clip's text
transformer, and keeps WORK/names.pt, the teacher's answers. With a model's weights it goes on from
their text tower, for fewer steps.

The token embeddings begin as the sentence encoder's vectors of the tokens, so that words the
training names never use are not noise. Labels are told apart by their similarities to images: so
besides the cosine to the teacher's vector, the similarities to ImageNet's classes count, and half
of each batch are names that people are likely to type.
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
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import kl_div, normalize

from teacher import DIM, PHYSICAL_ENTITY, Teacher, ancestors, read_wordnet

BATCH, HELD_OUT = 256, 1000
STEPS, RATE = 1800, 1.5e-3
MORE_STEPS, MORE_RATE = 120, 5e-4  # for a tower that has learnt already
HERE = Path(__file__).parent
CONFIG = CLIPTextCfg(
    **json.loads((HERE / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
)
MEASURED = {"cifar10", "cifar100", "textures"}  # ready label sets kept out of training


def lines(folder: str) -> dict[str, list[str]]:
    """The project's ready label sets or templates: file name -> lines."""
    return {
        file.stem: [x for x in file.read_text().splitlines() if x and not x.startswith("#")]
        for file in sorted((HERE.parent / "prompts" / folder).glob("*.txt"))
    }


def vocabulary(classes: list[str]) -> tuple[list[str], list[str]]:
    """All names, WordNet's nouns below physical entity among them, and the likely ones of these.

    Likely are ImageNet's classes and what is above them, common.txt (words people type that WordNet
    files elsewhere), and the ready label sets.
    """
    lemmas, above = read_wordnet()
    visible = {
        name.lower()
        for offset, names in lemmas.items()
        if PHYSICAL_ENTITY in ancestors(offset, above)
        for name in names
    }
    likely = {name.lower() for name in classes} | set((HERE / "common.txt").read_text().split())
    for name, labels in lines("labels").items():
        if name not in MEASURED:
            likely |= {label.lower() for label in labels}
    return sorted(visible | likely), sorted(likely)


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
        """Tokens (n, 77) -> unit vectors (n, 512)."""
        lengths = tokens.argmax(-1) + 1  # the end-of-text token has the highest id
        order = lengths.argsort()
        parts = []
        for some in order.chunk(4):
            length = int(lengths[some].max())
            self.text.attn_mask = self.mask[:length, :length]
            parts.append(self.text(tokens[some, :length]))
        return normalize(torch.cat(parts)[order.argsort()])


def token_vectors(teacher: Teacher) -> Tensor:
    """The sentence encoder's vectors of all tokens, by PCA at the tower's width."""
    words = [word.replace("</w>", "") for word in SimpleTokenizer().encoder]
    vectors = teacher.embed(words)
    _, _, axes = torch.pca_lowrank(vectors, q=CONFIG.width, niter=4)
    vectors = (vectors - vectors.mean(0)) @ axes
    return 0.02 * vectors / vectors.std()


def answers(work: Path, teacher: Teacher) -> dict[str, Tensor | list[str]]:
    """Names, the likely ones of them, the teacher's vectors and the tokens' first vectors."""
    kept = work / "names.pt"
    if not kept.exists():
        names, likely = vocabulary(teacher.names)
        vectors = teacher.labels(names)
        tokens = token_vectors(teacher)
        torch.save({"names": names, "likely": likely, "vectors": vectors, "tokens": tokens}, kept)
    return torch.load(kept, weights_only=True)


def main(work: Path, start: Path | None = None) -> None:
    """Trains and writes the tower."""
    steps, rate = (MORE_STEPS, MORE_RATE) if start else (STEPS, RATE)
    random.seed(0)
    torch.manual_seed(0)
    started, teacher = time.time(), Teacher()
    known = answers(work, teacher)
    names, vectors, forms = known["names"], known["vectors"], templates()
    rows = normalize(teacher.rows)
    tokenizer, tower = get_tokenizer("ViT-B-32"), Tower().train()
    with torch.no_grad():
        tower.text.token_embedding.weight.copy_(known["tokens"])
    if start:
        state = {k[5:]: v for k, v in load_file(start).items() if k.startswith("text.")}
        tower.text.load_state_dict(state, strict=False)
    numbers = {name: number for number, name in enumerate(names)}
    likely = [numbers[name] for name in known["likely"]]
    others = random.sample(sorted(set(range(len(names))) - set(likely)), len(names) - len(likely))
    held, others = others[:HELD_OUT], others[HELD_OUT:]
    held_tokens = tokenizer([f"a photo of a {names[i]}." for i in held])
    print(f"{len(names):,} names, {len(likely):,} likely; {len(forms)} templates", flush=True)
    words = [tower.text.token_embedding.weight]
    rest = [p for name, p in tower.named_parameters() if "token_embedding" not in name]
    groups = [{"params": words, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.05}]
    optimizer = torch.optim.AdamW(groups, rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [rate / 2, rate], total_steps=steps, pct_start=0.1
    )
    for step in range(steps):
        chosen = random.sample(likely, BATCH // 2) + random.sample(others, BATCH // 2)
        texts = [
            random.choice(forms).replace("{}", plural(n) if random.random() < 0.15 else n)
            for n in (names[i] for i in chosen)
        ]
        wanted, given = vectors[chosen], tower(tokenizer(texts))
        loss = 1 - (given * wanted).sum(-1).mean()
        # Both ways: which class is nearest to a name, and which name is nearest to a class.
        for way in (rows, wanted):
            target, found = (20 * wanted @ way.T).softmax(-1), (20 * given @ way.T).log_softmax(-1)
            loss = loss + 0.3 * kl_div(found, target, reduction="batchmean")
        target, found = (20 * rows @ wanted.T).softmax(-1), (20 * rows @ given.T).log_softmax(-1)
        loss = loss + 0.3 * kl_div(found, target, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            with torch.no_grad():
                found, wanted = tower(held_tokens), vectors[held]
                cosine = (found * wanted).sum(-1).mean()
                right = ((found @ rows.T).argmax(-1) == (wanted @ rows.T).argmax(-1)).float().mean()
                named = ((rows @ found.T).argmax(-1) == (rows @ wanted.T).argmax(-1)).float().mean()
            print(
                f"{step:5} loss {loss:.3f}; held-out names: cosine {cosine:.3f}, same class "
                f"{right:.1%}, same name {named:.1%}; {time.time() - started:.0f} s",
                flush=True,
            )
    state = {k: v for k, v in tower.text.state_dict().items() if k != "attn_mask"}
    torch.save(state, work / "text.pt")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
