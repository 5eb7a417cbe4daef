"""Teaches the image head what the teacher makes of the backbone's features.

Reads WORK/train.pt (of features.py), writes WORK/head.pt: the state dict of the projection, an MLP
1,280 -> 1,024 -> 512.

L2 normalisation makes the posterior's denominator irrelevant: the teacher's vector points along
sum_c exp(logit_c) row_c. So the head begins with the backbone's classifier as its first layer,
where GELU passes only the highest logits, and the classes' rows as its second.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from timm.layers import Mlp
from torch.nn.functional import kl_div, normalize

from teacher import DIM, Teacher

STEPS, BATCH, RATE = 3000, 512, 1e-3
SHIFT = 5.0  # about the logit from which a class has a share of the posterior


def head() -> Mlp:
    """open_clip's projection for `timm_proj: mlp`."""
    return Mlp(1280, 2 * DIM, DIM, drop=(0.0, 0.0), bias=(True, False))


def main(work: Path) -> None:
    """Trains and writes the head."""
    torch.manual_seed(0)
    teacher = Teacher()
    features = torch.load(work / "train.pt", weights_only=True)["features"].float()
    held, features = features[:1000], features[1000:]
    network = head()
    with torch.no_grad():
        network.fc1.weight[:1000] = teacher.weight
        network.fc1.bias[:1000] = teacher.bias - SHIFT
        network.fc2.weight[:, :1000] = teacher.rows.T
        network.fc2.weight[:, 1000:] *= 0.1
    rows = normalize(teacher.rows)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for step in range(STEPS):
        chosen = features[torch.randint(len(features), (BATCH,))]
        # Half of the batch is mixed in pairs: the teacher answers for any point between photos.
        share = torch.rand(BATCH, 1) * (torch.rand(BATCH, 1) < 0.5)
        chosen = (1 - share) * chosen + share * chosen.roll(1, 0)
        wanted = teacher.images(chosen)
        given = normalize(network(chosen))
        target, found = (30 * wanted @ rows.T).softmax(-1), (30 * given @ rows.T).log_softmax(-1)
        loss = (1 - (given * wanted).sum(-1)).mean() + kl_div(found, target, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == STEPS - 1:
            with torch.no_grad():
                cosine = (normalize(network(held)) * teacher.images(held)).sum(-1)
            print(f"{step:5} cosine on held-out photos {cosine.mean():.4f}", flush=True)
    torch.save(network.state_dict(), work / "head.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
