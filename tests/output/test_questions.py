"""Answers to several questions: what is read is what was written, in every format."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from clipcls.errors import ImageError, InputError, LabelsError
from clipcls.output.columns import result_columns
from clipcls.output.dataframe import to_dataframe
from clipcls.output.reader import read_answers, read_results
from clipcls.output.writing import open_output
from clipcls.predictions import Candidate, Prediction, Provenance
from clipcls.questions import Answers, check_names, find_questions, prefix_columns
from helpers.predictions import all_of

MODEL = Provenance("m", "w", "fp32", "photo")
SHIRT = Prediction(
    "=a.jpg",
    "-shirt",
    (Candidate("-shirt", 0.75, 0.3), Candidate("hat", 0.25, 0.1)),
    replace(MODEL, calibration="c0"),
    ("-shirt", "hat"),
)
TREE = Prediction("=a.jpg", "pug", (Candidate("pug", 0.5, 0.2),), MODEL, lineages=(("dog", "pug"),))
COLOURS = (Candidate("red", 0.5, 0.25), Candidate("=blue", 0.125, 0.0))
SEVERAL = Prediction("=a.jpg", "red", COLOURS[:1], MODEL, labels=COLOURS)
NONE = Prediction("b.jpg", "unknown", COLOURS[:1], MODEL, labels=())
FIRST = Answers("=a.jpg", {"category": SHIRT, "Animal": TREE, "colours": SEVERAL})
SECOND = Answers(
    "b.jpg",
    {
        "category": replace(SHIRT, path="b.jpg"),
        "Animal": replace(TREE, path="b.jpg", label="unknown", lineages=()),
        "colours": NONE,
    },
)
BAD = ImageError("bad.jpg", "truncated")
FOUND = (FIRST, SECOND, BAD)
COLUMNS = {
    "category": result_columns(2, ["set"]),
    "Animal": result_columns(1, ["lineage"]),
    "colours": result_columns(),
}


def write(path: Path, *found: Answers | ImageError) -> Path:
    with open_output(path, path.suffix[1:], columns=prefix_columns(COLUMNS)) as writer:
        for one in found:
            writer.write(one)
    return path


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_each_answer_is_read_as_it_was_written(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / f"r.{form}", *FOUND)
    expected = {"category": SHIRT, "Animal": TREE, "colours": SEVERAL}
    for question, answer in expected.items():
        *read, bad = read_results(path, question=question.upper())
        first, second = all_of(Prediction, read)
        assert bad.to_dict() == BAD.to_dict()
        assert first == answer
        assert second.label == SECOND.questions[question].label
        assert (second.given, second.score) == (
            SECOND.questions[question].given,
            SECOND.questions[question].score,
        )
    both, _ = all_of(Answers, read_answers(path)[:2])
    assert [*both.questions.values()] == [SHIRT, TREE, SEVERAL]


def test_a_table_has_one_row_per_image_and_the_columns_of_each_question(tmp_path: Path) -> None:
    header, first, second, bad = csv.reader(write(tmp_path / "r.csv", *FOUND).open())
    row = dict(zip(header, first, strict=True))
    assert header[:3] == ["path", "category", "category_score"]
    assert (row["category"], row["category_label_2"], row["category_set"]) == (
        "'-shirt",
        "hat",
        "'-shirt|hat",
    )
    assert (row["Animal"], row["Animal_lineage"]) == ("pug", "dog > pug")
    assert (row["colours"], row["colours_score"]) == ("red|=blue", "0.5|0.125")
    assert dict(zip(header, second, strict=True))["colours"] == "unknown"
    assert (bad[0], bad[-1], set(bad[1:-1])) == ("bad.jpg", "truncated", {""})
    frame = to_dataframe(FOUND)
    assert {*header} <= {*frame.columns} | {"error"}
    assert frame["Animal"].tolist()[:2] == ["pug", "unknown"]


def test_the_provenance_that_answers_share_is_written_once(tmp_path: Path) -> None:
    record = FIRST.to_dict()
    assert (record["model"], record["questions"]["category"]["calibration"]) == ("m", "c0")
    assert not {"model", "path"} & record["questions"]["category"].keys()
    notes = json.loads(
        (write(tmp_path / "r.csv", *FOUND).parent / "r.csv-metadata.json").read_text()
    )
    assert notes["notes"] == [MODEL.to_dict() | {"category_calibration": "c0"}]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_several_questions_are_named_where_one_must_be_chosen(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / f"r.{form}", *FOUND)
    with pytest.raises(InputError, match=r"several questions \(category, [Aa]nimal, colours\)"):
        read_results(path)
    with pytest.raises(InputError, match=r"no answers to the question 'size'.*category"):
        read_results(path, question="size")
    with open_output(tmp_path / "one", form) as writer:
        writer.write(replace(SHIRT, path="a.jpg"))
    with pytest.raises(InputError, match="'size'; it has one answer per image"):
        read_results(tmp_path / "one", question="size")
    assert read_answers(tmp_path / "one") == read_results(tmp_path / "one")


def test_a_single_question_need_not_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", Answers("=a.jpg", {"category": SHIRT}))
    assert read_results(path) == (SHIRT,)


def test_columns_that_someone_added_are_no_questions(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", FIRST)
    header, row = path.read_text().splitlines()
    path.write_text(f"{header},notes\n{row},sold out\n")
    (found,) = all_of(Answers, read_answers(path))
    assert [*found.questions] == ["category", "animal", "colours"]
    path.write_text("rank,path,similarity\n1,a.jpg,0.5\n")  # of `clipcls search`
    for read in (read_results, read_answers):
        with pytest.raises(InputError, match="columns path and label"):
            read(path)
    with pytest.raises(InputError, match="columns path and kind"):
        read_results(path, question="kind")


def test_an_image_without_an_answer_to_the_question_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("path,kind,colour\na.jpg,shirt,red\nb.jpg,hat,\n")
    first, second = read_results(tmp_path / "r.csv", question="colour")
    assert isinstance(first, Prediction)
    assert (first.label, str(second)) == ("red", "b.jpg: has no label")
    for text in ('{"path": "a", "questions": 3}', '{"path": "a", "questions": {"x": 3}}'):
        (tmp_path / "r.jsonl").write_text(text)
        with pytest.raises(InputError, match="line 1: "):
            read_results(tmp_path / "r.jsonl")


def test_errors_before_the_first_answer_do_not_hide_the_questions(tmp_path: Path) -> None:
    errors = [ImageError(f"{n}.jpg", "truncated") for n in range(5000)]
    path = write(tmp_path / "r.parquet", *errors, FIRST)
    assert read_results(path, question="category")[-1] == SHIRT


@pytest.mark.parametrize("form", ["table", "html"])
def test_people_see_all_answers_of_an_image(tmp_path: Path, form: str) -> None:
    with open_output(tmp_path / "r", form) as writer:
        for one in FOUND:
            writer.write(one)
    text = (tmp_path / "r").read_text()
    assert "shirt" in text
    assert "pug" in text
    assert "red" in text


@pytest.mark.parametrize(
    "names",
    [
        ["path"],
        ["Score"],
        ["error"],
        ["model"],
        [""],
        [" \u200b"],
        ["a=b"],
        ["a/b"],
        ["a\\b"],
        ["a,b"],
        ["a|b"],
        ["=a"],
        ["-a"],
        ["..", "b"],
        ["a\nb"],
        ["x" * 61],
        ["colour", "Colour"],
        ["colour", " colour"],
        ["colour", "colour_score"],
        ["colour_2", "colour"],
        ["\ud800"],
    ],
)
def test_names_that_a_table_or_a_file_cannot_hold_are_refused(names: list[str]) -> None:
    with pytest.raises(LabelsError, match="question"):
        check_names(names)


def test_names_of_every_script_are_columns() -> None:
    names = ["category", "colour 2", "Größe", "रंग", "色"]
    assert check_names([f" {name}" for name in names]) == names
    columns = prefix_columns({name: result_columns(2, ["set"]) for name in names})
    assert len({column.lower() for column in columns}) == len(columns)
    assert find_questions([column.lower() for column in columns]) == [n.lower() for n in names]


def test_an_answer_to_a_question_can_be_an_error(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"path": "a.jpg", "questions": {"colour": {"error": "truncated"}}}\n')
    for found in (read_answers(path), read_results(path)):
        (error,) = all_of(ImageError, found)
        assert (error.path, error.reason) == ("a.jpg", "truncated")


def test_several_labels_of_which_not_all_have_a_score_come_back(tmp_path: Path) -> None:
    nothing = math.nan
    for scores in [(nothing, 0.5, nothing), (nothing, nothing, nothing)]:
        labels = tuple(map(Candidate, ("red", "blue", "red > green"), scores, [nothing] * 3))
        answer = Prediction("a.jpg", "red", labels[:1], None, labels=labels)
        both = Answers("a.jpg", {"colours": answer, "animal": replace(TREE, path="a.jpg")})
        with open_output(tmp_path / "r.csv", "csv") as writer:
            writer.write(both)
        (found,) = all_of(Answers, read_answers(tmp_path / "r.csv"))
        assert str(found.questions["colours"].labels) == str(labels)
