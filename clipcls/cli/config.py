"""`clipcls config`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, show
from clipcls.cli.options import json_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from clipcls.cli.settings import CommandPath, Layer


def _complete_commands(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from clipcls.cli.settings import all_commands

    root = ctx.find_root().command
    assert isinstance(root, click.Group)
    before = ctx.params.get("words") or ()
    names = dict.fromkeys(
        path[len(before)]
        for path, _ in all_commands(root)
        if path[: len(before)] == before and len(path) > len(before)
    )
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@groups.command("config")
@click.argument("words", nargs=-1, metavar="[COMMAND]", shell_complete=_complete_commands)
@json_option
def command(_console: Console, words: tuple[str, ...], as_json: bool) -> int:
    """Show which settings hold, and where they come from.

    An option's value is the command line's, else that of a variable (CLIPCLS_MODEL for every
    command, CLIPCLS_CLASSIFY_TOP for one), else that of clipcls.toml in the current folder, else
    that of your own clipcls.toml, else the default. With COMMAND, shows all options of that
    command.
    """
    from clipcls.cli.settings import FILE_NAME, all_commands, find_layers, own_file
    from clipcls.output.json import dump_line

    program = click.get_current_context().find_root()
    assert isinstance(program.command, click.Group)
    commands = dict(all_commands(program.command))
    layers = find_layers(program.command, files=not program.params.get("no_config"))
    for path, known in commands.items():
        for layer in layers[1:]:  # variables have been checked
            layer.check(program.command, path, known)
    if words and words not in commands:
        below = [" ".join(path) for path in commands if path[: len(words)] == words]
        cure = f"; choose {' or '.join(below)}" if below else ""
        raise click.UsageError(f"{' '.join(words)}: no such command{cure}")
    if words:
        rows = _list_options(layers, program.command, words, commands[words])
    else:
        rows = _list_settings(layers, program.command, commands)
    places = [Path(FILE_NAME).absolute(), *filter(None, [own_file()])]
    files = {str(place): os.path.isfile(place) for place in places}
    if as_json:
        click.echo(dump_line({"files": files, "settings": rows}))
        return 0
    for place, exists in files.items():
        show(f"{place}{'' if exists else ': no such file'}")
    click.echo()
    for row in rows:
        used_by = "" if "for" not in row else f"  for {', '.join(row['for']) or 'none: overridden'}"
        value = "" if row["value"] is None else dump_line(row["value"])
        show(f"{row['option']} = {value}  from {row['from']}{used_by}")
    if not rows:
        click.echo("nothing is set: all options have their defaults")
    return 0


def _list_options(
    layers: Sequence[Layer], root: click.Group, path: CommandPath, chosen: click.Command
) -> list[dict[str, Any]]:
    """Every option of one command, with its value and where that comes from."""
    from clipcls.cli.settings import options_of, resolve

    held = resolve(layers, root, path, chosen)
    rows = []
    for name, option in options_of(chosen).items():
        value, source = _default(option), "default"
        if name in held:
            value, source = held[name].value, held[name].source
        rows.append({"option": name, "value": value, "from": source})
    return rows


def _list_settings(
    layers: Sequence[Layer], root: click.Group, commands: Mapping[CommandPath, click.Command]
) -> list[dict[str, Any]]:
    """Every setting, with the commands for which it holds."""
    from clipcls.cli.settings import options_of, resolve

    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path, known in commands.items():
        held = resolve(layers, root, path, known)
        for layer in layers:  # also those that another one stands above
            for name, option in options_of(known).items():
                if setting := layer.find(path, option):
                    row = {
                        "option": ".".join((*setting.scope, name)),
                        "value": setting.value,
                        "from": setting.source,
                        "for": [],
                    }
                    row = rows.setdefault((setting.scope, name, setting.source), row)
                    if held.get(name) == setting:
                        row["for"].append(" ".join(path))
    return list(rows.values())


def _default(option: click.Option) -> Any:
    default = option.get_default(click.Context(command), call=False)
    if isinstance(default, list | tuple):
        return list(default)
    return default if isinstance(default, str | int | float | bool) else None
