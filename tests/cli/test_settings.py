"""Options from the environment and from `clipcls.toml`, in this process and with a fake encoder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clipcls.cli import cli
from clipcls.cli.settings import find_files, list_options, name_variable, walk_commands

LABELS = ("-l", "red", "-l", "blue")


@pytest.fixture
def folder(tmp_path: Path, paint: Callable[..., str], monkeypatch) -> Path:
    """The current folder, with a photo and labels; the user's own file is in `own`."""
    paint("photos/a.png", "red")
    (tmp_path / "own/clipcls").mkdir(parents=True)
    (tmp_path / "labels.txt").write_text("blue\nred\ngreen\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own(folder: Path) -> Path:
    return folder / "own/clipcls/clipcls.toml"


@pytest.fixture
def of_folder(folder: Path) -> Path:
    return folder / "clipcls.toml"


def top(run, *arguments: str) -> int:
    """How many labels the answer has."""
    status, out, err = run("classify", "-f", "jsonl", *LABELS, "-l", "green", *arguments, "photos")
    assert status == 0, err
    return len(json.loads(out)["top"])


def test_each_place_stands_above_the_next(run, own: Path, of_folder: Path, monkeypatch) -> None:
    assert top(run) == 1
    own.write_text("top = 2\n")
    assert top(run) == 2
    own.write_text("top = 1\n[classify]\ntop = 2\n")
    assert top(run) == 2
    of_folder.write_text("top = 3\n")
    assert top(run) == 3
    assert top(run, "--quiet") == 3
    monkeypatch.setenv("CLIPCLS_TOP", "2")
    assert top(run) == 2
    monkeypatch.setenv("CLIPCLS_CLASSIFY_TOP", "3")
    assert top(run) == 3
    monkeypatch.setenv("CLIPCLS_SEARCH_TOP", "1")
    assert top(run) == 3
    assert top(run, "-k", "1") == 1
    monkeypatch.setenv("CLIPCLS_CLASSIFY_TOP", "")
    assert top(run) == 2


def test_every_option_has_a_variable_of_its_own() -> None:
    general, special = set(), set()
    for path, command in walk_commands(cli):
        assert list_options(command).keys() - {""} == list_options(command).keys()
        for name in list_options(command):
            general.add(name_variable(name))
            variable = name_variable(".".join((*path, name)))
            assert variable not in special
            special.add(variable)
    assert not general & special


def test_a_value_by_variable_is_a_switch_a_list_or_a_text(run, folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("CLIPCLS_LABEL", "red\nhot blue\n")
    monkeypatch.setenv("CLIPCLS_EXPLAIN", "yes")
    monkeypatch.setenv("CLIPCLS_MIN_SCORE", "0")
    monkeypatch.setenv("CLIPCLS_FORMAT", "jsonl")
    status, out, err = run("classify", "photos")
    assert status == 0, err
    explained = json.loads(out)
    assert {explained["label"], explained["explain"]["runner_up"]} == {"red", "hot blue"}
    monkeypatch.setenv("CLIPCLS_EXPLAIN", "0")
    assert "explain" not in json.loads(run("classify", "photos")[1])


def test_a_list_of_numbers_is_one_of_texts(run, own: Path, folder: Path) -> None:
    own.write_text("label = [1, 2.5, true]\n")
    status, out, err = run("classify", "-f", "jsonl", "-k", "3", "photos")
    assert status == 0, err
    assert sorted(entry["label"] for entry in json.loads(out)["top"]) == ["1", "2.5", "True"]


def test_paths_are_relative_to_their_file(run, own: Path, folder: Path) -> None:
    (own.parent / "mine.txt").write_text("red\ngreen\n")
    own.write_text('labels = "mine.txt"\ntop = 9\n')
    assert "green" in run("classify", "photos")[1]
    own.write_text('labels = "imagenet-7"\nprompts = "photo"\n')
    assert run("classify", "photos")[0] == 2  # a template set, looked for among the label sets


def test_a_file_of_a_folder_is_named_when_it_is_used(run, of_folder: Path) -> None:
    of_folder.write_text('labels = "labels.txt"\n[evaluate]\nnone = true\n')
    status, out, err = run("classify", "photos")
    assert (status, err.count("\n")) == (0, 1)
    assert "using clipcls.toml of this folder: labels (to ignore it: clipcls --no-config cl" in err
    assert "red" in out
    assert run("classify", "photos", *LABELS)[2] == ""
    assert run("classify", "photos", "-q")[2] == ""
    assert run("prompts")[2] == ""
    assert "give labels" in run("--no-config", "classify", "photos")[2]


@pytest.mark.parametrize(
    "content",
    [
        'output = "/etc/passwd"',
        "move = true",
        "[classify]\nsort-into = 'x'",
        "[classify]\nxmp = true",
        'cache = "x.db"',
        "yes = true",
        "quiet = true",
        "[serve]\ninsecure = true",
        "[serve]\nhost = '0.0.0.0'",
        "[serve]\ntoken-file = 't'",
        "[serve]\nallow-url = ['x']",
        "[sort]\nundo = 'j'",
        'checkpoint = "x.pt"',
        'labels = "/etc/passwd"',
        'labels = "../../labels.txt"',
        'labels = "link.txt"',
        'classifier = "../c.safetensors"',
        'model = "local-dir:/models/x"',
        'model = "../model"',
    ],
)
def test_a_file_of_a_folder_can_do_no_harm(run, of_folder: Path, content: str) -> None:
    (of_folder.parent / "link.txt").symlink_to("/etc/passwd")
    of_folder.write_text(content)
    command = content[1 : content.index("]")] if content[0] == "[" else "classify"
    if "yes" in content:
        command = "cache clear"
    given = {"sort": ["r.jsonl"], "serve": [], "cache clear": []}.get(command, ["photos"])
    status, out, err = run(*command.split(), *given)
    assert (status, out) == (2, "")
    assert str(of_folder) in err
    assert "a file that may have come with the folder can" in err


def test_a_pipe_of_that_name_is_not_waited_for(run, of_folder: Path) -> None:
    os.mkfifo(of_folder)
    assert run("classify", *LABELS, "photos")[0] == 0


def test_a_dash_stays_a_stream(run, own: Path) -> None:
    own.write_text('output = "-"\n')
    assert "red" in run("classify", *LABELS, "photos")[1]


def test_ones_own_file_may_set_all(run, own: Path, folder: Path) -> None:
    own.write_text('[classify]\nlabels = "../../labels.txt"\noutput = "r.csv"\n')
    assert run("classify", "photos")[0] == 0
    assert "red" in (own.parent / "r.csv").read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("modle = 'mini'", "modle: no option has this name; did you mean model?"),
        (
            "[clasify]\ntop = 1",
            "clasify.top: no option has this name; did you mean classify.top?",
        ),
        ("[classify]\nmin-scor = 1", "classify.min-scor: no option has this name; did you mean "),
        ("[classify.top]\na = 1", "classify.top.a: no option"),
        ("classify = 3", "classify: no option has this name"),
        ("top = 1\n[tool.clipcls]\ntop = 1", "tool.clipcls.top: no option has this name"),
        ("[cache]\nstore = 'x'", "cache.store: no option"),
        ("top = 'many'", "top: 'many' is not a valid integer"),
        ("min-score = 2", "min-score: 2"),
        ("top = 2.5", "top: '2.5' is not a valid integer"),
        (f"top = {'[' * 5000}", "nested too deeply"),
        ("min-score = true", "min-score: 'True' is not a valid float"),
        ("explain = 'maybe'", "explain: 'maybe' is not a valid boolean"),
        ("top = [1, 2]", "top: takes one value, not a list"),
        ("model = ['mini', 'base']", "model: takes one value, not a list"),
        ("top = 1979-05-27", "top: '1979-05-27' is not a valid integer"),
        (f"output = '{'x' * 5000}/r.csv'", "output: file name too long"),
        ("top = ", "is not TOML"),
        ("top = '\xff'", "is not TOML in UTF-8"),
    ],
)
def test_what_a_file_cannot_say_is_refused(run, own: Path, content: str, said: str) -> None:
    own.write_bytes(content.encode("latin-1"))
    labels = () if "labels" in content else LABELS
    command = ("cache", "info") if "cache" in content else ("classify", *labels, "photos")
    status, out, err = run(*command)
    assert (status, out) == (2, "")
    assert f"{own}: " in err
    assert said in err
    assert err.count("\n") == 1
    assert run("classify", "--help")[0] == 0
    assert run("--no-config", "classify", *LABELS, "photos")[0] == 0


