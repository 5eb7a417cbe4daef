"""Wrong inputs of every kind to every command: one line each, and the others are answered."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.cli import Run
from helpers.videos import film

PAGE = b"<!DOCTYPE html>\n<title>Log in</title>"
DENIED = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>'
VECTOR = pa.array([[0.6, 0.8], [0.8, 0.6]], pa.list_(pa.float32(), 2))


def picture(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_", "."), data)
    return file.getvalue()


def tarred(mode: Any, *members: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for number, data in enumerate(members):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def table(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def array(rows: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, rows, **options)
    return file.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped(a_png=picture()))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


NOISE = [picture() + os.urandom(20_000) for _ in range(3)]
WRONG: dict[str, tuple[bytes | None, str]] = {
    # name: its content, and the words of the one line about it
    "page.zip": (PAGE, "is a web page .*, not a zip archive"),
    "page.tar": (PAGE, "is a web page .*, not a tar archive"),
    "page.tar.gz": (PAGE, "is a web page .*, not a compressed tar archive"),
    "page.parquet": (PAGE, "is a web page .*, not a parquet file"),
    "page.csv": (PAGE, "is a web page .*, not a text file"),
    "page.jsonl": (PAGE, "is a web page .*, not a text file"),
    "page.mp4": (PAGE, "is a web page .*, not a video"),
    "page.jpg": (PAGE, "not a supported image: a web page"),
    "denied.zip": (DENIED, r"server's error message \(AccessDenied\), not a zip archive"),
    "denied.jpg": (DENIED, r"server's error message \(AccessDenied\)"),
    "lfs.parquet": (b"version https://git-lfs", "is a Git LFS pointer .*`git lfs pull`"),
    "zip.tar": (zipped(a_png=picture()), "is a zip archive.* give it the suffix .zip"),
    "gz.tar": (tarred("w:gz", picture()), "is a gzip file.* give it the suffix .tar.gz"),
    "zip.parquet": (zipped(a_png=picture()), "is a zip archive.* give it the suffix .zip"),
    "workbook.csv": (zipped(a_xml=b""), "is an Excel workbook or zip file"),
    **{f"empty.{kind}": (b"", "is empty") for kind in ("zip", "tar", "tgz", "parquet", "mp4")},
    "cut.zip": (zipped(a_png=NOISE[0])[:5_000], "damaged or cut short"),
    "cut.parquet": (table(path=["x"] * 99)[:200], "is not a whole parquet file"),
    "random.zip": (os.urandom(999), "not a zip archive, damaged or cut short"),
    "random.mp4": (b"\1" + os.urandom(999), "not a video, damaged or cut short"),
    "secret.zip": (encrypted(), "secret.zip!a.png: is encrypted; unpack"),
    "whole.zip!gone.png": (None, "the archive has no such member"),
    "gone.zip": (None, "no such file"),
    "gone.zip!a.png": (None, "no such file"),
    "gone.csv": (None, "no such file"),
    "gone.mp4": (None, "no such file"),
    "gone.mp4@00:00:01.000": (None, "no such file"),
    "whole.mp4@00:10:00.000": (None, "ends at 00:00:02.000"),
    "images.npy": (array(np.zeros((2, 8, 8, 3), np.uint8)), "an array .* of uint8, not of floats"),
    "one.npy": (array(np.ones(3)), r"an array \(3,\) of float64"),
    "objects.npy": (array(np.array([{}])), "is not a whole .npy file of vectors"),
    "other.npy": (array(np.eye(3)), "other.npy.jsonl, which names the model .* missing"),
    "cut.npy": (array(np.eye(3))[:-8], "is not a whole .npy file of vectors"),
}
COMMANDS = {
    "classify": ("classify", "-l", "red", "-l", "blue", "-f", "jsonl"),
    "tag": ("tag", "-l", "red", "-l", "blue", "-f", "jsonl"),
    "search": ("search", "red"),
    "suggest": ("suggest",),
    "embed": ("embed", "-o", "vectors.npy"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    for name, (data, _) in WRONG.items():
        if data is not None:
            (folder / name).write_bytes(data)
    (folder / "red.png").write_bytes(picture())
    (folder / "blue.png").write_bytes(picture("blue"))
    (folder / "whole.zip").write_bytes(zipped(a_png=picture()))
    film(str(folder / "whole.mp4"), ["red", "blue"])
    return folder


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(world)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = sorted(os.listdir())
    yield
    for name in {*os.listdir()} - {*before}:
        os.remove(name)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("command", COMMANDS)
def test_each_is_one_line_and_the_others_are_answered(command: str, run: Run) -> None:
    status, out, errors = run(*COMMANDS[command], "red.png", *WRONG, "blue.png")
    assert status == 1, errors
    assert "Traceback" not in errors
    assert "internal error" not in errors
    skipped = [line for line in errors.splitlines() if line.startswith("clipcls: skipped ")]
    assert len(skipped) == len(WRONG)
    for line, (name, (_, words)) in zip(skipped, WRONG.items(), strict=True):
        assert line.startswith(f"clipcls: skipped {name}")
        assert re.search(words, line), line
    if command in ("classify", "tag"):
        records = [json.loads(line) for line in out.splitlines()]
        assert ["error" in record for record in records] == [False, *[True] * len(WRONG), False]
    elif command == "search":
        assert "red.png" in out


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", WRONG)
def test_alone_it_ends_the_command_with_2(name: str, run: Run) -> None:
    status, _, errors = run(*COMMANDS["search"], name)
    assert status == 2
    assert re.search(WRONG[name][1], errors)
    assert len(errors.splitlines()) <= 2  # and how many images there were
