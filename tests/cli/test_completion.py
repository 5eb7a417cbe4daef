"""What a shell offers when Tab is pressed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from clipcls.cli import cli


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("labels.txt", "coins.csv", "photo.jpg", "two words.txt"):
        (tmp_path / name).touch()
    return tmp_path


def offered(line: str) -> list[str]:
    """What is offered for the last word of a line; `file:` stands for the shell's own files."""
    *words, incomplete = line.split(" ")
    found = ShellComplete(cli, {}, "clipcls", "_CLIPCLS_COMPLETE").get_completions(
        words, incomplete
    )
    return [item.value if item.type == "plain" else f"{item.type}:" for item in found]


def test_commands_and_options() -> None:
    assert offered("cla") == ["classify"]
    assert {"info", "clear", "prune", "export", "import", "merge"} == set(offered("cache "))
    assert "--labels" in offered("classify --l")
    assert offered("classify --format pa") == ["parquet"]
    assert offered("config cal") == ["calibrate"]
    assert offered("completion ") == ["bash", "zsh", "fish"]


def test_models_labels_and_templates() -> None:
    assert offered("classify -m mi") == ["mini"]
    assert {"auto", "base", "accurate"} <= set(offered("search --model "))
    assert offered("classify --model ViT-L") == ["ViT-L-16-SigLIP2-256/webli"]
    assert offered("classify --labels co") == ["coins.csv", "coco80"]
    assert "labels.txt" in offered("fit --labels ")
    assert "imagenet" in offered("suggest --vocabulary im")
    assert "two words.txt" not in offered("evaluate --labels ")
    assert "imagenet-7" in offered("classify --prompts im")
    assert "aerial" in offered("prompts a")


@pytest.mark.parametrize(
    "line",
    [
        "classify ",
        "classify photos/",
        "evaluate ",
        "fit ",
        "calibrate ",
        "sort r",
        "review ",
        "report ",
        "search ",
        "suggest ",
        "classify --labels ./la",
        "classify --labels zz",
        "classify --calibration ",
        "classify -o ",
    ],
)
def test_files(line: str) -> None:
    assert offered(line) == ["file:"]


def test_a_broken_file_of_settings_is_no_obstacle(folder: Path) -> None:
    (folder / "clipcls.toml").write_text("= nonsense")
    assert offered("classify -m mi") == ["mini"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(run, shell: str) -> None:
    status, out, err = run("completion", shell)
    assert (status, err) == (0, "")
    assert f"_CLIPCLS_COMPLETE={shell}_complete" in out


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_without_importing_what_is_heavy(folder: Path) -> None:
    program = folder / "clipcls"
    code = (
        "import sys, atexit; from clipcls.cli import main\n"
        "heavy = ('numpy', 'PIL', 'torch', 'open_clip', 'huggingface_hub')\n"
        "atexit.register(lambda: print(*(n for n in heavy if n in sys.modules), file=sys.stderr))\n"
        "main()\n"
    )
    program.write_text(f"#!{sys.executable}\n{code}")
    program.chmod(0o755)
    script = (
        'eval "$(clipcls completion bash)"\n'
        'COMP_WORDS=(clipcls classify -m "mi"); COMP_CWORD=3\n'
        '_clipcls_completion clipcls; echo "${COMPREPLY[@]}"'
    )
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "mini\n", done.stderr
    assert done.stderr.split() == []
