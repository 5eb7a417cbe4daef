"""Architectures and tags of weights that open_clip offers; `quiet` keeps it silent."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import logging
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clipcls.errors import ModelError, install_command


@contextlib.contextmanager
def require_torch(user: str) -> Iterator[None]:
    """Use around the first import of torch or open_clip, which `user` needs.

    Raises:
        ModelError: one is missing or broken; the message has the command that installs it.
    """
    try:
        with quiet():
            yield
    except Exception as error:  # a library of torch's that is missing is an OSError
        reason = " ".join(str(error).split())[:120]
        command = install_command("torch", "open-clip-torch")
        raise ModelError(f"{user} needs torch and open_clip ({reason}): {command}") from error


def installed_versions(*packages: str) -> dict[str, str]:
    """The versions of those of these packages that are installed; imports none."""
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def list_tags(architecture: str) -> list[str]:
    """The tags of published weights; imports open_clip.

    Raises:
        ModelError: torch or open_clip is missing.
    """
    with require_torch(architecture):
        from open_clip import list_pretrained_tags_by_model
    return list(list_pretrained_tags_by_model(architecture))


@functools.cache
def list_architectures() -> dict[str, Path]:
    """open_clip's built-in architectures and their files, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModelError(f"open_clip is missing: {install_command('torch', 'open-clip-torch')}")
    files = sorted((Path(spec.origin).parent / "model_configs").glob("*.json"))
    return {file.stem: file for file in files}


def find_architecture(name: str) -> str | None:
    """The built-in architecture of this name, also spelt as in ViT-L/14@336px or vit_b_32."""
    return find_spelt(name, list_architectures())


def find_spelt(name: str, names: Iterable[str]) -> str | None:
    """The one of these names that is spelt like `name`, but for case and separators."""
    wanted = fold(name)
    return next((each for each in names if fold(each) == wanted), None)


def fold(name: str) -> str:
    """A name without what people spell differently: case, separators, and the px of 336px."""
    return re.sub(r"(?<=\d)px$", "", re.sub(r"[\s_/@:,-]+", "-", name.strip().casefold()))


def read_architecture(architecture: str) -> dict[str, Any]:
    """An architecture's hyperparameters (open_clip's `model_cfg`)."""
    config: dict[str, Any] = json.loads(
        list_architectures()[architecture].read_text(encoding="utf-8")
    )
    return config


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps open_clip and what it imports from logging and warning.

    open_clip logs by `logging.info`, which configures the root logger for the whole program if
    nobody has; a handler that does nothing prevents it. Only this thread's records are dropped.
    """
    thread, root, silent = threading.get_ident(), logging.getLogger(), logging.NullHandler()
    level = root.level

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [
        root,
        *map(logging.getLogger, ("timm", "transformers", "huggingface_hub", "open_clip.factory")),
    ]
    for log in loggers:
        log.addFilter(others)
    root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silent)
        root.setLevel(level)  # which OpenVINO's converter changes when it fails
        for log in loggers:
            log.removeFilter(others)
