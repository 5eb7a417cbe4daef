from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from clipcls.cli import cli
from clipcls.cli.console import Console
from clipcls.cli.outputs import MetricsOutput, OutputSettings, ResultsOutput, SuggestionsOutput
from clipcls.errors import ImageError, InputError
from clipcls.output.columns import flatten, result_columns, select_columns
from clipcls.output.dataframe import to_dataframe
from clipcls.output.reader import read_results
from clipcls.output.writing import open_output
from clipcls.predictions import (
    PROVENANCE,
    Candidate,
    Hit,
    Prediction,
    Provenance,
)
from helpers.encoders import ColourEncoder
from helpers.predictions import all_of

MADE_BY = Provenance("mini", "0123456789ab", "fp32", "photo", calibration="abc")
TOP = (Candidate("cat", 0.93, 0.31), Candidate("dog", 0.05, 0.22))
SURE = Prediction("a.jpg", "cat", TOP, MADE_BY)
UNSURE = Prediction("b.jpg", "unknown", TOP, MADE_BY)
BROKEN = ImageError("c.jpg", "truncated")
BOTH = Prediction("d.jpg", "cat", TOP[:1], MADE_BY, labels=TOP)
NONE = Prediction("e.jpg", "unknown", TOP[1:], MADE_BY, labels=())


def write(path: Path, form: str, results: tuple, **settings: Any) -> Path:
    with open_output(path, form, **settings) as writer:
        for result in results:
            writer.write(result.to_dict())
    return path


def rows_of(path: Path, delimiter: str = ",") -> list[dict]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


# Columns


def test_the_best_label_is_kept_where_the_answer_is_unknown(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "csv", (SURE, UNSURE, BROKEN))
    rows = rows_of(path)
    assert list(rows[0])[:4] == ["path", "label", "score", "best"]
    assert [(row["label"], row["best"]) for row in rows] == [
        ("cat", "cat"),
        ("unknown", "cat"),
        ("", ""),
    ]
    assert all_of(Prediction, read_results(path)[:2])[1].top == TOP
    assert [row["best"] for row in flatten(NONE.to_dict())] == ["dog"]


@pytest.mark.parametrize(("form", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_what_every_row_would_repeat_stands_once_beside_the_table(
    tmp_path: Path, form: str, delimiter: str
) -> None:
    path = write(tmp_path / f"r.{form}", form, (BROKEN, SURE, UNSURE))
    assert not set(MADE_BY.to_dict()) & set(rows_of(path, delimiter)[0])
    metadata = json.loads((tmp_path / f"r.{form}-metadata.json").read_text())
    assert (metadata["url"], metadata["dialect"]) == (f"r.{form}", {"delimiter": delimiter})
    assert metadata["notes"] == [MADE_BY.to_dict()]
    assert [r.provenance for r in all_of(Prediction, read_results(path)[1:])] == [MADE_BY, MADE_BY]
    # A link's sidecar is its file's; without one the results are read all the same.
    (tmp_path / "link").symlink_to(path)
    assert all_of(Prediction, read_results(tmp_path / "link")[1:])[0].provenance == MADE_BY
    (tmp_path / f"r.{form}-metadata.json").write_text("[]")
    assert all_of(Prediction, read_results(path)[1:])[0].provenance is None


def test_results_are_kept_where_the_sidecar_cannot_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / f"{'x' * 240}.csv", "csv", (SURE,))
    assert all_of(Prediction, read_results(path))[0].label == "cat"
    assert "provenance is not stored" in caplog.text
    assert os.listdir(tmp_path) == [path.name]


def test_columns_are_chosen_or_added() -> None:
    usual = result_columns(2, ["set"])
    assert usual == [
        *("path", "label", "score", "best", "similarity"),
        *("label_2", "score_2", "similarity_2", "set", "error"),
    ]
    assert select_columns(" label, path", usual) == ["label", "path"]
    assert select_columns("+model,+weights", usual, PROVENANCE) == [*usual, "model", "weights"]
    for wanted, said in [
        ("path,colour", "no column 'colour'; columns: path, label"),
        ("path,+model", "no column '+model'"),
        ("path,path", "path,path: a column occurs twice"),
        ("+path", "a column occurs twice"),
        ("", "no column ''"),
    ]:
        with pytest.raises(InputError, match=said.replace("+", r"\+")):
            select_columns(wanted, usual, PROVENANCE)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"columns": "path"}, "--columns is for csv"),
        ({"bom": True}, "--bom"),
    ]
    for options, said in refused:
        with pytest.raises(click.UsageError, match=said):
            OutputSettings(**options).choose_columns("jsonl", usual)


