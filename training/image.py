"""Teaches the image head what the teacher makes of the backbone's features.

Usage: image.py WORK. Reads WORK/train.pt (of features.py), WORK/names.pt (of words.py) and
WORK/text.pt (of text.py); writes WORK/head.pt: the state dict of the projection, an MLP 1,280 ->
1,024 -> 512.

L2 normalisation makes the posterior's denominator irrelevant: the teacher's vector points along
sum_c exp(logit_c) row_c. So the head begins with the backbone's classifier as its first layer,
where GELU passes only the highest logits, and the classes' rows as its second. What counts is which
labels are near: so besides the cosine to the teacher's vector, the similarities to the classes'
rows and to labels are learned; those to what the text tower makes of the labels too, so that the
head makes up for some of the tower's mistakes.
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
from text import alike
from tower import Tower
from words import TOKENIZER

STEPS, BATCH, RATE, HELD_OUT = 6000, 256, 1e-3, 600
SHIFT = 5.0  # about the logit from which a class has a share of the posterior
SCALE = 30.0


def head() -> Mlp:
    """open_clip's projection for `timm_proj: mlp`."""
    return Mlp(1280, 2 * DIM, DIM, drop=(0.0, 0.0), bias=(True, False))


def divergence(given: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler between the softmaxes of similarities, in nats."""
    found, target = (SCALE * given).log_softmax(-1), (SCALE * wanted).softmax(-1)
    return kl_div(found, target, reduction="batchmean")


def student(names: list[str], work: Path) -> Tensor:
    """Names -> the text tower's vectors (n, 512)."""
    tower = Tower(DIM).eval()
    tower.text.load_state_dict(torch.load(work / "text.pt", weights_only=True), strict=False)
    order, texts = alike([TOKENIZER.encode(name) for name in names], ["a photo of a {}."])
    with torch.inference_mode():
        return tower(texts)[order.argsort()]


def main(work: Path) -> None:
    """Trains and writes the head."""
    torch.manual_seed(0)
    teacher = Teacher()
    stored = torch.load(work / "train.pt", weights_only=True)
    known = torch.load(work / "names.pt", weights_only=True)
    likely = known["groups"]["likely"]
    drawn = random.Random(0).sample(known["groups"]["things"] + known["groups"]["phrases"], 8000)
    chosen = [*likely, *drawn]
    labels = normalize(known["vectors"][chosen].float())
    texts = student([known["names"][number] for number in chosen], work).clone()
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
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for step in range(STEPS):
        some = features[torch.randint(len(features), (BATCH,))]
        # Half of the batch is mixed in pairs: the teacher answers for any point between photos.
        share = torch.rand(BATCH, 1) * (torch.rand(BATCH, 1) < 0.5)
        some = (1 - share) * some + share * some.roll(1, 0)
        wanted, given = teacher.images(some), normalize(network(some))
        loss = (1 - (given * wanted).sum(-1)).mean() + divergence(given @ rows.T, wanted @ rows.T)
        these = torch.randperm(len(labels))[:1000]
        target = wanted @ labels[these].T
        loss = loss + divergence(given @ labels[these].T, target)
        loss = loss + divergence(given @ texts[these].T, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == STEPS - 1:
            with torch.no_grad():
                found, count = normalize(network(held)), len(likely)
                wanted = (answer @ labels[:count].T).argmax(-1)
                same = [
                    ((found @ those[:count].T).argmax(-1) == wanted).float().mean()
                    for those in (labels, texts)
                ]
            print(
                f"{step:5} held-out photos: cosine {(found * answer).sum(-1).mean():.4f}, same of "
                f"{count:,} labels {same[0]:.1%}, with the text tower's {same[1]:.1%}",
                flush=True,
            )
    torch.save(network.state_dict(), work / "head.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
