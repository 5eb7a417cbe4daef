"""Do several words per label, templates and articles change answers?

    python research/words.py VECTORS.npz SET [--model mini]

VECTORS.npz has `vectors`, float32 (n, dim), and `labels`, the numbers of SET's sorted labels in
research/labels/words.yaml. With SET-broad they are those of SET, and images of other labels are
left out. Prints accuracy among all labels, and among seven drawn at random, by:

- `name`: the label's name alone, in one template; `set`: in the templates of `photo`; `a`: always
  with "a" in the template;
- `mean`: the normalised mean of the vectors of its name and synonyms; `max`: the highest of their
  logits; `sum`: the log of the sum of their exponentials; `lme`: the same with their mean;
  `max/2`: `max` of vectors halfway to the mean.

docs/evidence/labels.md has results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import yaml

from clipcls.embeddings.embed import embed_texts
from clipcls.labels.prompts import TEMPLATE, PromptSet, make_prompts
from clipcls.models.encoder import Encoder, open_encoder
from clipcls.numerics import unit_rows

WORDS = Path(__file__).parent / "labels" / "words.yaml"


def embed_words(encoder: Encoder, words: list[str], prompts: PromptSet) -> np.ndarray:
    """A unit row per word, the mean over the templates, float64 (n, dim)."""
    texts = [text for word in words for text in prompts.fill(word)]
    rows = embed_texts(encoder, texts, None).astype(np.float64)
    return unit_rows(rows.reshape(len(words), len(prompts.templates), -1).mean(axis=1))


def reduce_words(logits: np.ndarray, label: np.ndarray, how: str) -> np.ndarray:
    """Logits of words, (n, n_words), to those of labels, (n, n_labels)."""
    found = []
    for number in range(label.max() + 1):
        mine = logits[:, label == number]
        top = mine.max(axis=1, keepdims=True)
        exponentials = np.exp(mine - top)
        add = {"max": 0, "sum": np.log(exponentials.sum(1)), "lme": np.log(exponentials.mean(1))}
        found.append(top[:, 0] + add[how])
    return np.stack(found, axis=1)


def score(encoder: Encoder, vectors: np.ndarray, labels: dict[str, list[str]]) -> dict:
    """The name of each way -> logits, (n, n_labels)."""
    names = list(labels)
    words = [word for name in names for word in dict.fromkeys([name, *labels[name]])]
    label = np.repeat(np.arange(len(names)), [len({n, *labels[n]}) for n in names])
    one = make_prompts([TEMPLATE])
    rows = embed_words(encoder, words, one)
    means = unit_rows(np.stack([rows[label == number].mean(0) for number in range(len(names))]))
    scaled = encoder.logit_scale * vectors
    by_word, halfway = scaled @ rows.T, scaled @ unit_rows(rows + means[label]).T
    return {
        "name": scaled @ embed_words(encoder, names, one).T,
        "set": scaled @ embed_words(encoder, names, make_prompts("photo")).T,
        "a": scaled @ embed_words(encoder, names, make_prompts(["a photo of a {c}."])).T,
        "mean": scaled @ means.T,
        **{how: reduce_words(by_word, label, how) for how in ("max", "sum", "lme")},
        "max/2": reduce_words(halfway, label, "max"),
    }


def main() -> None:
    """Prints the figures of one set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vectors")
    parser.add_argument("set")
    parser.add_argument("--model", default="mini")
    arguments = parser.parse_args()
    sets = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
    data, labels = np.load(arguments.vectors), sets[arguments.set]
    vectors, truth = data["vectors"].astype(np.float64), data["labels"]
    if any(isinstance(value, dict) for value in labels.values()):
        fine = sorted(sets[arguments.set.removesuffix("-broad").removesuffix("-shop")])
        broad = {name: number for number, key in enumerate(labels) for name in labels[key]["of"]}
        truth = np.array([broad.get(fine[number], -1) for number in truth])
        vectors, truth = vectors[truth >= 0], truth[truth >= 0]
        labels = {key: value["synonyms"] for key, value in labels.items()}
    else:
        labels = {name: labels[name] for name in sorted(labels)}
    found = score(open_encoder(arguments.model), vectors, labels)
    random, drawn = np.random.default_rng(0), {way: [] for way in found}
    for _ in range(30):
        few = random.choice(len(labels), min(7, len(labels) - 1), replace=False)
        inside = np.isin(truth, few)
        for way, logits in found.items() if inside.any() else ():
            right = few[logits[inside][:, few].argmax(axis=1)] == truth[inside]
            drawn[way].append(right.mean())
    print(f"{arguments.set:22}{len(truth):6}{len(labels):5}", end="")
    for way, logits in found.items():
        all_right = (logits.argmax(axis=1) == truth).mean()
        print(f"  {way} {100 * all_right:.1f} {100 * np.mean(drawn[way]):.1f}", end="")
    print()


if __name__ == "__main__":
    main()
