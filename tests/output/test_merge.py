"""Shards of a run, and the merge of their results."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from clipcls.data.paths import find_images
from clipcls.data.sharding import Shard
from clipcls.embeddings.vector_files import VectorParquetWriter, open_vectors
from clipcls.embeddings.vector_folder import VectorFolder
from clipcls.embeddings.vectors_info import VectorBlock, VectorsInfo
from clipcls.errors import InputError
from clipcls.output.writing import open_output
from helpers.cli import Run

FORMS = ["csv", "tsv", "jsonl", "json", "parquet"]


@pytest.fixture(autouse=True)
def photos(paint: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    for number in range(20):
        colour = ["red", "green", "blue"][number % 3]
        paint(f"photos/{'abc'[number % 3]}/{number:02}.png", colour)
    Path("photos/a/broken.png").write_text("no image")
    Path("labels.txt").write_text("red\ngreen\nblue\n")


def classify(run: Run, output: str, *more: str, command: str = "classify") -> int:
    options = () if "--labels" in more or "-l" in more else ("--labels", "labels.txt")
    status, _, err = run(command, *options, *more, "-o", output)
    assert status in (0, 1), err
    return status


def shards(
    run: Run,
    form: str,
    of: int = 3,
    *more: str,
    command: str = "classify",
    images: str = "photos",
) -> list[str]:
    names = [f"{number}.{form}" for number in range(1, of + 1)]
    for number, name in enumerate(names, start=1):
        classify(run, name, images, "--shard", f"{number}/{of}", *more, command=command)
    return names


def test_shards_are_disjoint_and_do_not_depend_on_where_the_folder_is(tmp_path: Path) -> None:
    whole = [*find_images(["photos"])]
    found = [[*find_images(["photos/"], shard=Shard(n, 4))] for n in range(1, 5)]
    assert sorted(map(str, itertools.chain(*found))) == sorted(map(str, whole))
    assert all(0 < len(each) < 12 for each in found)
    absolute = [*find_images([str(tmp_path / "photos")], shard=Shard(2, 4))]
    assert absolute == [str(tmp_path / str(name)) for name in found[1]]
    pattern = [*find_images(["photos/*/*.png"], shard=Shard(2, 4))]
    assert pattern == found[1]


def test_images_of_one_name_in_many_folders_are_spread(paint: Callable[..., str]) -> None:
    names = [paint(f"many/{number}/front.png", "red") for number in range(40)]
    assert 8 < len([*find_images(names, shard=Shard(1, 2))]) < 32


def read_paths(name: str) -> list[str]:
    return [json.loads(line)["path"] for line in Path(name).read_text().splitlines()]


@pytest.fixture
def clips() -> None:
    pytest.importorskip("av", reason="needs PyAV")
    from helpers.videos import film

    Path("clips").mkdir()
    names = [film(f"clips/{n}.mp4", ["red", "red", "blue"]) for n in range(8)]
    Path("clips.csv").write_text("\n".join(["path", *names]))


@pytest.mark.parametrize("images", ["clips/*.mp4", "clips.csv", "photos"])
def test_a_video_and_the_crops_of_a_photo_belong_to_one_shard(
    run: Run, clips: None, images: str
) -> None:
    sizes = (0.5, 0.7, 1)
    rows = [f"{path},0,0,{s},{s}" for path in Path("photos").glob("*/??.png") for s in sizes]
    Path("boxes.csv").write_text("\n".join(["path,x,y,w,h", *rows]))
    more = ("--boxes", "boxes.csv") if images == "photos" else ()
    found = [read_paths(name) for name in shards(run, "jsonl", 3, *more, images=images)]
    names = [name for shard in found for name in {re.split("[@#]", path)[0] for path in shard}]
    assert len(names) == len({*names}) == (21 if more else 8)
    assert sum(map(len, found)) == (61 if more else 24)
    assert sum(map(bool, found)) > 1


def test_shards_of_whole_videos_are_merged(run: Run, clips: None) -> None:
    classify(run, "whole.jsonl", "clips/*.mp4", "--per-file")
    names = shards(run, "jsonl", 3, "--per-file", images="clips/*.mp4")
    status, _, err = run("merge", *names, "-o", "all.jsonl")
    assert status == 0, err
    records = [
        [json.loads(line) for line in sorted(Path(name).read_text().splitlines())]
        for name in ("whole.jsonl", "all.jsonl")
    ]
    assert records[0] == records[1]
    assert len(records[0][0]["frames"]) == 2 + 1
    status, _, err = run("merge", names[0], names[0], names[2], "-o", "all.jsonl")
    assert (status, "missing: shard 2 of 3" in err, "more than once" in err) == (1, True, True)
    for more in ((), ("--per-file", "--every", "500ms")):
        classify(run, "2.jsonl", "clips/*.mp4", "--shard", "2/3", *more)
        status, _, err = run("merge", *names, "-o", "all.jsonl")
        assert (status, "labels or options" in err) == (2, True), err


@pytest.mark.parametrize("text", ["5/4", "0/4", "1/0", "x", "1", "-1/4", "1/2/3", ""])
def test_other_shards_are_refused_in_one_line(run: Run, text: str) -> None:
    status, _, err = run("classify", "-l", "red", "photos", "--shard", text)
    assert status == 2
    assert "--shard" in err
    assert "Traceback" not in err


def test_parse() -> None:
    assert Shard.parse(" 3/8 ") == Shard(3, 8)
    with pytest.raises(InputError, match="from 1 to 4"):
        Shard.parse("5/4")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", ["classify", "tag"])
def test_merged_shards_are_the_results_of_one_run(run: Run, form: str, command: str) -> None:
    classify(run, f"whole.{form}", "photos", command=command)
    names = shards(run, form, command=command)
    status, _, err = run("merge", *names, "-o", f"all.{form}")
    assert status == 0, err
    if form == "parquet":
        import pyarrow.parquet as pq

        rows = [pq.read_table(f"{name}.parquet").to_pylist() for name in ("whole", "all")]
    elif form in ("csv", "tsv"):
        rows = [Path(f"{name}.{form}").read_text().splitlines() for name in ("whole", "all")]
        assert rows[0][0] == rows[1][0]
        notes = [
            json.loads(Path(f"{n}.{form}-metadata.json").read_text()) for n in ("whole", "all")
        ]
        assert notes[0]["notes"] == notes[1]["notes"]
    else:
        rows = [
            Path(f"{name}.{form}").read_text().replace("},\n", "}\n").splitlines()
            for name in ("whole", "all")
        ]
    assert sorted(map(str, rows[0])) == sorted(map(str, rows[1]))


def test_answers_to_several_questions_are_merged(run: Run) -> None:
    Path("warmth.txt").write_text("red or yellow\nblue or green\n")
    asked = ("--labels", "warmth=warmth.txt", "--labels", "colour=labels.txt")
    for form in ("csv", "jsonl", "parquet"):
        classify(run, f"whole.{form}", "photos", *asked)
        status, _, err = run("merge", *shards(run, form, 3, *asked), "-o", "all.csv")
        assert status == 0, err
        classify(run, "whole.csv", "photos", *asked)
        whole, merged = (Path(f"{name}.csv").read_text().splitlines() for name in ("whole", "all"))
        assert sorted(whole) == sorted(merged)


def test_formats_can_be_mixed(run: Run) -> None:
    shards(run, "csv")
    classify(run, "2.parquet", "photos", "--shard", "2/3")
    classify(run, "whole.jsonl", "photos")
    status, _, err = run("merge", "1.csv", "2.parquet", "3.csv", "-o", "all.jsonl")
    assert status == 0, err
    whole, merged = (
        sorted(map(json.loads, Path(f"{name}.jsonl").read_text().splitlines()), key=str)
        for name in ("whole", "all")
    )
    for one, other in zip(whole, merged, strict=True):
        assert one == other


def test_what_is_missing_is_said(run: Run) -> None:
    names = shards(run, "csv", 4)
    status, _, err = run("merge", names[0], names[2], "-o", "all.csv")
    assert status == 1
    assert "missing: shards 2, 4 of 4" in err
    assert Path("all.csv").exists()


def test_a_shard_without_images_is_not_missing(run: Run) -> None:
    for form in ("csv", "jsonl", "parquet"):
        names = shards(run, form, 60)
        sizes = [Path(name).stat().st_size for name in names]
        assert min(sizes) < max(sizes)
        status, _, err = run("merge", *names, "-o", f"all.{form}")
        assert (status, "missing" in err) == (0, False), err


def test_images_that_occur_twice_are_written_once(run: Run) -> None:
    names = shards(run, "jsonl")
    status, _, err = run("merge", *names, names[1], "-o", "all.jsonl")
    assert status == 0
    assert "more than once" in err
    assert len(Path("all.jsonl").read_text().splitlines()) == 21


def test_different_answers_are_reported_and_errors_yield_to_answers(run: Run) -> None:
    Path("a.jsonl").write_text(
        '{"path": "1.png", "label": "cat", "score": 0.9}\n{"path": "2.png", "error": "gone"}\n'
    )
    Path("b.jsonl").write_text(
        '{"path": "1.png", "label": "dog", "score": 0.9}\n'
        '{"path": "2.png", "label": "cat", "score": 0.9}\n'
    )
    status, _, err = run("merge", "a.jsonl", "b.jsonl", "-o", "all.jsonl")
    assert status == 1
    assert "1.png: has different answers in a.jsonl, line 1 (kept) and b.jsonl, line 1" in err
    labels = [json.loads(line)["label"] for line in Path("all.jsonl").read_text().splitlines()]
    assert sorted(labels) == ["cat", "cat"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("-l", "red", "-l", "green"), "labels or options"),
        (("-k", "2"), "labels or options"),
        (("--prompts", "a {}"), "prompts"),
    ],
)
def test_results_of_another_kind_are_refused(run: Run, more: tuple[str, ...], reason: str) -> None:
    shards(run, "jsonl")
    classify(run, "other.jsonl", "photos", "--shard", "2/3", *more)
    status, _, err = run("merge", "1.jsonl", "other.jsonl", "3.jsonl", "-o", "all.jsonl")
    assert (status, reason in err, len(err.splitlines())) == (2, True, 1), err
    assert not Path("all.jsonl").exists()


def test_bad_files_are_refused_in_one_line(run: Run) -> None:
    shards(run, "jsonl", 2)
    classify(run, "of3.jsonl", "photos", "--shard", "2/3")
    Path("2.jsonl.part").write_text(Path("2.jsonl").read_text())
    Path("text.jsonl").write_text("no results\n")
    Path("folder").mkdir()
    names = ["of3.jsonl", "2.jsonl.part", "text.jsonl", "absent.jsonl", "-", "folder"]
    names += ["https://localhost:1/2.jsonl", "https://localhost:1/2/", "memory://absent/results/"]
    for name in names:
        status, _, err = run("merge", "1.jsonl", name, "-o", "all.jsonl")
        assert status == 2, name
        assert len(err.strip().splitlines()) == 1, err
        assert name.rstrip("/") in err or name == "-"


def test_all_columns_survive(run: Run) -> None:
    names = shards(run, "csv", 2, "--explain", "-k", "2", "--min-similarity", "0")
    run("merge", *names, "-o", "all.csv")
    merged, one = (Path(name).read_text().splitlines() for name in ("all.csv", "1.csv"))
    assert merged[0] == one[0]
    assert set(one) <= set(merged)


def embed(run: Run, output: str, shard: str, *more: str) -> int:
    status, _, err = run("embed", "photos", "-o", output, "--shard", shard, *more)
    assert "Traceback" not in err
    return status


@pytest.mark.parametrize("name", ["{}.parquet", "{}.npy", "folder{}"])
@pytest.mark.parametrize("of", [3, 40])
def test_merged_vectors_are_those_of_one_run(run: Run, name: str, of: int) -> None:
    names = [name.format(number) for number in range(1, of + 1)]
    found = [embed(run, file, f"{n}/{of}") for n, file in enumerate(names, start=1)]
    assert {*found} - {2} <= {0, 1}  # 2 where the share is the broken file alone
    assert len(found) < 20 or found.count(0) > 20
    run("embed", "photos", "-o", "whole.parquet")
    status, _, err = run("merge", *names, "-o", name.format("all"))
    assert (status, "missing" in err) == (0, False), err
    whole, merged = (
        {
            path: (vector.tolist(), *rest)
            for block in open_vectors(file).blocks()
            for path, vector, *rest in zip(
                block.paths, block.vectors, block.hashes, block.sizes, strict=True
            )
        }
        for file in ("whole.parquet", name.format("all"))
    )
    assert merged == whole
    assert len(open_vectors(name.format("all"))) == 20
    status, _, err = run("classify", "-l", "red", name.format("all"), "-o", "r.csv")
    assert status == 0, err


@pytest.mark.parametrize("name", ["{}.parquet", "{}.npy", "folder{}"])
def test_missing_and_repeated_vectors_are_said(run: Run, name: str) -> None:
    names = [name.format(number) for number in range(1, 4)]
    for number, file in enumerate(names, start=1):
        embed(run, file, f"{number}/3")
    status, _, err = run("merge", names[0], names[1], names[0], "-o", "part.parquet")
    assert (status, "missing: shard 3 of 3" in err, "more than once" in err) == (1, True, True)
    status, _, err = run("merge", "part.parquet", names[2], "-o", "all.parquet")
    assert (status, "missing" in err) == (0, False), err
    assert len(open_vectors("all.parquet")) == 20


def test_an_image_that_changed_between_two_files_of_vectors_is_said(
    run: Run, paint: Callable[..., str]
) -> None:
    run("embed", "photos", "-o", "1.parquet", "--dtype", "float16")
    paint("photos/a/00.png", "blue")
    run("embed", "photos", "-o", "2.parquet", "--dtype", "float16")
    status, _, err = run("merge", "1.parquet", "2.parquet", "-o", "all.npy")
    assert status == 1
    assert "photos/a/00.png: has different contents in 1.parquet (kept) and 2.parquet" in err
    assert np.load("all.npy").dtype == np.float16


def test_a_folder_of_vectors_counts_as_a_shard_when_it_is_whole(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(run, "1.parquet", "1/2")
    with monkeypatch.context() as patch:
        patch.setattr(VectorFolder, "_flush", lambda self: 1 / 0)
        assert run("embed", "photos", "-o", "two", "--shard", "2/2")[0] not in (0, 1)
    status, _, err = run("merge", "1.parquet", "two", "-o", "all.parquet")
    assert (status, "missing: shard 2 of 2" in err) == (1, True)
    embed(run, "two", "2/2")
    assert run("merge", "1.parquet", "two", "-o", "all.parquet")[0] == 0
    embed(run, "two", "1/2")  # one share after the other
    status, _, err = run("merge", "two", "-o", "all.parquet")
    assert (status, len(open_vectors("all.parquet"))) == (0, 20), err


def test_vectors_that_do_not_fit_are_refused_in_one_line(run: Run) -> None:
    embed(run, "1.parquet", "1/2")
    embed(run, "3.parquet", "2/3")
    classify(run, "results.csv", "photos")
    info = VectorsInfo("other", "d0" * 32, "fp32", {}, "image other", 3)
    with open_output(
        Path("other.parquet"),
        partial(VectorParquetWriter, make_info=lambda _: info, dtype="float32"),
    ) as writer:
        writer.write(VectorBlock(["a.png"], np.eye(3, dtype=np.float32)[:1], [""], [0]))
    Path("cut.parquet").write_bytes(Path("1.parquet").read_bytes()[:200])
    for name in ("3.parquet", "results.csv", "other.parquet", "cut.parquet", "absent.parquet"):
        status, _, err = run("merge", "1.parquet", name, "-o", "all.parquet")
        assert (status, name in err) == (2, True), err
        assert "Traceback" not in err
    run("search", "red", "photos", "-o", "hits.jsonl")
    status, _, err = run("merge", "hits.jsonl", "-o", "all.csv")
    assert (status, "search" in err) == (2, True)
    for more in (("-o", "all.csv"), ("-o", "all.parquet", "-f", "csv"), ()):
        assert run("merge", "1.parquet", *more)[0] == 2
    assert not Path("all.parquet").exists()


@pytest.mark.parametrize("form", ["html", "table", "jsonl", "csv", "parquet"])
def test_results_without_scores_are_merged_into_every_format(run: Run, form: str) -> None:
    Path("a.csv").write_text("path,label\nphotos/a/00.png,cat\nb.png,unknown\n")
    nulls = {"score": None, "top": None, "labels": None, "best": None, "error": None, "set": None}
    Path("b.jsonl").write_text(json.dumps({"path": "c.png", "label": "dog", **nulls}))
    status, _, err = run("merge", "a.csv", "b.jsonl", "-f", form, "-o", "all")
    assert status == 0, err
    assert b"photos/a/00.png" in Path("all").read_bytes()
    assert b"c.png" in Path("all").read_bytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": 3},
        {"labels": [{}]},
        {"labels": [{"label": "x"}], "best": 3},
        {"questions": 3},
        {"questions": {"colour": 1}},
        {"label": "x", "top": 3},
        {"label": "x", "top": [{}]},
        {"label": "x", "set": [3]},
        {"label": "x", "lineage": [3]},
        {"label": "x", "explain": {}},
        {"label": "x", "score": "high"},
        {"label": "x", "heatmap": 3},
    ],
)
def test_a_record_that_is_none_is_named_by_its_line(run: Run, fields: dict) -> None:
    lines = {"path": "a.png", "label": "cat"}, {"path": "b.png", **fields}
    Path("r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, _, err = run("merge", "r.jsonl", "-f", "table", "-o", "all.txt")
    assert status == 2
    assert "error: r.jsonl, line 2: is not a record of `clipcls classify`\n" in err
