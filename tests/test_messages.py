"""What clipcls prints for bad input, word for word, in one place: golden/messages.txt.

The file holds commands, and after each what it prints and its exit status. To add a case, add its
`$` line. `pytest tests/test_messages.py --write-messages` runs all commands and writes the file
anew: read the difference before you commit it. Other tests check the kind of an error and the
values that it names, so that rewording needs no change there.
"""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from clipcls.models import encoder as models

GOLDEN = Path(__file__).parent / "golden/messages.txt"
REAL = models.open_encoder
FILES = {
    "labels.txt": "red\nblue\n",
    "only-comments.txt": "# red\n# blue\n",
    "list-of-images.txt": "a.jpg\nb.jpg\n",
    "no-label-column.csv": "colour,count\nred,1\n",
    "settings.yaml": "nc: 2\nepochs: 10\n",
    "broken.yaml": "red: [a\nblue: b\n",
    "broken.json": '["red", "blue"\n',
    "two-keys.json": '[{"prompts": "a {}"}]',
    "tree.txt": "warm > red\ncold > blue\n",
    "no-braces.txt": "a photo\n",
    "truth.csv": "path,label\nred.png,red\nblue.png,blue\n",
    "truth-without-path.csv": "picture,label\nred.png,red\n",
    "truth-of-others.csv": "path,label\nred.png,cat\nblue.png,dog\n",
    "truth-with-blank.csv": "path,label\nred.png,\n",
    "one-label.csv": "path,label\nred.png,red\nblue.png,red\n",
    "results.jsonl": '{"path": "red.png", "label": "red", "score": 0.9}\n',
    "questions.jsonl": '{"path": "red.png", "questions": '
    '{"kind": {"label": "hat"}, "colour": {"label": "red"}}}\n',
    "gone.jsonl": '{"path": "gone.png", "label": "red", "score": 0.9}\n',
    "no-results.jsonl": '{"colour": "red"}\n',
    "cut-off.jsonl": '{"path": "red.png", "lab',
    "calibration.json": '{"format": "clipcls calibration 1", "model": "colours"}',
    "other.json": '{"a": 1}',
    "classifier.safetensors": "not a classifier",
    "text.jpg": "this is text",
    "journal.jsonl": '{"done": 1}\n',
    "toml/clipcls.toml": "colour = 1\n",
    "bad-toml/clipcls.toml": "top = \n",
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two images and with files that have something wrong."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")
    (tmp_path / "cut-off.png").write_bytes((tmp_path / "red.png").read_bytes()[:50])
    (tmp_path / "latin1.txt").write_bytes("rot\ngrün\n".encode("latin1"))
    (tmp_path / "workbook.csv").write_bytes(b"PK\x03\x04")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for kind in ("CACHE", "CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / "home" / kind))
    return tmp_path


def test_messages_are_those_of_the_golden_file(
    run, world: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    blocks = re.findall(r"^\$ (.*)\n", GOLDEN.read_text(), re.M)
    found = []
    for line in blocks:
        words = shlex.split(line)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
            if "-m" in words:
                patch.setattr("clipcls.classification.image_classifier.open_encoder", REAL)
            while "=" in words[0]:
                patch.setenv(*words.pop(0).split("=", 1))
            if words[0] == "cd":
                patch.chdir(words[1])
                words = words[3:]
            status, _, said = run(*words[1:])
        said = said.replace(sys.executable, "python").replace(str(world), "/folder")
        said = re.sub(r"\bin \d+\.\d+ s\b", "in 0.1 s", said)
        said = re.sub(r"^Usage: .*\nTry .*\n\n", "", said)
        said = re.sub(r"^(.{250}).+", r"\1 ...", said, flags=re.M)
        found.append(f"$ {line}\n{said}[{status}]\n")
    if request.config.getoption("write_messages"):
        GOLDEN.write_text("\n".join(found))
    assert GOLDEN.read_text() == "\n".join(found)
