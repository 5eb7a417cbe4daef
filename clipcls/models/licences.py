"""Licences of published weights, as their model cards state them; "" if unknown."""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Callable
from pathlib import Path

from clipcls.errors import ModelUnavailableError, UnknownModelError
from clipcls.models import hub

CARD = "README.md"
_LONGEST_CARD = 1_000_000  # bytes

# Read on the cards of these repositories (https://huggingface.co/ORG/REPO) in December 2026; for
# MobileCLIP2 in LICENSE_MODELS of github.com/apple/ml-mobileclip.
_FAMILIES = {
    "laion/CLIP-*": "MIT",
    "timm/ViT-*-SigLIP*": "Apache-2.0",
    "timm/PE-Core-*": "Apache-2.0",
    "timm/resnet*_clip.openai": "MIT",
    "timm/vit_*_clip_*.openai": "Apache-2.0",
    "timm/vit_*.metaclip*": "CC-BY-NC-4.0",
    "UCSC-VLAA/ViT-*-CLIPA-*": "Apache-2.0",
    "apple/DFN*-CLIP-*": "apple-amlr",
    "apple/MobileCLIP-*": "apple-amlr",
    "timm/MobileCLIP2-*": "apple-amlr",
    "visheratin/nllb-*": "CC-BY-NC-4.0",
    "imageomics/bioclip": "MIT",
    "imageomics/bioclip-2": "MIT",  # github.com/Imageomics/bioclip-2, "License"
    "Marqo/marqo-fashionSigLIP": "Apache-2.0",
    "microsoft/BiomedCLIP-*": "MIT",
    "joaodaniel/RS-M-CLIP": "MIT",
}
_RESTRICTED = re.compile(r"(?<![a-z])(nc|amlr|research|non-?commercial)(?![a-z])")
_SPDX = {"mit": "MIT", "apache-2.0": "Apache-2.0"}


def find_licence(repo: str, fetch: Callable[..., Path | None] | None = None) -> str:
    """The licence of a repository's weights: a known one, else that of its card.

    Args:
        repo: `organisation/name` on the hub.
        fetch: downloads the card if it is not on this machine; None: leave it.
    """
    for pattern, licence in _FAMILIES.items():
        if fnmatch.fnmatchcase(repo, pattern):
            return licence
    card = hub.cached(repo, CARD)
    if card is None and fetch is not None:
        with contextlib.suppress(ModelUnavailableError, UnknownModelError):
            card = fetch(repo, CARD)
    return read_card(card) if card else ""


def read_card(card: Path) -> str:
    """The licence in the front matter of a model card; several are joined by commas."""
    try:
        with card.open("rb") as file:
            text = file.read(_LONGEST_CARD).decode(errors="replace")
    except OSError:
        return ""
    front = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\n---", text, re.DOTALL)
    value = r"^{}:[ \t]*(.*(?:\r?\n[ \t]*- .*)*)"
    for field in ("license", "license_name"):
        found = re.search(value.format(field), front[1], re.MULTILINE) if front else None
        names = re.findall(r"[\w.+]+(?:-[\w.+]+)*", found[1]) if found else []
        if names and names != ["other"]:
            return ", ".join(map(_spell, names))
    return ""


def is_restricted(licence: str) -> bool:
    """Whether a licence allows research or non-commercial use only."""
    return _RESTRICTED.search(licence.casefold()) is not None


def _spell(name: str) -> str:
    return _SPDX.get(name, name.upper() if name.startswith("cc") else name)
