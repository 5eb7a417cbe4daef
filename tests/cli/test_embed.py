"""`clipcls embed`: vectors that other programs read, and that take the images' place."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipcls
from clipcls import FewShotClassifier, ZeroShotClassifier
from clipcls.data.inputs import open_input
from clipcls.embeddings.embed import embed_array
from clipcls.embeddings.vector_files import VectorParquetWriter, open_vectors
from clipcls.embeddings.vectors_info import VectorBlock, VectorsInfo
from clipcls.errors import ImageError, InputError
from clipcls.files.hashing import hash_file
from clipcls.numerics import unit_rows
from clipcls.output.writing import open_output
from helpers.cli import Run
from helpers.encoders import ColourEncoder

OUTPUTS = ("v.parquet", "v.npy", "v")
LABELS = ("-l", "red", "-l", "green", "-l", "blue")


@pytest.fixture
def photos(paint: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.chdir(tmp_path)
    colours = [("a", "red"), ("b", "green"), ("c", "blue"), ("d", "yellow")]
    return [os.path.relpath(paint(f"photos/{name}.png", colour)) for name, colour in colours]


@pytest.mark.parametrize("output", OUTPUTS)
def test_rows_have_path_hash_size_and_vector(photos: list[str], run: Run, output: str) -> None:
    assert run("embed", "photos", "-o", output, "--no-cache")[0] == 0
    (block,) = open_vectors(output).blocks()
    assert list(block.paths) == photos
    assert list(block.hashes) == [hash_file(path) for path in photos]
    assert list(block.sizes) == [os.path.getsize(path) for path in photos]
    assert np.allclose(block.vectors[:3], np.eye(3))
    info = open_vectors(output).info
    assert (info.model, info.weights, info.precision, info.dim) == (
        *("colours", "c0" * 32, "fp32"),
        3,
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_programs_read_them(photos: list[str], run: Run, dtype: str) -> None:
    run("embed", "photos", "-o", "v.parquet", "--dtype", dtype)
    vectors = pq.read_table("v.parquet")["vector"]
    assert str(vectors.type).startswith("fixed_size_list<element: ")
    frame = pd.read_parquet("v.parquet")
    assert list(frame.path) == photos
    assert np.allclose(np.stack(list(frame.vector)), np.stack(vectors.to_pylist()))
    query = "SELECT path, list_sum(vector) FROM 'v.parquet' WHERE size > 0"
    rows = duckdb.connect().execute(query).fetchall()
    assert [path for path, _ in rows] == photos
    assert [total for _, total in rows] == pytest.approx([1, 1, 1, 2**0.5], abs=1e-3)
    run("embed", "photos", "-o", "v.npy", "--dtype", dtype)
    assert np.load("v.npy").dtype == dtype
    assert [
        json.loads(line)["path"] for line in Path("v.npy.jsonl").read_text().splitlines()[1:]
    ] == photos


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("command", ["classify", "tag", "search", "suggest"])
def test_vectors_take_the_place_of_the_images(
    photos: list[str], run: Run, encoder: ColourEncoder, output: str, command: str
) -> None:
    rest = {"search": ("-f", "csv"), "suggest": ()}.get(command, LABELS)
    before = ("a red thing",) if command == "search" else ()
    expected = run(command, *before, "photos", *rest, "--no-cache")
    run("embed", "photos", "-o", output)
    images = encoder.images
    encoder.load_image_tower = lambda: pytest.fail("loaded")  # type: ignore[method-assign]
    shutil.rmtree("photos")
    assert run(command, *before, output, *rest, "--no-cache")[:2] == expected[:2]
    assert encoder.images == images


def test_vectors_among_photos_keep_their_place(photos: list[str], run: Run) -> None:
    run("embed", photos[1], photos[2], "-o", "v.parquet")
    _, table, _ = run("classify", photos[0], "v.parquet", photos[3], *LABELS, "-f", "jsonl")
    assert [json.loads(line)["path"] for line in table.splitlines()] == photos


def test_float16_gives_the_same_labels(photos: list[str], run: Run) -> None:
    run("embed", "photos", "-o", "v.parquet", "--dtype", "float16")
    _, table, _ = run("classify", "v.parquet", *LABELS, "-f", "jsonl")
    assert [json.loads(line)["label"] for line in table.splitlines()][:3] == [
        "red",
        "green",
        "blue",
    ]


def test_vectors_are_known_by_their_content_not_by_their_name(photos: list[str], run: Run) -> None:
    run("embed", "photos", "-o", "v.parquet")
    run("embed", "photos", "-o", "v.npy")
    os.rename("v.parquet", "vectors.data")
    assert run("classify", "vectors.data", *LABELS)[0] == 0
    pd.DataFrame({"path": photos[:1]}).to_parquet("vectors.parquet")  # a table of images
    status, out, _ = run("classify", "vectors.parquet", *LABELS, "-f", "jsonl")
    assert (status, json.loads(out)["path"]) == (0, photos[0])


@pytest.mark.parametrize("output", OUTPUTS)
def test_another_models_vectors_are_refused(
    photos: list[str],
    run: Run,
    encoder: ColourEncoder,
    output: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("embed", "photos", "-o", output)
    encoder.weights = "e2" * 32
    status, _, errors = run("classify", output, *LABELS)
    assert status == 2
    assert [word in errors for word in ("colours", "c0c0", "e2e2")] == [True] * 3
    assert errors.count("\n") == 1
    encoder.weights, encoder.image_space = "c0" * 32, "image prepared otherwise"
    assert "now; embed them anew" in run("classify", output, *LABELS)[2]
    with monkeypatch.context() as patch:  # the same weights under another name
        patch.setattr(encoder, "name", "hf-hub:acme/colours")
        assert "use --model colours, or embed" in run("classify", output, *LABELS)[2]
    encoder.precision = "bf16"  # another space, too, but the same preparation
    assert run("classify", output, *LABELS)[0] == 0


def test_vectors_outlive_an_update_that_prepares_images_as_before(
    photos: list[str], run: Run, encoder: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ColourEncoder, "version", "open_clip_torch 3")
    monkeypatch.setattr(ColourEncoder, "preprocessing", {"size": (8, 8), "resize_mode": "squash"})
    run("embed", "photos", "-o", "v.npy")
    monkeypatch.setattr(ColourEncoder, "version", "open_clip_torch 4")
    assert run("classify", "v.npy", *LABELS)[0] == 0
    monkeypatch.setattr(ColourEncoder, "preprocessing", {"size": (8, 8), "resize_mode": "shortest"})
    status, _, errors = run("classify", "v.npy", *LABELS)
    assert status == 2
    assert "prepared otherwise" in errors


def test_unreadable_images_have_no_row(photos: list[str], run: Run) -> None:
    Path(photos[1]).write_bytes(b"no image")
    for output in OUTPUTS:
        status, _, errors = run("embed", "photos", "-o", output)
        assert status == 1
        assert f"skipped {photos[1]}" in errors
        (block,) = open_vectors(output).blocks()
        assert list(block.paths) == [photos[0], *photos[2:]]
    for name in photos:
        Path(name).write_bytes(b"no image")
    status, _, errors = run("embed", "photos", "-o", "none.parquet")
    assert status == 2
    assert not Path("none.parquet").exists()


def test_a_folder_is_added_to(photos: list[str], run: Run, encoder: ColourEncoder) -> None:
    run("embed", *photos[:3], "-o", "v", "--rows", "2", "--no-cache")
    parts = sorted(Path("v").glob("*.parquet"))
    assert [len(open_vectors(str(part))) for part in parts] == [3]
    images = encoder.images
    assert run("embed", *photos, "-o", "v", "--no-cache")[0] == 0
    assert encoder.images == images + 1
    assert [path for block in open_vectors("v").blocks() for path in block.paths] == photos
    assert run("embed", "photos", "-o", "v", "--no-cache")[0] == 0
    assert len(open_vectors("v")) == 4
    os.utime(photos[0], (4e9, 4e9))
    status, _, errors = run("embed", *photos, "-o", "v", "--no-cache")
    assert status == 2
    assert [word in errors for word in (photos[0], "part-000000")] == [True] * 2


def zip_photos(*paths: str) -> None:
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for number, path in enumerate(paths):
            archive.write(path, f"{number}.png")


def test_a_folder_notices_that_what_holds_its_images_has_changed(
    photos: list[str], run: Run
) -> None:
    zip_photos(*photos[:2])
    Path("boxes.csv").write_text(f"path,x,y,w,h\n{photos[0]},0,0,1,1\n")
    crops = (photos[0], "--boxes", "boxes.csv")
    for name, inputs in (("photos.zip", ("photos.zip",)), (photos[0], crops)):
        assert run("embed", *inputs, "-o", f"v-{name[-3:]}", "--no-cache")[0] == 0
        assert run("embed", *inputs, "-o", f"v-{name[-3:]}", "--no-cache")[0] == 0
        os.utime(name, (4e9, 4e9))
        status, _, errors = run("embed", *inputs, "-o", f"v-{name[-3:]}", "--no-cache")
        assert (status, f"{name}: has changed" in errors) == (2, True)


def test_vectors_are_added_to_a_folder_once(photos: list[str], run: Run) -> None:
    run("embed", *photos[:3], "-o", "v.parquet", "--no-cache")
    for inputs in (["v.parquet"], ["v.parquet"], [*photos, "v.parquet"]):
        assert run("embed", *inputs, "-o", "v", "--no-cache")[0] == 0
    assert [path for block in open_vectors("v").blocks() for path in block.paths] == photos


def test_a_folder_of_something_else_is_left_alone(photos: list[str], run: Run) -> None:
    status, _, errors = run("embed", "photos", "-o", "photos")
    assert (status, errors.count("\n")) == (2, 1)
    assert sorted(os.listdir("photos")) == [os.path.basename(path) for path in photos]


def test_a_folder_takes_one_model_only(photos: list[str], run: Run, encoder: ColourEncoder) -> None:
    run("embed", photos[0], "-o", "v")
    encoder.image_space = "image other"
    status, _, errors = run("embed", photos[1], "-o", "v")
    assert (status, len(open_vectors("v"))) == (2, 1)
    assert "another folder" in errors


def test_two_runs_into_one_folder(photos: list[str], run: Run) -> None:
    run("embed", photos[0], "-o", "v")
    import fcntl

    descriptor = os.open("v", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        status, _, errors = run("embed", photos[1], "-o", "v")
    finally:
        os.close(descriptor)
    assert status == 3
    assert "another run" in errors


_KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from helpers.encoders import ColourEncoder
import clipcls.models.encoder
class Encoder(ColourEncoder):
    def encode_images(self, pixels):
        if self.images >= {after}:
            os.kill(os.getpid(), 9)
        return super().encode_images(pixels)
clipcls.models.encoder.open_encoder = lambda *args, **settings: Encoder()
import clipcls.cli.embed
clipcls.cli.embed._BLOCK = 1
from clipcls.cli import main
sys.argv = ["clipcls", "embed", "many", "-o", "v", "--rows", "8", "--no-cache"]
main()
"""


