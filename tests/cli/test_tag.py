"""`clipcls tag`: several labels per image."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

LABELS = ("-l", "red", "-l", "blue")


@pytest.fixture(autouse=True)
def photos(paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    paint("photos/red.png", "red")
    paint("photos/blue.png", "blue")


def test_a_label_is_given_from_the_minimum_score_on_and_at_most_top_of_them(run) -> None:
    rows = list(csv.DictReader(run("tag", *LABELS, "--min-score", "0", "photos")[1].splitlines()))
    assert [(Path(r["path"]).stem, r["label"]) for r in rows] == [
        *(("blue", "blue"), ("blue", "red")),
        *(("red", "red"), ("red", "blue")),
    ]
    out = run("tag", *LABELS, "--min-score", "0", "-k", "1", "-f", "jsonl", "photos/red.png")[1]
    assert [c["label"] for c in json.loads(out)["labels"]] == ["red"]
    out = run("tag", *LABELS, "--min-score", "1", "-f", "jsonl", "photos/red.png")[1]
    assert (json.loads(out)["labels"], json.loads(out)["best"]["label"]) == ([], "red")


def test_images_are_filed_under_each_of_their_labels_with_keywords(run) -> None:
    pytest.importorskip("lxml", reason="needs lxml")
    filing = ("--sort-into", "out", "--link", "--xmp")
    status, _, err = run("tag", *LABELS, "--min-score", "0", *filing, "photos")
    assert (status, "4 linked" in err, "2 written into sidecars" in err) == (0, True, True)
    assert {"blue.png", "red.png"} <= set(os.listdir("out/red"))
    assert "red" in Path("photos/blue.xmp").read_text()


def test_a_calibration_for_one_label_per_image_is_refused(run, paint) -> None:
    for number in range(6):
        paint(f"sorted/red/{number}.png", "red")
        paint(f"sorted/blue/{number}.png", "blue")
    run("calibrate", *LABELS, "sorted", "-o", "one.json")
    run("calibrate", "--multi-label", *LABELS, "sorted", "-o", "several.json")
    err = run("tag", *LABELS, "--calibration", "one.json", "photos")[2]
    assert "one.json: is for one label per image" in err
    err = run("classify", *LABELS, "--calibration", "several.json", "photos")[2]
    assert "several.json: is for several labels per image; use it with `clipcls tag`" in err
    status, _, err = run("tag", *LABELS, "--calibration", "several.json", "sorted/red")
    assert (status, "calibration was made from" in err) == (0, True)


@pytest.mark.parametrize("option", ["--min-similarity", "--refine", "--explain"])
def test_options_for_one_label_per_image_do_not_exist(run, option: str) -> None:
    status, _, err = run("tag", *LABELS, option, "photos")
    assert (status, f"No such option '{option}'" in err) == (2, True)
