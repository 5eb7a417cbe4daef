"""A fake encoder whose vectors a reader can compute, and pictures for it."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from clipcls.files import folders
from helpers.cli import Run
from helpers.encoders import COLOURS, ColourEncoder, NamesEncoder

if TYPE_CHECKING:
    from playwright.sync_api import Browser

if "PYTEST_XDIST_WORKER" in os.environ:
    CACHE = os.environ["XDG_CACHE_HOME"]  # one for all workers: a model is prepared once
else:
    CACHE = tempfile.mkdtemp(prefix="clipcls-tests-")
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)  # exported graphs are large
os.environ["XDG_CACHE_HOME"] = CACHE  # not the user's own
os.environ["XDG_CONFIG_HOME"] = CACHE
os.environ["XDG_STATE_HOME"] = CACHE
for name in [name for name in os.environ if name.startswith("CLIPCLS_")]:
    del os.environ[name]
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process that tests start compiles anew
sys.dont_write_bytecode = False
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub, whatever the machine reaches


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-messages", action="store_true", help="write golden/messages.txt anew")


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
            red, green, blue = COLOURS[colour]
            colour = 255 * red, 255 * green, 255 * blue
        Image.new("RGB", (size, size), colour).save(path)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        return str(path)

    return make


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """clipcls's cache folder, for this test and the processes it starts alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders.cache_folder.cache_clear()
    yield folders.cache_folder()
    folders.cache_folder.cache_clear()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the system's, else Playwright's own.

    Without one the test is skipped, or fails where REQUIRE_BROWSER is set.
    """
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    with api.sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=found)
        except api.Error as error:
            if found or "REQUIRE_BROWSER" in os.environ:
                raise
            pytest.skip(f"needs Chromium: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture
def run_real(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `clipcls` in this process: exit status, stdout, stderr."""
    from clipcls import cli
    from clipcls.cli.console import Console

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


@pytest.fixture
def run(run_real: Run, monkeypatch: pytest.MonkeyPatch, encoder: ColourEncoder) -> Run:
    """The same with the fake encoder."""
    for module in (
        "clipcls.classification.image_classifier",
        "clipcls.models.encoder",
    ):
        monkeypatch.setattr(f"{module}.open_encoder", lambda *args, **settings: encoder)
    return run_real
