"""Teaches the image head and the text tower what the teacher says of photos and names.

Usage: distill.py WORK STAGE. Reads WORK/teacher.pt, words.json and train.pt (teacher.py, words.py
and features.py make them); writes WORK/towers.pt: the state dicts, in half precision, of
open_clip's text transformer and of the projection, an MLP 1,280 -> 1,792 -> 896.

Labels are told apart by their similarities to images. So besides the cosine to the teacher's
vectors, the similarities of photos to names, of both to ImageNet's classes and of names to each
other are learned (Kullback-Leibler of their softmaxes, as in CLIP-KD, arXiv 2307.12732). Names come
in lists of one kind in one template, as people write them.

L2 normalisation makes the posterior's denominator irrelevant: the teacher's vector of an image
points along sum_c exp(logit_c) row_c. So the head begins with the backbone's classifier as its
first layer, where GELU passes only the highest logits, and the classes' rows as its second.

The photos at hand show few of the 1,000 classes, and what none shows would be forgotten. The
teacher answers for any feature vector: in a part of a batch the logits of one or two random classes
are raised, by moving the features along the classifier's rows. And a drawing of a photo shall be
what the photo is: there the teacher is asked for the photo.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn.functional import kl_div, normalize

from teacher import DIM, Teacher
from tower import CONFIG, NARROW, Tower
from words import TOKENIZER, acts, lines, phrases

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = 64  # in a list
SCALE, SHARP = 30.0, 80.0
SHIFT = 5.0  # about the logit from which a class has a share of the posterior
LONGEST = 14  # tokens of a name
ACTS = 9000  # phrases of who does what
HELD_OUT = {"looks": 300, "phrases": 500, "deeds": 400}  # names
HELD_OUT_PHOTOS = 800
REFRESH = 500  # steps after which the hard names are chosen anew
LISTS, TEN = 300, 10  # of names that are told apart for the report


@dataclass(frozen=True)
class Stage:
    """How one stage teaches.

    Attributes:
        steps: how many.
        rates: the highest learning rates of the token vectors, the rest of the text tower, and the
            head, which stays as it is at 0.
        smooth: the temperature of the teacher's posterior. 1.3 is easier to follow and better on
            development sets of drawings and goods (1.0 to 2.5 were tried); 1.0 keeps photos apart.
        lists: of a batch, by group of names.
        photos: of a batch: plain or mixed, raised, drawn.
        made: how many phrases to draw from.
        most: names to draw from in other groups, the frequent ones first; None for all.
        seed: of all that is random.
        wide: whether the text tower is the wider one of widen.py.
        centred: whether each photo's similarities to a list also count by their own spread.
        surfaces: of a batch besides: close-ups, and photos of which the backbone sees less.
        hard: further lists, by group of names, drawn by how badly the tower says them.
    """

    steps: int
    rates: tuple[float, float, float]
    smooth: float
    lists: dict[str, int]
    photos: tuple[int, int, int]
    made: int
    most: dict[str, int] | None
    seed: int
    wide: bool = False
    centred: bool = False
    surfaces: tuple[int, int] = (0, 0)
    hard: dict[str, int] = field(default_factory=dict)


EVERY = {
    "likely": 4,
    "things": 6,
    "kinds": 4,
    "nouns": 2,
    "plurals": 2,
    "visible": 4,
    "looks": 4,
    "phrases": 6,
}
FEW = {"likely": 2, "things": 1, "kinds": 1, "looks": 1, "phrases": 1}
MOST = {
    "likely": 1,
    "things": 2,
    "kinds": 1,
    "nouns": 1,
    "plurals": 1,
    "visible": 1,
    "looks": 1,
    "phrases": 2,
}
ADJECTIVES = {"likely": 2, "things": 1, "kinds": 2, "looks": 3, "phrases": 1}
BOTH = {
    "likely": 2,
    "things": 2,
    "kinds": 2,
    "looks": 3,
    "plurals": 1,
    "visible": 1,
    "phrases": 1,
}
FEW_OF_ALL = {"likely": 1, "things": 1, "kinds": 0, "looks": 1, "plurals": 1, "visible": 1}
WORST = {"looks": 3, "things": 2, "kinds": 1, "likely": 1}
EVEN = {
    "likely": 1,
    "things": 1,
    "kinds": 0,
    "looks": 1,
    "plurals": 1,
    "visible": 1,
    "phrases": 1,
    "deeds": 1,
    "having": 1,
    "acts": 1,
}
COMMON = {"things": 7000, "looks": 7000}
SEEN = {"nouns": 15_000, "visible": 30_000}
STAGES = {
    "first": Stage(9_347, (1e-3,) * 3, 1.3, EVERY, (384, 256, 256), 800_000, None, 3),
    "more": Stage(6_934, (8e-4,) * 3, 1.3, EVERY, (384, 256, 256), 350_000, None, 5),
    "last": Stage(1_326, (2e-4,) * 3, 1.0, FEW, (128, 96, 32), 3_500, COMMON, 9),
    "wide": Stage(4_500, (3e-4, 3e-4, 0), 1.0, MOST, (160, 96, 0), 100_000, SEEN, 21, wide=True),
    "fine": Stage(
        900, (2e-4, 2e-4, 0), 1.0, ADJECTIVES, (160, 96, 0), 3_500, {"things": 7000}, 23, wide=True
    ),
    "both": Stage(
        1_750,
        (3e-4, 1e-4, 1.5e-4),
        1.0,
        BOTH,
        (160, 96, 0),
        30_000,
        {"visible": 30_000},
        32,
        wide=True,
        centred=True,
    ),
    "hard": Stage(
        354,
        (5e-4, 7e-5, 0),
        1.0,
        FEW_OF_ALL,
        (160, 96, 0),
        0,
        {"visible": 30_000},
        45,
        wide=True,
        centred=True,
        hard=WORST,
    ),
    "deeds": Stage(
        3_600,
        (4e-4, 1e-4, 1e-4),
        1.0,
        EVEN,
        (128, 80, 40),
        30_000,
        {"visible": 30_000},
        46,
        wide=True,
        centred=True,
        surfaces=(48, 24),
        hard={"looks": 2, "things": 1, "kinds": 1, "likely": 1, "deeds": 1},
    ),
}
STAGES["harder"] = replace(STAGES["hard"], steps=250, rates=(4e-4, 5e-5, 0))


def head() -> Mlp:
    """open_clip's projection for `timm_proj: mlp`."""
    return Mlp(1280, 2 * DIM, DIM, drop=(0.0, 0.0), bias=(True, False))


