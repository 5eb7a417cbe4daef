"""Options that all commands share, in this process and with the fake encoder."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LABELS = ("-l", "red", "-l", "blue")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ((), 1),
        (("--max-errors", "0"), 1),
        (("--max-errors", "1"), 0),
        (("--max-errors", "34%"), 0),
        (("--max-errors", "33%"), 1),
    ],
)
def test_max_errors_decides_when_unreadable_images_fail_a_run(
    run, paint: Callable[..., str], tmp_path: Path, options, status: int
) -> None:
    paint("a.png", "red"), paint("b.png", "blue")
    (tmp_path / "c.png").write_text("no image")
    found = run("classify", "--no-cache", *LABELS, *options, str(tmp_path))
    assert found[0] == status
    assert [row["label"] for row in csv.DictReader(found[1].splitlines())] == ["red", "blue", ""]
    assert "skipped" in found[2]
    assert "2 classified, 1 could not be read" in found[2]
    assert run("search", "--no-cache", *options, "red", str(tmp_path))[0] == status


@pytest.mark.parametrize("amount", ["-1", "many", "101%", "1.5", "%"])
def test_max_errors_is_a_number_or_a_share(run, amount: str) -> None:
    status, _, err = run("classify", *LABELS, "--max-errors", amount, "a.png")
    assert status == 2
    assert "write a number of images, or a share of them like 5%" in err


@pytest.mark.parametrize("command", [("classify", *LABELS), ("search", "red")])
def test_where_no_image_can_be_read_nothing_was_done(run, tmp_path: Path, command) -> None:
    (tmp_path / "a.png").write_text("no image")
    for images, reason in (("", "not an image"), ("*.jpg", "no file matches this pattern")):
        options = ("--no-cache", "--max-errors", "100%")
        status, _, err = run(*command, *options, str(tmp_path / images))
        assert status == 2
        assert reason in err


def test_a_run_into_a_file_ends_with_a_line_and_one_into_a_pipe_without(
    run, paint: Callable[..., str], tmp_path: Path
) -> None:
    photo = paint("a.png", "red")
    assert run("classify", "--no-cache", *LABELS, photo)[2] == ""
    file = str(tmp_path / "r.csv")
    assert "1 classified in" in run("classify", "--no-cache", *LABELS, photo, "-o", file)[2]
    assert run("classify", "--no-cache", "-q", *LABELS, photo, "-o", file)[2] == ""


def test_search_takes_no_path_for_a_text(run, paint, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    paint("photos/a.png", "red"), paint("red/a.png", "red")
    Path("photos.zip").write_bytes(b"")
    for arguments, said in [
        (("photos/",), 'clipcls search "a red car" photos/'),
        (("photos/", "red/"), "is a path, not a text"),
        (("photos/a.png",), "--image photos/a.png"),
        (("photos/*.png",), "is a path, not a text"),
        (("photos.zip!red.png",), "is a path, not a text"),
        ((".",), "is a path, not a text"),
        (("no-such/",), "is a path, not a text"),
        (("-",), "is a path, not a text"),
        (("", "photos"), "the text to search for is empty"),
    ]:
        status, out, err = run("search", *arguments)
        assert (status, out) == (2, ""), arguments
        assert said in err
    status, out, _ = run("search", "--no-cache", "red", "photos/")
    assert status == 0
    assert "photos/a.png" in out
    assert run("search", "--no-cache", "red/blue", "photos")[0] == 0
    status, _, err = run("search", "red")
    assert "searching the cache for the text 'red'" in err


def test_lists_as_json(run, paint: Callable[..., str], tmp_path: Path) -> None:
    models = json.loads(run("models", "--json")[1])
    assert {"mini", "base"} <= {model["alias"] for model in models}
    assert models[0].keys() >= {"name", "licence", "megabytes", "imagenet", "present"}
    sets = json.loads(run("prompts", "--json")[1])
    assert "photo" in {ready["name"] for ready in sets["template_sets"]}
    assert "coco80" in {ready["name"] for ready in sets["label_sets"]}
    assert json.loads(run("prompts", "none", "--json")[1]) == ["{}"]
    cache = str(tmp_path / "s.db")
    missing = json.loads(run("cache", "info", "--cache", cache, "--json")[1])
    assert missing == {"path": cache, "exists": False}
    run("classify", *LABELS, "--cache", cache, paint("a.png", "red"))
    held = json.loads(run("cache", "info", "--cache", cache, "--json")[1])
    assert (held["path"], held["exists"], held["images"]) == (cache, True, 1)
    assert "exported" in json.loads(run("cache", "info", "--json")[1])


@pytest.mark.parametrize(
    ("answer", "options", "status", "is_left"),
    [("n\n", (), 2, True), ("\n", (), 2, True), ("y\n", (), 0, False), ("", ("--yes",), 0, False)],
)
def test_clear_asks_on_a_terminal(
    run, paint, tmp_path: Path, monkeypatch, answer: str, options, status: int, is_left: bool
) -> None:
    cache = tmp_path / "s.db"
    run("classify", *LABELS, "--cache", str(cache), paint("a.png", "red"))
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: terminal.readline().strip())
    found = run("cache", "clear", "--cache", str(cache), *options)
    assert (found[0], cache.exists()) == (status, is_left)
    assert ("nothing was deleted" in found[2]) == is_left


def test_commands_say_what_they_wrote_and_what_comes_next(
    run, paint: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    for number in range(6):
        for colour in ("red", "blue"):
            paint(f"sorted/{colour}/{number}.png", colour)
    for name in ("my l.txt", "o.txt"):
        Path(name).write_text("red\nblue\n")
    for arguments, said in [
        (
            ("classify", *LABELS, "sorted", "-o", "my r.jsonl"),
            "wrote my r.jsonl; next: clipcls review 'my r.jsonl', or clipcls sort 'my r.jsonl' "
            "--into sorted",
        ),
        (
            ("classify", "--labels", "my l.txt", "sorted", "-o", "r.csv"),
            "wrote r.csv; next: clipcls review r.csv --labels 'my l.txt', or clipcls sort r.csv ",
        ),
        (
            ("classify", "--labels", "is=my l.txt", "--labels", "o=o.txt", "sorted", "-o", "q.csv"),
            "next: clipcls review q.csv --question is --labels 'is=my l.txt', or clipcls sort "
            "q.csv --question is --into sorted",
        ),
        (
            ("classify", *LABELS, "sorted", "-o", "r.html"),
            "wrote r.html; next: open it in a browse",
        ),
        (("report", "my r.jsonl", "-o", "p.html"), "wrote p.html; next: open it in a browser"),
        (("evaluate", *LABELS, "sorted", "-o", "f.json"), "wrote f.json\n"),
        (("evaluate", *LABELS, "sorted", "--html", "e.html"), "wrote e.html; next: open it"),
        (
            ("calibrate", *LABELS, "--prompts", "none", "sorted", "-o", "c.json"),
            "wrote c.json; next: clipcls classify -l red -l blue --prompts none "
            "--calibration c.json PHOTOS",
        ),
        (
            ("calibrate", "--multi-label", *LABELS, "sorted", "-o", "m.json"),
            "wrote m.json; next: clipcls tag -l red -l blue --calibration m.json PHOTOS",
        ),
        (
            ("tag", *LABELS, "sorted", "--calibration", "m.json", "-o", "t.csv"),
            "wrote t.csv; next: clipcls sort t.csv --into sorted\n",
        ),
        (
            ("fit", "sorted", "-o", "c.safetensors"),
            "wrote c.safetensors; next: clipcls classify --classifier c.safetensors PHOTOS",
        ),
        (
            ("suggest", "sorted", "-m", "mini", "--vocabulary", "weather", "-o", "labels.txt"),
            "next: edit it, then clipcls classify --labels labels.txt -m mini sorted",
        ),
        (("search", "red", "sorted", "-o", "hits.csv"), "wrote hits.csv\n"),
    ]:
        status, _, err = run(*arguments)
        assert status == 0, err
        assert said in err, arguments
        assert "wrote" not in run(*arguments, "--quiet")[2]
    assert "wrote" not in run("classify", *LABELS, "sorted", "-o", os.devnull, "-f", "csv")[2]


def test_all_models_can_be_searched(run) -> None:
    status, out, _ = run("models", "--all", "pe-core-b")
    assert status == 0
    assert "PE-Core-B-16/meta" in out
    assert "timm/PE-Core-B-16" in out
    assert "ViT-" not in out
    assert json.loads(run("models", "--all", "pe-core-b", "--json")[1])[0]["present"] is False
    assert len(run("models", "--all")[1].splitlines()) > 100
    status, _, err = run("models", "--all", "nothing-like-it")
    assert status == 2
    assert "nothing-like-it" in err


def test_models_name_the_command_that_installs_what_they_need(run, monkeypatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *_: None if name == "transformers" else find_spec(name),
    )
    status, out, err = run("models")
    assert (status, "[hf]" in out) == (0, False)
    assert "medical" in err
    assert "mini" not in err
    assert "install" in err
    assert err.count("\n") == 1
