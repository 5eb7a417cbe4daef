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
    "cut.parquet": (table(path=["x"] * 99)[:200], "damaged or cut short"),
    "random.zip": (b"\1" + os.urandom(999), "not a zip archive, damaged or cut short"),
    "random.mp4": (b"\1" + os.urandom(999), "not a video, damaged or cut short"),
    "secret.zip": (encrypted(), "secret.zip!a.png: is encrypted; unpack"),
    "whole.zip!gone.png": (None, "the archive has no such member"),
    "gone.zip": (None, "no such file"),
    "gone.zip!a.png": (None, "no such file"),
    "gone.csv": (None, "no such file"),
    "gone.mp4": (None, "no such file"),
    "gone.mp4@00:00:01.000": (None, "no such file"),
    "whole.mp4@00:10:00.000": (None, "ends at 00:00:02.000"),
    "void.csv": (b"\n", "is empty"),
    "void.jsonl": (b"", "is empty"),
    "binary.csv": (b"\xff\0" * 99, "is a binary file"),
    "latin.csv": ("path\nrot.png\ngrün\n".encode("latin1"), "skipped latin.csv:3: is not UTF-8"),
    "twice.csv": (b"path,path\na.png,b.png\n", "has 2 columns called 'path'; rename"),
    "headless.csv": (b"red.png,red\n", "its first line is no header"),
    "unclear.csv": (b"a,b\n1,2\n", "not clear which column .* --image-column: 'a', 'b'"),
    "blank.csv": (b"path,label\n,red\n", "skipped blank.csv:2: the row has no image"),
    "sub/rel.csv": (
        b"path\nred.png\n",
        "sub/red.png: no such file; paths in a table .* sub/rel.csv",
    ),
    "gone-rows.csv": (b"path\ngone.png\n", "skipped gone.png: no such file"),
    "array.jsonl": (b'["red.png"]', "line 1: is not a JSON object; write one per line"),
    "broken.jsonl": (b'{"path":', "line 1: is not JSON"),
    "number.jsonl": (b'{"path": 3}', "line 1: 3 is no path or URL"),
    "null.jsonl": (b'{"path": null}', "line 1: the row has no image"),
    "data.jsonl": (b'{"path": "data:image/png;base64,aaaa"}', "line 1: .* base64 are not read"),
    "base64.csv": (b"path\n" + b"iVBO" * 999, "base64.csv:2: has 3,996 char.* base64 are not read"),
    "null.parquet": (table(path=[None]), "null.parquet#0: the row has no image"),
    "integers.parquet": (table(path=[1]), "column 'path' has int64, not paths, URLs or bytes"),
    "lists.parquet": (table(path=[["red.png"]]), "column 'path' has list<"),
    "struct.parquet": (table(image=[{"x": 1}]), "column 'image' has struct<x"),
    "two.parquet": (table(url=["x"], image=["x"]), "--image-column: 'url', 'image'"),
    "vectors.parquet": (table(id=[1, 2], vector=VECTOR), r"has vectors \('vector'\), but no paths"),
    "bytes.parquet": (table(image=[b"xx"]), "bytes.parquet#0: not an image"),
    "inner.parquet": (table(image=[{"bytes": None, "path": "no.png"}]), "no.png: no such file"),
    "whole.parquet#7": (None, "has 1 rows, from 0"),
    "images.npy": (array(np.zeros((2, 8, 8, 3), np.uint8)), "an array .* of uint8, not of floats"),
    "one.npy": (array(np.ones(3)), r"an array \(3,\) of float64"),
    "objects.npy": (array(np.array([{}])), "is not a whole .npy file of vectors"),
    "other.npy": (array(np.eye(3)), "other.npy.jsonl, which names the model .* missing"),
    "cut.npy": (array(np.eye(3))[:-8], "is not a whole .npy file of vectors"),
}
NAMED_OTHERWISE = {"sub/rel.csv", "gone-rows.csv"}  # by the image in the table
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
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    (folder / "red.png").write_bytes(picture())
    (folder / "blue.png").write_bytes(picture("blue"))
    (folder / "whole.zip").write_bytes(zipped(a_png=picture()))
    (folder / "whole.parquet").write_bytes(table(image=[picture()]))
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
        assert line.startswith(f"clipcls: skipped {name}") or name in NAMED_OTHERWISE
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


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "data", "reasons"),
    [
        ("t.jsonl", b'{"path": "red.png"}\n{"path": \n{"path": "blue.png"}', ["is not JSON"]),
        ("t.csv", b"path,text\nred.png,a\nx.png,a, b\nblue.png,c", ["3 cells for 2 columns"]),
        ("t.csv", b'path,text\nred.png,"a\nb"\nblue.png,c', []),
        ("t.csv", b'path,text\nred.png,a\nblue.png,b\nred.png,"c', ["is not a csv line"]),
        ("t.csv", b"path;label\nred.png;red\nblue.png;blue", []),
        ("t.csv", b"\xef\xbb\xbfpath,label\nred.png,red\nblue.png,blue", []),
        ("t.csv", "path,label\nred.png,red\nblue.png,blue".encode("utf-16"), []),
        ("t.parquet", table(path=["red.png", None, "blue.png"]), ["has no image"]),
        ("t.parquet", table(path=["red.png", "blue.png"], vector=VECTOR), []),
        ("t.parquet", table(path=["red.png", "blue.png"], image=[[0.1], [0.2]]), []),
        ("t.tar", tarred("w", picture(), picture("blue"), *NOISE)[:9_000], ["cut short"]),
        ("t.tgz", tarred("w:gz", picture(), picture("blue"), *NOISE)[:9_000], ["cut short"]),
    ],
)
def test_rows_around_a_bad_one_are_answered(
    name: str, data: bytes, reasons: list[str], run: Run
) -> None:
    Path(name).write_bytes(data)
    status, out, _ = run(*COMMANDS["classify"], name)
    records = [json.loads(line) for line in out.splitlines()]
    errors = [record["error"] for record in records if "error" in record]
    assert status == bool(reasons)
    assert len(errors) == len(reasons)
    assert all(reason in error for reason, error in zip(reasons, errors, strict=True))
    assert [record["label"] for record in records if "error" not in record] == ["red", "blue"]


