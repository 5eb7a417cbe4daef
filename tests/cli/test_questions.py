"""Several questions per image, from `classify` to everything that reads its results."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path

import httpx
import pytest

from helpers.loops import run_async
from helpers.servers import HERE

ASKED = ("--labels", "warmth=warmth.txt", "--labels", "colour=colours.txt")


@pytest.fixture(autouse=True)
def world(paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    Path("warmth.txt").write_text("red or yellow\nblue or green\n")
    Path("colours.txt").write_text("red\ngreen\nblue\n")
    lines = ["path,warmth,colour"]
    for number in range(12):
        red = number % 2 == 0
        paint(f"photos/{number:02}.png", (255 - number, 0, number) if red else (number, 0, 200))
        warmth = "red or yellow" if red else "blue or green"
        lines.append(f"photos/{number:02}.png,{warmth},{'red' if red else 'blue'}")
    Path("truth.csv").write_text("\n".join([*lines, "photos/00.png,,"]) + "\n")


def read(path: str = "r.csv") -> list[dict[str, str]]:
    return list(csv.DictReader(Path(path).open()))


def classify(run, *arguments: str, output: str = "r.csv") -> None:
    status, _, err = run("classify", *ASKED, *arguments, "photos", "-o", output)
    assert status == 0, err


def test_one_row_per_image_has_the_answers_of_separate_runs(run, encoder) -> None:
    classify(run, "-k", "2")
    assert encoder.images == 12
    run("classify", "--labels", "warmth.txt", "-k", "2", "photos", "-o", "warmth.csv")
    run("classify", "--labels", "colours.txt", "-k", "2", "photos", "-o", "colour.csv")
    for row, warmth, colour in zip(read(), read("warmth.csv"), read("colour.csv"), strict=True):
        assert row["path"] == warmth["path"]
        for name, alone in (("warmth", warmth), ("colour", colour)):
            assert row[name] == alone["label"]
            for column in ("score", "similarity", "best", "label_2", "score_2"):
                assert row[f"{name}_{column}"] == alone[column]
    notes = json.loads(Path("r.csv-metadata.json").read_text())["notes"]
    assert notes == json.loads(Path("colour.csv-metadata.json").read_text())["notes"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_results_of_every_format_are_sorted_by_one_question(run, suffix: str) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    classify(run, output=f"r.{suffix}")
    status, _, err = run("sort", f"r.{suffix}", "--into", "sorted")
    assert (status, "warmth, colour" in err, "--question" in err) == (2, True, True)
    assert run("sort", f"r.{suffix}", "--question", "Colour", "--into", "sorted")[0] == 0
    assert sorted(p for p in os.listdir("sorted") if Path("sorted", p).is_dir()) == ["blue", "red"]


def test_a_question_can_have_all_labels_that_fit(run) -> None:
    Path("tags.txt").write_text("red\nblue\n")
    asked = ("--labels", "tags=tags.txt", "--labels", "colour=colours.txt", "photos")
    status, _, err = run(
        "classify", *asked, "--tag", "tags", "--min-score", "0.01", "-o", "r.jsonl"
    )
    assert status == 0, err
    record = json.loads(Path("r.jsonl").read_text().splitlines()[0])
    assert record["questions"]["tags"].keys() == {"labels", "best"}
    assert record["questions"]["colour"].keys() == {"label", "score", "top"}
    out = run("tag", *asked, "--min-score", "0", "-k", "1", "-f", "csv")[1]
    assert {row["tags"] for row in csv.DictReader(io.StringIO(out))} == {"red", "blue"}


def test_words_and_a_learnt_classifier_answer_together(run, encoder) -> None:
    status, _, err = run(
        "fit", "truth.csv", "--question", "colour", "--labels", "colours.txt", "-o", "c.safetensors"
    )
    assert (status, "--classifier colour=c.safetensors" in err) == (0, True)
    asked = ("--labels", "warmth=warmth.txt", "--classifier", "colour=c.safetensors")
    status, _, err = run("classify", *asked, "photos", "-o", "r.csv")
    assert status == 0, err
    row = read()[1]
    assert (row["warmth"], row["colour"], row["colour_labelled_by"]) == (
        "blue or green",
        "blue",
        "person",
    )
    assert "warmth_labelled_by" not in row


def test_each_question_has_a_calibration_of_its_own(run) -> None:
    arguments = ("calibrate", "--labels", "colour=colours.txt", "truth.csv", "-o", "c.json")
    status, _, err = run(*arguments)
    assert (status, "--labels colour=colours.txt --calibration colour=c.json" in err) == (0, True)
    run("calibrate", "--labels", "warmth.txt", "--question", "warmth", "truth.csv", "-o", "w.json")
    both = ("--calibration", "colour=c.json", "--calibration", "warmth=w.json")
    classify(run, *both, "--coverage", "0.9", "--prediction-sets", "0.2")
    assert read()[0]["colour_set"] == "red"
    status, _, err = run("classify", *ASKED, *both[:2], "--coverage", "0.9", "photos")
    assert (status, "the question 'warmth'" in err) == (2, True)


def test_questions_are_evaluated_each_with_its_column(run) -> None:
    classify(run)
    status, out, _ = run("evaluate", *ASKED, "truth.csv")
    assert (status, out.count("accuracy"), "warmth\n------" in out) == (0, 4, True)
    out = run("evaluate", *ASKED, "truth.csv", "-f", "json")[1]
    found = json.loads(out)["questions"]
    assert [found[name]["metrics"]["accuracy"]["value"] for name in ("warmth", "colour")] == [1, 1]
    out = run("evaluate", *ASKED, "truth.csv", "-f", "csv")[1]
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {(row["question"], row["label"]) for row in rows} > {("colour", "red")}
    one = run("evaluate", "--labels", "colours.txt", "--question", "colour", "truth.csv")[1]
    assert one == run("evaluate", *ASKED, "--question", "colour", "truth.csv")[1]
    run("sort", "r.csv", "--question", "colour", "--into", "sorted")
    assert run("evaluate", *ASKED, "--question", "colour", "sorted")[0] == 0
    status, _, err = run("evaluate", *ASKED, "sorted")
    assert (status, "one question" in err) == (2, True)
    status, _, err = run("evaluate", "--labels", "colours.txt", "truth.csv")
    assert (status, "--label-column" in err) == (2, True)


def test_a_group_in_the_label_file_is_a_question(run) -> None:
    Path("all.csv").write_text("label,group\nred,colour\nblue,colour\nred or yellow,warmth\n"
                               "blue or green,warmth\n")  # fmt: skip
    assert run("classify", "--labels", "all.csv", "photos", "-o", "r.csv")[0] == 0
    assert [read()[0][name] for name in ("colour", "warmth")] == ["red", "red or yellow"]
    assert run("evaluate", "--labels", "all.csv", "--question", "colour", "truth.csv")[0] == 0
    status, _, err = run("fit", "--labels", "all.csv", "truth.csv", "-o", "c.safetensors")
    assert (status, "choose one of colour, warmth with --question" in err) == (2, True)


def test_a_review_and_its_files_are_of_one_question(run, monkeypatch) -> None:
    pytest.importorskip("uvicorn", reason="needs uvicorn")
    classify(run)
    titles = []

    def label_first(_console, app, _page) -> None:
        titles.append(app._title)
        app._review.label({0: app._review.labels[1]})

    monkeypatch.setattr("clipcls.cli.review._run", label_first)
    status, _, err = run("review", "r.csv", "--no-model")
    assert (status, "warmth, colour" in err) == (2, True)
    arguments = ("review", "r.csv", "--no-model", "--question")
    status, _, err = run(*arguments, "colour", "--labels", "colours.txt")
    assert (status, "r.colour.reviewed.csv" in err) == (0, True)
    assert run(*arguments, "warmth")[0] == 0
    reviewed = {row["path"]: row["label"] for row in read("r.colour.reviewed.csv")}
    assert reviewed["photos/00.png"] == "green"
    assert len(read("r.colour.corrections.csv")) == len(read("r.warmth.corrections.csv")) == 1
    assert read("r.warmth.corrections.csv")[0]["label"] == "red or yellow"
    for labels in ("colours.txt", "colour=colours.txt"):
        assert run("evaluate", "--labels", labels, "r.colour.corrections.csv")[0] == 0
    status, _, err = run(*arguments, "colour", "-o", "r.warmth.corrections.csv")
    assert (status, "labels of another list" in err) == (2, True)
    assert len(read("r.warmth.corrections.csv")) == 1


def test_keywords_and_a_report_have_all_answers(run, monkeypatch) -> None:
    pytest.importorskip("lxml", reason="needs lxml")
    classify(run, "--xmp", output="r.jsonl")
    text = Path("photos/00.xmp").read_text()
    assert ">red<" in text
    assert "red or yellow" in text
    assert run("report", "r.jsonl", "-o", "page.html")[0] == 0
    page = Path("page.html").read_text()
    assert "colour: red" in page
    assert "warmth: red or yellow" in page
    with open("r.jsonl") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run("report", "-", "--question", "colour", "-o", "page.html")[0] == 0
    assert "warmth" not in Path("page.html").read_text()


def test_a_file_whose_name_has_an_equals_sign_is_a_file(run) -> None:
    Path("a=b.txt").write_text("red\nblue\n")
    assert run("classify", "--labels", "a=b.txt", "photos", "-o", "r.csv")[0] == 0
    assert "label" in read()[0]
    assert run("classify", "--labels", "x=a=b.txt", "photos", "-o", "r.csv")[0] == 0
    assert read()[0]["x"] == "red"


def test_settings_name_questions_too(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CLIPCLS_LABELS", "warmth=warmth.txt\ncolour=colours.txt")
    assert run("classify", "photos", "-o", "r.csv")[0] == 0
    assert {"warmth", "colour"} <= read()[0].keys()
    monkeypatch.delenv("CLIPCLS_LABELS")
    Path("clipcls.toml").write_text("labels = ['warmth=warmth.txt', 'colour=colours.txt']\n")
    assert run("classify", "photos", "-o", "r.csv")[0] == 0
    assert {"warmth", "colour"} <= read()[0].keys()
    for path in ("../x.txt", "a/../../x.txt", "/etc/passwd"):
        Path("clipcls.toml").write_text(f"labels = ['warmth=warmth.txt', 'colour={path}']\n")
        status, _, err = run("classify", "photos")
        assert (status, "lies outside the folder" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--labels", "path=colours.txt"), "'path'"),
        (("--labels", "score=colours.txt"), "'score'"),
        (("--labels", "=colours.txt"), "=colours.txt"),
        (("--labels", "a/b=colours.txt"), "'a/b'"),
        (("--labels", "a=colours.txt", "--labels", "A=warmth.txt"), "same name"),
        (("--labels", "a=colours.txt", "--labels", "a=warmth.txt"), "once"),
        (("--labels", "a=colours.txt", "--labels", "a_b=warmth.txt"), "share columns"),
        (("--labels", "colours.txt", "--labels", "warmth.txt"), "name each question"),
        (("--labels", "colours.txt", "--labels", "a=warmth.txt"), "name each of several"),
        ((*ASKED, "--level", "1"), "--level NAME=LEVEL: name one of the questions warmth, colour"),
        ((*ASKED, "--level", "size=1"), "not 'size'"),
        ((*ASKED, "--level", "colour=1", "--level", "colour=2"), "once: --level NAME=LEVEL"),
        ((*ASKED, "--level", "colour=2"), "colours.txt: has no level '2'"),
        ((*ASKED, "--level", "colour=1", "--tag", "colour"), "level"),
        (("-l", "red", "-l", "blue", "--level", "a=1"), "--level NAME=LEVEL"),
        ((*ASKED, "--heatmap", "photos/maps"), "would lie among the images"),
        ((*ASKED, "--heatmap", "m", "--tag", "colour", "--tag", "warmth"), "one label per image"),
        ((*ASKED, "--sort-into", "sorted"), "one of warmth, colour: write"),
        ((*ASKED, "--tag", "size"), "--tag size"),
        (("-l", "red", "-l", "blue", "--tag", ""), "--tag"),
        ((*ASKED, "--calibration", "c.json"), "--calibration NAME=FILE"),
        ((*ASKED, "--calibration", "size=c.json"), "warmth, colour"),
        ((*ASKED, "--classifier", "colour=c.safetensors"), "'colour': --labels and"),
        ((*ASKED, "--classifier", "c.safetensors"), "exclude each other"),
        ((*ASKED, "-l", "red"), "exclude each other"),
        (("-l", "red", "--classifier", "a=c.safetensors"), "-l"),
        (("--labels", "a=missing.txt"), "missing.txt: no such file"),
        ((*ASKED, "--columns", "label"), "no column 'label'"),
    ],
)  # fmt: skip
def test_impossible_questions_are_refused_in_one_line(run, arguments, said: str) -> None:
    status, out, err = run("classify", *arguments, "photos", "-f", "csv")
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) <= 4
    assert not Path("sorted").exists()


def test_a_level_is_of_one_question(run, monkeypatch) -> None:
    Path("tree.txt").write_text("warm > red\ncold > blue\ncold > green\n")
    asked = ("--labels", "shade=tree.txt", "--labels", "colour=colours.txt", "photos")
    run("classify", *asked[2:], "-o", "alone.csv")
    assert run("classify", *asked, "--level", "shade=1", "-o", "r.csv")[0] == 0
    assert [row["shade"] for row in read()[:2]] == ["warm", "cold"]
    assert [row["colour"] for row in read()] == [row["colour"] for row in read("alone.csv")]
    arguments = ("calibrate", *asked[:2], "--level", "shade=1", "levels.csv", "-o", "c.json")
    rows = [f"{row['path']},{row['shade']}" for row in read()]
    Path("levels.csv").write_text("\n".join(["path,shade", *rows]) + "\n")
    status, _, err = run(*arguments)
    assert (status, "--level shade=1 --calibration shade=c.json" in err) == (0, True)
    calibrated = (*asked, "--calibration", "shade=c.json")
    assert run("classify", *calibrated, "--level", "shade=1", "-o", "r.csv")[0] == 0
    status, _, err = run("classify", *calibrated)
    assert (status, "c.json: it was made" in err) == (2, True)
    Path("clipcls.toml").write_text("level = 1\n")
    assert run("classify", "--labels", "tree.txt", "photos", "-o", "r.csv")[0] == 0
    assert read()[0]["label"] == "warm"
    monkeypatch.setenv("CLIPCLS_LEVEL", "shade=1\ncolour=1")
    assert run("classify", *asked, "-o", "r.csv")[0] == 0
    assert read()[0]["shade"] == "warm"


def test_each_answer_has_its_own_heat_map_from_the_same_passes(run, encoder) -> None:
    encoder.seen = lambda size: (0, 0, *size)
    run("classify", "--labels", "colours.txt", "--heatmap", "alone", "photos/00.png")
    encoder.images = 0
    tagged = ("--labels", "tags=colours.txt", "--tag", "tags")
    status, out, err = run("classify", *ASKED, *tagged, "--heatmap", "m", "photos/00.png")
    assert (status, encoder.images) == (0, 1 + 50), err
    found = sorted(str(path) for path in Path("m").rglob("*.jpg"))
    assert found == [f"m/{name}/photos/00.png.heat.jpg" for name in ("colour", "warmth")]
    assert all(path in out for path in found)
    assert Path(found[0]).read_bytes() == Path("alone/photos/00.png.heat.jpg").read_bytes()


def test_one_question_with_a_name_can_be_filed_at_once(run) -> None:
    arguments = ("classify", *ASKED[2:], "--sort-into", "sorted", "photos")
    assert run(*arguments)[0] == 0
    assert sorted(p for p in os.listdir("sorted") if Path("sorted", p).is_dir()) == ["blue", "red"]


def test_serve_answers_all_questions_as_classify_does(run, monkeypatch) -> None:
    pytest.importorskip("uvicorn", reason="needs uvicorn")
    Path("tree.txt").write_text("warm > red\ncold > blue\ncold > green\n")
    run("calibrate", "--labels", "colour=colours.txt", "truth.csv", "-o", "c.json")
    shade = ("--labels", "shade=tree.txt", "--level", "shade=1")
    tags = ("--labels", "tags=colours.txt", "--tag", "Tags")
    asked = (*ASKED, *shade, *tags, "--calibration", "colour=c.json")
    answers = []

    def ask_once(app, **_) -> int:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
                images = [("images", (path, Path(path).read_bytes())) for path in paths]
                return await client.post("/classify", files=images, data={"top": "2"})

        answers.append(run_async(ask()).json())
        return 0

    paths = ["photos/00.png", "photos/01.png"]
    monkeypatch.setattr("clipcls.web.connections.run", ask_once)
    status, _, err = run("serve", *asked)
    assert status == 0, err
    out = run("classify", *asked, "-k", "2", "-f", "json", *paths)[1]
    assert answers == [{"results": json.loads(out), "warnings": []}]
    first = answers[0]["results"][0]["questions"]
    assert list(first) == ["warmth", "colour", "shade", "tags"]
    assert first["tags"].keys() == {"labels", "best"}
    for wrong, said in (("--level", "--level NAME=LEVEL"), ("--tag", "--tag 1: no question")):
        status, _, err = run("serve", *ASKED, wrong, "1")
        assert (status, said in err) == (2, True)
