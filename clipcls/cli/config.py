"""`clipcls config`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, show
from clipcls.cli.options import json_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _complete_commands(
    context: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return context.find_root().command.shell_complete(context.find_root(), incomplete)


@groups.command("config")
@click.argument("words", nargs=-1, metavar="[COMMAND]", shell_complete=_complete_commands)
@json_option
def command(_console: Console, words: tuple[str, ...], as_json: bool) -> int:
    """Show which settings apply, and where they come from.

    An option's value is the command line's, else that of a variable (CLIPCLS_MODEL for every
    command, CLIPCLS_CLASSIFY_TOP for one), else that of clipcls.toml in the current folder, else
    that of your own clipcls.toml, else the default. With COMMAND, shows all options of that
    command.
    """
    from clipcls.cli import settings
    from clipcls.output.json import dump_line

    program = click.get_current_context().find_root()
    root = program.command
    assert isinstance(root, click.Group)
    commands = dict(settings.walk_commands(root))
    if words and words not in commands:
        below = [" ".join(path) for path in commands if path[: len(words)] == words]
        cure = f"; choose {' or '.join(below)}" if below else ""
        raise click.UsageError(f"{' '.join(words)}: no such command{cure}")
    files = [] if program.params.get("no_config") else settings.find_files()
    found = {path: settings.resolve(files, root, path, known) for path, known in commands.items()}
    rows: dict[Any, dict[str, Any]] = {}
    if words:
        for name, option in settings.list_options(commands[words]).items():
            setting = found[words].get(name)
            value, source = setting[1:] if setting else (_default(option), "default")
            rows[name] = {"option": name, "value": value, "from": source}
    else:
        for path, applied in found.items():
            for key, value, source in applied.values():
                row = {"option": key, "value": value, "from": source, "for": []}
                rows.setdefault((key, source), row)["for"].append(" ".join(path))
    places = [Path(settings.FILE_NAME).absolute(), *filter(None, [settings.find_own_file()])]
    exist = {str(place): os.path.isfile(place) for place in places}
    if as_json:
        click.echo(dump_line({"files": exist, "settings": list(rows.values())}))
        return 0
    for place, exists in exist.items():
        show(f"{place}{'' if exists else ': no such file'}")
    click.echo()
    for row in rows.values():
        used_by = f"  for {', '.join(row['for'])}" if "for" in row else ""
        value = "" if row["value"] is None else dump_line(row["value"])
        show(f"{row['option']} = {value}  from {row['from']}{used_by}")
    if not rows:
        click.echo("nothing is set: all options have their defaults")
    return 0


def _default(option: click.Option) -> Any:
    default = option.get_default(click.Context(command), call=False)
    if isinstance(default, list | tuple):
        return list(default)
    return default if isinstance(default, str | int | float | bool) else None
