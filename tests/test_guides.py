"""The commands and the Python shown in README, Start and Guides work, in the order of each page.

Each page runs in a folder of its own with the files that the pages name. `sh` blocks must succeed.
In `console` blocks, lines after `$ ` are commands, the others their output, where `...` stands for
anything and decimals may differ.
`<!-- not run: REASON -->` above a block excludes it; NOT_RUN lists all of these.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from clipcls.cli import cli
from helpers.cli import Run
from helpers.videos import film

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    *(
        str(path.relative_to(ROOT))
        for folder in ("docs/start", "docs/guides")
        for path in sorted((ROOT / folder).glob("*.md"))
    ),
]
CORRECTIONS = """\
path,label,best
photos/chelsea.jpg,cat,cat
photos/eileen.jpg,astronaut,football
"""
PROGRESS = r"clipcls: (preparing .*|[\d,]+ (of [\d,]+ )?(images|prompts)( embedded|, .*)?)\n"
PHOTOS = ("chelsea", "cougar-mountain", "eileen", "kitchen", "zoo")
NOT_RUN = {
    "README.md": ["network", "first command", "test command"],
    "docs/guides/deploy.md": [
        "listens beyond this machine",
        "another machine",
        "Docker",
        "another machine",
    ],
    "docs/guides/inputs.md": ["network", "files of an example", "an example's name"],
    "docs/guides/serve.md": ["server", "a second server", "network"],
    "docs/guides/scale.md": ["SLURM", "another machine", "Ray"],
    "docs/guides/keywords.md": ["changes the photos"],
    "docs/guides/sort.md": ["the file's name has the time in it"],
    "docs/start/gpu.md": ["GPU", "GPU"],
    "docs/start/install.md": ["network"] * 5,
    "docs/start/models.md": ["network"],
    "docs/start/offline.md": ["network", "network", "other weights"],
}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the pages are for a POSIX shell")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    not_run: str | None


def read_blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    blocks: list[Block] = []
    mark, fence, start = None, None, 0
    body: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if fence is None:
            if opening := re.fullmatch(r"\s*```(\w*)", line):
                fence, body, start = opening[1], [], number
            elif comment := re.fullmatch(r"\s*<!-- (?:not run: )?(.*) -->", line):
                mark = comment[1]
            elif line.strip():
                mark = None
        elif line.strip() == "```":
            blocks.append(Block(fence, textwrap.dedent("\n".join(body)), start, mark))
            mark = fence = None
        else:
            body.append(line)
    assert fence is None, f"the block of line {start} has no end"
    return blocks


def read_examples(block: Block) -> list[tuple[str, str | None]]:
    """Pairs of a command and the output that the page shows for it, None where it shows none."""
    if block.language == "console":
        parts = re.split(r"^\$ ", block.text, flags=re.M)[1:]
        return [(part.partition("\n")[0], part.partition("\n")[2].rstrip()) for part in parts]
    if "<<" in block.text:
        return [(block.text, None)]
    lines = re.sub(r"(\\|\|)\n", lambda end: end[1].strip("\\"), block.text).splitlines()
    return [(line, None) for line in lines if line.strip()]


def matches(shown: str, actual: str) -> bool:
    """Whether an output is the one that a page shows."""
    pattern = re.escape(" ".join(shown.split())).replace(r"\ ", " ")
    pattern = re.sub(r"\d+\\\.\d+", r"\\d+\\.\\d+", pattern).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, " ".join(actual.split())) is not None


class Shell:
    """Runs the commands of one page: `clipcls` in this process where no shell is needed."""

    def __init__(self, run: Run, open_later: contextlib.ExitStack) -> None:
        self.run = run
        self.port = _free_port()
        self.open_later = open_later

    def __call__(self, command: str) -> str:
        """The output of a command, which must succeed."""
        words = list(shlex.shlex(command, posix=True, punctuation_chars=True))
        if re.match(r"clipcls (serve|review) ", command):
            return self._serve(command)
        if words[0] != "clipcls" or set("".join(words)) & set("|<>;&$`*~"):
            return self._run_in_shell(command)
        status, out, err = self.run(*shlex.split(command)[1:])
        assert status == 0, f"{command}\n{out}{err}"
        return out + re.sub(PROGRESS, "", err)

    def _run_in_shell(self, command: str) -> str:
        command = command.replace("curl ", "curl -sSf ").replace(":8000", f":{self.port}")
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", command],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def _serve(self, command: str) -> str:
        """Start a server: `review` is finished at once, `serve` at the end of the page."""
        options = ["--port", str(self.port)]
        if results := re.match(r"clipcls review (\w+)", command):
            options = []
            Path(f"{results[1]}.corrections.csv").write_text(CORRECTIONS)
        server = subprocess.Popen(
            [sys.executable, "-m", *shlex.split(command), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert server.stdout is not None
        output = ""
        for line in server.stdout:
            output += line
            if "http://" in line:
                break
        else:
            pytest.fail(f"{command}\n{output}")

        def finish() -> None:
            server.send_signal(signal.SIGINT)
            rest, _ = server.communicate(timeout=60)
            assert server.returncode in (0, 130), rest

        if options:
            self.open_later.callback(finish)
        else:
            time.sleep(0.2)
            finish()
        return output


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def shell(
    run_real: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], str]]:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "examples/labels.txt", tmp_path)
    shutil.copy(ROOT / "examples/labels.txt", tmp_path / "other.txt")
    shutil.copy(ROOT / "examples/photos/chelsea.jpg", tmp_path / "photo.jpg")
    for name in PHOTOS:
        for folder in ("photos", "more"):
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(ROOT / f"examples/photos/{name}.jpg", tmp_path / folder)
    film(str(tmp_path / "clip.mp4"), ("red", "green", "blue"))
    boxes = "".join(f"{name}.jpg,0.1,0.1,0.5,0.5\n" for name in PHOTOS)
    (tmp_path / "boxes.csv").write_text(f"path,x,y,w,h\n{boxes}")
    rows = (ROOT / "examples/truth.csv").read_text().splitlines()[1:]
    truth = "".join(f"examples/{row}\n" for row in rows)
    (tmp_path / "truth.csv").write_text(f"path,label\n{truth}")
    for row in rows:
        photo, label = row.split(",")
        (tmp_path / "sorted" / label).mkdir(parents=True)
        shutil.copy(ROOT / "examples" / photo, tmp_path / "sorted" / label)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CLIPCLS_MODEL", "mini")
    monkeypatch.setenv("CLIPCLS_REVIEW_NO_BROWSER", "1")
    # Not the cache that the other tests use.
    monkeypatch.setenv("CLIPCLS_CACHE_CLEAR_CACHE", str(tmp_path / "cache.sqlite3"))
    monkeypatch.setenv("CLIPCLS_BENCH_SECONDS", "0.01")
    monkeypatch.setenv("CLIPCLS_BENCH_BATCH_SIZE", "1")
    with contextlib.ExitStack() as stack:
        yield Shell(run_real, stack)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_works(
    page: str, shell: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, object] = {}
    for block in read_blocks((ROOT / page).read_text()):
        if block.not_run:
            continue
        if block.language == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
        elif block.language in ("sh", "console"):
            for command, shown in read_examples(block):
                with monkeypatch.context() as patch:
                    if block.language == "console":
                        for name in ("CLASSIFY", "TAG", "SEARCH"):
                            patch.setenv(f"CLIPCLS_{name}_FORMAT", "table")  # as on a terminal
                    output = shell(command)
                assert shown is None or matches(shown, output), (
                    f"{page}:{block.line} shows another output than\n$ {command}\n{output}"
                )


def test_blocks_that_do_not_run_are_listed() -> None:
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for block in read_blocks((ROOT / page).read_text()):
            if block.not_run and block.language in ("sh", "console", "python"):
                found.setdefault(page, []).append(block.not_run)
    assert {page: Counter(reasons) for page, reasons in found.items()} == {
        page: Counter(reasons) for page, reasons in NOT_RUN.items()
    }


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_that_run(page: str) -> None:
    text = (ROOT / page).read_text()
    commands = "|".join(cli.list_commands(click.Context(cli)))
    shown = re.findall(rf"^\s*(?:\$ )?(clipcls (?:{commands})\b.*)$", text, re.M)
    blocks = "\n".join(b.text for b in read_blocks(text) if b.language in ("sh", "console"))
    assert [line for line in shown if line not in blocks] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short(page: str) -> None:
    words = len((ROOT / page).read_text().split())
    assert words <= (900 if page == "README.md" else 600)


def test_a_wrong_command_and_a_wrong_output_are_found(shell: Callable[[str], str]) -> None:
    with pytest.raises(AssertionError):
        shell("clipcls classify --labels labels.txt --no-such-option photos/")
    with pytest.raises(AssertionError):
        shell("clipcls models | grep no-such-model")
    assert matches(
        "photos/a.jpg  cat 0.91\n...", "photos/a.jpg    cat  0.90\nphotos/b.jpg dog 1.00"
    )
    assert not matches("photos/a.jpg  dog 0.91\n...", "photos/a.jpg    cat  0.91\n")
    assert not matches("photos/a.jpg  cat 0.91", "photos/a.jpg    cat  0.91\nand more")
