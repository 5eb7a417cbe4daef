"""Shards of results in a folder or bucket: what is done, what is left, what is refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import clipcls
from clipcls.cluster import job
from clipcls.cluster.transport import pack, unpack
from clipcls.data import archives, video
from clipcls.data.boxes import Boxes
from clipcls.data.inputs import NamedImage
from clipcls.data.sources import find_source
from clipcls.data.tables import Cell
from clipcls.errors import ImageError, InputError, OutputError
from clipcls.models.backend import Backend
from clipcls.output.place import MANIFEST, SHARD_NAME, Place
from helpers.cli import Run
from helpers.encoders import ColourEncoder
from helpers.videos import film

OPTIONS = ("-l", "red", "-l", "green", "-l", "blue", "--shard-size", "4")


@pytest.fixture(autouse=True)
def photos(paint: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    for number in range(10):
        paint(f"photos/{number:02}.png", ["red", "green", "blue"][number % 3])
    for number in range(10, 14):
        Path(f"photos/{number}.png").write_text("no image")


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that were computed: in this process, in place of a cluster's."""
    names: list[str] = []

    def run(
        work: job.Job, parts: Sequence[job.Part], backend: Backend, **where: Any
    ) -> Iterator[job.Report]:
        assert where == {"address": "auto", "cpus": 1, "gpus": 0}
        copy: job.Job = unpack(pack(work, backend))
        copy.prepare()
        for part in parts:
            names.append(part.name)
            report = copy.classify(part)
            yield pickle.loads(pickle.dumps(report))

    monkeypatch.setattr(job, "run", run)
    return names


def read(folder: str) -> list[dict[str, Any]]:
    return sorted(pq.read_table(folder).to_pylist(), key=lambda row: str(row["path"]))


@pytest.mark.parametrize("command", ["classify", "tag"])
def test_records_are_those_of_a_local_run(run: Run, answered: list[str], command: str) -> None:
    status, _, err = run(command, *OPTIONS, "photos", "--ray", "-o", "results/")
    assert status == 1
    assert err.count("skipped photos/") == 4
    assert "10 classified" in err
    assert len(answered) == 4
    local = [o for o in OPTIONS if o not in ("--shard-size", "4")]
    run(command, *local, "photos", "-o", "local.parquet")
    assert read("results") == read("local.parquet")
    schemas = [pq.read_schema(path) for path in ["local.parquet", *Path("results").glob("*.p*")]]
    assert all(schema.equals(schemas[0]) for schema in schemas)