@pytest.mark.usefixtures("here")
def test_vectors_of_another_program_are_said_not_to_be_used(run: Run) -> None:
    Path("t.parquet").write_bytes(table(path=["red.png", "blue.png"], vector=VECTOR))
    _, _, errors = run(*COMMANDS["classify"], "t.parquet")
    assert "t.parquet: its images are read, not its vectors ('vector')" in errors


@pytest.mark.usefixtures("here")
def test_what_fails_a_thousand_times_is_not_said_a_thousand_times(run: Run) -> None:
    rows = [*(f"no/{n}.png" for n in range(1_000)), "red.png", *["page.jpg"] * 100, "denied.jpg"]
    Path("t.csv").write_text("\n".join(["path", *rows]))
    status, out, errors = run(*COMMANDS["classify"], "t.csv")
    lines = errors.splitlines()
    assert (status, len(out.splitlines())) == (1, len(rows))  # every image has its record
    assert "clipcls: skipped 980 more: no such file" in lines
    assert any(re.match("clipcls: skipped 80 more: .* a web page", line) for line in lines)
    assert sum(line.startswith("clipcls: skipped ") for line in lines) == 20 + 1 + 20 + 1 + 1


RESULTS = {
    # name: its content, and the words of the one line about it
    "page.csv": (PAGE, "is a web page"),
    "page.parquet": (PAGE, "is a web page"),
    "cut.parquet": (table(path=["x"] * 99, label=["y"] * 99)[:200], "is not a whole parquet file"),
    "foreign.parquet": (table(path=["red.png"], foo=[1]), "row 1: has no label"),
    "integers.parquet": (table(path=[1], label=[2]), "row 1: has no path"),
    "columns.csv": (b"path,foo\nred.png,1\n", "neither JSON nor a csv with the columns path and"),
    "middle.jsonl": (b'{"path": "red.png", "label": "red"}\n{', "line 2: is not JSON"),
    "picture.png": (picture(), "is a PNG image, not a text file"),
    "array.npy": (array(np.ones(3)), "array.npy"),
    "gone.csv": (None, "no such file"),
}
READERS = {
    "sort": ("--into", "sorted"),
    "report": ("-o", "report.html"),
    "merge": ("-o", "merged.csv"),
    "review": ("--labels", "labels.txt"),
}


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("name", RESULTS)
def test_wrong_results(
    command: str, name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, words = RESULTS[name]
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("red\nblue\n")
    if data is not None:
        Path(name).write_bytes(data)
    before = sorted(os.listdir())
    status, _, errors = run(command, name, *READERS[command])
    (line,) = [line for line in errors.splitlines() if line.strip() and "sage:" not in line][-1:]
    assert status == 2
    assert "internal error" not in errors
    if (name, command) != ("array.npy", "merge"):  # vectors, which are not merged into a csv
        assert name in line
        assert re.search(words, line)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("action", ["import", "merge"])
@pytest.mark.parametrize(
    "data", [b"", PAGE, picture(), table(path=["x"]), table(path=["x"])[:99], os.urandom(999)]
)
def test_wrong_caches_are_refused_and_left_as_they_are(
    action: str, data: bytes, run: Run, tmp_path: Path, cache_folder: Path
) -> None:
    (tmp_path / "other").write_bytes(data)
    status, _, errors = run("cache", action, str(tmp_path / "other"))
    assert (status, errors.count("\n")) == (2, 1)
    assert f"{tmp_path}/other: " in errors
    assert (tmp_path / "other").read_bytes() == data


LABELLED: dict[str, tuple[bytes, str]] = {
    "page.csv": (PAGE, "is a web page"),
    "page.zip": (PAGE, "is a web page"),
    "page.parquet": (PAGE, "is a web page"),
    "void.jsonl": (b"", "is empty"),
    "cut.parquet": (table(path=["x"] * 99, label=["y"] * 99)[:200], "damaged or cut short"),
    "columns.csv": (b"path,foo\nred.png,1\n", "has no column 'label'"),
    "columns.parquet": (table(path=["red.png"], foo=["x"]), "has no column 'label'"),
    "integers.parquet": (table(path=[1], label=["x"]), "column 'path' has int64"),
    "gone.csv": (b"path,label\nno.png,red\nnone.png,blue\n", "no such file"),
    "other.npy": (array(np.eye(3)), "other.npy.jsonl, which names the model"),
    "picture.png": (picture(), "labelled images are"),
}


@pytest.mark.parametrize("command", ["evaluate", "fit", "calibrate"])
@pytest.mark.parametrize("name", LABELLED)
def test_wrong_labelled_images(
    command: str, name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, words = LABELLED[name]
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(data)
    labels = () if command == "fit" else ("-l", "red", "-l", "blue")
    output = () if command == "evaluate" else ("-o", "out.file")
    status, _, errors = run(command, name, *labels, *output)
    assert status == 2
    assert re.search(words, errors)
    assert "internal error" not in errors
    assert not Path("out.file").exists()
