"""Model names -> the files that make a model, found on this machine or downloaded.

Neither torch nor open_clip is imported, unless open_clip must be asked for a tag that no alias
stands for: a run with nothing new to compute needs neither.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipcls.errors import ModelError, ModelUnavailableError, UnknownModelError
from clipcls.files.jsonfiles import read_json
from clipcls.models import hub

__all__ = ["ModelInfo", "ModelSource", "list_models", "model_names", "quiet", "resolve"]

logger = logging.getLogger(__name__)

# `hub.fetch`, with its settings.
Fetch = Callable[..., Path | None]

MINI = Path(__file__).parents[1] / "mini"
_CONFIG = "open_clip_config.json"
# open_clip's own order of preference (factory._find_checkpoint_in_dir, pretrained).
_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
# The most that a configuration may ask for; the largest models have a tenth of it.
_SIZES = {
    "embed_dim": 100_000,
    "context_length": 1_000_000,
    "vocab_size": 10_000_000,
    "image_size": 10_000,
    "patch_size": 10_000,
    "layers": 1_000,
    "width": 100_000,
}
# The last one is there only when the others have been asked for.
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
class _Pretrained:
    """Published weights of a built-in architecture."""

    architecture: str
    tag: str
    repo: str
    files: tuple[str, ...]
    preprocess: Mapping[str, Any]
    quick_gelu: bool

    @property
    def name(self) -> str:
        return f"{self.architecture}/{self.tag}"


@dataclass(frozen=True, slots=True)
class _Alias:
    pretrained: _Pretrained
    licence: str  # as its model card says
    parameters: float  # millions; open_clip's docs/model_profile.csv
    imagenet: float  # zero-shot top-1, %; open_clip's docs/openclip_results.csv
    extra: str | None = None


_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_OPENAI = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
_SIGLIP = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
# Written out so that a known model is found without importing open_clip (5 s); a test holds them
# to what open_clip says.
_ALIASES = {
    "fast": _Alias(
        _Pretrained(
            "ViT-B-32",
            "datacomp_xl_s13b_b90k",
            "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
            _HUB_FILES,
            _OPENAI,
            quick_gelu=False,
        ),
        "MIT",
        parameters=151.28,
        imagenet=69.17,
    ),
    "base": _Alias(
        _Pretrained(
            "ViT-B-32-256",
            "datacomp_s34b_b86k",
            "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
            _HUB_FILES,
            _OPENAI,
            quick_gelu=False,
        ),
        "MIT",
        parameters=151.29,
        imagenet=72.81,
    ),
    "accurate": _Alias(
        _Pretrained(
            "ViT-L-14",
            "datacomp_xl_s13b_b90k",
            "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
            _HUB_FILES,
            _OPENAI,
            quick_gelu=False,
        ),
        "MIT",
        parameters=427.62,
        imagenet=79.21,
    ),
    "multilingual": _Alias(
        _Pretrained(
            "ViT-B-16-SigLIP-i18n-256",
            "webli",
            "timm/ViT-B-16-SigLIP-i18n-256",
            _HUB_FILES,
            _SIGLIP,
            quick_gelu=False,
        ),
        "Apache-2.0",
        parameters=370.63,
        imagenet=75.13,
        extra="hf",
    ),
}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """All that is needed to load a model, and all that is known of it before.

    Attributes:
        name: what records call it: the true model, never an alias.
        architecture: what `open_clip.create_model` is given: a built-in name or `local-dir:...`.
        config: the architecture's hyperparameters (open_clip's `model_cfg`).
        preprocess: mean, std, interpolation, resize mode; None: open_clip's for the architecture.
        quick_gelu: which GELU the weights were trained with.
        weights: the checkpoint file.
        tokenizer: directory of a Hugging Face tokenizer, None for CLIP's own.
        text_config: directory of a Hugging Face text tower's config, None for OpenCLIP's own.
    """

    name: str
    architecture: str
    config: Mapping[str, Any]
    preprocess: Mapping[str, Any] | None
    quick_gelu: bool
    weights: Path
    tokenizer: Path | None = None
    text_config: Path | None = None

    @property
    def context_length(self) -> int:
        """Tokens a text is cut to."""
        length: int = self.config["text_cfg"].get("context_length", 77)
        return length

    def key(self) -> str:
        """Names all that decides the model's vectors besides the weights; stable across runs.

        open_clip's version is part of it: transforms and architectures are its code.
        """
        parts = (
            self.config,
            self.preprocess or self.architecture,
            self.quick_gelu,
            [_hash_files(path) for path in (self.tokenizer, self.text_config) if path],
            importlib.metadata.version("open_clip_torch"),
        )
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A row of `clipcls models`.

    Attributes:
        alias: the short name.
        name: the model itself, as `resolve` takes it.
        licence: SPDX identifier of the weights' licence.
        parameters: millions.
        megabytes: download size (float32 weights; the parameters times four bytes).
        imagenet: published ImageNet-1k zero-shot top-1 accuracy in % (open_clip's
            docs/openclip_results.csv); None where nobody has published one.
        image_size: side of the square input in pixels.
        extra: the extra of clipcls that its tokenizer needs, if any.
        present: whether its weights are on this machine.
    """

    alias: str
    name: str
    licence: str
    parameters: float
    megabytes: int
    imagenet: float | None
    image_size: int
    extra: str | None
    present: bool


