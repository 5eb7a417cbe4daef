from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipcls.cli.outputs import OutputSettings
from clipcls.cli.run import Report
from clipcls.errors import ImageError, OutputError
from clipcls.files.atomic import write_bytes
from clipcls.output.answer_blocks import PlainAnswers
from clipcls.output.reader import read_results
from clipcls.output.writing import FORMATS, open_output
from clipcls.predictions import (
    Candidate,
    Prediction,
    Provenance,
    as_record,
)

MADE_BY = Provenance("mini", "0123456789ab", "fp32", "photo")
TOP = (Candidate("cat", 0.93, 0.31), Candidate("dog", 0.05, 0.22))


def record(path: str = "a.jpg", label: str = "cat") -> dict:
    return Prediction(path, label, TOP, MADE_BY).to_dict()


def written(form: str, *records: dict | Prediction, **settings: Any) -> str:
    stream = io.StringIO()
    writer = FORMATS[form](stream, **settings)
    for item in records:
        writer.write(item)
    writer.finish()
    return stream.getvalue()


def test_jsonl_is_the_documented_record() -> None:
    lines = written("jsonl", record(), ImageError("b.jpg", "truncated").to_dict()).splitlines()
    assert json.loads(lines[0]) == {
        "path": "a.jpg",
        "label": "cat",
        "score": 0.93,
        "top": [
            {"label": "cat", "score": 0.93, "similarity": 0.31},
            {"label": "dog", "score": 0.05, "similarity": 0.22},
        ],
        "model": "mini",
        "weights": "0123456789ab",
        "precision": "fp32",
        "prompts": "photo",
    }
    assert json.loads(lines[1]) == {"path": "b.jpg", "error": "truncated"}


def test_csv_carries_the_same_flat() -> None:
    text = written("csv", record(), ImageError("b.jpg", "truncated").to_dict())
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["label"], first["score"], first["similarity"]) == ("cat", "0.93", "0.31")
    assert (first["label_2"], first["score_2"], first["similarity_2"]) == ("dog", "0.05", "0.22")
    assert (second["path"], second["error"], second["label"]) == ("b.jpg", "truncated", "")


def test_several_labels_are_a_list_and_in_csv_rows() -> None:
    both = Prediction("a.jpg", "cat", TOP[:1], MADE_BY, labels=TOP)
    none = Prediction("b.jpg", "unknown", TOP[1:], MADE_BY, labels=())
    records = both.to_dict(), none.to_dict(), ImageError("c.jpg", "truncated").to_dict()
    first, second, _ = (json.loads(line) for line in written("jsonl", *records).splitlines())
    assert first == {
        "path": "a.jpg",
        "labels": [as_record(candidate) for candidate in TOP],
        "best": as_record(TOP[0]),
        **MADE_BY.to_dict(),
    }
    assert (second["labels"], second["best"]["label"]) == ([], "dog")
    rows = list(csv.DictReader(io.StringIO(written("csv", *records))))
    assert [(row["path"], row["label"], row["score"]) for row in rows] == [
        ("a.jpg", "cat", "0.93"),
        ("a.jpg", "dog", "0.05"),
        ("b.jpg", "unknown", "0.05"),
        ("c.jpg", "", ""),
    ]
    assert rows[3]["error"] == "truncated"
    lines = written("table", *records).splitlines()
    assert lines[0].endswith("  cat 0.93, dog 0.05")
    assert lines[1].endswith("  unknown  (dog 0.05)")
    report = Report()
    for result in (both, none):
        report.count(result)
    assert (report.classified, report.unknown.total()) == (2, 1)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_csv_cells_are_no_formulas(start: str) -> None:
    row = next(
        csv.DictReader(
            io.StringIO(written("csv", record(f"{start}cmd|' /C calc'!A0"))),
        )
    )
    assert row["path"] == f"'{start}cmd|' /C calc'!A0"


def test_only_plain_numbers_keep_their_sign() -> None:
    for name in ("-5", "+0.5", "-3,25", "-1e-7"):
        assert f"\n{name}," in written("csv", record(name)).replace('"', "")
    for name in ("-5+cmd", "-", "-1-2", "+1x"):
        assert f"\n'{name}," in written("csv", record(name))


