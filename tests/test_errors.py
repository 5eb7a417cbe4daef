"""Messages that every module shares."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import sys
from pathlib import Path

import pytest

from clipcls.errors import ImageError, LabelsError, install_command

ROOT = Path(__file__).parent.parent


def test_the_command_names_the_packages_of_an_extra() -> None:
    words = shlex.split(install_command("serve"))
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert {word.partition(">")[0] for word in words[4:]} >= {"starlette", "uvicorn"}
    assert not any("clipcls" in word for word in words[4:])


@pytest.mark.parametrize("extra", ["heic", "xmp", "parquet", "hf", "serve", "review"])
def test_pip_takes_every_requirement(extra: str) -> None:
    from packaging.requirements import Requirement

    for word in shlex.split(install_command(extra))[4:]:
        assert Requirement(word).specifier


def test_a_checkout_that_is_not_installed_names_its_folder(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert install_command("serve").endswith(f'pip install "{ROOT}[serve]"')


def test_without_pip_it_is_uv_for_the_same_python(monkeypatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pip" else find_spec(name)
    )
    assert install_command("heic").startswith(f"uv pip install --python {sys.executable} ")


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    path = "a\x1b[2J\u2028\udcff.jpg"
    error = ImageError(path, "not an\nimage\x0b")
    assert str(error) == r"a\x1b[2J\u2028\udcff.jpg: not an\nimage\x0b"
    assert error.path == path
    assert str(LabelsError("\u200dnaïve 犬")) == "\u200dnaïve 犬"
