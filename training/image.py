"""Teaches the image head what the teacher makes of the backbone's features.

Usage: image.py WORK. Reads WORK/train.pt (of features.py) and WORK/names.pt (of words.py); writes
WORK/head.pt: the state dict of the projection, an MLP 1,280 -> 1,792 -> 896.

L2 normalisation makes the posterior's denominator irrelevant: the teacher's vector points along
sum_c exp(logit_c) row_c. So the head begins with the backbone's classifier as its first layer,
where GELU passes only the highest logits, and the classes' rows as its second. What counts is which
labels are near: so besides the cosine to the teacher's vector, the similarities to the classes'
rows and to labels are learned.

The photos at hand show few of the 1,000 classes, and what none shows would be forgotten. The
teacher answers for any feature vector: in half of a batch the logits of one or two random classes
are raised, by moving the features along the classifier's rows.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from timm.layers import Mlp
from torch import Tensor
from torch.nn.functional import kl_div, normalize

from teacher import DIM, Teacher

STEPS, BATCH, RATE, HELD_OUT = 6500, 256, 1e-3, 600
SHIFT = 5.0  # about the logit from which a class has a share of the posterior
SCALE = 30.0


def head() -> Mlp:
    """open_clip's projection for `timm_proj: mlp`."""
    return Mlp(1280, 2 * DIM, DIM, drop=(0.0, 0.0), bias=(True, False))


def divergence(given: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler between the softmaxes of similarities, in nats."""
    found, target = (SCALE * given).log_softmax(-1), (SCALE * wanted).softmax(-1)
    return kl_div(found, target, reduction="batchmean")


def raised(features: Tensor, teacher: Teacher) -> Tensor:
    """Features as of photos that also show one or two random classes, by up to 8 in the logit."""
    moves = teacher.weight / teacher.weight.square().sum(1, keepdim=True)  # +1 in the logit
    count = len(features)
    for chance in (1.0, 0.5):
        by = 8 * torch.rand(count, 1) * (torch.rand(count, 1) < chance)
        features = features + by * moves[torch.randint(len(moves), (count,))]
    return features.clamp(min=0)  # as the backbone's last activation leaves them


def main(work: Path) -> None:
    """Trains and writes the head."""
    torch.manual_seed(0)
    teacher = Teacher()
    stored = torch.load(work / "train.pt", weights_only=True)
    known = torch.load(work / "names.pt", weights_only=True)
    likely = known["groups"]["likely"]
    drawn = random.Random(0).sample(known["groups"]["things"] + known["groups"]["phrases"], 4000)
    labels = normalize(known["vectors"][[*likely, *drawn]].float())
    # Views of one photo stay together, so that a held-out photo was seen in no view.
    photos = sorted(set(stored["paths"]))
    apart = {photos[i] for i in torch.randperm(len(photos))[:HELD_OUT].tolist()}
    mask = torch.tensor([path in apart for path in stored["paths"]])
    held, features = stored["features"][mask].float(), stored["features"][~mask].float()
    network = head()
    with torch.no_grad():
        network.fc1.weight[:1000] = teacher.weight
        network.fc1.bias[:1000] = teacher.bias - SHIFT
        network.fc2.weight[:, :1000] = teacher.rows.T
        network.fc2.weight[:, 1000:] *= 0.1
    rows, answer = normalize(teacher.rows), teacher.images(held)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.001)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=STEPS, pct_start=0.1
    )
    for step in range(STEPS):
        some = features[torch.randint(len(features), (BATCH,))]
        # Half of the batch is mixed in pairs: the teacher answers for any point between photos.
        share = torch.rand(BATCH, 1) * (torch.rand(BATCH, 1) < 0.5)
        some = (1 - share) * some + share * some.roll(1, 0)
        some = torch.cat([some[: BATCH // 2], raised(some[BATCH // 2 :], teacher)])
        wanted, given = teacher.images(some), normalize(network(some))
        here = torch.randperm(len(likely))[:500]
        there = len(likely) + torch.randperm(len(drawn))[:150]
        loss = (1 - (given * wanted).sum(-1)).mean() + divergence(given @ rows.T, wanted @ rows.T)
        anchors = labels[torch.cat([here, there])]
        loss = loss + divergence(given @ anchors.T, wanted @ anchors.T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0 or step == STEPS - 1:
            with torch.no_grad():
                found, some = normalize(network(held)), labels[: len(likely)]
                same = (found @ some.T).argmax(-1) == (answer @ some.T).argmax(-1)
            print(
                f"{step:5} held-out photos: cosine {(found * answer).sum(-1).mean():.4f}, "
                f"same of {len(some):,} labels {same.float().mean():.1%}",
                flush=True,
            )
    torch.save(network.state_dict(), work / "head.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
