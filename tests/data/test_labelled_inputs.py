"""Labelled images in archives, behind URLs and in tables, for `evaluate`, `fit` and `calibrate`."""

from __future__ import annotations

import functools
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipcls.data.dataset import read_dataset
from clipcls.data.matching import match_labels
from clipcls.errors import InputError
from helpers.cli import Run
from helpers.videos import film

LABELS = ("-l", "red", "-l", "green", "-l", "blue")
COLOURS = ("red", "green", "blue")


@pytest.fixture(autouse=True)
def photos(paint: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four photos per colour, in one folder per label."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    for colour in COLOURS:
        for number in range(4):
            paint(f"data/{colour}/{number}.png", colour, 8 + number)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A server of the working folder, whose pages list what is in its folders."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    handler = functools.partial(Handler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def pack(name: str, inside: str = "") -> str:
    files = sorted(Path("data").rglob("*.png"))
    members = {inside + file.relative_to("data").as_posix(): file for file in files}
    if name.endswith(".zip"):
        with zipfile.ZipFile(name, "w") as made:
            for member, file in members.items():
                made.write(file, member)
    else:
        with tarfile.open(name, "w:gz" if name.endswith("gz") else "w") as tar:
            for member, file in members.items():
                tar.add(file, member)
    return name


def evaluate(run: Run, *arguments: str) -> dict[str, Any]:
    status, out, error = run("evaluate", *LABELS, "-f", "json", *arguments)
    assert status == 0, error
    found: dict[str, Any] = json.loads(out)
    return found


def is_perfect(found: dict[str, Any], images: int = 12) -> bool:
    return (found["images"], found["metrics"]["accuracy"]["value"]) == (images, 1)


@pytest.mark.parametrize("name", ["data.zip", "data.tar", "data.tar.gz"])
@pytest.mark.parametrize("inside", ["", "dataset/train/"])
def test_an_archive_of_folders_is_like_the_folder(run: Run, name: str, inside: str) -> None:
    assert is_perfect(evaluate(run, pack(name, inside)))
    assert run("fit", name, "-o", "c.safetensors")[0] == 0
    assert run("calibrate", *LABELS, name, "-o", "c.json")[0] == 0
    assert run("classify", "--classifier", "c.safetensors", "data", "-o", "r.csv")[0] == 0


def test_shards_and_archives_by_url(run: Run, url: str) -> None:
    pack("train-0.tar")
    Path("data/red/0.png").rename("data/red/9.png")
    pack("train-1.tar")
    assert is_perfect(evaluate(run, "train-{0..1}.tar"), 24)
    assert is_perfect(evaluate(run, "train-*.tar"), 24)
    for name in ("train-0.tar", pack("data.zip"), pack("data.tar.gz")):
        assert is_perfect(evaluate(run, f"{url}/{name}"))


def test_folders_behind_urls(run: Run, url: str) -> None:
    files = fsspec.filesystem("memory")
    for file in Path("data").rglob("*.png"):
        files.pipe(f"/bucket/{file}", file.read_bytes())
    files.pipe("/bucket/data/beside.png", b"x")
    try:
        for name in ("memory://bucket/data/", "memory://bucket/data"):
            found = evaluate(run, name)
            assert is_perfect(found)
            assert found["beside"] == 1
        assert is_perfect(evaluate(run, "memory://bucket/data/*/[0-3].png"))
        assert is_perfect(evaluate(run, f"{url}/data/"))
        assert run("fit", "memory://bucket/data", "-o", "c.safetensors")[0] == 0
    finally:
        files.rm("/", recursive=True)


def test_one_label_and_nested_folders(run: Run) -> None:
    with zipfile.ZipFile("one.zip", "w") as made:
        made.write("data/red/0.png", "red/0.png")
        made.write("data/red/1.png", "red/by me/1.png")
    found = read_dataset("one.zip")
    assert found.labels == (("by me",),)  # below the folder that all images are in
    assert found.beside == 1
    with zipfile.ZipFile("one.zip", "w") as archive:
        archive.write("data/red/0.png", "red/0.png")
    assert read_dataset("one.zip").labels == (("red",),)
    found = read_dataset(pack("deep.zip", "animal/"))
    assert found.folders[0] == ("blue",)


def test_an_archive_without_folders_is_refused(run: Run) -> None:
    with zipfile.ZipFile("flat.zip", "w") as made:
        made.write("data/red/0.png", "0.png")
    status, _, error = run("evaluate", *LABELS, "flat.zip")
    assert (status, len(error.splitlines()), "folder per label" in error) == (2, 1, True)
    for name in ("none.zip", "memory://nothing/here/", "no-*.tar"):
        status, _, error = run("fit", name, "-o", "c.safetensors")
        assert (status, len(error.splitlines())) == (2, 1), error


def pack_samples(name: str, classes: dict[str, str]) -> str:
    """A shard as WebDataset writes it, whose `.cls` files have these texts per colour."""
    made: dict[str, bytes] = {}
    for path, label in rows():
        sample = path.replace("data/", "").replace("/", "-").removesuffix(".png")
        made[f"{sample}.png"] = Path(path).read_bytes()
        made[f"{sample}.cls"] = classes[label].encode()
        made[f"{sample}.json"] = b"{}"
    if name.endswith(".zip"):
        with zipfile.ZipFile(name, "w") as archive:
            for member, data in made.items():
                archive.writestr(member, data)
    else:
        with tarfile.open(name, "w:gz" if name.endswith("gz") else "w") as tar:
            for member, data in made.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return name


@pytest.mark.parametrize("name", ["s.zip", "s.tar", "s.tar.gz"])
@pytest.mark.parametrize("texts", [["red", "green\n", " Blue"], ["0", "1\n", "2"]])
def test_shards_of_webdataset_have_labels_in_cls_files(
    run: Run, url: str, name: str, texts: list[str]
) -> None:
    pack_samples(name, dict(zip(COLOURS, texts, strict=True)))
    assert is_perfect(evaluate(run, name))
    assert is_perfect(evaluate(run, f"{url}/{name}"))
    assert run("calibrate", *LABELS, name, "-o", "c.json")[0] == 0
    Path("labels.txt").write_text("\n".join(COLOURS))
    status, _, error = run("fit", "--labels", "labels.txt", name, "-o", "c.safetensors")
    assert status == 0, error
    status, out, _ = run("evaluate", "--classifier", "c.safetensors", "-f", "json", name)
    assert (status, is_perfect(json.loads(out))) == (0, True)
    labels = ("--labels", "a=labels.txt", "--labels", "b=labels.txt")
    status, _, error = run("evaluate", *labels, name)
    assert (status, "--question" in error) == (2, True)


def test_a_cls_file_that_is_missing_empty_or_of_no_label_is_reported(run: Run) -> None:
    pack_samples("s.zip", {"red": "red", "green": "", "blue": "7"})
    with zipfile.ZipFile("s.zip", "a") as archive:
        archive.write("data/red/0.png", "alone.png")
    status, out, error = run("evaluate", *LABELS, "-f", "json", "s.zip")
    found = json.loads(out)
    assert (status, found["images"]) == (1, 4), error
    assert found["no_labels"] == {"7": 4}
    assert "s.zip!green-0.cls: is empty" in error
    assert "s.zip!alone.png: has no label" in error


def test_a_label_that_is_spelled_as_a_number_is_not_counted_to(run: Run) -> None:
    pack_samples("s.tar", {"red": "0", "green": "1", "blue": "2"})
    found = match_labels(read_dataset("s.tar"), ["2", "1", "0"])
    assert set(zip(found.paths, found.truth, strict=True)) >= {("s.tar!red-0.png", (2,))}


def test_a_damaged_archive_is_counted(run: Run) -> None:
    whole = Path(pack("data.tar")).read_bytes()
    Path("data.tar").write_bytes(whole[: len(whole) // 2])
    status, out, error = run("evaluate", *LABELS, "-f", "json", "data.tar")
    assert status == 1
    assert "data.tar" in error
    found = json.loads(out)
    assert 0 < found["images"] < 12
    assert found["unreadable"][0]["path"] == "data.tar"


def rows() -> list[tuple[str, str]]:
    return [(str(file), file.parent.name) for file in sorted(Path("data").rglob("*.png"))]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_tables_of_paths_urls_and_members(run: Run, url: str, kind: str) -> None:
    pack("data.zip")
    places = [lambda p: p, lambda p: f"{url}/{p}", lambda p: p.replace("data/", "data.zip!", 1)]
    for place in places:
        paths, labels = zip(*((place(path), label) for path, label in rows()), strict=True)
        table = pa.table({"photo": paths, "class": labels})
        if kind == "parquet":
            pq.write_table(table, "t.parquet")
        elif kind == "csv":
            table.to_pandas().to_csv("t.csv", index=False)
        else:
            Path("t.jsonl").write_text("\n".join(map(json.dumps, table.to_pylist())))
        options = ("--image-column", "photo", "--label-column", "class", f"t.{kind}")
        assert is_perfect(evaluate(run, *options))
    assert is_perfect(evaluate(run, *options[:-1], f"{url}/t.{kind}"))
    assert run("fit", *options, "-o", "c.safetensors")[0] == 0
    assert run("calibrate", *LABELS, *options, "-o", "c.json")[0] == 0
    status, _, error = run("evaluate", *LABELS, "--image-column", "foto", f"t.{kind}")
    assert (status, "'photo'" in error) == (2, True)
    status, _, error = run("evaluate", *LABELS, "--image-column", "photo", f"t.{kind}")
    assert (status, "--label-column" in error, "'class'" in error) == (2, True, True)


def write_hub_table(name: str, labels: list[Any], kind: Any, feature: Any) -> str:
    """A parquet file as Hugging Face's datasets write it."""
    files = [Path(path).read_bytes() for path, _ in rows()]
    image = pa.array([{"bytes": data, "path": None} for data in files])
    table = pa.table({"image": image, "label": pa.array(labels, kind)})
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, name)
    return name


def test_a_table_of_hugging_faces_datasets(run: Run) -> None:
    names = ["red", "blue", "green"]
    numbers = [names.index(label) for _, label in rows()]
    feature = {"names": names, "_type": "ClassLabel"}
    data = write_hub_table("train-0.parquet", numbers, pa.int64(), feature)
    assert is_perfect(evaluate(run, data))
    assert run("fit", data, "-o", "c.safetensors")[0] == 0
    several = write_hub_table(
        "several.parquet",
        [[number] for number in numbers],
        pa.list_(pa.int64()),
        {"feature": feature, "_type": "Sequence"},
    )
    assert is_perfect(evaluate(run, several))
    hidden = [-1, *numbers[1:]]
    write_hub_table("train-1.parquet", hidden, pa.int64(), feature)
    status, _, error = run("evaluate", *LABELS, "train-1.parquet")
    assert (status, "train-1.parquet#0" in error) == (2, True)
    assert is_perfect(evaluate(run, "--label-column", "label", "train-*.parquet"), 23)


def test_numbers_without_names_are_labels(run: Run) -> None:
    numbers = [COLOURS.index(label) for _, label in rows()]
    data = write_hub_table("t.parquet", numbers, pa.int64(), {"_type": "Value"})
    found = read_dataset(data)
    assert {label for labels in found.labels for label in labels} == {"0", "1", "2"}
    with pytest.raises(InputError, match="label"):
        read_dataset(data, question="colour")


def test_results_of_classify_are_no_truth_until_a_person_says_so(run: Run) -> None:
    run("classify", *LABELS, "data", "-o", "r.parquet")
    status, _, error = run("evaluate", *LABELS, "r.parquet")
    assert (status, "person" in error) == (2, True)


def test_missing_images_of_a_table_are_counted(run: Run) -> None:
    lines = [{"path": path, "label": label} for path, label in [("gone.png", "red"), *rows()]]
    Path("t.jsonl").write_text("\n".join([*map(json.dumps, lines), '{"path": "", "label": "red"}']))
    status, out, _ = run("evaluate", *LABELS, "-f", "json", "t.jsonl")
    assert status == 1
    assert is_perfect(json.loads(out))
    assert len(json.loads(out)["unreadable"]) == 2


def test_a_video_in_a_table_is_no_image(run: Run) -> None:
    film("clip.mp4", ["red", "blue", "blue"])
    Path("t.csv").write_text("path,label\nclip.mp4,red\ndata/red/0.png,red\n")
    status, out, error = run("evaluate", *LABELS, "-f", "json", "t.csv")
    assert status == 1, error
    assert json.loads(out)["unreadable"][0]["path"] == "clip.mp4"


def test_several_questions_need_a_table(run: Run) -> None:
    for question in ("kind", "hue"):
        Path(f"{question}.txt").write_text("red\ngreen\nblue\n")
    labels = ("--labels", "kind=kind.txt", "--labels", "hue=hue.txt")
    status, _, error = run("evaluate", *labels, pack("data.zip"))
    assert (status, "--question" in error) == (2, True)
    lines = [{"path": path, "kind": label, "hue": label} for path, label in rows()]
    Path("t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("evaluate", *labels, "t.jsonl")[0] == 0


def test_the_html_page_shows_members(run: Run) -> None:
    assert run("evaluate", *LABELS, "--html", "page.html", pack("data.zip"))[0] == 0
    assert "data.zip!" in Path("page.html").read_text()
