"""Teaches the image head what the teacher makes of the backbone's features.

Usage: image.py WORK. Reads WORK/train.pt (of features.py) and WORK/names.pt (of names.py); writes
WORK/head.pt: the state dict of the projection, an MLP 1,280 -> 1,536 -> 768.

L2 normalisation makes the posterior's denominator irrelevant: the teacher's vector points along
sum_c exp(logit_c) row_c. So the head begins with the backbone's classifier as its first layer,
where GELU passes only the highest logits, and the classes' rows as its second. What counts is which
labels are near: so besides the cosine to the teacher's vector, the similarities to the classes'
rows and to the teacher's vectors of likely labels are learned.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from timm.layers import Mlp
from torch import Tensor
from torch.nn.functional import kl_div, normalize

from teacher import DIM, Teacher

STEPS, BATCH, RATE, HELD_OUT = 4000, 256, 1e-3, 600
SHIFT = 5.0  # about the logit from which a class has a share of the posterior
SCALE = 30.0


def head() -> Mlp:
    """open_clip's projection for `timm_proj: mlp`."""
    return Mlp(1280, 2 * DIM, DIM, drop=(0.0, 0.0), bias=(True, False))


def divergence(given: Tensor, wanted: Tensor, anchors: Tensor) -> Tensor:
    """How the two see the anchors otherwise: Kullback-Leibler, in nats."""
    target = (SCALE * wanted @ anchors.T).softmax(-1)
    return kl_div((SCALE * given @ anchors.T).log_softmax(-1), target, reduction="batchmean")


def split(stored: dict[str, Tensor | list[str]]) -> tuple[Tensor, Tensor]:
    """Features of the photos held out, and of all others.

    Views of one photo stay together, so that a held-out photo was seen in no view.
    """
    photos = sorted(set(stored["paths"]))
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))
    apart = {photos[i] for i in order[:HELD_OUT].tolist()}
    mask = torch.tensor([path in apart for path in stored["paths"]])
    return stored["features"][mask].float(), stored["features"][~mask].float()


def draw(features: Tensor) -> Tensor:
    """A batch of features (BATCH, 1280): half of it mixed in pairs, since the teacher answers for
    any point between photos, and each a little stronger or weaker.
    """
    some = features[torch.randint(len(features), (BATCH,))]
    share = torch.rand(BATCH, 1) * (torch.rand(BATCH, 1) < 0.5)
    some = (1 - share) * some + share * some.roll(1, 0)
    return some * (0.8 + 0.45 * torch.rand(BATCH, 1))


def main(work: Path) -> None:
    """Trains and writes the head."""
    torch.manual_seed(0)
    teacher = Teacher()
    stored = torch.load(work / "train.pt", weights_only=True)
    known = torch.load(work / "names.pt", weights_only=True)
    labels = known["vectors"][: len(known["groups"]["likely"])]  # the first of the names
    held, features = split(stored)
    network = head()
    with torch.no_grad():
        network.fc1.weight[:1000] = teacher.weight
        network.fc1.bias[:1000] = teacher.bias - SHIFT
        network.fc2.weight[:, :1000] = teacher.rows.T
        network.fc2.weight[:, 1000:] *= 0.1
    rows, answer = normalize(teacher.rows), teacher.images(held)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for step in range(STEPS):
        some = draw(features)
        wanted, given = teacher.images(some), normalize(network(some))
        loss = (1 - (given * wanted).sum(-1)).mean() + divergence(given, wanted, rows)
        loss = loss + divergence(given, wanted, labels[torch.randperm(len(labels))[:1000]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == STEPS - 1:
            with torch.no_grad():
                found = normalize(network(held))
                same = (found @ labels.T).argmax(-1) == (answer @ labels.T).argmax(-1)
            print(
                f"{step:5} held-out photos: cosine {(found * answer).sum(-1).mean():.4f}, "
                f"same of {len(labels):,} labels {same.float().mean():.1%}",
                flush=True,
            )
    torch.save(network.state_dict(), work / "head.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
