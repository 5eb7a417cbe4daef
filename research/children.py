"""Whether children from WordNet help a flat list of labels (CHiLS, arXiv 2302.02551).

    python research/children.py --labels labels.txt DATA [--model mini]

DATA is as for `clipcls evaluate`. Children are the lowest hyponyms of a label's first sense, those
of several labels left out. It needs WordNet's files (Debian's wordnet-base). Prints the accuracy of
the labels alone, of scores summed over a label and its children, and of CHiLS's rule: the parent of
the child with the highest product of its score and, of the labels alone, its parent's.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from clipcls import ZeroShotClassifier
from clipcls.classification.labelled import embed_known
from clipcls.labels.names import join_levels
from clipcls.models.backend import Backend


def read_wordnet(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, list[str]]]:
    """Nouns: word -> its first sense, sense -> its first word, sense -> its hyponyms."""
    first, word, down = {}, {}, {}
    for line in (folder / "index.noun").read_text().splitlines():
        if not line.startswith("  "):
            cells = line.split()
            first[cells[0].replace("_", " ")] = cells[-int(cells[2])]
    for line in (folder / "data.noun").read_text().splitlines():
        if not line.startswith("  "):
            cells = line.split(" | ")[0].split()
            word[cells[0]] = cells[4].replace("_", " ")
            pointers = cells[5 + 2 * int(cells[3], 16) :]
            for kind, sense in zip(pointers[::4], pointers[1::4], strict=False):
                if kind == "@":
                    down.setdefault(sense, []).append(cells[0])
    return first, word, down


def children(label: str, wordnet: tuple, most: int) -> list[str]:
    """The lowest hyponyms of a label's first sense, nearest first, at most so many."""
    first, word, down = wordnet
    name = label.casefold()
    sense = first.get(name) or first.get(name.removesuffix("s"))
    if sense is None:
        return []
    below, found = [sense], []
    for node in below:
        below += [child for child in down.get(node, []) if child not in below]
        if node not in down and node != sense:
            found.append(word[node])
    return list(dict.fromkeys(found))[:most]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--most", type=int, default=20, help="children a label")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    arguments = parser.parse_args()
    settings = {"model": arguments.model, "backend": Backend(precision=arguments.precision)}
    flat = ZeroShotClassifier(arguments.labels, **settings).fit()
    known = embed_known(flat, arguments.data)
    names = flat.classes_.tolist()
    wordnet = read_wordnet(arguments.wordnet)
    found = {name: children(name, wordnet, arguments.most) for name in names}
    count = Counter(child for group in found.values() for child in group)
    tree = [join_levels([name]) for name in names]
    for name, group in found.items():
        kept = [child for child in group if count[child] == 1 and child not in names]
        tree += [join_levels([name, child]) for child in kept]
    deep = ZeroShotClassifier(tree, **{**settings, "model": flat.encoder_}).fit()
    node = deep.hierarchy_.levels[0].node
    has_children = np.bincount(node) > 1
    used = np.array([len(p) == 2 for p in deep.hierarchy_.levels[-1].paths]) | ~has_children[node]
    hits = {"labels alone": [], "summed": [], "CHiLS": []}
    for start in range(0, len(known.vectors), 1000):
        vectors, truth = known.vectors[start : start + 1000], known.truth[start : start + 1000]
        alone = flat.predict_proba(vectors)
        scores = deep.predict_proba(vectors)
        products = np.where(used, scores * alone[:, node], 0)
        sums = deep.hierarchy_.levels[0].sums(scores)
        answers = alone.argmax(1), sums.argmax(1), node[products.argmax(1)]
        for name, answer in zip(hits, answers, strict=True):
            hits[name] += [a in right for a, right in zip(answer, truth, strict=True)]
    print(f"{len(names)} labels, {len(tree) - len(names)} children, {len(known.paths)} images")
    print(*(f"{name} {np.mean(hit):.1%}" for name, hit in hits.items()), sep="; ")