def test_a_name_too_long_for_a_file_is_taken_for_a_ready_set(run, own: Path) -> None:
    own.write_text(f"labels = '{'x' * 5000}'")
    status, _, err = run("classify", "photos")
    assert status == 2
    assert "no file and no ready label set 'xxx" in err
    assert f"(--labels is from {own})" in err


def test_spelling_by_hand_and_by_notepad(run, own: Path) -> None:
    own.write_bytes(b"\xef\xbb\xbfmin_score = 0.99999\r\n")
    assert "unknown" in run("classify", *LABELS, "photos")[1]


def test_what_is_given_takes_the_place_of_what_excludes_it(
    run, own: Path, folder: Path, monkeypatch
) -> None:
    own.write_text('labels = "nowhere.txt"\nmin-margin = 0.1\ncoverage = 0.9\nformat = "csv"\n')
    assert run("--no-config", "classify", *LABELS, "photos")[0] == 0
    assert "--coverage needs --calibration" in (err := run("classify", *LABELS, "photos")[2])
    assert f"--coverage is from {own}" in err
    assert run("tag", *LABELS, "photos")[0] == 0
    assert run("tag", *LABELS, "photos", "-o", "r.jsonl")[0] == 0
    assert json.loads((folder / "r.jsonl").read_text())["labels"]
    monkeypatch.setenv("CLIPCLS_CLASSIFIER", "c.safetensors")
    own.write_text('labels = "nowhere.txt"\nprompts = "aerial"\n')
    assert "c.safetensors: cannot be read" in run("classify", "photos")[2]


