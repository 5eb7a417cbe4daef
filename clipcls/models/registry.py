"""Finds a model's files by its name, on this machine or by downloading them.

Neither torch nor open_clip is imported, except to look up a tag without an alias: a run with
nothing new to compute needs neither.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipcls.errors import ModelError, ModelUnavailableError, UnknownModelError, install_command
from clipcls.models import hub
from clipcls.models.aliases import (
    ALIASES,
    HUB_FILES,
    MINI,
    PRETRAINED,
    Pretrained,
    read_twins,
    split_place,
)
from clipcls.models.architectures import (
    find_architecture,
    find_spelt,
    installed_versions,
    list_architectures,
    list_tags,
    read_architecture,
    require_torch,
)
from clipcls.models.config import CONFIG_NAME, find_weights, read_config
from clipcls.models.licences import CARD, find_licence, is_restricted, read_card

logger = logging.getLogger(__name__)

# `hub.fetch` with its settings.
Fetch = Callable[..., Path | None]

# The last one is present only if the others have been asked for.
_TOKENIZER = (
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "config.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Everything that is needed to load a model.

    Attributes:
        name: its name in records: the full one, never an alias.
        architecture: the name for `open_clip.create_model`: a built-in one or `local-dir:...`.
        config: the architecture's hyperparameters (open_clip's `model_cfg`).
        preprocess: mean, std, interpolation, resize mode; None: open_clip's for the architecture.
        quick_gelu: whether the weights were trained with QuickGELU.
        weights: the checkpoint file.
        tokenizer: directory of a Hugging Face tokenizer; None: CLIP's.
        text_config: directory of a Hugging Face text tower's config; None: OpenCLIP's own tower.
        licence: of the weights; "" if unknown.
    """

    name: str
    architecture: str
    config: Mapping[str, Any]
    preprocess: Mapping[str, Any] | None
    quick_gelu: bool
    weights: Path
    tokenizer: Path | None = None
    text_config: Path | None = None
    licence: str = ""

    @property
    def is_bundled(self) -> bool:
        """Whether it is `mini`, whose towers need no torch."""
        return self.weights.parent == MINI

    @property
    def context_length(self) -> int:
        """The number of tokens that a text is cut to."""
        length: int = self.config["text_cfg"].get("context_length", 77)
        return length

    @property
    def version(self) -> str:
        """The versions of the packages that compute the vectors; "" if clipcls does it itself."""
        if self.is_bundled:
            return ""
        packages = ["open_clip_torch"]
        if "timm_model_name" in self.config["vision_cfg"]:
            packages.append("timm")
        if self.text_config:
            packages.append("transformers")
        return ", ".join(map(" ".join, installed_versions(*packages).items()))

    def key(self) -> str:
        """Names all that decides the vectors besides weights and code; stable across runs."""
        parts = (
            self.config,
            self.preprocess or self.architecture,
            self.quick_gelu,
            [_hash_files(path) for path in (self.tokenizer, self.text_config) if path],
        )
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def resolve(
    model: str = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    offline: bool = False,
) -> ModelSource:
    """Finds a model's files, and downloads those that are not on this machine.

    Args:
        model: `auto` (the alias `base`, or `mini` with a warning if that is unavailable), `mini`,
            an alias, `ARCHITECTURE/tag` (or `ARCHITECTURE`, if it has one tag), `ORG/REPO` of the
            Hugging Face hub (`hf-hub:ORG/REPO`), `local-dir:DIRECTORY` or just a directory that
            open_clip wrote, or, with `checkpoint`, one of open_clip's architectures.
        checkpoint: a file of weights for that architecture or directory.
        progress: show a bar for downloads if stderr is a terminal.
        offline: download nothing.

    Raises:
        UnknownModelError: the model does not exist.
        ModelUnavailableError: its files are missing and cannot be downloaded now.
        ModelError: its files cannot be used.
    """
    fetch = functools.partial(hub.fetch, progress=progress, offline=offline)
    if checkpoint is not None:
        return _resolve_checkpoint(model, _path(checkpoint), fetch)
    source = _resolve(model, fetch)
    if is_restricted(source.licence):
        logger.warning(
            "%s: its licence (%s) allows research or non-commercial use only",
            *(source.name, source.licence),
        )
    return source


