"""Result files: what is read is what was written, in every format."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipcls.errors import ImageError, InputError
from clipcls.labels.names import join_levels, split_levels
from clipcls.output.columns import flatten, result_columns
from clipcls.output.reader import read_results
from clipcls.output.writing import open_output
from clipcls.predictions import (
    COLUMNS,
    Candidate,
    Explanation,
    Prediction,
    Provenance,
    SimilarImage,
    SimilarText,
)
from helpers.predictions import all_of, predicted


def as_written(path: Path, form: str, records: list[dict], extra: tuple[str, ...] = ()) -> Path:
    with open_output(path, form, columns=result_columns(2, extra)) as writer:
        for record in records:
            writer.write(record)
    return path


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_results_are_read_as_they_were_written(tmp_path: Path, form: str) -> None:
    provenance = Provenance("m", "w", "fp32", "photo", refined=True)
    made = provenance.to_dict()
    top = [
        {"label": "-d", "score": 0.5, "similarity": 0.1},
        {"label": "x", "score": 0.25, "similarity": 0.0},
    ]
    one = {"score": 0.5, "top": top, "set": ["-d", "x"], **made}
    lineage = ["a > b", "=c", "-d"]
    rows = [
        {"path": "=a.jpg", "label": "-d", "lineage": lineage, **one},
        {"path": 'b, "c".jpg', "label": "unknown", "lineage": [], **one},
        {"path": "bad.jpg", "error": "truncated"},
    ]
    extra = ("lineage", "set")
    both = Candidate("-d", 0.5, 0.1), Candidate("x", 0.25, 0.0)
    unread, *read = reversed(read_results(as_written(tmp_path / "r", form, rows, extra)))
    found = all_of(Prediction, read)
    assert unread.to_dict() == rows[2]
    assert [replace(answer, lineages=answer.label_paths) for answer in found] == [
        Prediction('b, "c".jpg', "unknown", both, provenance, ("-d", "x"), ()),
        Prediction("=a.jpg", "-d", both, provenance, ("-d", "x"), (tuple(lineage),)),
    ]
    is_table = form in ("csv", "tsv")  # where a blank cell may mean that there is no such thing
    if not is_table:
        assert [answer.to_dict() for answer in found] == [rows[1], rows[0]]
    several = [{**one, "label": label} for label, one in zip(("cat", "+dog"), top, strict=True)]
    rows = [
        {"path": "a.jpg", "labels": several, "best": several[0], **made},
        {"path": "b.jpg", "labels": [], "best": several[0], **made},
    ]
    two, none = all_of(Prediction, read_results(as_written(tmp_path / "m", form, rows)))
    assert two.given == (Candidate("cat", 0.5, 0.1), Candidate("+dog", 0.25, 0.0))
    assert (two.label, two.score, two.provenance) == ("cat", 0.5, provenance)
    assert (none.label, none.given, none.score) == ("unknown", (), 0.5)
    if not is_table:
        assert [two.to_dict(), none.to_dict()] == rows
    unsure = (("a", math.nan),)
    bare = predicted("x", ("a",), ("b",), top=unsure)
    assert bare.to_dict()["labels"] == [{"label": "a"}, {"label": "b"}]
    for answer in (two, none, *found, bare, predicted("x", ("a", "b"), ("c",), top=unsure)):
        again = Prediction.from_dict(json.loads(json.dumps(answer.to_dict())))
        assert again.to_dict() == answer.to_dict()


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet", "table", "html"])
def test_an_image_without_labels_need_have_no_best_one(tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    with open_output(tmp_path / "r", form) as writer:
        writer.write(Prediction.from_dict({"path": "a.jpg", "labels": []}))
    assert b"a.jpg" in (tmp_path / "r").read_bytes()


def test_levels_are_what_was_written() -> None:
    for path in [("a",), ("a", "b"), ("a > b", "c"), (r"a \> b", ">"), ("a>b", "c")]:
        assert split_levels(join_levels(path)) == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither JSON nor a csv"),
        ("path,label\n", "no results"),
        ("a.jpg   cat   0.9\n", "neither JSON nor a csv"),
        ('{"path": "a", "label": "b"}\n{"path"', "line 2: is not JSON"),
        ('{"path": "a"}', "line 1: has no label"),
        ('{"path": "a", "label": null}', "line 1: has no label"),
        ('{"label": "a"}', "line 1: has no path"),
        ('{"path": "a", "label": 3}', "line 1: a label is not a text"),
        ('{"path": "a", "labels": 3}', "line 1: `labels`"),
        ('{"path": "a", "label": "x", "lineage": 3}', "line 1"),
        ('{"path": "a", "label": "x", "score": "high"}', "1: the score 'high' is not a number"),
        ('{"path": "a", "label": "x", "top": 3}', "line 1: `top`"),
        ("PAR1 and no more", "is not a whole parquet file"),
    ],
)
def test_what_holds_no_results_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r").write_text(text)
    with pytest.raises(InputError, match=message):
        read_results(tmp_path / "r")


def test_every_field_of_a_record_has_its_type_in_one_table() -> None:
    """From which parquet and the OpenAPI document are made."""
    top = (Candidate("cat", 0.9, 0.3),)
    explanation = Explanation(
        (SimilarText("a cat", 0.3),), "dog", 0.5, (SimilarImage("b.jpg", 0.9),)
    )
    provenance = Provenance("m", "w", "fp32", "photo", "c", "d", "MIT", "1/2", "r", refined=True)
    one = Prediction(
        "a.jpg",
        "cat",
        top,
        provenance,
        ("cat",),
        (("pet", "cat"),),
        explanation,
        "h.png",
        2.5,
        True,
        frames=("a.mp4@00:00:01.000",),
    )
    several = Prediction("a.jpg", "cat", top, provenance, labels=top)
    error = ImageError("a.jpg", "truncated")
    written = one.to_dict() | several.to_dict() | error.to_dict()
    assert {*written, "similarity"} == set(COLUMNS)
    assert Prediction.from_dict(several.to_dict()) == several
    # What it rests on, and its picture, are for people: they are not read back.
    read = Prediction.from_dict(one.to_dict())
    assert read == replace(one, explanation=None, heatmap=None, nearness=None)
    (row,) = flatten(one.to_dict())
    assert (row["lineage"], row["set"], row["text"]) == ("pet > cat", "cat", "a cat")


def test_the_lineage_of_another_label_does_not_count(tmp_path: Path) -> None:
    """As after a label was edited by hand: two lines of one image are still the same label."""
    path = tmp_path / "r.jsonl"
    lines: list[dict[str, Any]] = [
        {"path": "a.jpg", "label": "pug"},
        {"path": "a.jpg", "label": "pug"},
    ]
    lines[1]["lineage"] = ["dog"]
    path.write_text("\n".join(map(json.dumps, lines)))
    (found,) = all_of(Prediction, read_results(path))
    assert found.label_paths == (("pug",),)
