"""Groups of options: headings in help, settings objects, and what excludes or needs what."""

from __future__ import annotations

import inspect
import re

import click
import pytest

from clipcls.cli import cli, constraints, settings
from clipcls.cli.settings import list_options, walk_commands

COMMANDS = dict(walk_commands(cli))


def test_classify_shows_its_options_in_groups(run) -> None:
    titles = ["Labels", "Answers", "Doubt", "Output", "Filing", "Model", "Cache and memory"]
    for option in ("--help", "--help-all"):
        status, out, _ = run("classify", option)
        shown = re.findall(r"^(\w[\w ]+):$", out, re.MULTILINE)
        assert (status, [title for title in shown if title in titles]) == (0, titles)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_at_most_20_options_and_names_the_way_to_the_others(run, path) -> None:
    _, short, _ = run(*path, "--help")
    options = list_options(COMMANDS[path])
    shown = [name for name in options if re.search(rf"^  (-., )?--{name}\b", short, re.MULTILINE)]
    assert len(shown) <= 20
    hidden = len(options) - len(shown)
    status, full, _ = run(*path, "--help-all")
    if hidden:
        assert short.endswith(f"{hidden} more options: clipcls {' '.join(path)} --help-all\n")
        assert status == 0
        assert all(f"--{name}" in full for name in options)
        assert "--help-all" not in full.splitlines()[-1]
    else:
        assert status == 2


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_commands_function_has_few_parameters(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.callback is not None
    assert len(inspect.signature(command.callback).parameters) <= 10


def test_tables_of_options_name_options_that_exist() -> None:
    known = {name for command in COMMANDS.values() for name in list_options(command)}
    named = {name for one, other, _ in constraints.EXCLUSIVE for name in (one, other)}
    named |= {name for one, other, _ in constraints._NEEDS for name in (one, other)}
    named |= settings._ALLOWED_IN_FOLDERS | settings._PATHS_OR_NAMES
    assert named <= known


def test_every_pair_that_excludes_each_other_shares_a_command() -> None:
    for one, other, _ in constraints.EXCLUSIVE:
        assert any({one, other} <= list_options(c).keys() for c in COMMANDS.values()), (one, other)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("classify", "-l", "a", "--cache", "c", "--no-cache", "a.png"), "--cache and --no-cache"),
        (("classify", "-l", "a", "--move", "a.png"), "--move needs --sort-into DIR"),
        (("sort", "r.jsonl", "--undo", "j", "--xmp"), "--undo and --xmp exclude each other: it "),
        (("sort", "r.jsonl", "--into", "o", "--xmp"), "--into and --xmp exclude each other: write"),
        (("sort", "r.jsonl", "--dry-run"), "--dry-run needs --into DIR"),
    ],
)
def test_options_that_exclude_or_lack_each_other_are_refused(run, arguments, said: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert said in err


def test_a_settings_object_has_a_field_per_option() -> None:
    for path, command in COMMANDS.items():
        for group in getattr(command, "_groups", {}).values():
            names = [option.name for option in group.options()]
            assert len(set(names)) == len(names), path
            assert all(isinstance(option, click.Option) for option in group.options())
