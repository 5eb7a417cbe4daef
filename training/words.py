"""The names that the towers are taught, in groups.

Usage: words.py WORK. Reads WORK/teacher.pt; writes WORK/words.json: {group: {name: how often it is
drawn}}.

No group is built from the classes of a measured set: the names are WordNet's nouns, adjectives and
verbs, the last in all their forms, the project's ready label sets but those of measured sets,
common.txt (words that people type and WordNet files elsewhere), and phrases made of these words,
which `phrases` and `acts` make when they are used.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import forms
from open_clip.tokenizer import SimpleTokenizer

from teacher import PHYSICAL_ENTITY, WORDNET, Teacher, ancestors, read_wordnet

HERE = Path(__file__).parent
MEASURED = {"cifar10", "cifar100", "textures"}  # ready label sets kept out of training
HAVING = 9000  # names of what has something
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


def phrases(groups: dict[str, dict[str, float]], count: int) -> list[str]:
    """Labels of several words: striped shirts, apple juice, Kodak green apple juice.

    Frequent words are taken more often.
    """
    dice = random.Random(0)
    things, kinds = (
        sorted((n for n in groups[group] if " " not in n), key=rank)
        for group in ("things", "kinds")
    )
    proper = sorted(groups["proper"])

    def pick(words: list[str]) -> str:
        return words[int(len(words) * dice.random() ** 3)]

    found: set[str] = set()
    while len(found) < count:
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


def acts(groups: dict[str, dict[str, float]], count: int) -> list[str]:
    """Labels of who does what: dog running, flying bird, girl holding a cup, a man sleeping.

    Frequent words are taken more often.
    """
    dice = random.Random(5)
    things = sorted(
        (n for n in groups["things"] if " " not in n and n not in groups["proper"]), key=rank
    )
    deeds = groups["deeds"]
    doing = sorted((deed for deed in deeds if deed.endswith("ing")), key=lambda d: -deeds[d])

    def pick(words: list[str]) -> str:
        return words[int(len(words) * dice.random() ** 3)]

    found: set[str] = set()
    while len(found) < count:
        way, who, does, what = dice.random(), pick(things), pick(doing), pick(things)
        if way < 0.35:
            found.add(f"{who} {does}")
        elif way < 0.65:
            found.add(f"{does} {who}")
        elif way < 0.85:
            found.add(f"{who} {does} a {what}")
        else:
            found.add(f"a {who} {does}")
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

    looks = {name for name in adjectives() if len(name) > 2}
    things = frequent(physical)
    known, dice = forms.lemmas("noun"), random.Random(5)
    short = [n for n in sorted(physical - proper) if n.isalpha() and 2 < len(n) < 12]
    having = sorted(forms.ed(noun, known) for noun in dice.sample(short, HAVING))
    deeds: dict[str, float] = {}
    for verb, every in forms.verb_forms().items():
        place = rank(verb)
        for form in every:
            deeds[form] = max(3000 / (3000 + place), 0.1) if place >= 0 else 0.1
    return {
        "likely": dict.fromkeys(sorted(likely), 1.0),
        "things": things,
        "kinds": frequent(looks),
        "nouns": {n: w for n, w in frequent(nouns - physical).items() if " " not in n},
        "plurals": {plural(n): w for n, w in things.items() if n not in proper and w > 0.25},
        "visible": dict.fromkeys(sorted(physical), 1.0),
        "looks": dict.fromkeys(sorted(looks), 1.0),
        "proper": dict.fromkeys(sorted(proper), 1.0),
        "deeds": dict(sorted(deeds.items())),
        "having": dict.fromkeys(having, 1.0),
    }


def main(work: Path) -> None:
    """Writes the names."""
    found = groups(Teacher.load(work).names)
    print({group: len(names) for group, names in found.items()}, flush=True)
    (work / "words.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