@given(
    st.text(st.sampled_from("'=+-@\ta, \"\n"), min_size=1, max_size=6)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1)
)
@example("'-1.jpg")
@example("-1")
@example("'-1")
@example("''=1")
@example("'")
@settings(deadline=None)
def test_names_come_back_out_of_csv(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.csv"
        path.write_text(written("csv", record(name)), encoding="utf-8", newline="")
        (result,) = read_results(path)
    assert result.path == name


def test_labels_with_commas_quotes_and_newlines_survive_csv() -> None:
    row = next(csv.DictReader(io.StringIO(written("csv", record('a "b", c.jpg', "cat, large")))))
    assert (row["path"], row["label"]) == ('a "b", c.jpg', "cat, large")


def test_a_path_that_is_not_utf8_survives_json_and_is_readable_in_csv() -> None:
    path = os.fsdecode(b"caf\xe9.jpg")
    line = written("jsonl", record(path))
    line.encode()  # valid UTF-8
    assert os.fsencode(json.loads(line)["path"]) == b"caf\xe9.jpg"
    assert "caf\\xe9.jpg" in written("csv", record(path))


def test_table_has_a_line_an_image_and_no_terminal_codes_from_file_names() -> None:
    text = written("table", record("a\x1b[31m.jpg"), ImageError("b.jpg", "truncated").to_dict())
    (line,) = text.splitlines()
    assert "\x1b" not in text
    assert "cat" in line
    assert "0.93" in line
    assert "dog 0.05" in line


def test_an_answer_without_a_score_is_a_line_without_one() -> None:
    """As of an image without boxes."""
    only = (Candidate("empty", math.nan, math.nan),)
    one = Prediction("a.jpg", "empty", only, MADE_BY)
    several = Prediction("a.jpg", "empty", only, MADE_BY, labels=only)
    for answer in (one, several):
        assert written("table", answer).split() == ["a.jpg", "empty"]


def test_a_file_appears_whole_under_its_name(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    with open_output(out, "jsonl") as writer:
        writer.write(record())
        assert not out.exists()
        assert (tmp_path / "r.jsonl.part").read_text().count("\n") == 1  # already on disk
    assert json.loads(out.read_text())["path"] == "a.jpg"
    assert os.listdir(tmp_path) == ["r.jsonl"]


def test_an_interrupted_run_keeps_the_old_file_and_its_part(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    out.write_text("old")
    with contextlib.suppress(KeyboardInterrupt), open_output(out, "csv") as writer:
        writer.write(record())
        raise KeyboardInterrupt
    assert out.read_text() == "old"
    assert "a.jpg" in (tmp_path / "r.csv.part").read_text()


def test_nothing_finished_leaves_no_part(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), open_output(tmp_path / "r.csv", "csv"):
        raise ValueError("x")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="no /dev/fd")
def test_pipes_without_a_name(tmp_path: Path) -> None:
    reader, end = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(end, "wb") as kept:
        with open_output(Path(f"/dev/fd/{kept.fileno()}"), "jsonl") as writer:
            writer.write({"a": 1})
        kept.close()
        assert pipe.read() == b'{"a": 1}\n'
        assert (
            OutputSettings(file=Path(f"/dev/fd/{reader}")).choose_format() == "csv"
        )  # as without -o
    (tmp_path / "in.jsonl").write_text('{"path": "a.jpg", "label": "cat"}\n')
    command = [sys.executable, "-m", "clipcls", "report", "in.jsonl", "-o", "/dev/stdout"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("<!doctype html>"), done.stderr


def test_report_counts_and_decides_the_exit_status() -> None:
    report = Report()
    report.count(Prediction("a", "cat", TOP, MADE_BY))

    report.count(Prediction("b", "unknown", TOP, MADE_BY))
    report.count(ImageError("c", "truncated"))

    assert report.summary().startswith("2 classified (1 as unknown), 1 could not be read")


def test_report_says_how_large_prediction_sets_are() -> None:
    report = Report(labels={"": 3})
    for label_set in (("cat",), ("cat", "dog"), ("cat", "dog", "pug")):
        report.count(Prediction("a", "cat", TOP, MADE_BY, label_set=label_set))
    assert report.summary().startswith("3 classified, 2 of 3 labels per set (1 with all labels) in")
    shown = written("table", Prediction("a", "cat", TOP, MADE_BY, label_set=tuple("abcdefg")))
    assert shown.endswith("  {a, b, c, d, e, 2 more}\n")


def test_results_of_an_interrupted_run_stay_until_a_run_has_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r.jsonl"

    def interrupted(number: int) -> None:
        with open_output(path, "jsonl") as writer:
            writer.write({"run": number})
            raise KeyboardInterrupt

    for number in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            interrupted(number)
        assert "r.jsonl.part" in caplog.text
    with pytest.raises(ValueError, match="a label"), open_output(path, "jsonl"):
        raise ValueError("a label is wrong")
    kept = sorted(tmp_path.iterdir())
    assert [json.loads(p.read_text())["run"] for p in kept] == [1, 2]
    assert not path.exists()
    with open_output(path, "jsonl") as writer:
        writer.write({"run": 3})
    assert list(tmp_path.iterdir()) == [path]


def test_what_only_has_the_name_of_a_part_is_never_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A browser's download under way, a piece of a file that was split."""
    (tmp_path / "r.csv.part").write_text("half of a download")
    (tmp_path / "r.csv.part.1").write_text("PK\3\4")
    (tmp_path / "r.csv.part.2").symlink_to("r.csv.part.1")
    os.mkfifo(tmp_path / "r.csv.part.3")
    for _ in range(2):
        with open_output(tmp_path / "r.csv", "csv") as writer:
            writer.write({"path": "a.jpg"})
    held = {p.read_text() for p in tmp_path.iterdir() if p.is_file() and p.suffix != ".csv"}
    assert held == {"half of a download", "PK\3\4"}
    assert len(os.listdir(tmp_path)) == 5
    assert "r.csv.part.4: is not a result" in caplog.text


@pytest.mark.parametrize("rows_before", [0, 1])
def test_a_second_run_with_the_same_file_is_refused(tmp_path: Path, rows_before: int) -> None:
    path = tmp_path / "r.jsonl"
    with open_output(path, "jsonl") as first:
        for _ in range(rows_before):
            first.write({"run": 1})
        with (
            pytest.raises(OutputError, match=r"r\.jsonl: .*another run is writing it\)$"),
            open_output(path, "jsonl") as second,
        ):
            second.write({"run": 2})
        assert os.listdir(tmp_path) == ["r.jsonl.part"]
        (tmp_path / "in.jsonl").write_text('{"path": "a.jpg", "label": "cat"}\n')
        command = [sys.executable, "-m", "clipcls", "report", "in.jsonl", "-o", str(path)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 3
        assert done.stderr.endswith("(another run is writing it)\n")
        (tmp_path / "in.jsonl").unlink()
        first.write({"run": 1})
    assert path.read_text() == '{"run": 1}\n' * (rows_before + 1)
    assert list(tmp_path.iterdir()) == [path]
    with open_output(path, "jsonl") as later:
        later.write({"run": 3})
    assert path.read_text() == '{"run": 3}\n'


@pytest.mark.parametrize("rows_before", [0, 1])
def test_without_locks_the_run_whose_part_is_gone_fails(
    tmp_path: Path, rows_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    path = tmp_path / "r.jsonl"
    one, other = contextlib.ExitStack(), contextlib.ExitStack()
    first = one.enter_context(open_output(path, "jsonl"))
    for _ in range(rows_before):
        first.write({"run": 1})
    second = other.enter_context(open_output(path, "jsonl"))
    second.write({"run": 2})
    first.write({"run": 1})
    with pytest.raises(OutputError, match=r"r\.jsonl\.part was removed"):
        one.close()
    assert not path.exists()
    second.write({"run": 2})
    other.close()
    assert path.read_text() == '{"run": 2}\n' * 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_fails_leaves_anothers_part_alone(tmp_path: Path) -> None:
    part = tmp_path / "r.jsonl.part"
    with contextlib.suppress(KeyboardInterrupt), open_output(tmp_path / "r.jsonl", "jsonl"):
        part.unlink()
        part.touch()
        raise KeyboardInterrupt
    assert part.exists()


def test_binary_files_of_many_writers_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    contents = [bytes([number]) * (number + 1) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_bytes, [path] * 80, contents * 10))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_links_pipes_and_folders(tmp_path: Path) -> None:
    (tmp_path / "target.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "target.csv")
    with open_output(tmp_path / "link.csv", "jsonl") as writer:
        writer.write({"a": 1})
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "target.csv").read_text() == '{"a": 1}\n'
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    with open_output(tmp_path / "pipe", "jsonl") as writer:
        writer.write({"a": 1})
    assert reader.communicate()[0] == b'{"a": 1}\n'
    with pytest.raises(OutputError, match="directory"), open_output(tmp_path, "jsonl"):
        pass
    assert not list(tmp_path.glob("*.part*"))


def test_a_link_at_the_name_of_what_comes_with_a_csv_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "r.csv-metadata.json").symlink_to(tmp_path / "victim")
    with open_output(tmp_path / "r.csv", "csv", provenance={"model": "m"}) as writer:
        writer.write({"path": "a.jpg"})
    assert (tmp_path / "victim").read_text() == "mine"
    assert "r.csv-metadata.json: is a link" in caplog.text
    assert (tmp_path / "r.csv").exists()


@given(
    st.lists(st.text(st.characters(), min_size=1), min_size=2, max_size=5, unique=True),
    st.sampled_from([1, 2]),
    st.integers(0, 2**32 - 1),
)
def test_a_block_of_answers_is_written_as_its_predictions_are(
    names: list[str], top: int, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    paths = [os.fsdecode(b"caf\xe9.jpg"), 'a "b"\\c.jpg', "\u202e\x1b\n.jpg", *names]
    n = len(paths)
    answers = PlainAnswers(
        paths,
        np.array(names),
        10.0 ** chance.uniform(-9, 0, (n, top)),
        chance.uniform(-1, 1, (n, top)),
        chance.integers(0, len(names), (n, top)),
        chance.random(n) < 0.5,
        np.where(chance.random(n) < 0.5, chance.normal(size=n), np.nan) if seed % 2 else None,
        MADE_BY,
    )
    whole, each = io.StringIO(), io.StringIO()
    FORMATS["jsonl"](whole).write_block(answers)
    FORMATS["jsonl"](each).write_block(list(answers))
    assert whole.getvalue() == each.getvalue()