def test_chosen_columns_are_written_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "csv", (SURE, BROKEN), columns=["label", "model", "path"])
    assert path.read_text() == "label,model,path\ncat,mini,a.jpg\n,,c.jpg\n"
    # A row without a label, nor the error that says why, is an image that has no answer.
    assert [str(r) for r in read_results(path)[1:]] == ["c.jpg: has no label"]


def test_a_byte_order_mark_for_excel(tmp_path: Path) -> None:
    for form in ("csv", "tsv"):
        path = write(tmp_path / f"r.{form}", form, (SURE, UNSURE), bom=True)
        assert path.read_bytes().startswith(b"\xef\xbb\xbfpath")
        assert path.read_bytes().count(b"\xef\xbb\xbf") == 1
        assert all_of(Prediction, read_results(path))[0].label == "cat"


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "csv", (), columns=["rank", "path"])
    assert path.read_text() == "rank,path\n"
    assert json.loads(write(tmp_path / "r.json", "json", ()).read_text()) == []


# Formats by suffix


@pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.json", "r.jsonl"])
@pytest.mark.parametrize("compressed", ["", ".gz"])
def test_results_come_back_out_of_every_format(tmp_path: Path, name: str, compressed: str) -> None:
    path = tmp_path / (name + compressed)
    for results in ((SURE, UNSURE, BROKEN), (BOTH, NONE, BROKEN)):
        write(path, OutputSettings(file=path).choose_format(), results)
        assert path.read_bytes().startswith(b"\x1f\x8b") == bool(compressed)
        *read, bad = read_results(path)
        found = all_of(Prediction, read)
        assert [r.path for r in (*found, bad)] == [r.path for r in results]
        assert found[0].label_paths == ((("cat",), ("dog",)) if results[0] is BOTH else (("cat",),))
        assert found[1].label_paths == ()
        assert [r.score for r in found] == [0.93, results[1].score]
        assert isinstance(bad, ImageError)
        assert bad.reason == "truncated"
        assert found[0].provenance == found[1].provenance == MADE_BY