def list_models() -> list[ModelInfo]:
    """The models that have a short name; no network."""
    rows = []
    if (MINI / _CONFIG).is_file():
        config, weights = _read_config(MINI / _CONFIG)["model_cfg"], _find_weights(MINI)
        rows.append(
            ModelInfo(
                alias="mini",
                name="mini",
                licence="Apache-2.0",
                parameters=_count_parameters(weights) / 1e6,
                megabytes=round(weights.stat().st_size / 1e6),
                imagenet=None,
                image_size=config["vision_cfg"]["image_size"],
                extra=None,
                present=True,
            )
        )
    for alias, known in _ALIASES.items():
        pretrained = known.pretrained
        rows.append(
            ModelInfo(
                alias=alias,
                name=pretrained.name,
                licence=known.licence,
                parameters=known.parameters,
                megabytes=round(known.parameters * 4),
                imagenet=known.imagenet,
                image_size=_builtin_config(pretrained.architecture)["vision_cfg"]["image_size"],
                extra=known.extra,
                present=hub.cached(pretrained.repo, *pretrained.files) is not None,
            )
        )
    return rows


def model_names() -> list[str]:
    """The short names of models and, after them, the full names of the same; reads no file."""
    return ["auto", "mini", *_ALIASES, *(known.pretrained.name for known in _ALIASES.values())]