def divergence(given: Tensor, wanted: Tensor, scale: float = SCALE) -> Tensor:
    """Kullback-Leibler between the softmaxes of similarities, in nats, on average."""
    found, target = (scale * given).log_softmax(-1), (scale * wanted).softmax(-1)
    return kl_div(found.flatten(0, -2), target.flatten(0, -2), reduction="batchmean")


def centred(given: Tensor, wanted: Tensor) -> Tensor:
    """As `divergence`, at a scale that gives the wanted similarities to each list a spread of 2.

    What a photo has in common with all of a list decides nothing; where it is nearly as similar to
    each, as textures are to adjectives, small differences decide.
    """
    scale = 2 / wanted.std(-1, keepdim=True).clamp(min=0.004)
    return divergence(scale * given, scale * wanted, 1.0)


class Texts:
    """Names and templates as tokens, and the teacher's vectors of the names."""

    def __init__(self, groups: dict[str, dict[str, float]], stage: Stage, teacher: Teacher) -> None:
        self.lists, dice = stage.lists, np.random.default_rng(1)
        for group, most in (stage.most or {}).items():
            weights = groups[group]
            names = sorted(dice.permutation(sorted(weights)).tolist(), key=lambda n: -weights[n])
            groups = groups | {group: {name: weights[name] for name in names[:most]}}
        if "phrases" in stage.lists:
            groups = groups | {"phrases": dict.fromkeys(phrases(groups, stage.made), 1.0)}
        if "acts" in stage.lists:
            groups["acts"] = dict.fromkeys(acts(groups, ACTS), 1.0)
        groups = {group: groups[group] for group in stage.lists}
        words: dict[str, list[int]] = {}
        names, pieces = [], []
        for name in sorted({name for group in groups.values() for name in group}):
            for word in name.split():
                if word not in words:
                    words[word] = TOKENIZER.encode(word)
            if len(piece := [token for word in name.split() for token in words[word]]) <= LONGEST:
                names.append(name)
                pieces.append(piece)
        numbers = {name: number for number, name in enumerate(names)}
        self.lengths = np.array([len(piece) for piece in pieces])
        self.names = padded(pieces)
        self.vectors = torch.cat(
            [teacher.labels(names[i : i + 65536]).half() for i in range(0, len(names), 65536)]
        )
        self.held: dict[str, np.ndarray] = {}
        for group, count in HELD_OUT.items():
            if group in groups:
                known = [numbers[name] for name in groups[group] if name in numbers]
                self.held[group] = dice.choice(known, count, replace=False)
        gone = set(np.concatenate(list(self.held.values())).tolist())
        self.pools: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for group, weights in groups.items():
            some = [(numbers[n], weight) for n, weight in weights.items() if n in numbers]
            some = [(number, weight) for number, weight in some if number not in gone]
            chances = np.cumsum([weight for _, weight in some])
            self.pools[group] = np.array([number for number, _ in some]), chances / chances[-1]
        found = lines("templates")
        every = [x for sentences in found.values() for x in sentences if x.count("{}") == 1]
        plain = ["{}", "a photo of a {}."] * 3 + ["a {}", "the {}", "{}."] + found["photo"]
        # The plain ones are drawn as often as all of the project's together.
        parts = [x.split("{}") for x in ["{}", *every, *plain * (len(every) // len(plain))]]
        before = [[TOKENIZER.sot_token_id, *TOKENIZER.encode(x)] for x, _ in parts]
        after = [[*TOKENIZER.encode(x), TOKENIZER.eot_token_id] for _, x in parts]
        self.before, self.after = padded(before), padded(after)
        self.sizes = np.array([[len(x), len(y)] for x, y in zip(before, after, strict=True)])

    def draw(self, dice: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Lists of names, group after group: the names' numbers, and their templates'."""
        numbers = []
        for group, count in self.lists.items():
            pool, chances = self.pools[group]
            numbers.append(pool[np.searchsorted(chances, dice.random(count * NAMES))])
        templates = dice.integers(len(self.sizes), size=sum(self.lists.values()))
        return np.concatenate(numbers), templates.repeat(NAMES)

    @torch.no_grad()
    def add_hard(self, tower: Tower, hard: dict[str, int]) -> None:
        """Further lists of a batch: of names whose vectors are far from the teacher's by now.

        A name's chance is in proportion to its weight's square root and to the square of one minus
        the cosine of its vector, as "{}", to the teacher's.
        """
        for group, count in hard.items():
            pool, chances = self.pools[group]
            parts = np.array_split(pool, max(1, len(pool) // 2048))
            given = torch.cat([tower(*self.tokens(part, np.zeros_like(part))) for part in parts])
            cosines = (given * self.vectors[on_device(pool)].float()).sum(1).cpu().numpy()
            weights = np.diff(chances, prepend=0) ** 0.5 * (1 - cosines).clip(0.01) ** 2
            chances = np.cumsum(weights)
            self.pools[f"hard {group}"] = pool, chances / chances[-1]
            self.lists = self.lists | {f"hard {group}": count}

    def through(self, tower: Tower, numbers: np.ndarray, templates: np.ndarray) -> Tensor:
        """Lists of names, each in one template -> the tower's unit vectors (n, 896)."""
        tokens, last = self.tokens(numbers, templates)
        if DEVICE == "cuda":
            return tower(tokens, last)
        return tower.lists(tokens, last, self.sizes[templates[::NAMES], 0].tolist())

    def tokens(self, numbers: np.ndarray, templates: np.ndarray) -> tuple[Tensor, Tensor]:
        """Names in templates -> tokens (n, longest), and each text's last place (n,)."""
        begin, rest = self.sizes[templates].T
        last = begin + self.lengths[numbers] + rest - 1
        place = np.arange(last.max() + 1)[None] - begin[:, None]  # in the name
        behind = place - self.lengths[numbers, None]
        before, name, after = (
            np.take_along_axis(table[which], where.clip(0, table.shape[1] - 1), 1)
            for table, which, where in (
                (self.before, templates, place + begin[:, None]),
                (self.names, numbers, place),
                (self.after, templates, behind),
            )
        )
        tokens = np.where(place < 0, before, np.where(behind < 0, name, after))
        return on_device(tokens), on_device(last)


def padded(pieces: list[list[int]]) -> np.ndarray:
    """Lists of tokens -> int64 (n, longest)."""
    table = np.zeros((len(pieces), max(map(len, pieces))), np.int64)
    for row, piece in zip(table, pieces, strict=True):
        row[: len(piece)] = piece
    return table


def on_device(numbers: np.ndarray) -> Tensor:
    """To where the training runs, without waiting for it."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory().to(DEVICE, non_blocking=True) if DEVICE == "cuda" else tensor


class Photos:
    """Backbone features of photos, and the teacher's vectors of what they show."""

    def __init__(self, stored: dict[str, Any], stage: Stage, teacher: Teacher) -> None:
        self.teacher, self.smooth = teacher, stage.smooth
        self.sizes, self.besides = stage.photos, stage.surfaces
        # Views of one photo stay together, so that a held-out photo was seen in no view.
        paths, kinds = np.array(stored["paths"]), np.array(stored["kinds"])
        features = stored["features"].to(DEVICE).float()
        whole = {path: i for i, path in enumerate(paths) if kinds[i] == "photo"}
        shown = np.array([whole[path] for path in paths])
        dice = np.random.default_rng(0)
        apart = np.isin(paths, dice.choice(sorted(whole), HELD_OUT_PHOTOS, replace=False))

        def some(which: np.ndarray) -> tuple[Tensor, Tensor]:
            return features[on_device(which)], features[on_device(shown[which])]

        self.held = some(apart & (kinds == "photo"))[0]
        self.held_styles = some(apart & (kinds == "style"))
        self.held_surfaces = some(apart & (kinds == "surface"))[0]
        self.plain = some(~apart & np.isin(kinds, ["photo", "crop"]))[0]
        self.styles = some(~apart & (kinds == "style"))
        self.surfaces = some(~apart & (kinds == "surface"))[0]
        self.moves = teacher.weight / teacher.weight.square().sum(1, keepdim=True)  # +1 in a logit

    def raised(self, features: Tensor) -> Tensor:
        """Features as of photos that also show one or two random classes, by up to 8 in a logit."""
        size = (len(features), 1)
        for chance in (1.0, 0.5):
            by = 8 * torch.rand(size, device=DEVICE) * (torch.rand(size, device=DEVICE) < chance)
            some = torch.randint(len(self.moves), size[:1], device=DEVICE)
            features = features + by * self.moves[some]
        return features.clamp(min=0)  # as the backbone's last activation leaves them

    @staticmethod
    def some(features: Tensor, count: int) -> Tensor:
        """Features of photos, half of them mixed in pairs.

        The teacher answers for any point between photos.
        """
        features, size = features[torch.randint(len(features), (count,), device=DEVICE)], (count, 1)
        share = torch.rand(size, device=DEVICE) * (torch.rand(size, device=DEVICE) < 0.5)
        return (1 - share) * features + share * features.roll(1, 0)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Features, and the teacher's vectors for them."""
        plain, raised, styles = self.sizes
        photos = self.some(self.plain, plain + raised)
        photos = torch.cat([photos[:plain], self.raised(photos[plain:])])
        if any(self.besides):
            near, less = self.besides
            faint = self.plain[torch.randint(len(self.plain), (less,), device=DEVICE)]
            faint = faint * (0.3 + 0.7 * torch.rand((less, 1), device=DEVICE))
            photos = torch.cat([photos, self.some(self.surfaces, near), faint])
        some = torch.randint(len(self.styles[0]), (styles,), device=DEVICE)
        pictures, shown = (features[some] for features in self.styles)
        given, asked = torch.cat([photos, pictures]), torch.cat([photos, shown])
        return given, self.teacher.images(asked, self.smooth)


def first_tokens(teacher: Teacher) -> Tensor:
    """The sentence encoder's vectors of all tokens, by PCA at the tower's width.

    So words that no training name uses are not noise.
    """
    vectors = teacher.embed([word.replace("</w>", "") for word in TOKENIZER.encoder])
    _, _, axes = torch.pca_lowrank(vectors, q=NARROW.width, niter=4)
    vectors = (vectors - vectors.mean(0)) @ axes
    return 0.02 * vectors / vectors.std()


def first_head(teacher: Teacher) -> Mlp:
    """The head before training: nearly the teacher."""
    network = head().to(DEVICE)
    with torch.no_grad():
        network.fc1.weight[:1000] = teacher.weight
        network.fc1.bias[:1000] = teacher.bias - SHIFT
        network.fc2.weight[:, :1000] = teacher.rows.T
        network.fc2.weight[:, 1000:] *= 0.1
    return network


def losses(
    images: Tensor,
    texts: Tensor,
    pictures: Tensor,
    names: Tensor,
    rows: Tensor,
    together: float,
    spread: bool,
) -> Tensor:
    """How far the towers (images, texts) are from the teacher (pictures, names).

    `together` weighs what both say of each other, which means nothing at first; `spread` adds
    `centred` for each pair.
    """

    def lists(similarities: Tensor) -> Tensor:
        return similarities.unflatten(1, (-1, NAMES))  # (photos, lists, names)

    wanted, by_text = pictures @ names.T, pictures @ texts.T
    ours, by_image, classes = lists(images @ texts.T), lists(images @ names.T), rows @ texts.T
    target, known = lists(wanted), rows @ names.T
    loss = (1 - (texts * names).sum(-1)).mean() + (1 - (images * pictures).sum(-1)).mean()
    both = 0.5 * divergence(ours, target) + 0.1 * divergence(ours, target, SHARP)
    loss = loss + together * both
    loss = loss + divergence(lists(by_text), target) + divergence(by_image, target)
    loss = loss + 0.5 * divergence(by_text.T, wanted.T)
    loss = loss + divergence(images @ rows.T, pictures @ rows.T)
    loss = loss + 0.4 * divergence(classes, known) + 0.4 * divergence(classes.T, known.T)
    loss = loss + 0.3 * divergence(texts @ names.T, names @ names.T)
    if spread:
        loss = loss + sum(centred(given, target) for given in (lists(by_text), by_image, ours))
    return loss


@torch.no_grad()
def report(tower: Tower, network: Mlp, texts: Texts, photos: Photos, teacher: Teacher) -> str:
    """How the towers agree with the teacher on photos, and on surfaces, that were held out.

    Of each group: the mean cosine of its names to the teacher's vectors, and of lists of ten of
    them the share that is answered as by the teacher, by the text tower and the teacher's images,
    the head and the teacher's texts, and both towers.
    """
    asked = [photos.held, photos.held_surfaces, photos.held_styles[0]]
    shown = [photos.held, photos.held_surfaces, photos.held_styles[1]]
    seen = [normalize(network(features)) for features in asked]
    right = [teacher.images(features) for features in shown]
    groups = {group: pool for group, (pool, _) in texts.pools.items() if "hard" not in group}
    groups |= {f"{group}, held out": names for group, names in texts.held.items()}
    found, dice = [""], np.random.default_rng(8)
    for group, pool in groups.items():
        some = np.concatenate(
            [dice.choice(pool, TEN, replace=False) for _ in range(LISTS)]  # names of a list differ
        )
        given, names = (
            tower(*texts.tokens(some, np.zeros_like(some))),
            texts.vectors[on_device(some)].float(),
        )

        def same(images: Tensor, labels: Tensor, pictures: Tensor, names: Tensor = names) -> float:
            ours, theirs = images @ labels.T, pictures @ names.T
            answers = (x.unflatten(1, (LISTS, TEN)).argmax(2) for x in (ours, theirs))
            return torch.eq(*answers).float().mean().item()

        cosine = (given * names).sum(1).mean()
        shares = [
            (same(y, given, y), same(x, names, y), same(x, given, y))
            for x, y in zip(seen, right, strict=True)
        ]
        numbers = "; ".join(" ".join(f"{share:.1%}" for share in each) for each in shares)
        found.append(f"  {group}: {cosine:.3f}; {numbers}")
    cosines = (f"{(x * y).sum(1).mean():.4f}" for x, y in zip(seen, right, strict=True))
    found.append(f"  photos, surfaces, drawings: {' '.join(cosines)}")
    return "\n".join(found)


def main(work: Path, name: str) -> None:
    """Trains and writes the towers."""
    stage = STAGES[name]
    torch.manual_seed(stage.seed)
    torch.set_float32_matmul_precision("high")
    teacher = Teacher.load(work, DEVICE)
    texts = Texts(json.loads((work / "words.json").read_text()), stage, teacher)
    photos = Photos(torch.load(work / "train.pt", weights_only=True), stage, teacher)
    tower = Tower(DIM, CONFIG if stage.wide else NARROW).to(DEVICE)
    network, rows = first_head(teacher).requires_grad_(stage.rates[2] > 0), normalize(teacher.rows)
    if is_first := name == "first":
        with torch.no_grad():
            tower.text.token_embedding.weight.copy_(first_tokens(teacher))
    else:
        load(work, tower, network)
    words = [tower.text.token_embedding.weight]
    rest = [p for name, p in tower.named_parameters() if "token_embedding" not in name]
    learned = [p for p in network.parameters() if p.requires_grad]
    every = [*tower.parameters(), *learned]
    optimizer = torch.optim.AdamW(
        [
            {"params": words, "weight_decay": 0.0},
            {"params": rest, "weight_decay": 0.05},
            {"params": learned, "weight_decay": 0.001},
        ],
        betas=(0.9, 0.98),
        fused=True,
    )
    print(f"{len(texts.lengths):,} names, {len(photos.plain):,} views", flush=True)
    dice, started = np.random.default_rng(stage.seed), time.time()
    for step in range(stage.steps):
        done = step / stage.steps
        for group, rate in zip(optimizer.param_groups, stage.rates, strict=True):
            group["lr"] = rate * schedule(done)
        if step % REFRESH == 0:
            texts.add_hard(tower, stage.hard)
        numbers, templates = texts.draw(dice)
        given = texts.through(tower, numbers, templates)
        names = texts.vectors[on_device(numbers)].float()
        with torch.no_grad():
            features, pictures = photos.draw()
        together = min(1, 5 * done) if is_first else 1
        images = normalize(network(features))
        loss = losses(images, given, pictures, names, rows, together, stage.centred)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(every, 1.0)
        optimizer.step()
        if step % (stage.steps // 10) == 0:
            minutes = (time.time() - started) / 60
            print(f"{done:.0%}, {minutes:.1f} min, loss {loss.item():.3f}; held out: ", end="")
            print(report(tower, network, texts, photos, teacher), flush=True)
            save(work, tower, network)
    print(f"{stage.steps:,} steps: {report(tower, network, texts, photos, teacher)}")
    save(work, tower, network)


def schedule(done: float) -> float:
    """The share of the highest rate, when so many of the steps are done."""
    return min(1, done / 0.04 + 0.01, 1.25 * (1 - done))


def load(work: Path, tower: Tower, network: Mlp) -> None:
    """Reads WORK/towers.pt."""
    towers = torch.load(work / "towers.pt", weights_only=True, map_location=DEVICE)
    tower.text.load_state_dict({n: x.float() for n, x in towers["text"].items()}, strict=False)
    network.load_state_dict({n: x.float() for n, x in towers["head"].items()})


def save(work: Path, tower: Tower, network: Mlp) -> None:
    """Writes WORK/towers.pt, in half precision, as the model will be."""
    text = {name: x.half() for name, x in tower.text.state_dict().items() if name != "attn_mask"}
    image = {name: x.half() for name, x in network.state_dict().items()}
    torch.save({"text": text, "head": image}, work / "towers.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