def test_suffixes(tmp_path: Path) -> None:
    assert OutputSettings(file=Path("r.tab")).choose_format() == "tsv"
    assert OutputSettings(file=Path("R.CSV.GZ")).choose_format() == "csv"
    assert OutputSettings(file=Path("r.gz"), form="jsonl").choose_format() == "jsonl"
    assert ResultsOutput(file=Path("r.parquet")).choose_format() == "parquet"
    assert MetricsOutput().choose_format() == "table"
    assert SuggestionsOutput(file=Path("labels")).choose_format() == "labels"
    assert SuggestionsOutput(file=Path("labels.txt")).choose_format() == "labels"
    for name, said in [
        ("r.xlsx", "names no format: use .csv, .tsv, .json"),
        ("r.gz", "names no format"),
        ("r.parquet.gz", "parquet is not written compressed: omit .gz"),
    ]:
        with pytest.raises(click.UsageError, match=said):
            ResultsOutput(file=Path(name)).choose_format()
    with pytest.raises(click.UsageError, match=r"use \.csv, \.tsv, \.json, \.txt, \.tab or"):
        MetricsOutput(file=Path("page.html")).choose_format()


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_compressed_results_are_on_the_disk_at_once(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"r.{form}.gz"
    with contextlib.suppress(KeyboardInterrupt), open_output(path, form) as writer:
        writer.write(SURE.to_dict())
        part = (tmp_path / f"r.{form}.gz.part").read_bytes()
        held = gzip.GzipFile(fileobj=io.BytesIO(part)).read1()
        assert b"a.jpg" in held
        (tmp_path / "cut").write_bytes(part)
        with pytest.raises(InputError, match=r"cut: the gzip file is cut off .* `gzip -dc`"):
            read_results(tmp_path / "cut")
        raise KeyboardInterrupt
    # What an interrupted run leaves is whole, and a run that has nothing leaves nothing.
    assert [r.path for r in read_results(tmp_path / f"r.{form}.gz.part")] == ["a.jpg"]
    with pytest.raises(ValueError, match="x"), open_output(tmp_path / "n.csv.gz", form):
        raise ValueError("x")
    assert sorted(os.listdir(tmp_path)) == ["cut", f"r.{form}.gz.part"]


def test_compressed_results_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    one, two = (write(tmp_path / f"{n}.csv.gz", "csv", (SURE,)).read_bytes() for n in "ab")
    assert one == two


def test_json_that_is_no_array_of_records_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('[\n{"path": "a.jpg", "label": "cat"},\n')
    with pytest.raises(InputError, match=r"r\.json:3: is not JSON"):
        read_results(tmp_path / "r.json")
    (tmp_path / "r.json").write_text("[3]")
    with pytest.raises(InputError, match=r"r\.json, record 1: is not a record"):
        read_results(tmp_path / "r.json")


# What spreadsheets write back


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), (",", "utf-8")]
)
def test_results_that_went_through_a_spreadsheet(
    tmp_path: Path, delimiter: str, encoding: str
) -> None:
    names = ("=a b.jpg", "-é;\t.jpg", "'x.jpg")
    results = tuple(Prediction(name, "+cat", TOP, MADE_BY) for name in names)
    rows = list(csv.reader(write(tmp_path / "r.csv", "csv", results).open(newline="")))
    if delimiter != ",":
        numbers = [n for n, name in enumerate(rows[0]) if name.startswith(("score", "simil"))]
        rows[1:] = [
            [c.replace(".", ",") if n in numbers else c for n, c in enumerate(r)] for r in rows[1:]
        ]
    saved = tmp_path / "saved.csv"
    with saved.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([*rows, [""] * len(rows[0])])
    found = all_of(Prediction, read_results(saved))
    assert [r.path for r in found] == list(names)
    assert {(r.label, r.score) for r in found} == {("+cat", 0.93)}


def test_percentages_and_missing_values_of_spreadsheets_and_r(tmp_path: Path) -> None:
    saved = tmp_path / "r.csv"
    saved.write_text("path;label;score;error\na.jpg;cat;93 %;NA\nb.jpg;NA;0,5;#N/A\n")
    found = all_of(Prediction, read_results(saved))
    assert [(r.label, r.score) for r in found] == [("cat", 0.93), ("NA", 0.5)]
    saved.write_text("path,label,score\na.jpg,cat,1. May\n")
    with pytest.raises(InputError, match=r"r\.csv:2: the score '1\. May' is not a number"):
        read_results(saved)


