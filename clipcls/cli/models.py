"""`clipcls models`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console
from clipcls.cli.options import json_option
from clipcls.errors import UnknownModelError, install_command

if TYPE_CHECKING:
    from clipcls.models.aliases import ModelInfo

_HERE = {True: "yes", False: "no"}


@click.group("models", invoke_without_command=True)
@click.option(
    "--all",
    "search",
    is_flag=False,
    flag_value="",
    metavar="[TEXT]",
    help="List all published weights that OpenCLIP knows, or those whose name or repository "
    "contains TEXT.",
)
@json_option
@click.pass_context
def command(ctx: click.Context, search: str | None, as_json: bool) -> None:
    """List models, download one, or print where it is.

    Without a command, the models that have a short name. IMAGENET is the published zero-shot top-1
    accuracy in %, SPEED the images per second as multiples of base. `--model` takes any name that
    `--all` lists, and any repository of the Hugging Face hub in OpenCLIP's format.
    """
    if ctx.invoked_subcommand is not None:
        return
    from clipcls.models.aliases import list_models, list_pretrained

    models: list[Any] = list_models() if search is None else list_pretrained(search)
    if as_json:
        from dataclasses import asdict

        from clipcls.output.json import dump_line

        click.echo(dump_line([asdict(model) for model in models]))
    elif search is None:
        _print_aliases(models)
    elif models:
        rows = ((m.name, m.repo or "-", m.licence or "unknown", _HERE[m.present]) for m in models)
        _print_table(("MODEL", "REPOSITORY", "LICENCE", "HERE"), rows)
    else:
        raise UnknownModelError(f"{search}: part of no name; `clipcls models --all` lists all")


@groups.command("get")
@click.argument("name")
def _get(console: Console, name: str) -> int:
    """Download the model NAME, for a machine or a time without internet."""
    from clipcls.models.registry import resolve

    source = resolve(name)
    console.say(f"{source.name} is in {source.weights.parent}")
    return 0


@groups.command("path")
@click.argument("name")
def _path(_console: Console, name: str) -> int:
    """Print the file of NAME's weights, without a download."""
    from clipcls.models.registry import resolve

    click.echo(resolve(name, offline=True).weights)
    return 0


command.add_command(_get)
command.add_command(_path)


def _print_aliases(models: Sequence[ModelInfo]) -> None:
    _print_table(
        ("NAME", "FOR", "IMAGENET", "SPEED", "SIZE", "LICENCE", "HERE", "MODEL"),
        (
            (
                model.alias,
                model.use,
                "-" if model.imagenet is None else f"{model.imagenet:.1f}",
                f"{model.speed:.2g}",
                f"{model.megabytes:,} MB",
                model.licence,
                _HERE[model.present],
                model.name if model.name != model.alias else "(bundled)",
            )
            for model in models
        ),
    )
    needs = [model.alias for model in models if model.extra]
    if needs and not importlib.util.find_spec("transformers"):
        click.echo(f"{', '.join(needs)}: need {install_command('hf')}", err=True)


def _print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
