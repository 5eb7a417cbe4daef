"""What reaches a terminal: no control characters of file names, no lines of libraries."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from clipcls import cli
from clipcls.errors import printable
from clipcls.output.writing import FORMATS

pty = pytest.importorskip("pty")

NAMES = ["a\x1b[31m.png", "b\x9b2J.png", "c\r\x07d.png", "e\nf.png", "g\x7f\u202eh.png"]
NAMES += [os.fsdecode(b"i\xe9.png"), "j\u200dk \u00a0l\u3000ü.png"]
LABELS = ("-l", "red", "-l", "blue")


def controls(text: str) -> set[str]:
    return {c for c in text.replace("\r\n", "").replace("\n", "") if printable(c) != c}


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[list[str]]:
    """A pseudo-terminal as these streams of `sys`; yields what it shows, complete at the end."""
    ours, theirs = pty.openpty()
    seen = bytearray()
    shown: list[str] = []

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                seen.extend(data)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with open(theirs, "w", encoding="utf-8", errors="replace") as stream:
        for name in names:
            monkeypatch.setattr(sys, name, stream)
        yield shown
        monkeypatch.undo()
    reader.join(10)
    os.close(ours)
    shown.append(seen.decode())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 日本\u3000.jpg", "plain ü 日本\u3000.jpg"),
        ("\U0001f468\u200d\U0001f469.jpg", "\U0001f468\u200d\U0001f469.jpg"),  # joined emoji
        ("a\x1b[2J", r"a\x1b[2J"),
        ("a\x9bm\x7f\r\n", r"a\x9bm\x7f\r\n"),
        ("a\u202egpj.exe\u2028", r"a\u202egpj.exe\u2028"),
        ("a\udce9", r"a\udce9"),
    ],
)
def test_control_characters_become_visible(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("form", ["table", "csv", "tsv", "jsonl", "json"])
def test_names_reach_a_terminal_without_control_characters_and_a_pipe_exact(
    run, paint: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        paint(name, "red")
    arguments = ("classify", *LABELS, "-q", "--no-cache", "--format", form, *NAMES)
    status, piped, _ = run(*arguments)
    assert status == 0
    with monkeypatch.context() as patch, terminal(patch, "stdout") as shown:
        assert run(*arguments)[0] == 0
    assert controls(shown[0]) <= {"\t"}  # between cells of tsv
    assert r"1b[31m.png" in shown[0]
    assert "ü.png" in shown[0]
    if form in ("csv", "tsv"):
        mark = {"csv": ",", "tsv": "\t"}[form]
        assert len(shown[0].splitlines()) == 1 + len(NAMES)
        paths = [row["path"] for row in csv.DictReader(io.StringIO(piped), delimiter=mark)]
        exact = [name.replace("\r", r"\r").replace("\udce9", r"\xe9") for name in NAMES]
        assert sorted(paths) == sorted(exact)
    elif form != "table":
        parse = json.loads if form == "json" else lambda t: [*map(json.loads, t.splitlines())]
        for text in (piped, shown[0]):
            assert sorted(record["path"] for record in parse(text)) == sorted(NAMES)


def test_listings_searches_suggestions_and_errors_show_no_control_characters(
    run, paint: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    folder = "in\x1b[5m"
    for name in NAMES:
        paint(f"{folder}/{name}", "red")
    (tmp_path / folder / "z\x1b[7m.png").write_bytes(b"no image")
    cache = ("--cache", f"{folder}/s.db")
    assert run("classify", *LABELS, *cache, "-o", "r.jsonl", folder)[0] == 1
    listing = ("sort", "r.jsonl", "--into", "out\x1b[1m", "--dry-run")
    with monkeypatch.context() as patch:
        pipe = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        patch.setattr(sys, "stdout", pipe)
        cli._open_streams()
        assert run(*listing)[0] == 0
        for name in NAMES:
            line = os.fsencode(f"{folder}/{name} -> out\x1b[1m/red/{name}\n")
            assert line in pipe.buffer.getvalue()
    for status, *arguments in [
        (1, "classify", *LABELS, *cache, "--progress", "bar", folder),
        (1, "tag", *LABELS, *cache, folder),
        (None, *listing),
        (1, "search", "red", *cache, folder),
        (1, "search", "red", *cache, "--format", "csv", folder),
        (None, "suggest", *cache, folder),
        (0, "cache", "info", *cache),
        (2, "classify", *LABELS, "missing\x1b[31m.png"),
        (2, "classify", "--labels", "missing\x1b[31m.txt", folder),
        (2, "classify", *LABELS, "--top", "x\x1b[31m\ny", folder),
        (2, "classify", *LABELS, "--x\x1b[31m", folder),
        (2, "cl\x1b[31m"),
        (2, "report", "missing\x1b[31m.csv", "-o", "x.html"),
        (2, "evaluate", *LABELS, "missing\x1b[31m.csv"),
    ]:
        with monkeypatch.context() as patch, terminal(patch, "stdout", "stderr") as shown:
            found = run(*arguments)[0]
        assert found == status or status is None, (arguments, shown)
        text = shown[0].replace("\r", "").replace("\x1b[A", "") if "bar" in arguments else shown[0]
        assert not controls(text), (arguments, shown)
        assert r"\x1b[" in text, (arguments, shown)


def test_json_is_exact_whatever_is_in_a_text() -> None:
    for form in ("json", "jsonl"):
        for character in [*map(chr, range(0x20_00)), "\u2028", "\U000e0041", "\ud800", "\udfff"]:
            stream = io.StringIO()
            path = f"\\{character}\\u{character}"
            FORMATS[form](stream).write({"path": path})
            text = stream.getvalue()
            assert not controls(text)
            assert json.loads(text.strip("[\n"))["path"] == path


def damaged(folder: Path, count: int) -> None:
    """Files of every common format, some bytes of which are others, or which end early."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    photo = Image.radial_gradient("L").resize((64, 48)).convert("RGB")
    kinds: list[tuple[str, dict[str, str]]] = [
        ("tif", {"format": "TIFF", "compression": compression})
        for compression in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits", "group4")
    ]
    kinds += [(suffix, {}) for suffix in ("jpg", "png", "webp", "gif", "heic", "jp2", "avif")]
    chance = random.Random(17)
    for number in range(count):
        suffix, how = kinds[number % len(kinds)]
        path = folder / f"{number:03}.{suffix}"
        (photo.convert("1") if how.get("compression") == "group4" else photo).save(path, **how)
        data = bytearray(path.read_bytes())
        for _ in range(chance.choice((1, 3, 10, 40))):
            data[chance.randrange(4, len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data) // 2, len(data)) :]
        path.write_bytes(data)


def test_no_line_of_a_library_reaches_stderr(tmp_path: Path) -> None:
    damaged(tmp_path, 200)
    done = subprocess.run(
        [sys.executable, "-m", "clipcls", "classify", "-q", "--no-cache", *LABELS, tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert lines
    assert [line for line in lines if not line.startswith("clipcls: ")] == []
    assert len([*csv.DictReader(io.StringIO(done.stdout))]) == 200


@pytest.mark.parametrize("debug", ["", "1"])
def test_what_libraries_say_is_for_developers(debug: str) -> None:
    """By every way there is: descriptor 2, Python warnings, log records, destructors."""
    program = (
        "import logging, os, warnings\n"
        "from clipcls import cli\n"
        "class Odd:\n"
        "    def __del__(self): raise ValueError('from a destructor')\n"
        "def run(console):\n"
        "    os.write(2, b'from C\\n'); warnings.warn('from Python')\n"
        "    logging.warning('from the root'); logging.getLogger('lib').error('from a logger')\n"
        "    Odd()\n"
        "    console.say('from clipcls')\n"
        "    if not os.environ['CLIPCLS_DEBUG']: os.abort()\n"
        "    return 0\n"
        "cli._run = run\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "CLIPCLS_DEBUG": debug},
    )
    if debug:
        assert done.stderr.count("from ") >= 6
    else:
        assert done.stderr.startswith("clipcls: from clipcls\nFatal Python error: Aborted\n")
