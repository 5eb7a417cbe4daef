"""Sentences that users and developers read have none of the habits of `prose.toml`.

`python tests/test_prose.py [FILE...]` lists what it finds, in Python files too.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "tests/prose.toml").read_text())
DOCS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "[bet]*/README.md", "clipcls/mini/README.md")
    for path in ROOT.glob(pattern)
)
CODE = sorted((ROOT / "clipcls").rglob("*.py"))


class Rule(NamedTuple):
    name: str
    pattern: re.Pattern[str]
    instead: str
    bad: list[str]
    good: list[str]


RULES = [
    Rule(
        **{
            **rule,
            "pattern": re.compile(rule["pattern"].replace("THING", SETTINGS["things"]), re.I),
        }
    )
    for rule in SETTINGS["rule"]
]


class Paragraph(NamedTuple):
    """Lines of prose that belong together, and the number of the first."""

    line: int
    lines: list[str]


def markdown(text: str) -> Iterator[Paragraph]:
    """Paragraphs, items of lists and rows of tables, without code, comments and headings."""
    text = re.sub(r"<!--.*?-->", lambda m: re.sub("[^\n]", "", m[0]), text, flags=re.DOTALL)
    found = Paragraph(1, [])
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        mark = re.match(r" *(```+|~~~+)", line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        is_prose = not (fence or mark or re.match(r"#+ |\s*$|[-| :]+$|::: ", line))
        is_code = line.startswith("    ") and not found.lines
        begins = re.match(r"\s*([-*+] |\d+\. |\||> )", line)
        if found.lines and (begins or not is_prose):
            yield found
        if begins or not is_prose:
            found = Paragraph(number, [])
        if is_prose and not is_code:
            if not found.lines:
                found = Paragraph(number, [])
            if line.startswith("|"):
                for cell in line.strip("|").split(" | "):
                    yield Paragraph(number, [cell.strip()])
            else:
                found.lines.append(line)
    if found.lines:
        yield found


def python(text: str) -> Iterator[Paragraph]:
    """Docstrings, messages and comments."""
    tree = ast.parse(text)
    parts = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.FormattedValue)
        for value in ast.walk(node)
        if value is not node
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            said = node.value
        elif isinstance(node, ast.JoinedStr):
            values = (getattr(value, "value", "") for value in node.values)
            said = "".join(value if isinstance(value, str) else "{}" for value in values)
        else:
            continue
        if id(node) not in parts and said.count(" ") > 1:
            blocks = re.split(r"(\n\s*\n)", said)
            line = node.lineno
            for block in blocks:
                lines = [
                    part for part in block.split("\n") if not re.match(r" *(>>>|\.\.\.)", part)
                ]
                yield Paragraph(line, lines)
                line += block.count("\n")
    comments = [
        (token.start[0], token.string.lstrip("#: "))
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    found = Paragraph(0, [])
    for number, comment in comments:
        if number != found.line + len(found.lines):
            yield found
            found = Paragraph(number, [])
        found.lines.append(comment)
    yield found


def find(paragraph: Paragraph) -> Iterator[tuple[int, Rule, str]]:
    """Each line number, rule and passage where a habit shows."""
    lines = [re.sub(r"^\s*(?:[-*+]|\d+\.|>)?\s*", "", line) for line in paragraph.lines]
    text = " ".join(lines)
    text = re.sub(r"(`+)(.+?)\1", lambda m: "`" + "x" * (len(m[0]) - 2) + "`", text)
    text = re.sub(r"\]\([^)]*\)", lambda m: "]" + " " * (len(m[0]) - 1), text)
    text = text.replace("*", "")
    for rule in RULES:
        for match in rule.pattern.finditer(text):
            offset, line = 0, paragraph.line
            for written in lines[:-1]:
                offset += len(written) + 1
                line += match.start() >= offset
            yield line, rule, match[0][:70]


def check(path: Path) -> list[str]:
    """What is found in a file, a line each."""
    read = python if path.suffix == ".py" else markdown
    return [
        f"{path.relative_to(ROOT)}:{line}: {rule.name}: {said!r}; write {rule.instead}"
        for paragraph in read(path.read_text())
        for line, rule, said in find(paragraph)
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_finds_its_habit_and_no_more(rule: Rule) -> None:
    def finds(said: str) -> bool:
        return any(found.name == rule.name for _, found, _ in find(Paragraph(1, [said])))

    assert [said for said in rule.bad if not finds(said)] == []
    assert [said for said in rule.good if finds(said)] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_documentation_has_no_such_habits(path: Path) -> None:
    assert check(path) == []


def test_docstrings_messages_and_comments_have_no_such_habits() -> None:
    assert [line for path in CODE for line in check(path)] == []


if __name__ == "__main__":
    paths = [Path(name).resolve() for name in sys.argv[1:]] or [*DOCS, *CODE]
    found = [line for path in paths for line in check(path)]
    print(*found, sep="\n")
    sys.exit(bool(found))
