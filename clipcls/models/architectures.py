"""What open_clip offers: architectures and tags of weights; and keeping it silent meanwhile."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipcls.errors import ModelError

__all__ = [
    "describe_tags",
    "find_architecture",
    "list_architectures",
    "list_tags",
    "quiet",
    "read_architecture",
]


def describe_tags(architecture: str) -> str:
    """The tags of an architecture in words."""
    return ", ".join(list_tags(architecture)) or "none"


def list_tags(architecture: str) -> list[str]:
    """The tags of published weights; imports open_clip."""
    with quiet():
        from open_clip import list_pretrained_tags_by_model
    return list(list_pretrained_tags_by_model(architecture))


@functools.cache
def list_architectures() -> dict[str, Path]:
    """open_clip's built-in architectures and their files, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModelError("open_clip is not installed: pip install open_clip_torch")
    files = sorted((Path(spec.origin).parent / "model_configs").glob("*.json"))
    return {file.stem: file for file in files}


def find_architecture(name: str) -> str | None:
    """The built-in architecture of this name; OpenAI's spelling ViT-B/32 is understood."""
    name = name.replace("/", "-")
    return name if name in list_architectures() else None


def read_architecture(architecture: str) -> dict[str, Any]:
    """Its hyperparameters (open_clip's `model_cfg`)."""
    config: dict[str, Any] = json.loads(
        list_architectures()[architecture].read_text(encoding="utf-8")
    )
    return config


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