def _resolve(model: str, fetch: Fetch) -> ModelSource:
    alias = find_spelt(model, ("auto", *ALIASES))
    if alias == "auto":
        try:
            if not all(map(importlib.util.find_spec, ("torch", "open_clip"))):
                command = install_command("torch", "open-clip-torch")
                raise ModelUnavailableError(f"it needs torch and open_clip: {command}")
            impatient = functools.partial(fetch, impatient=True)
            return _from_pretrained(PRETRAINED[ALIASES["base"].name], impatient)
        except (ModelUnavailableError, UnknownModelError) as error:  # a mirror may lack it
            logger.warning("using the small bundled model mini instead of base: %s", error)
            alias = "mini"
    if alias == "mini":
        source = _from_directory(alias, MINI, None, fetch)
        return replace(source, licence=ALIASES[alias].licence)
    model = ALIASES[alias].name if alias else model
    if directory := _find_directory(model):
        return _from_directory(model, directory, None, fetch)
    if (repo := _find_repository(model)) is not None:
        twin = find_spelt(repo, read_twins())
        if twin is None:
            return _from_repository(repo, fetch)
        model = read_twins()[twin]
        logger.info("%s is OpenCLIP's %s", repo, model)
    if architecture := find_architecture(model):
        tags = list_tags(architecture)
        if len(tags) != 1:
            raise UnknownModelError(
                f"{model}: weights are missing; name a tag, as in {architecture}/TAG (it has "
                f"{', '.join(tags) or 'none'}), or give a checkpoint file"
            )
        model = f"{architecture}/{tags[0]}"
    try:
        return _from_pretrained(_find_pretrained(model), fetch)
    except ModelUnavailableError as error:
        raise ModelUnavailableError(f"{model}: {error}; mini needs no download") from None


def _resolve_checkpoint(model: str, file: Path, fetch: Fetch) -> ModelSource:
    """A file of weights for a directory's or open_clip's architecture."""
    if not file.is_file():
        raise ModelError(f"{file}: no such checkpoint file")
    if directory := _find_directory(model):
        return _from_directory(model, directory, file, fetch)
    if architecture := find_architecture(model):
        config = read_architecture(architecture)
        if find_architecture(f"{architecture}-quickgelu"):
            logger.warning(
                "%s: assuming plain GELU; if it was trained with QuickGELU (as OpenAI's, "
                "MetaCLIP's and DFN's models were), name the model %s-quickgelu",
                *(file, architecture),
            )
        how = None, config.get("quick_gelu", False), file
        name, text_files = f"{architecture}/{file.name}", _text_files(config, fetch)
        return ModelSource(name, architecture, config, *how, *text_files)
    if model not in ("auto", *ALIASES) and not model.startswith("hf-hub:"):
        _find_pretrained(model)  # raises if it does not exist
    raise ModelError(f"{file}: {model} has weights; name an architecture alone (as in ViT-B-32)")


def _find_directory(model: str) -> Path | None:
    """The model directory that a name stands for."""
    if model.startswith("local-dir:"):
        return _path(model.removeprefix("local-dir:"))
    directory = _path(model)
    return directory if (directory / CONFIG_NAME).is_file() else None


def _find_repository(model: str) -> str | None:
    """The repository of the Hugging Face hub that ORG/REPO or its page's address names.

    It is no repository if it resembles an architecture with a tag: a mistake costs no request.
    """
    if model.startswith((".", "~")):
        return None  # a path
    page = r"hf[-_]hub:|hf://|(?:https?://)?(?:huggingface|hf)\.co/"
    found = re.fullmatch(rf"({page})?([\w.-]+)/([\w.-]+)/?(?:tree/.*|blob/.*)?", model)
    if model.startswith("hf-hub:") and not found:
        return model.removeprefix("hf-hub:")  # the hub says what is wrong
    if not found or (not found[1] and _closest(found[2], list_architectures())):
        return None
    return f"{found[2]}/{found[3]}"


def _from_repository(repo: str, fetch: Fetch) -> ModelSource:
    why = ", so OpenCLIP cannot load it; `clipcls models --all TEXT` finds models that it can load"
    file = _require(fetch, repo, CONFIG_NAME, why=why)
    weights, licence = _fetch_weights(fetch, repo, *HUB_FILES)
    return replace(_from_config(f"hf-hub:{repo}", file, weights, fetch), licence=licence)


def _from_pretrained(pretrained: Pretrained, fetch: Fetch) -> ModelSource:
    config = read_architecture(pretrained.architecture)
    weights, licence = _fetch_weights(fetch, pretrained.repo, *pretrained.files)
    how = pretrained.preprocess, pretrained.quick_gelu, weights
    text_files = _text_files(config, fetch)
    return ModelSource(pretrained.name, pretrained.architecture, config, *how, *text_files, licence)


def _fetch_weights(fetch: Fetch, repo: str, *files: str) -> tuple[Path, str]:
    """The weights and their licence, whose card is only downloaded together with them."""
    is_here = hub.cached(repo, *files) is not None
    weights = _require(fetch, repo, *files)
    return weights, find_licence(repo, None if is_here else fetch)


def _from_directory(name: str, directory: Path, weights: Path | None, fetch: Fetch) -> ModelSource:
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such model directory")
    # As in open_clip, the tokenizer of a model directory lies in it.
    source = _from_config(name, directory / CONFIG_NAME, weights, fetch, tokenizer=directory)
    return source if weights else replace(source, licence=read_card(directory / CARD))


