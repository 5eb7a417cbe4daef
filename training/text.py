"""Teaches the text tower what the teacher says of names.

Usage: text.py WORK. Reads WORK/names.pt (of words.py) and WORK/train.pt (of features.py); writes
WORK/text.pt, the state dict of open_clip's text transformer.

Labels are told apart by their similarities to images: so besides the cosine to the teacher's
vector, the similarities of a batch's names to photos, to ImageNet's classes and to each other are
learned; those to photos also within a kind of names, since label lists are mostly of one kind.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, normalize

from teacher import DIM, Teacher
from tower import Tower
from words import TOKENIZER, lines

STEPS, BATCH, FORMS, PHOTOS, RATE, WARM = 6000, 384, 6, 512, 1.2e-3, 200
SCALE = 30.0
SHARES = {  # of a batch
    "likely": 0.11,
    "things": 0.23,
    "kinds": 0.06,
    "nouns": 0.03,
    "plurals": 0.09,
    "visible": 0.12,
    "looks": 0.16,
    "phrases": 0.20,
}
HELD_OUT = {"things": 300, "visible": 500, "looks": 300, "phrases": 500}


def templates() -> list[str]:
    """The project's own templates; the bare label and the plain photo are drawn more often."""
    found = lines("templates")
    every = [x for sentences in found.values() for x in sentences if x.count("{}") == 1]
    plain = ["{}", "a photo of a {}."] * 3 + ["a {}", "the {}", "{}."] + found["photo"]
    return every + plain * (2 * len(every) // len(plain))


def alike(
    names: list[list[int]], forms: list[str]
) -> tuple[Tensor, list[tuple[list[int], list[list[int]]]]]:
    """Tokens of names -> their order, and groups of texts that begin alike, as Tower takes them.

    Names of like length share a template, so that little is padding.
    """
    order, groups = torch.tensor([len(name) for name in names]).argsort(), []
    for some, form in zip(order.chunk(len(forms)), forms, strict=True):
        before, after = (TOKENIZER.encode(part) for part in form.split("{}"))
        rest = [*after, TOKENIZER.eot_token_id]
        groups.append(([TOKENIZER.sot_token_id, *before], [names[i] + rest for i in some.tolist()]))
    return order, groups


def divergence(given: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler between the softmaxes of similarities, in nats."""
    found, target = (SCALE * given).log_softmax(-1), (SCALE * wanted).softmax(-1)
    return kl_div(found, target, reduction="batchmean")


def main(work: Path) -> None:
    """Trains and writes the tower."""
    random.seed(3)
    torch.manual_seed(3)
    started, teacher = time.time(), Teacher()
    known = torch.load(work / "names.pt", weights_only=True)
    names, vectors = known["names"], normalize(known["vectors"].float())
    photos = torch.load(work / "train.pt", weights_only=True)["features"].float()
    with torch.no_grad():
        rows, images = normalize(teacher.rows), teacher.images(photos)
    tower, forms = Tower(DIM).train(), templates()
    with torch.no_grad():
        tower.text.token_embedding.weight.copy_(known["tokens"])
    dice = random.Random(1)
    held = {g: dice.sample(known["groups"][g], count) for g, count in HELD_OUT.items()}
    gone = {number for some in held.values() for number in some}
    pools, chances = {}, {}
    for group, some in known["groups"].items():
        weights = zip(some, known["weights"][group], strict=True)
        kept = [(number, weight) for number, weight in weights if number not in gone]
        pools[group] = [number for number, _ in kept]
        chances[group] = torch.tensor([weight for _, weight in kept]).cumsum(0).tolist()
    pieces = [TOKENIZER.encode(name) for name in names]
    words = [tower.text.token_embedding.weight]
    rest = [p for name, p in tower.named_parameters() if "token_embedding" not in name]
    params = [{"params": words, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.05}]
    optimizer = torch.optim.AdamW(params, RATE, betas=(0.9, 0.98), fused=True)
    for step in range(STEPS):
        rate = RATE * min(1, (step + 1) / WARM, 2 * (1 - step / STEPS))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = [
            number
            for group, share in SHARES.items()
            for number in random.choices(
                pools[group], cum_weights=chances[group], k=round(share * BATCH)
            )
        ]
        order, texts = alike([pieces[i] for i in chosen], random.choices(forms, k=FORMS))
        wanted, given = vectors[chosen][order], tower(texts)
        seen = images[torch.randint(len(images), (PHOTOS,))]
        loss = 1 - (given * wanted).sum(-1).mean()
        loss = loss + 0.6 * divergence(seen @ given.T, seen @ wanted.T)
        back, begin = order.argsort(), 0
        for share in SHARES.values():
            kind = back[begin : begin + round(share * BATCH)]
            begin += len(kind)
            loss = loss + 0.12 * divergence(seen @ given[kind].T, seen @ wanted[kind].T)
        loss = loss + 0.4 * divergence(rows @ given.T, rows @ wanted.T)
        loss = loss + 0.4 * divergence(given @ rows.T, wanted @ rows.T)
        loss = loss + 0.3 * divergence(given @ wanted.T, wanted @ wanted.T)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        if step % 300 == 0 or step == STEPS - 1:
            report = []
            for group, some in held.items():
                with torch.inference_mode():
                    order, texts = alike([pieces[i] for i in some], ["a photo of a {}."])
                    found, right = tower(texts), vectors[some][order]
                    same = (images[:600] @ found.T).argmax(-1) == (images[:600] @ right.T).argmax(
                        -1
                    )
                cosine = (found * right).sum(-1).mean()
                report.append(f"{group} {cosine:.3f}, same for {same.float().mean():.1%}")
            print(
                f"{step:5} loss {loss.item():.3f}; held out: {'; '.join(report)} of photos; "
                f"{time.time() - started:.0f} s",
                flush=True,
            )
    state = {k: v for k, v in tower.text.state_dict().items() if k != "attn_mask"}
    torch.save(state, work / "text.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