def test_a_format_is_for_the_commands_that_have_it(run, own: Path, folder: Path) -> None:
    own.write_text('format = "jsonl"\n')
    (folder / "truth.csv").write_text("path,label\nphotos/a.png,red\n")
    assert run("evaluate", *LABELS, "truth.csv")[0] == 0
    assert json.loads(run("classify", *LABELS, "photos")[1])["label"] == "red"
    own.write_text('format = "jsom"\n')
    assert "format: 'jsom' is not one of" in run("classify", *LABELS, "photos")[2]


def test_columns_are_for_formats_that_have_them(run, own: Path) -> None:
    own.write_text('columns = "path,label"\nbom = true\n')
    assert run("classify", *LABELS, "photos")[1].startswith("\ufeffpath,label\n")
    for form in ("table", "json", "jsonl"):
        assert run("classify", "-f", form, *LABELS, "photos")[0] == 0
    assert run("classify", "-f", "json", "--bom", *LABELS, "photos")[0] == 2


def test_options_that_are_called_like_a_command(run, own: Path, folder: Path, monkeypatch) -> None:
    monkeypatch.delenv("CLIPCLS_NO_CACHE")
    own.write_text('cache = "s.db"\nprompts = "a {}"\n')
    assert run("classify", *LABELS, "photos")[0] == 0
    assert (own.parent / "s.db").is_file()
    assert "1 image" in run("cache", "info")[1]
    assert "a photo of a {}." in run("prompts", "photo")[1]
    assert 'prompts = "a {}"' in run("config")[1] or 'prompts = ["a {}"]' in run("config")[1]


def test_what_is_no_file_is_warned_of(run, of_folder: Path) -> None:
    of_folder.mkdir()
    status, _, err = run("classify", *LABELS, "photos")
    assert (status, err) == (0, "clipcls: warning: clipcls.toml: is not a file; ignored\n")
    of_folder.rmdir()
    of_folder.symlink_to("nowhere.toml")
    assert "clipcls.toml: is not a file" in run("classify", *LABELS, "photos")[2]


def test_a_variable_that_sets_nothing_is_named(run, folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("CLIPCLS_MODLE", "mini")
    monkeypatch.setenv("CLIPCLS_TOKEN", "x" * 20)
    monkeypatch.setenv("CLIPCLS_SEARCH_TOP", "3")
    monkeypatch.setenv("CLIPCLS_classify_tpo", "3")
    monkeypatch.setenv("CLIPCLS_X", "3")
    err = run("classify", *LABELS, "photos")[2]
    assert (
        "CLIPCLS_classify_tpo: no option has this variable; did you mean CLIPCLS_CLASSIFY_TOP?"
        in err
    )
    assert "CLIPCLS_X: no option has this variable\n" in err
    assert "CLIPCLS_MODLE: no option has this variable; did you mean CLIPCLS_MODEL?" in err


def test_config_tells_what_holds_and_why(run, own: Path, of_folder: Path, monkeypatch) -> None:
    own.write_text('model = "base"\n[search]\ntop = 3\n')
    of_folder.write_text('labels = "labels.txt"\n')
    monkeypatch.setenv("CLIPCLS_MODEL", "mini")
    status, out, _ = run("config")
    assert status == 0
    assert f"{own}\n" in out
    assert 'model = "mini"  from CLIPCLS_MODEL  for classify, ' in out
    assert '"base"' not in out
    assert f"search.top = 3  from {own}  for search\n" in out
    rows = json.loads(run("config", "search", "--json")[1])["settings"]
    found = {row["option"]: (row["value"], row["from"]) for row in rows}
    assert found["top"] == (3, str(own))
    assert found["model"] == ("mini", "CLIPCLS_MODEL")
    assert found["precision"] == ("auto", "default")
    assert "nonsense: no such command" in run("config", "nonsense")[2]
    assert "choose cache clear or cache export or" in run("config", "cache")[2]
    of_folder.write_text("[evaluate]\nfromat = 1\n")
    assert "did you mean evaluate.format?" in run("config")[2]


def test_without_settings_nothing_is_said(run, folder: Path) -> None:
    assert run("classify", *LABELS, "photos")[2] == ""
    assert "no such file" in run("config")[1]


def test_a_folder_that_cannot_be_searched_has_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/" + 300 * "x")
    assert find_files() == []
