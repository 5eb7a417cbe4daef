"""`clipcls config`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli.console import show
from clipcls.cli.options import json_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _complete_commands(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from clipcls.cli.settings import all_commands

    root = ctx.find_root().command
    assert isinstance(root, click.Group)
    before = ctx.params.get("command_name") or ()
    names = dict.fromkeys(
        path[len(before)]
        for path, _ in all_commands(root)
        if path[: len(before)] == before and len(path) > len(before)
    )
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command("config")
@click.argument("command_name", nargs=-1, metavar="[COMMAND]", shell_complete=_complete_commands)
@json_option
@click.pass_context
def command(context: click.Context, /, command_name: tuple[str, ...], as_json: bool) -> None:
    """Show which settings hold, and where they come from.

    An option's value is the command line's, else that of a variable (CLIPCLS_MODEL for every
    command, CLIPCLS_CLASSIFY_TOP for one), else that of clipcls.toml in the current folder, else
    that of your own clipcls.toml, else the default. With COMMAND, shows all options of that
    command.
    """
    from clipcls.cli import FILE_NAME, own_file
    from clipcls.cli.settings import Setting, all_commands, find_layers, options_of, resolve
    from clipcls.output.json import dump_line

    root = context.find_root()
    assert isinstance(root.command, click.Group)
    commands = dict(all_commands(root.command))
    layers = find_layers(root.command, files=not root.params.get("no_config"))
    for path, known in commands.items():
        for layer in layers[1:]:  # variables have been checked
            layer.check(root.command, path, known)
    if command_name and command_name not in commands:
        below = [" ".join(path) for path in commands if path[: len(command_name)] == command_name]
        cure = f"; choose {' or '.join(below)}" if below else ""
        raise click.UsageError(f"{' '.join(command_name)}: no such command{cure}")
    if command_name:
        chosen = commands[command_name]
        held = resolve(layers, root.command, command_name, chosen)
        rows = [
            {"option": name, "value": held[name].value, "from": held[name].source}
            if name in held
            else {"option": name, "value": _default(option), "from": "default"}
            for name, option in options_of(chosen).items()
        ]
    else:
        users: dict[tuple[Any, ...], tuple[Setting, list[str]]] = {}
        for path, known in commands.items():
            held = resolve(layers, root.command, path, known)
            for layer in layers:  # also those that another one stands above
                for name, option in options_of(known).items():
                    if setting := layer.find(path, option):
                        key = (setting.scope, name, setting.source)
                        _, used = users.setdefault(key, (setting, []))
                        if held.get(name) == setting:
                            used.append(" ".join(path))
        rows = [
            {
                "option": ".".join((*setting.scope, setting.name)),
                "value": setting.value,
                "from": setting.source,
                "for": used,
            }
            for setting, used in users.values()
        ]
    places = [Path(FILE_NAME).absolute(), *filter(None, [own_file()])]
    files = {str(place): os.path.isfile(place) for place in places}
    if as_json:
        click.echo(dump_line({"files": files, "settings": rows}))
        return
    for place, exists in files.items():
        show(f"{place}{'' if exists else ': no such file'}")
    click.echo()
    for row in rows:
        used_by = "" if "for" not in row else f"  for {', '.join(row['for']) or 'none: overridden'}"
        value = "" if row["value"] is None else dump_line(row["value"])
        show(f"{row['option']} = {value}  from {row['from']}{used_by}")
    if not rows:
        click.echo("nothing is set: all options have their defaults")


def _default(option: click.Option) -> Any:
    default = option.get_default(click.Context(command), call=False)
    if isinstance(default, list | tuple):
        return list(default)
    return default if isinstance(default, str | int | float | bool) else None