def resolve(
    model: str = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
) -> ModelSource:
    """Finds a model's files, downloading those that are not on this machine.

    Args:
        model: `auto` (the alias `base`, or `mini` where that cannot be had, with a warning),
            `mini`, an alias, `ARCHITECTURE/tag`, `hf-hub:organisation/name`,
            `local-dir:DIRECTORY` or just a directory that open_clip wrote, or, with `checkpoint`,
            the name of one of open_clip's architectures.
        checkpoint: a file of weights for that architecture or directory.
        progress: show a bar for downloads where stderr is a terminal.

    Raises:
        UnknownModelError: there is no such model.
        ModelUnavailableError: its files are not here and cannot be downloaded now.
        ModelError: its files are here and cannot be used.
    """
    fetch = functools.partial(hub.fetch, progress=progress)
    file = _path(checkpoint) if checkpoint else None
    if file and not file.is_file():
        raise ModelError(f"{file}: no such checkpoint file")
    scheme, _, rest = model.partition(":")
    if model in ("auto", "mini", *_ALIASES) or scheme == "hf-hub":
        if file:
            raise ModelError(f"{file}: {model} has weights; name an architecture (as in ViT-B-32)")
    elif scheme == "local-dir":
        return _from_directory(model, rest, file, fetch)
    elif (_path(model) / _CONFIG).is_file():
        return _from_directory(model, model, file, fetch)
    elif architecture := _architecture(model):
        if file:
            return _from_checkpoint(architecture, file, fetch)
        raise UnknownModelError(
            f"{model}: weights are missing; name a tag, as in {architecture}/TAG (it has "
            f"{_tags(architecture)}), or give a checkpoint file"
        )
    if model == "auto":
        try:
            impatient = functools.partial(fetch, impatient=True)
            return _from_pretrained(_ALIASES["base"].pretrained, impatient)
        except (ModelUnavailableError, UnknownModelError) as error:  # a mirror may lack it
            logger.warning("using the small bundled model mini instead of base: %s", error)
    if model in ("auto", "mini"):
        return _from_directory("mini", MINI, None, fetch)
    if scheme == "hf-hub":
        return _from_hub(model, rest, fetch)
    pretrained = _pretrained(model)
    if file:
        raise ModelError(f"{file}: {model} has weights; name the architecture alone")
    try:
        return _from_pretrained(pretrained, fetch)
    except ModelUnavailableError as error:
        raise ModelUnavailableError(f"{model}: {error}; mini needs no download") from None


def _from_pretrained(pretrained: _Pretrained, fetch: Fetch) -> ModelSource:
    config = _builtin_config(pretrained.architecture)
    weights = fetch(pretrained.repo, *pretrained.files)
    if weights is None:
        raise UnknownModelError(f"{pretrained.repo}: has no {' or '.join(pretrained.files)}")
    tokenizer, text_config = _text_files(config, fetch)
    return ModelSource(
        pretrained.name,
        pretrained.architecture,
        config,
        pretrained.preprocess,
        pretrained.quick_gelu,
        weights,
        tokenizer,
        text_config,
    )


def _from_checkpoint(architecture: str, weights: Path, fetch: Fetch) -> ModelSource:
    config = _builtin_config(architecture)
    if _architecture(f"{architecture}-quickgelu"):
        logger.warning(
            "%s: taken to use plain GELU; if it was trained with QuickGELU (as OpenAI's, "
            "MetaCLIP's and DFN's models were), take the model %s-quickgelu",
            weights,
            architecture,
        )
    tokenizer, text_config = _text_files(config, fetch)
    return ModelSource(
        f"{architecture}/{weights.name}",
        architecture,
        config,
        None,
        config.get("quick_gelu", False),
        weights,
        tokenizer,
        text_config,
    )


def _from_hub(name: str, repo: str, fetch: Fetch) -> ModelSource:
    file = fetch(repo, _CONFIG)
    if file is None:
        raise UnknownModelError(f"{name}: not an OpenCLIP model (it has no {_CONFIG})")
    weights = fetch(repo, *_HUB_FILES)
    if weights is None:
        raise UnknownModelError(f"{name}: has no {' or '.join(_HUB_FILES)}")
    text_files = _text_files(_read_config(file)["model_cfg"], fetch)
    return _from_config(name, file, weights, text_files)


def _from_directory(name: str, path: str | Path, weights: Path | None, fetch: Fetch) -> ModelSource:
    directory = _path(path)
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such model directory")
    file = directory / _CONFIG
    config = _read_config(file)["model_cfg"]
    # As open_clip has it: the tokenizer of a model directory lies in it.
    own = directory if config["text_cfg"].get("hf_tokenizer_name") else None
    text_files = _text_files(config, fetch, tokenizer=own)
    return _from_config(name, file, weights or _find_weights(directory), text_files)


