"""`clipcls prompts`."""

from __future__ import annotations

import json

import click

from clipcls.cli.options import json_option


@click.command("prompts")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the template sets and label sets, or print the template set NAME.

    A template set goes with `classify --prompts`, a label set with `classify --labels`.
    """
    from clipcls.prompts import list_label_sets, list_prompts, read_prompts

    if as_json:
        found = (
            list(read_prompts(name).templates)
            if name is not None
            else {
                "template_sets": [ready._asdict() for ready in list_prompts()],
                "label_sets": [ready._asdict() for ready in list_label_sets()],
            }
        )
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    if name is not None:
        for template in read_prompts(name).templates:
            click.echo(template)
        return
    for title, sets in (("template sets", list_prompts()), ("label sets", list_label_sets())):
        click.echo(f"{title}:")
        for ready in sets:
            click.echo(f"  {ready.name:<14}{ready.size:>5}  {ready.description}")
