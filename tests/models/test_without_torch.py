"""Without torch, or with a broken one, all works that needs none; the rest says what to install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from clipcls.errors import ModelError, install_command
from clipcls.models import aliases, backend, cuda, loading, openvino, registry
from helpers.checkpoints import CONFIGS, write_model

ROOT = Path(__file__).parents[2]
LIBRARY = "libtorch_cpu.so: cannot open shared object file:\nNo such file or directory"


class Broken(Loader):
    """Finds torch, and fails to load it because a library is missing."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        spec = PathFinder.find_spec(name) if name in ("torch", "open_clip") else None
        if spec:
            spec.loader = self
        return spec

    def exec_module(self, module: object) -> None:
        raise OSError(LIBRARY)


@pytest.fixture(params=["missing", "broken"])
def reason(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why torch cannot be imported."""
    for name in ("torch", "open_clip"):
        if request.param == "missing":
            monkeypatch.setitem(sys.modules, name, None)
        else:
            monkeypatch.delitem(sys.modules, name)
    if request.param == "missing":
        return "import of (torch|open_clip) halted|open_clip is missing"
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    return "libtorch_cpu.so: cannot open shared object file: No such file"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> registry.ModelSource:
    directory = write_model(tmp_path_factory.mktemp("without") / "model", CONFIGS["clip"])
    return registry.resolve(str(directory))


def test_one_line_names_the_command_that_installs_it(
    reason: str, source: registry.ModelSource
) -> None:
    uses: list[Callable[[], object]] = [
        lambda: loading.load(source, tower="image"),
        lambda: loading.load(source, tower="text"),
        lambda: cuda.half_precisions("cuda"),
        lambda: registry.resolve("ViT-B-32/nothing"),
        lambda: registry.resolve("ViT-B-32"),
        aliases.list_pretrained,
    ]
    for use in uses:
        with pytest.raises(ModelError, match=reason) as caught:
            use()
        message = str(caught.value)
        assert "\n" not in message
        assert message.endswith(install_command("torch", "open-clip-torch"))
    assert re.search(r'pip install .*"open-clip-torch[<>=].*"torch>=', message)


def test_a_gpu_is_not_asked_for(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_may_have_gpu", lambda: True)
    assert backend.best_device() == "cpu"


def test_auto_is_mini(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert registry.resolve("auto").is_bundled
    assert install_command("torch", "open-clip-torch") in caplog.text


@pytest.mark.skipif(not openvino.is_supported(), reason="needs OpenVINO")
def test_commands_need_no_torch_for_mini(tmp_path: Path) -> None:
    labels, truth = ROOT / "examples/labels.txt", ROOT / "examples/truth.csv"
    photos = [ROOT / "examples/photos" / name for name in ("chelsea.jpg", "zoo.jpg")]
    few: list[str | Path] = [*photos, "-m", "mini"]
    commands: list[list[str | Path]] = [
        ["classify", "--labels", labels, *few, "-f", "jsonl", "-o", "results.jsonl", "--explain"],
        ["evaluate", "--labels", labels, "-m", "mini", truth],
        ["calibrate", "--labels", labels, "-m", "mini", truth, "-o", "calibration.json"],
        ["fit", "--labels", labels, "-m", "mini", truth, "-o", "classifier.npz"],
        ["classify", "--classifier", "classifier.npz", *photos],
        ["search", "a cat", *few],
        ["tag", "--labels", labels, *few],
        ["embed", *few, "-o", "vectors.npy"],
        ["classify", "--labels", labels, "-m", "mini", "vectors.npy"],
        ["sort", "results.jsonl", "--into", "sorted"],
        ["report", "results.jsonl", "-o", "report.html"],
        ["models"],
        ["cache", "info"],
    ]
    program = f"""
import importlib.metadata, sys
def version(name, real=importlib.metadata.version):
    if name in ("torch", "open_clip_torch"):
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "torchvision", "timm", "open_clip"):
            raise ModuleNotFoundError("No module named " + name, name=name)

sys.meta_path.insert(0, Absent())
from clipcls.cli import _run
from clipcls.cli.console import Console
for command in {[list(map(str, command)) for command in commands]!r}:
    sys.argv = ["clipcls", *command]
    print(command[0], _run(Console()), flush=True)
"""
    environment = {"XDG_CACHE_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    for command in commands:
        assert f"{command[0]} 0\n" in run.stdout, run.stderr
    assert "internal error" not in run.stderr
