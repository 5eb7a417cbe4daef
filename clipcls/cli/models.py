"""`clipcls models`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from clipcls.cli import groups
from clipcls.cli.console import Console
from clipcls.cli.options import json_option


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

    Without a command, the models that have a short name. IMAGENET is the zero-shot top-1 accuracy
    in % that open_clip publishes. `--model` takes any name that `--all` lists, and any repository
    of the Hugging Face hub in OpenCLIP's format.
    """
    if ctx.invoked_subcommand is not None:
        return
    if as_json:
        from dataclasses import asdict

        from clipcls.models.aliases import list_models, list_pretrained
        from clipcls.output.json import dump_line

        models = list_models() if search is None else list_pretrained(search)
        click.echo(dump_line([asdict(model) for model in models]))
    elif search is None:
        _list_aliases()
    else:
        _list_all(search)


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


def _list_aliases() -> None:
    from importlib.util import find_spec

    from clipcls.errors import install_command
    from clipcls.models.aliases import list_models

    models = list_models()
    _print_table(
        ("NAME", "MODEL", "LICENCE", "PARAMETERS", "SIZE", "IMAGENET", "PIXELS", "HERE"),
        [
            (
                model.alias,
                model.name if model.name != model.alias else "(bundled)",
                model.licence,
                f"{model.parameters:.0f} M",
                f"{model.megabytes:,.0f} MB",
                "-" if model.imagenet is None else f"{model.imagenet:.1f}",
                str(model.image_size),
                "yes" if model.present else "no",
            )
            for model in models
        ],
    )
    if not find_spec("transformers"):
        for model in models:
            if model.extra:
                click.echo(f"{model.alias} needs {install_command(model.extra)}", err=True)


def _list_all(search: str) -> None:
    from clipcls.errors import UnknownModelError
    from clipcls.models.aliases import list_pretrained

    models = list_pretrained(search)
    if not models:
        raise UnknownModelError(f"{search}: part of no name; `clipcls models --all` lists all")
    rows = [(model.name, model.repo or "-", "yes" if model.present else "no") for model in models]
    _print_table(("MODEL", "REPOSITORY", "HERE"), rows)


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