def _from_config(
    name: str, file: Path, weights: Path, text_files: tuple[Path | None, Path | None]
) -> ModelSource:
    content = _read_config(file)
    config = content["model_cfg"]
    return ModelSource(
        name,
        f"local-dir:{file.parent}",
        config,
        content.get("preprocess_cfg", {}),
        config.get("quick_gelu", False),
        weights,
        *text_files,
    )


def _text_files(
    config: Mapping[str, Any], fetch: Fetch, tokenizer: Path | None = None
) -> tuple[Path | None, Path | None]:
    """Directories of the Hugging Face tokenizer and text tower config that a model names."""
    text = config["text_cfg"]
    if tokenizer is None and (repo := text.get("hf_tokenizer_name")):
        file = hub.cached(repo, _TOKENIZER[-1])
        if file is None:
            file = [fetch(repo, name) for name in _TOKENIZER][-1]
        if file is None:
            raise UnknownModelError(
                f"{repo}: has no {_TOKENIZER[-1]}, which the model's text needs"
            )
        tokenizer = file.parent
    text_config = None
    if repo := text.get("hf_model_name"):
        text_config = fetch(repo, "config.json")
        if text_config is None:
            raise UnknownModelError(f"{repo}: has no config.json, which the text tower needs")
    return tokenizer, text_config and text_config.parent


def _pretrained(model: str) -> _Pretrained:
    """Published weights by alias or by ARCHITECTURE/tag."""
    if model in _ALIASES:
        return _ALIASES[model].pretrained
    for alias in _ALIASES.values():
        if model == alias.pretrained.name:
            return alias.pretrained
    # open_clip writes ARCHITECTURE:tag where it lists them.
    name, _, tag = model.replace(":", "/").rpartition("/")
    architecture = _architecture(name)
    if architecture is None:
        raise UnknownModelError(f"{model}: no such model; {_hint(model)}")
    with quiet():
        from open_clip import get_pretrained_cfg
    found = get_pretrained_cfg(architecture, tag)
    if not found:
        raise UnknownModelError(
            f"{model}: {architecture} has no weights {tag!r}; it has {_tags(architecture)}"
        )
    if not found.get("hf_hub"):
        raise ModelUnavailableError(
            f"{model}: not on the Hugging Face hub; download {found.get('url')} and give it as the "
            f"checkpoint of {architecture}"
        )
    repo, _, file = found["hf_hub"].rpartition("/")
    return _Pretrained(
        architecture,
        tag,
        repo,
        (f"{Path(file).stem}.safetensors", file) if file else _HUB_FILES,
        {key: found[key] for key in _OPENAI},
        # What the weights were trained with; an architecture's own default only where the tag is
        # silent (https://github.com/mlfoundations/open_clip/issues/771).
        found.get("quick_gelu", _builtin_config(architecture).get("quick_gelu", False)),
    )


def _hint(model: str) -> str:
    """What someone who wrote this name may have meant: only names that exist, or a scheme."""
    if _path(model).is_dir():
        return f"the directory {model} holds no {_CONFIG}, which an OpenCLIP model has"
    name, _, tag = model.rpartition("/")
    known = ["auto", "mini", *_ALIASES, *_architectures()]
    close = _closest(name or model, known)
    if name and tag:
        names = [f"{each}/{tag}" for each in close for tag in _list_tags(each)]
        close = _closest(model, names) or close
    if close:
        return f"did you mean {' or '.join(close)}?"
    page = r"(?:https?://)?(?:(?:huggingface|hf)\.co/)?"
    if repo := re.fullmatch(rf"{page}([\w.-]+/[\w.-]+)/?", model):
        return (
            f"for a repository of the Hugging Face hub write hf-hub:{repo[1]} (it must hold an "
            f"{_CONFIG}), for a directory local-dir:DIRECTORY"
        )
    return "`clipcls models` lists some"


