"""How much of the right labels `clipcls suggest` finds, and what its list is worth.

    python research/suggest.py DATA [--model mini]

DATA is a folder with a folder per class. A suggested label is right for a class if the two are the
same word or share one of their first three senses in WordNet (Debian's wordnet-base); `or above`
also counts a label that is among the six nearest hypernyms of the class, or the other way round.
Prints the share of classes that have a right label and, for the suggested list and for the whole
vocabulary, the share of images that are answered rightly. research/suggest.md has results.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipcls import ZeroShotClassifier
from clipcls.classification.suggest import read_vocabulary, suggest_for_vectors
from clipcls.data.dataset import read_dataset
from clipcls.labels.prompts import TEMPLATE
from clipcls.models.backend import Backend


class WordNet:
    """Senses of nouns, and what is above them."""

    def __init__(self, folder: Path) -> None:
        self._senses, self._up = {}, {}
        for line in (folder / "index.noun").read_text().splitlines():
            if not line.startswith("  "):
                cells = line.split()
                self._senses[cells[0].replace("_", " ")] = cells[-int(cells[2]) :][:3]
        for line in (folder / "data.noun").read_text().splitlines():
            if not line.startswith("  "):
                cells = line.split(" | ")[0].split()
                pointers = cells[5 + 2 * int(cells[3], 16) :]
                pairs = zip(pointers[::4], pointers[1::4], strict=False)
                self._up[cells[0]] = [sense for kind, sense in pairs if kind == "@"]

    def senses(self, name: str) -> set[str]:
        """The first three senses of a word, its singular and its spelling without hyphens."""
        name = name.casefold().replace("_", " ")
        words = {name, name.rstrip("s"), name.replace("-", " ")}
        return {sense for word in words for sense in self._senses.get(word, ())}

    def above(self, senses: set[str]) -> set[str]:
        """The six nearest hypernyms of each sense."""
        found: set[str] = set()
        for sense in senses:
            nearest = [sense]
            for node in nearest:
                nearest += [up for up in self._up[node] if up not in nearest]
            found |= set(nearest[1:7])
        return found


def matches(wordnet: WordNet, names: Sequence[str], words: Sequence[str], above: bool):
    """Which words are right for which names, bool (names, words)."""
    senses = [wordnet.senses(word) for word in words]
    higher = [wordnet.above(s) for s in senses] if above else []
    rows = []
    for name in names:
        own = wordnet.senses(name)
        row = [
            w.casefold() == name.casefold() or bool(s & own)
            for w, s in zip(words, senses, strict=True)
        ]
        if above:
            up = wordnet.above(own)
            row = [
                r or bool(s & up or h & own) for r, s, h in zip(row, senses, higher, strict=True)
            ]
        rows.append(row)
    return np.array(rows)


def figures(
    classifier: ZeroShotClassifier,
    wordnet: WordNet,
    vectors: np.ndarray,
    truth: np.ndarray,
    names: Sequence[str],
) -> dict[str, float]:
    """The figures of images' vectors, float32 (n, dim), with their right names' numbers."""
    words = classifier.classes_.tolist()
    labels = suggest_for_vectors(classifier, vectors, [""] * len(vectors)).labels
    chosen = np.array([words.index(label.label) for label in labels])
    parts = np.array_split(vectors, len(vectors) // 1000 + 1)
    logits = np.concatenate([classifier.head_.logits(part) for part in parts])
    with_list, with_all = chosen[logits[:, chosen].argmax(axis=1)], logits.argmax(axis=1)
    found = {"images": len(vectors), "classes": len(set(truth.tolist())), "labels": len(chosen)}
    for what, above in (("", False), (" or above", True)):
        right = matches(wordnet, names, words, above)
        there = np.unique(truth)
        found |= {
            f"in the vocabulary{what}": right[there].any(axis=1).mean(),
            f"found{what}": right[there][:, chosen].any(axis=1).mean(),
            f"right labels{what}": right[there][:, chosen].any(axis=0).mean(),
            f"list{what}": right[truth, with_list].mean(),
            f"vocabulary{what}": right[truth, with_all].mean(),
        }
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    arguments = parser.parse_args()
    classifier = ZeroShotClassifier(
        read_vocabulary(),
        arguments.model,
        prompts=[TEMPLATE],
        backend=Backend(precision=arguments.precision),
    ).fit()
    data = read_dataset(arguments.data)
    names = list(dict.fromkeys(label for labels in data.labels for label in labels))
    embedded = list(zip(classifier.embed(data.paths), data.labels, strict=True))
    kept = [(item.vector, labels[0]) for item, labels in embedded if hasattr(item, "vector")]
    vectors = np.stack([vector for vector, _ in kept])
    truth = np.array([names.index(label) for _, label in kept])
    for name, figure in figures(
        classifier, WordNet(arguments.wordnet), vectors, truth, names
    ).items():
        print(f"{name:<28}{figure:.3f}" if isinstance(figure, float) else f"{name:<28}{figure}")
