"""`--labels`, `-l` and `--prompts`, as every command with labels has them; `clipcls prompts`."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from clipcls.cli import cli, groups
from clipcls.cli.console import Console
from clipcls.cli.label_settings import TextSettings, choose_question
from clipcls.labels.label_set import make_labels
from clipcls.labels.prompts import make_prompts


@groups.command("show")
@click.argument("inputs", nargs=-1)
def show(_console: Console, inputs: tuple[str, ...], labels: TextSettings) -> int:
    _, chosen = choose_question(labels, None)
    click.echo("; ".join(make_labels(chosen.labels).names))
    click.echo("; ".join(make_prompts(labels.prompts).templates) if labels.prompts else "default")
    return 0


def run(*arguments: str, stdin: bytes = b"") -> Result:
    root = click.Group(commands=[show])
    return CliRunner().invoke(root, ["show", *arguments], input=stdin)


def test_labels_come_from_stdin() -> None:
    done = run("--labels", "-", "a.jpg", stdin="cat\r\ncow\r\n".encode("utf-16"))
    assert done.stdout.startswith("cat; cow\n")
    done = run("--labels", "-", "a.jpg", stdin=b'["cat", "cow"]')
    assert done.stdout.startswith("cat; cow\n")
    both = run("--labels", "-", "-", stdin=b"cat\ncow\n")
    assert both.exit_code == 2
    assert "stdin cannot be both the labels and the images" in both.stderr


@pytest.mark.parametrize(
    "labels",
    [["cat,dog,panda"], ["cat, dog, panda"], ["cat;dog;panda"], ["cat|dog|panda"]],
)
def test_one_option_with_several_labels_is_refused_with_the_cure(labels: list[str]) -> None:
    for others in ([], ["cow"]):
        if others and ", " in labels[0]:
            continue
        done = run(*(part for label in labels + others for part in ("-l", label)))
        assert done.exit_code == 2
        assert "for 3 write -l cat -l dog -l panda" in " ".join(done.stderr.split())


def test_a_file_given_as_a_label_is_refused_with_the_cure() -> None:
    done = run("-l", "my labels.txt")
    assert done.exit_code == 2
    assert "write --labels 'my labels.txt'" in " ".join(done.stderr.split())


def test_labels_with_marks_among_others_are_labels() -> None:
    done = run("-l", "Washington, D.C.", "-l", "1,000 dollars", "-l", "cat")
    assert done.stdout.startswith("Washington, D.C.; 1,000 dollars; cat\n")


@pytest.mark.parametrize(
    ("given", "templates"),
    [
        ([], "default"),
        (["imagenet-7"], None),
        (["a picture of a {}"], "a picture of a {}"),
        (["a picture of a {}", "the {c}"], "a picture of a {}; the {c}"),
        (["none", "my {}"], "{}; my {}"),
    ],
)
def test_prompts_are_templates_sets_or_files(given: list[str], templates: str | None) -> None:
    options = [part for prompt in given for part in ("--prompts", prompt)]
    done = run("-l", "cat", "-l", "cow", *options)
    assert done.exit_code == 0
    wanted = templates or "; ".join(make_prompts("imagenet-7").templates)
    assert done.stdout.split("\n")[1] == wanted


def test_prompts_prints_label_sets_and_template_sets(tmp_path: Path) -> None:
    def printed(*arguments: str) -> list[str]:
        done = CliRunner().invoke(cli, ["prompts", *arguments], obj=Console())
        assert done.exit_code == 0
        return done.stdout.strip().split("\n")

    assert printed("products") == list(make_labels("products").names)
    assert "{c}" in printed("imagenet")[0]
    assert printed("imagenet", "--label-set")[0] == "tench"
    file = tmp_path / "mine.yaml"
    file.write_text("\n".join(printed("emotions")))
    assert make_labels(file).labels == make_labels("emotions").labels