def test_a_killed_run_leaves_whole_files_and_is_resumed(
    photos: list[str], run: Run, paint: Callable[..., str], encoder: ColourEncoder
) -> None:
    for number in range(40):
        paint(f"many/{number:02}.png", (number, 100, 50))
    code = _KILLED.format(tests=str(Path(__file__).parents[1]), after=20)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    Path("v/.part-000009.parquet.aaaa.part").write_bytes(b"PAR1 cut off")
    before = len(open_vectors("v"))
    assert 8 <= before < 40
    assert run("embed", "many", "-o", "v", "--no-cache")[0] == 0
    assert encoder.images == 40 - before
    paths = [path for block in open_vectors("v").blocks() for path in block.paths]
    assert paths == [f"many/{number:02}.png" for number in range(40)]
    assert not list(Path("v").glob(".part*"))


@pytest.mark.parametrize("output", OUTPUTS)
def test_damage_is_one_line(photos: list[str], run: Run, output: str) -> None:
    run("embed", "photos", "-o", output)
    for file in [Path(output)] if output != "v" else sorted(Path("v").iterdir()):
        for size in (0, 4, 12, 60, 150):
            whole = file.read_bytes()
            file.write_bytes(whole[:size])
            status, _, errors = run("classify", output, *LABELS)
            file.write_bytes(whole)
            assert status == 2
            assert "internal" not in errors
            assert len(errors.splitlines()) <= 2
    assert run("classify", output, *LABELS)[0] == 0


