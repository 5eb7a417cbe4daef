"""A fake encoder whose vectors a reader can compute, and pictures for it."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipcls.encoder import Encoder

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CACHE = tempfile.mkdtemp(prefix="clipcls-tests-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)  # exported graphs are large
os.environ["XDG_CACHE_HOME"] = CACHE  # not the user's own
os.environ["XDG_CONFIG_HOME"] = CACHE
os.environ["XDG_STATE_HOME"] = CACHE
for name in [name for name in os.environ if name.startswith("CLIPCLS_")]:
    del os.environ[name]
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub, whatever the machine reaches

Result = TypeVar("Result")


def run_async(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run` in a thread: Playwright keeps a loop of its own in the main one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}


class ColourEncoder(Encoder):
    """An image's vector is its mean colour; a text's is the sum of the colours it names."""

    name = "colours"
    weights = "c0" * 32
    precision = "fp32"
    text_space = "text colours"
    image_space = "image colours"
    batch_size = 4
    least_side = 4
    logit_scale = 10.0
    logit_bias = 0.0

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.images = 0

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        return np.asarray(image.resize((2, 2)), np.float32).transpose(2, 0, 1) / 255

    def encode_images(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        assert len(pixels) <= self.batch_size
        self.images += len(pixels)
        return self._unit(np.stack([p.mean(axis=(1, 2)) for p in pixels]))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        rows = [sum(np.array(c) for n, c in COLOURS.items() if n in text) for text in texts]
        return self._unit(np.array([row if np.any(row) else (1, 1, 1) for row in rows]))

    @staticmethod
    def _unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


class NamesEncoder(ColourEncoder):
    """Of 32 dimensions colours have three; a text without one goes its own, fixed way."""

    weights = "d1" * 32
    text_space = "text colours and names"
    image_space = "image colours and names"

    def encode_images(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.pad(super().encode_images(pixels), ((0, 0), (0, 29)))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.pad(super().encode_texts(texts), ((0, 0), (0, 29)))
        for row, text in zip(rows, texts, strict=True):
            if not any(name in text for name in COLOURS):
                row[:] = np.random.default_rng(list(text.encode())).normal(size=32)
        return self._unit(rows)


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def names_encoder() -> NamesEncoder:
    return NamesEncoder()


@pytest.fixture
def paint(tmp_path: Path) -> Callable[..., str]:
    """Makes a picture of one colour, old enough for its mtime to be believed."""

    def make(name: str, colour: str | tuple[int, int, int], size: int = 8) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(colour, str):
            colour = tuple(255 * c for c in COLOURS[colour])
        Image.new("RGB", (size, size), colour).save(path)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        return str(path)

    return make


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the system's, else Playwright's own; without one the test is skipped."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    with api.sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=found)
        except api.Error as error:
            if found:
                raise
            pytest.skip(f"needs Chromium: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], encoder: ColourEncoder
) -> Run:
    """Runs `clipcls` in this process, with the fake encoder: exit status, stdout, stderr."""
    from clipcls import cli
    from clipcls.cli.console import Console

    for module in ("clipcls.classifier", "clipcls.fewshot", "clipcls.opening"):
        monkeypatch.setattr(f"{module}.open_encoder", lambda *args, **settings: encoder)

    def invoke(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clipcls", *arguments])
        console = Console()
        logger = logging.getLogger("clipcls")
        console.attach(logger)
        try:
            status = cli._run(console)
        finally:
            logger.removeHandler(console)
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
        return status, *capsys.readouterr()

    return invoke