def _closest(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of the names that are most like one, whatever their case."""
    folded = {each.casefold(): each for each in names}
    return [folded[each] for each in difflib.get_close_matches(name.casefold(), folded, n=3)]


def _tags(architecture: str) -> str:
    return ", ".join(_list_tags(architecture)) or "none"


def _list_tags(architecture: str) -> list[str]:
    with quiet():
        from open_clip import list_pretrained_tags_by_model
    return list(list_pretrained_tags_by_model(architecture))


@functools.cache
def _architectures() -> dict[str, Path]:
    """open_clip's built-in architectures and their files, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModelError("open_clip is not installed: pip install open_clip_torch")
    files = sorted((Path(spec.origin).parent / "model_configs").glob("*.json"))
    return {file.stem: file for file in files}


def _architecture(name: str) -> str | None:
    """The built-in architecture of this name; OpenAI's spelling ViT-B/32 is understood."""
    name = name.replace("/", "-")
    return name if name in _architectures() else None


def _builtin_config(architecture: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(_architectures()[architecture].read_text(encoding="utf-8"))
    return config


def _read_config(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise ModelError(f"{file.parent}: not an OpenCLIP model (it has no {file.name})")
    content: dict[str, Any] = read_json(file, ModelError)
    config = content.get("model_cfg") if isinstance(content, dict) else None
    if not isinstance(config, dict) or not (
        isinstance(config.get("embed_dim"), int)
        and isinstance(config.get("vision_cfg"), dict)
        and isinstance(config.get("text_cfg"), dict)
    ):
        raise ModelError(f"{file}: needs a model_cfg with embed_dim, vision_cfg and text_cfg")
    if not isinstance(content.get("preprocess_cfg", {}), dict):
        raise ModelError(f"{file}: `preprocess_cfg` is no object")
    for part in (config, config["vision_cfg"], config["text_cfg"]):
        for key, value in part.items():
            if key.startswith("hf_") and key.endswith("_name") and not isinstance(value, str):
                raise ModelError(f"{file}: `{key}` is no text")
            # open_clip builds what is asked for before it compares it with the weights.
            numbers = value if isinstance(value, list) else [value]
            if key in _SIZES and not all(type(n) is int and 0 < n <= _SIZES[key] for n in numbers):
                raise ModelError(f"{file}: `{key}` is no whole number from 1 to {_SIZES[key]:,}")
    return content


def _path(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.expanduser(path)).absolute()


def _find_weights(directory: Path) -> Path:
    """The checkpoint that open_clip would take from a model directory."""
    found = [f for suffix in ("safetensors", "bin", "pth") for f in directory.glob(f"*.{suffix}")]
    if not found:
        raise ModelError(f"{directory}: holds no weights (*.safetensors, *.bin or *.pth)")

    def rank(file: Path) -> tuple[int, bool, str]:
        known = _WEIGHTS.index(file.name) if file.name in _WEIGHTS else len(_WEIGHTS)
        return known, file.suffix != ".safetensors", file.name

    return min(found, key=rank)


def _count_parameters(file: Path) -> int:
    """Numbers in a safetensors file, from its header: no need to import torch for a table."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(v["shape"]) for k, v in header.items() if k != "__metadata__")


def _hash_files(directory: Path) -> str:
    """Of the tokenizer's and text config's files in a directory, all of them small."""
    digest = hashlib.sha256()
    for name in _TOKENIZER:
        if (file := directory / name).is_file():
            digest.update(f"{name} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps open_clip and what it imports from talking to the user.

    open_clip logs to the root logger by `logging.info`, which sets that logger up for the whole
    program where nobody has; a handler that does nothing prevents it. Only this thread's records
    are dropped, and all is as it was afterwards.
    """
    thread, root, silent = threading.get_ident(), logging.getLogger(), logging.NullHandler()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [root, *map(logging.getLogger, ("timm", "transformers", "huggingface_hub"))]
    for log in loggers:
        log.addFilter(others)
    root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silent)
        for log in loggers:
            log.removeFilter(others)