def _from_config(
    name: str, file: Path, weights: Path | None, fetch: Fetch, tokenizer: Path | None = None
) -> ModelSource:
    content = read_config(file)
    config = content["model_cfg"]
    if not config["text_cfg"].get("hf_tokenizer_name"):
        tokenizer = None  # CLIP's own
    text_files = _text_files(config, fetch, tokenizer)
    how = content.get("preprocess_cfg", {}), config.get("quick_gelu", False)
    weights = weights or find_weights(file.parent)
    return ModelSource(name, f"local-dir:{file.parent}", config, *how, weights, *text_files)


def _require(fetch: Fetch, repo: str, *names: str, why: str = "") -> Path:
    """The first of these files that a repository has, or an error."""
    file = fetch(repo, *names)
    if file is None:
        raise UnknownModelError(f"{repo}: has no {' or '.join(names)}{why}")
    return file


def _text_files(
    config: Mapping[str, Any], fetch: Fetch, tokenizer: Path | None = None
) -> tuple[Path | None, Path | None]:
    """Directories of the Hugging Face tokenizer and text tower config that a model names."""
    text = config["text_cfg"]
    if tokenizer is None and (repo := text.get("hf_tokenizer_name")):
        if not hub.cached(repo, _TOKENIZER[-1]):
            for name in _TOKENIZER[:-1]:
                fetch(repo, name)
        why = ", which the model's text needs"
        tokenizer = _require(fetch, repo, _TOKENIZER[-1], why=why).parent
    text_config = None
    if repo := text.get("hf_model_name"):
        why = ", which the text tower needs"
        text_config = _require(fetch, repo, "config.json", why=why).parent
    return tokenizer, text_config


def _find_pretrained(model: str) -> Pretrained:
    """Published weights by ARCHITECTURE/tag."""
    if known := find_spelt(model, PRETRAINED):
        return PRETRAINED[known]
    # open_clip writes ARCHITECTURE:tag where it lists them, others a space or a comma.
    name, _, tag = re.sub(r"[:,\s]+", "/", model).rpartition("/")
    architecture = find_architecture(name)
    if architecture is None:
        raise UnknownModelError(f"{model}: no such model; {_hint(model)}")
    with require_torch(model):
        from open_clip import get_pretrained_cfg
    found = get_pretrained_cfg(architecture, tag)
    if not found:
        tags = ", ".join(list_tags(architecture)) or "none"
        raise UnknownModelError(f"{model}: {architecture} has no weights {tag!r}; it has {tags}")
    if not found.get("hf_hub"):
        raise ModelUnavailableError(
            f"{model}: not on the Hugging Face hub; download {found.get('url')} and give it as the "
            f"checkpoint of {architecture}"
        )
    repo, files = split_place(found)
    return Pretrained(
        architecture,
        find_spelt(tag, list_tags(architecture)) or tag,
        repo,
        {key: found[key] for key in ("mean", "std", "interpolation", "resize_mode")},
        # As the weights were trained; the architecture's default only if the tag is silent
        # (https://github.com/mlfoundations/open_clip/issues/771).
        found.get("quick_gelu", read_architecture(architecture).get("quick_gelu", False)),
        files,
    )


def _hint(model: str) -> str:
    """A hint at the names that someone who wrote this one may have meant."""
    if _path(model).is_dir():
        return f"the directory {model} has no {CONFIG_NAME}, so it is not an OpenCLIP model"
    if _path(model).is_file():
        return "a file of weights is the --checkpoint of an architecture, as in --model ViT-B-32"
    if others := _containing(model):
        return f"did you mean {' or '.join(others)}?"
    name, _, tag = model.rpartition("/")
    known = ["auto", *ALIASES, *list_architectures()]
    close = _closest(name or model, known)
    if name and tag:
        names = [f"{each}/{tag}" for each in close for tag in list_tags(each)]
        close = _closest(model, names) or close
    if close:
        return f"did you mean {' or '.join(close)}?"
    return "`clipcls models` lists some"


def _containing(text: str) -> list[str]:
    """Up to three short names of models, or architectures, with a text in their names."""
    text = text.casefold()
    by_field = [alias for alias, info in ALIASES.items() if text in info.name.casefold()]
    return [*by_field, *(each for each in list_architectures() if text in each.casefold())][:3]


def _closest(name: str, names: Iterable[str]) -> list[str]:
    """Up to three names that are most similar to one, ignoring case."""
    folded = {each.casefold(): each for each in names}
    return [folded[each] for each in difflib.get_close_matches(name.casefold(), folded, n=3)]


def _path(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.expanduser(path)).absolute()


def _hash_files(directory: Path) -> str:
    """The hash of a tokenizer's and text config's files, all of them small."""
    digest = hashlib.sha256()
    for name in _TOKENIZER:
        if (file := directory / name).is_file():
            digest.update(f"{name} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()
