"""The documentation says what the program does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import clipcls
from clipcls.cli import cli

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference/cli.md"
FOLDERS = ("benchmarks", "clipcls", "docs", "examples", "research", "training")


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append((*path, name))
    return found


def reference() -> str:
    parts = [
        "# Command line reference\n\nMade from `--help`, or `--help-all` where it exists, by "
        "`python tests/test_docs.py`.\n"
    ]
    widths: dict[str, Any] = {"terminal_width": 90, "max_content_width": 90}
    for path in commands():
        for option in ("--help-all", "--help"):
            result = CliRunner().invoke(cli, [*path, option], prog_name="clipcls", **widths)
            if result.exit_code == 0:
                break
        parts.append(f"## {' '.join(('clipcls', *path))}\n\n```\n{result.output}```\n")
    return "\n".join(parts)


def test_the_reference_is_the_help() -> None:
    assert REFERENCE.read_text() == reference(), "run `python tests/test_docs.py`"


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_has_help_and_stands_in_the_reference(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"], prog_name="clipcls")
    assert result.exit_code == 0
    assert re.search(r"\n\n  \w.*\.", result.output), "a command says what it does"


def test_the_python_reference_has_every_public_name() -> None:
    page = (ROOT / "docs/reference/python.md").read_text()
    assert sorted(re.findall(r"^::: clipcls\.(\w+)", page, re.M)) == sorted(clipcls.__all__)


def test_contributing_has_every_package_in_a_short_table() -> None:
    rows = re.findall(r"^\| (`.*`) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    named = {name.rstrip("/") for row in rows for name in re.findall(r"`(.+?)`", row)}
    package = ROOT / "clipcls"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.stem for path in package.glob("[!_]*.py")}
    assert named == folders | modules
    assert len(rows) <= 16


def test_the_list_of_commands_has_the_summary_of_each() -> None:
    listed = CliRunner().invoke(cli, ["--help"], prog_name="clipcls", terminal_width=200).output
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert f"  {name:<10}  {command.get_short_help_str(200)}\n" in listed


def test_the_readme_names_only_options_that_exist() -> None:
    known = set(re.findall(r"--[a-z-]+", reference()))
    used = set(re.findall(r"clipcls \w+[^\n`]*", (ROOT / "README.md").read_text()))
    assert {o for line in used for o in re.findall(r" (--[a-z-]+)", line)} <= known


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_relative_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s#]+)", page.read_text())
    files = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [file for file in files if not (page.parent / file).exists()] == []


if __name__ == "__main__":
    REFERENCE.write_text(reference())