def test_each_part_reads_a_compressed_archive_or_a_video_once(
    run: Run, answered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open("photos.tar.gz", "w:gz") as tar:
        tar.add("photos")
    film("clip.mp4", ["red", "green", "blue"] * 3)
    opened: list[str] = []
    for module in (archives, video):
        name = "open_container" if module is archives else "_open"
        monkeypatch.setattr(module, name, count(getattr(module, name), opened))
    archives._open_forward.cache_clear()
    status, _, err = run("classify", *OPTIONS, "photos.tar.gz", "clip.mp4", "--ray", "-o", "r/")
    assert (status, len(answered)) == (1, 6), err
    # The listing opens each, and then one reader the archive and each part the video.
    assert opened.count("photos.tar.gz") == 2
    assert opened.count("clip.mp4") == 1 + 3
    local = [o for o in OPTIONS if o not in ("--shard-size", "4")]
    run("classify", *local, "photos.tar.gz", "clip.mp4", "-o", "local.parquet")
    assert read("r") == read("local.parquet")


@pytest.mark.parametrize("command", ["classify", "tag"])
def test_a_video_that_has_one_answer_is_in_one_part(
    run: Run, answered: list[str], command: str
) -> None:
    for number in range(3):
        film(f"{number}.mp4", ["red", "green", "blue", "red", "red"])
    data = Path("2.mp4").read_bytes()
    Path("2.mp4").write_bytes(data[: len(data) // 2])
    words = ("0.mp4", "photos", "1.mp4", "2.mp4", "--per-file")
    status, _, err = run(command, *OPTIONS, *words, "--ray", "-o", "r/")
    assert (status, len(answered) > 3) == (1, True), err
    local = [o for o in OPTIONS if o not in ("--shard-size", "4")]
    run(command, *local, *words, "-o", "local.parquet")
    assert read("r") == read("local.parquet")
    assert [len(row["frames"]) for row in read("r") if row["path"] in ("0.mp4", "1.mp4")] == [3, 3]
    answered.clear()
    assert run(command, *OPTIONS, *words, "--ray", "-o", "r/")[0] == 1
    assert not answered
    status, _, err = run(command, *OPTIONS, *words[:-1], "--ray", "-o", "r/")
    assert (status, "another folder" in err) == (3, True)


def count(function: Callable[..., Any], opened: list[str]) -> Callable[..., Any]:
    def counted(name: str, *more: Any) -> Any:
        opened.append(name)
        return function(name, *more)

    return counted


def test_boxes_and_columns_of_a_table_are_those_of_a_local_run(
    run: Run, answered: list[str]
) -> None:
    boxes = [f"photos/{n:02}.png,0,0,0.5,0.5" for n in range(9)] + ["photos/00.png,0,0,1,1"]
    Path("boxes.csv").write_text("\n".join(["path,x,y,w,h", *boxes]))
    Path("table.csv").write_text(
        "path,id\n" + "".join(f"photos/{n:02}.png,{n}\n" for n in range(9))
    )
    local = [o for o in OPTIONS if o not in ("--shard-size", "4")]
    for number, more in enumerate(
        (["photos", "--boxes", "boxes.csv", "--empty", "none"], ["table.csv", "--keep", "id"])
    ):
        status, _, err = run("classify", *OPTIONS, *more, "--ray", "-o", f"r{number}/")
        assert (status, len(answered) > 2) == (1 - number, True), err
        run("classify", *local, *more, "-o", "local.parquet")
        assert read(f"r{number}") == read("local.parquet")


@pytest.mark.parametrize("place", ["results", "memory://merged/r"])
def test_folders_of_results_are_merged(run: Run, answered: list[str], place: str) -> None:
    for number in (1, 2, 3):
        shard = ("--shard", f"{number}/3")
        run("classify", *OPTIONS, "photos", *shard, "--ray", "-o", f"{place}{number}/")
    status, _, err = run("merge", *(f"{place}{n}" for n in (1, 2, 3)), "-o", "all.parquet")
    assert status == 0, err
    local = [o for o in OPTIONS if o not in ("--shard-size", "4")]
    run("classify", *local, "photos", "-o", "local.parquet")
    assert read("all.parquet") == read("local.parquet")
    if place == "results":
        for words in (("sort", "--into", "s"), ("report", "-o", "r.html")):
            status, _, err = run(words[0], f"{place}1", *words[1:])
            assert (status, "clipcls merge" in err) == (2, True), err
    status, _, err = run("merge", f"{place}1", f"{place}3", "-o", "all.csv")
    assert (status, "missing: shard 2 of 3" in err) == (1, True)
    manifest = Place(f"{place}2").read_manifest()
    assert manifest
    Place(f"{place}2").write_manifest({**manifest, "complete": False})
    status, _, err = run("merge", f"{place}1", f"{place}2", "-o", "all.csv")
    assert (status, err.count("\n"), "is unfinished" in err) == (2, 1, True)


def test_several_questions_have_one_schema(run: Run, answered: list[str]) -> None:
    Path("warmth.txt").write_text("red or yellow\nblue or green\n")
    Path("colours.txt").write_text("red\ngreen\nblue\n")
    asked = ("--labels", "warmth=warmth.txt", "--labels", "colour=colours.txt")
    status, _, err = run("classify", *asked, "--shard-size", "4", "--ray", "photos", "-o", "r")
    assert (status, len(answered)) == (1, 4), err
    schemas = {str(pq.read_schema(path).names) for path in Path("r").glob("*.parquet")}
    assert len(schemas) == 1
    assert "colour_score" in schemas.pop()


def test_a_second_run_computes_what_is_missing_or_changed(
    run: Run, answered: list[str], paint: Callable[..., str]
) -> None:
    run("classify", *OPTIONS, "photos", "--ray", "-o", "results/")
    first = sorted(os.listdir("results"))
    answered.clear()
    status, _, err = run("classify", *OPTIONS, "photos", "--ray", "-o", "results")
    assert (status, answered) == (1, [])
    assert "4 of 4 shards were finished before" in err
    assert "10 classified, 4 could not be read" in err
    Path("results", first[1]).unlink()
    paint("photos/99.png", "red")
    run("classify", *OPTIONS, "photos", "--ray", "-o", "results")
    assert answered[0] == first[1]
    assert len(answered) == 2  # and the last one, with one image more
    assert len(read("results")) == 15
    answered.clear()
    paint("photos/00.png", "blue")  # another content under its name
    run("classify", *OPTIONS, "photos", "--ray", "-o", "results")
    assert len(answered) == 1
    assert read("results")[0]["label"] == "blue"
    assert len(os.listdir("results")) == 5
    assert first[-1] not in os.listdir("results")


def test_results_go_to_any_file_system(run: Run, answered: list[str]) -> None:
    status, _, err = run("classify", *OPTIONS, "photos", "--ray", "-o", "memory://bucket/r/")
    assert (status, len(answered)) == (1, 4), err
    files = fsspec.filesystem("memory").ls("/bucket/r", detail=False)
    assert len(files) == 5
    manifest = json.loads(fsspec.filesystem("memory").cat(f"/bucket/r/{MANIFEST}"))
    assert manifest["complete"] is True


def test_other_folders_and_runs_are_left_alone(run: Run, answered: list[str]) -> None:
    run("classify", *OPTIONS, "photos", "--ray", "-o", "results/")
    before = sorted(os.listdir("results"))
    for other in (("-l", "yellow"), ("-k", "2"), ("--min-score", "0.5")):
        status, _, err = run("classify", *OPTIONS, *other, "photos", "--ray", "-o", "results/")
        assert (status, err.count("\n")) == (3, 1), err
        assert "another folder" in err
    status, _, err = run("classify", *OPTIONS, "photos", "--ray", "-o", "photos/")
    assert (status, "not empty" in err) == (3, True)
    assert before == sorted(os.listdir("results"))
    Path("results", MANIFEST).write_text("{")
    status, _, err = run("classify", *OPTIONS, "photos", "--ray", "-o", "results/")
    assert (status, MANIFEST in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--ray",), "name a folder or URL"),
        (("--ray", "-o", "results.csv"), "name a folder"),
        (("--ray", "-o", "r/", "-f", "csv"), "parquet"),
        (("--ray", "-o", "r/", "--refine"), "--refine"),
        (("--ray", "-o", "r/", "--sort-into", "s"), "--sort-into"),
        (("--ray", "-o", "r/", "--cache", "c"), "--cache"),
        (("--ray", "-o", "r/", "--heatmap", "h"), "--heatmap"),
        (("--ray", "-o", "nope://r/"), "nope"),
        (("-o", "r/"), "name a file"),
        (("--gpus-per-worker", "1"), "--ray"),
    ],
)
def test_impossible_options_are_refused_in_a_line(
    run: Run, answered: list[str], arguments: tuple[str, ...], reason: str
) -> None:
    status, _, err = run("classify", "-l", "red", "photos", *arguments)
    assert (status, answered) == (2, [])
    assert reason in err.splitlines()[-1]
    assert not Path("r").exists()


def test_the_address_is_optional(run: Run, answered: list[str]) -> None:
    for number, arguments in enumerate([("--ray", "photos"), ("photos", "--ray"), ("--ray=auto",)]):
        inputs = () if "photos" in arguments else ("photos",)
        status, _, err = run("classify", "-l", "red", *arguments, *inputs, "-o", f"r{number}/")
        assert status == 1, err
    assert len(answered) == 3


def test_a_worker_without_the_images_stops_the_run(
    run: Run, answered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Path("elsewhere").absolute()
    elsewhere.mkdir()
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    prepare = job.Job.prepare

    def prepare_there(self: job.Job) -> None:
        self.inputs = [str(elsewhere / name) for name in self.inputs]
        prepare(self)

    monkeypatch.setattr(job.Job, "prepare", prepare_there)
    status, _, err = run("classify", *OPTIONS, "photos", "--ray", "-o", "results/")
    assert (status, answered) == (2, [])
    assert "is missing on the machine" in err
    assert "mount it" in err


def test_parts_are_named_by_their_images() -> None:
    images: list[Any] = ["a", "b", ImageError("c", "gone"), "d", "e"]
    parts = list(job.split(images, 2))
    assert [part.count for part in parts] == [2, 2, 1]
    assert all(SHARD_NAME.fullmatch(part.name) for part in parts)
    assert str(parts[1].load()[0]) == "c: gone"
    other = list(job.split([*images[:3], "x", "e"], 2))
    same = [one.name == two.name for one, two in zip(parts, other, strict=True)]
    assert same == [True, False, True]


def test_parts_of_other_content_under_the_same_names_are_other_parts() -> None:
    names = []
    for column, mark in (("a", b"x"), ("b", b"x"), ("a", b"y"), ("a", b"x")):
        image = NamedImage("t.parquet#0", Cell("t.parquet", mark, 0, column))
        names += [part.name for part in job.split([image], 2)]
    assert len(set(names[:3])) == 3
    assert names[0] == names[3]


@pytest.mark.parametrize("name", ["a.jpg", "a.zip!b.jpg", "a.mp4@00:00:01.000", "a.jpg#1", "kept"])
@pytest.mark.parametrize("is_young", [True, False])
def test_a_file_that_changed_makes_other_parts(
    monkeypatch: pytest.MonkeyPatch, name: str, is_young: bool
) -> None:
    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", 10**12 if is_young else 0)
    file = "a.jpg" if name == "kept" else re.split("[!@#]", name)[0]
    Path("boxes.csv").write_text("path,x,y,w,h\na.jpg,0,0,9,9\n")
    names = []
    for content, moment in (("x", 1), ("yy", 2), ("zz", 2)):  # the last as `rsync -t` does
        time.sleep(0.02)  # the clock of files
        Path("new").write_text(content)
        os.utime("new", (moment, moment))
        os.replace("new", file)
        image: Any = name
        if name == "kept":
            image = NamedImage("a.jpg", find_source("a.jpg"), {"id": 1})
        elif "#" in name:
            (image,) = Boxes("boxes.csv").crop_each(["a.jpg"])
        names += [part.name for part in job.split([image], 2)]
    assert len({*names}) == 3


def test_other_boxes_make_other_parts_of_images_behind_urls(tmp_path: Path) -> None:
    names = []
    for x, margin in ((0, 0.1), (1, 0.1), (0, 0.2)):
        (tmp_path / "b.csv").write_text(f"path,x,y,w,h\na.jpg,{x},0,9,9\n")
        crops = Boxes(tmp_path / "b.csv", margin=margin).crop_each(["memory://a.jpg"])
        names += [part.name for part in job.split(crops, 2)]
    assert len(set(names)) == 3


def test_shards_are_in_the_order_of_the_images(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    shards = ["part-99999-00000000.parquet", "part-100000-00000000.parquet"]
    for name in shards:
        place.write(name, b"")
    place.write_manifest({"shards": 2, "complete": True})
    assert place.list_finished() == shards


def test_a_file_in_the_place_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        Place(str(tmp_path / "file" / "r")).write("a", b"x")
    with pytest.raises(InputError, match="nope"):
        Place("nope://bucket")


def test_a_damaged_shard_is_named(run: Run, answered: list[str]) -> None:
    run("classify", *OPTIONS, "photos", "--ray", "-o", "results/")
    name = sorted(os.listdir("results"))[1]
    Path("results", name).write_bytes(b"PAR1 cut off")
    status, _, err = run("classify", *OPTIONS, "photos", "--ray", "-o", "results/")
    assert (status, name in err, "remove it" in err) == (2, True, True)


def test_ray_classifier_answers_arrays_bytes_and_paths(encoder: ColourEncoder) -> None:
    classifier = clipcls.ZeroShotClassifier(["red", "green"], model=encoder, cache=False)
    answer = clipcls.RayClassifier(classifier.fit(), top=2)
    array = np.asarray(Image.open("photos/00.png"))
    found = answer({"image": np.stack([array, array]), "id": np.array([7, 8])})
    assert found["label"].tolist() == ["red", "red"]
    assert (found["id"].tolist(), "image" in found) == ([7, 8], False)
    data = np.array([Path("photos/01.png").read_bytes(), b"no image"], object)
    found = answer({"bytes": data})
    assert found["label"].tolist() == ["green", None]
    assert found["error"].tolist() == [None, "not an image"]
    assert found["score"].dtype == np.float64
    found = answer({"path": ["photos/13.png"]})
    assert (found["label"].dtype, found["path"]) == (object, ["photos/13.png"])
    with pytest.raises(ValueError, match="it has text"):
        answer({"text": ["a"]})
