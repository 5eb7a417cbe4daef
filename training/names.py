"""What the teacher says of words: the texts that the text tower learns from.

Usage: names.py WORK. Writes WORK/names.pt: names and vectors (n, 768), groups of them, and the
first vectors of the tokens (49408, 256).
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch
from open_clip.model import CLIPTextCfg
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from teacher import PHYSICAL_ENTITY, WORDNET, Teacher, ancestors, read_wordnet

HERE = Path(__file__).parent
CONFIG = CLIPTextCfg(
    **json.loads((HERE / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
)
MEASURED = {"cifar10", "cifar100", "textures"}  # ready label sets kept out of training
COMPOUNDS = 20_000


def lines(folder: str) -> dict[str, list[str]]:
    """The project's ready label sets or templates: file name -> lines."""
    return {
        file.stem: [x for x in file.read_text().splitlines() if x and not x.startswith("#")]
        for file in sorted((HERE.parent / "prompts" / folder).glob("*.txt"))
    }


def index(part: str) -> set[str]:
    """WordNet's lemmas of a part of speech: noun, adj, verb."""
    rows = WORDNET.with_name(f"index.{part}").read_text().splitlines()
    return {row.split()[0].replace("_", " ") for row in rows if not row.startswith(" ")}


def groups(classes: list[str]) -> dict[str, list[str]]:
    """Names by how likely a person is to type them.

    `likely` are ImageNet's classes and what is above them, common.txt, and the ready label sets;
    `common` are the words so frequent in captions that CLIP's tokenizer has one token for them;
    `visible` are WordNet's nouns below physical entity; `adjectives` are WordNet's; `compounds`
    put an adjective or noun before a likely name.
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
    words = {word[:-4] for word in SimpleTokenizer().encoder if word.endswith("</w>")}
    adjectives = index("adj")
    common = {
        word
        for word in words & (index("noun") | adjectives | index("verb"))
        if word.isalpha() and len(word) > 2
    }
    draw = random.Random(0)
    before = sorted(common & (adjectives | visible))
    heads = sorted(likely)
    compounds = {f"{draw.choice(before)} {draw.choice(heads)}" for _ in range(COMPOUNDS)}
    return {
        "likely": sorted(likely),
        "common": sorted(common - likely),
        "visible": sorted(visible - common - likely),
        "adjectives": sorted(adjectives - visible - common - likely),
        "compounds": sorted(compounds - visible - common - likely - adjectives),
    }


def token_vectors(teacher: Teacher) -> Tensor:
    """The sentence encoder's vectors of all tokens, by PCA at the tower's width."""
    words = [word.replace("</w>", "") for word in SimpleTokenizer().encoder]
    vectors = teacher.embed(words)
    _, _, axes = torch.pca_lowrank(vectors, q=CONFIG.width, niter=4)
    vectors = (vectors - vectors.mean(0)) @ axes
    return 0.02 * vectors / vectors.std()


def main(work: Path) -> None:
    """Asks the teacher and writes its answers."""
    torch.manual_seed(0)
    teacher = Teacher()
    found = groups(teacher.names)
    print({group: len(names) for group, names in found.items()}, flush=True)
    names = [name for some in found.values() for name in some]
    vectors = teacher.labels(names)
    known = {"groups": found, "names": names, "vectors": vectors, "tokens": token_vectors(teacher)}
    torch.save(known, work / "names.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
