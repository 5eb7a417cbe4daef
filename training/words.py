"""The names that the text tower is taught, in groups, with the teacher's answers.

Usage: words.py WORK. Writes WORK/names.pt: {"names", "vectors": float16 (n, 896), "groups": group
-> numbers of its names, "weights": group -> how often each of them is drawn, "tokens": float32
(49408, 256), the tokens' first vectors}.

No group is built from the classes of a measured set: the names are WordNet's nouns and adjectives,
the project's ready label sets but those of measured sets, common.txt (words that people type and
WordNet files elsewhere), and phrases made of these words.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from teacher import PHYSICAL_ENTITY, WORDNET, Teacher, ancestors, read_wordnet

HERE = Path(__file__).parent
MEASURED = {"cifar10", "cifar100", "textures"}  # ready label sets kept out of training
PHRASES = 60_000
TOKENIZER = SimpleTokenizer()


def lines(folder: str) -> dict[str, list[str]]:
    """The project's ready label sets or templates: file name -> lines."""
    return {
        file.stem: [x for x in file.read_text().splitlines() if x and not x.startswith("#")]
        for file in sorted((HERE.parent / "prompts" / folder).glob("*.txt"))
    }


def adjectives() -> set[str]:
    """WordNet's adjectives."""
    index = WORDNET.with_name("index.adj").read_text().splitlines()
    return {line.split()[0].replace("_", " ").lower() for line in index if line[0] != " "}


def rank(name: str) -> int:
    """The place of the rarest word in CLIP's vocabulary; -1 if a word is in pieces there.

    The vocabulary is in order of frequency.
    """
    ranks = [TOKENIZER.encoder.get(f"{word}</w>", -1) for word in name.split()]
    return -1 if min(ranks) < 0 else max(ranks)


def plural(name: str) -> str:
    """The regular plural, which is what most people would type."""
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    return name[:-1] + "ies" if name.endswith("y") and name[-2:-1] not in "aeiou" else name + "s"


def phrases(things: list[str], kinds: list[str], proper: list[str]) -> list[str]:
    """Labels of several words: striped shirts, apple juice, Kodak green apple juice.

    The words come sorted, the frequent ones first; these are taken more often.
    """
    dice = random.Random(0)

    def pick(words: list[str]) -> str:
        return words[int(len(words) * dice.random() ** 3)]

    found: set[str] = set()
    while len(found) < PHRASES:
        look, words = dice.random(), [pick(things)]
        if look < 0.75:
            words.insert(0, pick(things if dice.random() < 0.4 else kinds))
        else:
            words.insert(0, pick(things))
            words.insert(0, pick(kinds))
            if dice.random() < 0.3:
                words.insert(0, pick(kinds))
        if dice.random() < 0.15:
            words.insert(0, dice.choice(proper))
        if len(set(words)) == len(words):
            if dice.random() < 0.35:
                words[-1] = plural(words[-1])
            found.add(" ".join(words))
    return sorted(found)


def groups(classes: list[str]) -> dict[str, dict[str, float]]:
    """Group -> name -> weight."""
    lemmas, above = read_wordnet()
    physical: set[str] = set()
    proper: set[str] = set()
    nouns: set[str] = set()
    for offset, names in lemmas.items():
        lower = {name.lower() for name in names}
        nouns |= lower
        if PHYSICAL_ENTITY in ancestors(offset, above):
            physical |= lower
            proper |= {n.lower() for n in names if n[:1].isupper() and " " not in n}
    likely = {name.lower() for name in classes} | set((HERE / "common.txt").read_text().split())
    for name, labels in lines("labels").items():
        if name not in MEASURED:
            likely |= {label.lower() for label in labels}

    def frequent(names: set[str]) -> dict[str, float]:
        ranks = {name: rank(name) for name in sorted(names)}
        return {n: 3000 / (3000 + r) for n, r in ranks.items() if r >= 0 and len(n) > 2}

    def words(names: dict[str, float]) -> list[str]:
        return sorted((n for n in names if " " not in n), key=rank)

    looks = {name for name in adjectives() if len(name) > 2}
    things, kinds = frequent(physical), frequent(looks)
    plurals = {plural(n): w for n, w in things.items() if n not in proper and w > 0.25}
    return {
        "likely": dict.fromkeys(sorted(likely), 1.0),
        "things": things,
        "kinds": kinds,
        "nouns": {n: w for n, w in frequent(nouns - physical).items() if " " not in n},
        "plurals": plurals,
        "visible": dict.fromkeys(sorted(physical), 1.0),
        "looks": dict.fromkeys(sorted(looks), 1.0),
        "phrases": dict.fromkeys(phrases(words(things), words(kinds), sorted(proper)), 1.0),
    }


def token_vectors(teacher: Teacher) -> Tensor:
    """The sentence encoder's vectors of all tokens, by PCA at the tower's width.

    So words that no training name uses are not noise.
    """
    config = json.loads((HERE / "open_clip_config.json").read_text())
    vectors = teacher.embed([word.replace("</w>", "") for word in TOKENIZER.encoder])
    _, _, axes = torch.pca_lowrank(vectors, q=config["model_cfg"]["text_cfg"]["width"], niter=4)
    vectors = (vectors - vectors.mean(0)) @ axes
    return 0.02 * vectors / vectors.std()


def main(work: Path) -> None:
    """Writes the names."""
    torch.manual_seed(0)
    teacher = Teacher()
    found = groups(teacher.names)
    print({group: len(names) for group, names in found.items()}, flush=True)
    names = sorted({name for group in found.values() for name in group})
    numbers = {name: number for number, name in enumerate(names)}
    torch.save(
        {
            "names": names,
            "vectors": teacher.labels(names).half(),
            "groups": {g: [numbers[n] for n in some] for g, some in found.items()},
            "weights": {g: list(some.values()) for g, some in found.items()},
            "tokens": token_vectors(teacher),
        },
        work / "names.pt",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