def test_a_npy_without_its_paths(photos: list[str], run: Run) -> None:
    run("embed", "photos", "-o", "v.npy")
    rows = np.load("v.npy")
    np.save("v.npy", rows[:2])
    assert "v.npy.jsonl" in run("classify", "v.npy", *LABELS)[2]
    os.remove("v.npy.jsonl")
    status, _, errors = run("classify", "v.npy", *LABELS)
    assert status == 2
    assert [word in errors for word in ("v.npy.jsonl", "missing")] == [True] * 2


def test_rows_that_are_no_unit_vectors_are_reported(photos: list[str], run: Run) -> None:
    run("embed", "photos", "-o", "v.npy")
    rows = np.load("v.npy")
    rows[1], rows[2] = np.nan, 0
    np.save("v.npy", rows)
    status, table, errors = run("classify", "v.npy", *LABELS, "-f", "jsonl")
    assert status == 1
    records = [json.loads(line) for line in table.splitlines()]
    assert ["error" in record for record in records] == [False, True, True, False]
    assert f"skipped {photos[1]}" in errors


def test_names_of_outputs(photos: list[str], run: Run) -> None:
    for name in ("x.csv", "-", "missing/x.parquet"):
        status, _, errors = run("embed", "photos", "-o", name)
        assert status == 2
        assert name.partition("/")[0] in errors
    run("embed", "photos", "-o", "v.parquet")
    assert run("embed", "v.parquet", "-o", "v.parquet")[0] == 2
    assert run("embed", "v.parquet", "-o", "half.npy", "--dtype", "float16")[0] == 0
    assert np.load("half.npy").shape == (4, 3)