def test_paths_of_another_system_are_those_of_the_disk(tmp_path: Path) -> None:
    kept = unicodedata.normalize("NFD", "Käfer.jpg")
    for name in (f"photos/sub/{kept}", "photos/odd\\name.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    written = ("sub\\K\u00e4fer.jpg", "odd\\name.jpg", "gone\\a.jpg")
    results = tuple(Prediction(name, "cat", TOP, MADE_BY) for name in written)
    path = write(tmp_path / "r.csv", "csv", results)
    found = [r.path for r in read_results(path, tmp_path / "photos")]
    assert found == [f"sub/{kept}", *written[1:]]
    assert [r.path for r in read_results(path)] == list(written)


# pandas


def test_a_dataframe_has_the_columns_of_a_csv(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    for results in ((SURE, UNSURE, BROKEN), (BOTH, NONE, BROKEN)):
        found = to_dataframe(iter(results))
        read = pandas.read_csv(write(tmp_path / "r.csv", "csv", results))
        pandas.testing.assert_frame_equal(found, read, check_dtype=False)
        assert str(found["score"].dtype) == "float64"
        assert found.attrs == MADE_BY.to_dict()
        again = to_dataframe(read_results(tmp_path / "r.csv"))
        kept = ["path", "label", "score", "best", "error"]
        pandas.testing.assert_frame_equal(again[kept], found[kept])
        assert again.attrs == found.attrs
    assert list(to_dataframe([]).columns) == [*result_columns()]
    assert to_dataframe(SURE)["path"].tolist() == [SURE.path]
    assert to_dataframe(BROKEN)["error"].tolist() == [BROKEN.reason]
    for wrong in (["cat"], "results.csv"):
        with pytest.raises(TypeError, match="give what classify"):
            to_dataframe(wrong)  # type: ignore[arg-type]
    hits = to_dataframe([Hit(1, "a.jpg", 0.5, "mini", "w", "fp32")])
    assert list(hits.columns) == ["rank", "path", "similarity"]
    other = Prediction("z.jpg", "cat", TOP, Provenance("base", "f", "fp32", "photo"))
    both = to_dataframe([SURE, other])
    assert (both["model"].tolist(), both.attrs) == (["mini", "base"], {})
    assert both["calibration"].isna().tolist() == [False, True]


def test_a_dataframe_holds_names_that_are_not_utf_8() -> None:
    pytest.importorskip("pandas", reason="needs pandas")
    found = to_dataframe([BROKEN, ImageError("\udcff.jpg", "truncated")])
    assert found["path"].tolist() == [BROKEN.path, "\udcff.jpg"]


def test_without_pandas_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(InputError, match=r"a DataFrame needs pandas: .* install "):
        to_dataframe([SURE])


# Commands


def invoke(*arguments: str) -> str:
    """What the command says on stderr."""
    done = CliRunner().invoke(cli, arguments, obj=Console(), standalone_mode=False)
    if done.exception:
        raise done.exception
    assert done.return_value == 0, done.stderr
    return done.stderr


def test_commands_write_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paint: Callable[..., str]
) -> None:
    monkeypatch.setattr("clipcls.models.encoder.open_encoder", lambda *_, **__: ColourEncoder())
    monkeypatch.setattr(
        "clipcls.classification.image_classifier.open_encoder", lambda *_, **__: ColourEncoder()
    )
    for colour in ("red", "green"):
        paint(f"photos/{colour}/{colour}.png", colour)
    monkeypatch.chdir(tmp_path)
    labels = ("--no-cache", "-l", "red", "-l", "green", "-l", "blue")

    said = invoke("evaluate", *labels, "photos", "-o", "e.tsv", "--columns", "label,precision,f1")
    assert Path("e.tsv").read_text().splitlines() == [
        "label\tprecision\tf1",
        "red\t1.0\t1.0",
        "green\t1.0\t1.0",
        "blue\t\t",
    ]
    assert "2 images: accuracy 100.0 %" in said
    assert json.loads(Path("e.tsv-metadata.json").read_text())["notes"][0]["precision"] == "fp32"

    with pytest.raises(click.UsageError, match="no comparison: with --compare write json"):
        invoke("evaluate", *labels, "photos", "-o", "e.csv", "--compare", "prompts=art")

    invoke("classify", *labels, "photos", "-o", "r.csv.gz", "--columns", "+model", "--bom")
    text = gzip.decompress(Path("r.csv.gz").read_bytes()).decode()
    assert text.startswith("\ufeffpath,label,score,best,similarity,error,model\nphotos/green/")
    invoke("search", "--no-cache", "red", "photos", "-o", "hits.json")
    assert json.loads(Path("hits.json").read_text())[0]["path"] == "photos/red/red.png"

    for columns in ("colour", "path,path"):  # before any image is looked at
        with pytest.raises(click.UsageError, match="--columns"):
            invoke("classify", *labels, "nowhere", "-f", "csv", "--columns", columns)
