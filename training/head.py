"""Teaches the image head on, alone, with the text tower as it is.

Usage: head.py WORK STAGE. Reads what distill.py reads, and WORK/towers.pt, which it writes
again with the new head.

The first lessons are of a smoothed posterior, which is easier to follow and better on drawings;
here the teacher is asked as it is, which keeps photos apart, and what the text tower says of a
name counts as much as what the teacher says of it.

`surfaces` is about what shows no thing. There the backbone is sure of nothing, the posterior is
flat, and a head that learned from photos of things is farther from the teacher than on these.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from distill import (
    DEVICE,
    EVERY,
    NAMES,
    Photos,
    Stage,
    Texts,
    centred,
    divergence,
    head,
    load,
    on_device,
    save,
    schedule,
)
from teacher import DIM, Teacher
from tower import CONFIG, NARROW, Tower

DRAWN = {"things": 3000, "kinds": 600, "nouns": 500, "plurals": 500, "visible": 2500, "looks": 2500}
MORE = {"things": 7000, "plurals": 1500, "visible": 4000, "looks": 9000}
LISTS = 10  # of a batch
STAGES = {
    "photos": Stage(6_800, (0, 0, 3e-4), 1.0, EVERY, (224, 160, 64), 2_500, DRAWN, 7),
    "surfaces": Stage(
        8_802,
        (0, 0, 5e-4),
        1.0,
        {group: count for group, count in EVERY.items() if group != "nouns"},
        (96, 64, 0),
        3_000,
        MORE,
        51,
        wide=True,
        centred=True,
        surfaces=(64, 32),
    ),
}


def names_and_texts(texts: Texts, tower: Tower, seed: int) -> tuple[Tensor, Tensor]:
    """What the teacher and the text tower say of names: (n, 896) each, in lists of one kind."""
    dice = np.random.default_rng(seed)
    numbers = [dice.permutation(pool) for pool, _ in texts.pools.values()]
    chosen = np.concatenate([x[: len(x) // NAMES * NAMES] for x in numbers])
    templates = dice.integers(len(texts.sizes), size=len(chosen) // NAMES).repeat(NAMES)
    with torch.inference_mode():
        given = [
            texts.through(tower, chosen[i : i + 512], templates[i : i + 512])
            for i in range(0, len(chosen), 512)
        ]
    return texts.vectors[on_device(chosen)].float(), torch.cat(given).clone()


def main(work: Path, name: str) -> None:
    """Trains and writes the head."""
    stage = STAGES[name]
    torch.manual_seed(stage.seed)
    teacher = Teacher.load(work, DEVICE)
    tower = Tower(DIM, CONFIG if stage.wide else NARROW).to(DEVICE)
    network, rows = head().to(DEVICE), normalize(teacher.rows)
    load(work, tower, network)
    words = json.loads((work / "words.json").read_text())
    names, texts = names_and_texts(Texts(words, stage, teacher), tower, stage.seed)
    photos = Photos(torch.load(work / "train.pt", weights_only=True), stage, teacher)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.001, betas=(0.9, 0.98))
    for step in range(stage.steps):
        done = step / stage.steps
        for group in optimizer.param_groups:
            group["lr"] = stage.rates[2] * schedule(done)
        lists = torch.randint(len(names) // NAMES, (LISTS,), device=DEVICE)
        some = (lists[:, None] * NAMES + torch.arange(NAMES, device=DEVICE)).flatten()
        with torch.no_grad():
            features, pictures = photos.draw()
            wanted = (pictures @ names[some].T).unflatten(1, (-1, NAMES))
        images = normalize(network(features))
        loss = (1 - (images * pictures).sum(-1)).mean()
        loss = loss + divergence(images @ rows.T, pictures @ rows.T)
        for known in (names, texts):
            given = images @ known[some].T
            lists = given.unflatten(1, (-1, NAMES))
            loss = loss + divergence(lists, wanted)
            if stage.centred:
                loss = loss + centred(lists, wanted)
        if not stage.centred:
            loss = loss + 0.5 * divergence(given, wanted.flatten(1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % (stage.steps // 10) == 0:
            print(f"{done:.0%}, loss {loss.item():.3f}; held out:", end="")
            for kind, held in (("photos", photos.held), ("surfaces", photos.held_surfaces)):
                with torch.no_grad():
                    seen, right = normalize(network(held)), teacher.images(held)
                    likely = slice(0, 4096)
                    same = (seen @ texts[likely].T).argmax(1) == (right @ names[likely].T).argmax(1)
                cosine, share = (seen * right).sum(1).mean(), same.float().mean()
                print(f" {kind} {cosine:.4f}, same of 4,096 labels {share:.1%}", end="")
            print(flush=True)
    save(work, tower, network)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