# -- in Python ----------------------------------------------------------------------------------


def test_vectors_in_python(photos: list[str], run: Run, encoder: ColourEncoder) -> None:
    run("embed", "photos", "-o", "v.parquet")
    classifier = ZeroShotClassifier(["red", "green", "blue"], encoder, cache=False).fit()
    labels = [item.to_dict()["label"] for item in classifier.classify("v.parquet")]
    assert labels == [item.to_dict()["label"] for item in classifier.classify(photos)]
    assert classifier.predict("v.parquet").tolist() == labels
    rows = 3 * embed_array(encoder, photos)
    found = list(classifier.classify(rows))
    assert [item.to_dict()["label"] for item in found] == labels
    assert [item.path for item in found] == [f"images[{number}]" for number in range(4)]
    rows[1, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        list(classifier.classify(rows))
    encoder.weights = "e2" * 32
    with pytest.raises(InputError, match="colours"):
        classifier.predict("v.parquet")


def test_images_and_texts_are_embedded_without_a_classifier(photos: list[str]) -> None:
    encoder = clipcls.open_encoder(ColourEncoder())
    red, _ = clipcls.embed_texts(encoder, ["red", "blue"])
    found = list(clipcls.embed_images(encoder, [*photos, "missing.jpg"]))
    assert isinstance(found.pop(), ImageError)
    similarities = [float(item.vector @ red) for item in found if not isinstance(item, ImageError)]
    assert similarities == pytest.approx([1, 0, 0, 0.5**0.5])


def test_a_persons_label_holds_for_an_images_vector(
    photos: list[str], run: Run, encoder: ColourEncoder
) -> None:
    run("embed", "photos", "-o", "v.parquet")
    pairs: list[Any] = [(photos[0], "green"), (photos[1], "red"), (photos[2], "blue")]
    classifier = FewShotClassifier(["red", "green", "blue"], encoder, cache=False).fit(pairs)
    by_file, by_vector = (
        [item.to_dict() for item in classifier.classify(images)] for images in (photos, "v.parquet")
    )
    assert by_vector == by_file
    assert by_vector[0]["labelled_by"] == "person"


def test_vectors_are_not_one_image(photos: list[str], run: Run) -> None:
    run("embed", "photos", "-o", "v.parquet")
    with pytest.raises(ImageError, match="vectors"):
        open_input("v.parquet")


# -- labelled vectors ---------------------------------------------------------------------------


@pytest.fixture
def sorted_photos(
    paint: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for label, colour in (("red", "red"), ("warm", "yellow"), ("blue", "blue")):
        for number in range(3):
            paint(f"sorted/{label}/{number}.png", colour)


@pytest.mark.parametrize("output", OUTPUTS)
def test_fit_and_evaluate_learn_labels_from_the_paths_of_vectors(
    sorted_photos: None, run: Run, encoder: ColourEncoder, output: str
) -> None:
    run("embed", "sorted", "-o", output)
    status, expected, _ = run("fit", "sorted", "-o", "by-files.safetensors", "--no-cache")
    expected = run("evaluate", "sorted", "--classifier", "by-files.safetensors")[1]
    images = encoder.images
    shutil.rmtree("sorted")
    status, _, errors = run("fit", output, "-o", "c.safetensors", "--no-cache")
    assert status == 0, errors
    assert Path("c.safetensors").read_bytes() == Path("by-files.safetensors").read_bytes()
    assert run("evaluate", output, "--classifier", "c.safetensors")[1] == expected
    assert encoder.images == images


def test_a_column_of_labels_in_vectors(sorted_photos: None, run: Run) -> None:
    run("embed", "sorted/red/0.png", "sorted/blue/0.png", "-o", "v.parquet")
    table = pq.read_table("v.parquet")
    pq.write_table(table.append_column("label", [["warm", "cold"]]), "labelled.parquet")
    run("fit", "labelled.parquet", "-o", "c.safetensors")
    _, answers, _ = run("classify", "v.parquet", "--classifier", "c.safetensors", "-f", "jsonl")
    assert [json.loads(line)["label"] for line in answers.splitlines()] == ["warm", "cold"]
    pq.write_table(table.append_column("hue", [["warm", "cold"]]), "labelled.parquet")
    arguments = ("--question", "hue", "-o", "hue.safetensors")
    assert run("fit", "labelled.parquet", *arguments)[0] == 0


def test_vectors_without_labels_are_nothing_to_learn_from(photos: list[str], run: Run) -> None:
    run("embed", "photos", "-o", "v.parquet")
    status, _, errors = run("fit", "v.parquet", "-o", "c.safetensors")
    assert status == 2
    assert "'label'" in errors


# -- many vectors -------------------------------------------------------------------------------


def write_rows(file: str, rows: Any) -> None:
    encoder = ColourEncoder()
    rows = unit_rows(rows)
    info = VectorsInfo.of(encoder, rows.shape[1])
    make = functools.partial(VectorParquetWriter, make_info=lambda dim: info, dtype="float32")
    with open_output(Path(file), make) as writer:
        names = [f"{number}.jpg" for number in range(len(rows))]
        writer.write(VectorBlock(names, rows, [""] * len(rows), [0] * len(rows)))


@pytest.mark.parametrize(
    "options",
    [(), ("--top", "2"), ("--min-score", "0.6"), ("--min-similarity", "0"), ("--explain",)],
)
def test_answers_in_blocks_are_those_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    write_rows("v.parquet", np.abs(rng.normal(size=(9000, 3))))
    arguments = ("classify", "v.parquet", *LABELS, *options, "--no-cache")
    _, _, said = run(*arguments, "-o", "blocks.parquet")
    _, _, again = run(*arguments, "-o", "each.jsonl")
    blocks = pq.read_table("blocks.parquet")
    with open_output(Path("each.parquet"), "parquet") as writer:
        for line in Path("each.jsonl").read_text().splitlines():
            writer.write(json.loads(line))
    assert blocks.to_pylist() == pq.read_table("each.parquet").to_pylist()
    assert blocks.num_rows == 9000
    doubts = [line for line in said.splitlines() if "doubtful" in line]
    assert doubts == [line for line in again.splitlines() if "doubtful" in line]


def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: ColourEncoder
) -> None:
    monkeypatch.chdir(tmp_path)
    classifier = ZeroShotClassifier(["red", "green"], encoder, cache=False).fit()
    peaks = []
    for count in (20_000, 80_000):
        write_rows("v.parquet", np.abs(np.random.default_rng(0).normal(size=(count, 3))))
        tracemalloc.start()
        assert sum(1 for _ in classifier.classify("v.parquet")) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_file_is_not_read_before_its_rows_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows("v.parquet", np.random.default_rng(0).normal(size=(60_000, 64)))
    before = pa.total_allocated_bytes()
    blocks = open_vectors("v.parquet").blocks()
    for _ in zip(range(20), blocks, strict=False):
        assert pa.total_allocated_bytes() - before < os.path.getsize("v.parquet") / 2
