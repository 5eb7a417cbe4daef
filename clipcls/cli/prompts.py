"""`clipcls prompts`."""

from __future__ import annotations

import click

from clipcls.cli import groups
from clipcls.cli.completion import complete_sets
from clipcls.cli.console import Console, show
from clipcls.cli.options import json_option


@groups.command("prompts")
@click.argument("name", required=False, shell_complete=complete_sets)
@click.option("--label-set", is_flag=True, help="Print the label set, where both have this name.")
@json_option
def command(_console: Console, name: str | None, label_set: bool, as_json: bool) -> int:
    """List the template sets and label sets, or print the set NAME.

    A template set goes with `classify --prompts`, a label set with `classify --labels`. Print one
    to edit it: `clipcls prompts products > products.txt`.
    """
    from clipcls.files.text import read_text
    from clipcls.labels.label_set import log_warnings, read_labels
    from clipcls.labels.presets import find_set, list_sets
    from clipcls.labels.prompts import list_label_sets, list_prompts, read_prompts
    from clipcls.output.json import dump_line

    found: object
    if name is None:
        templates, label_sets = list_prompts(), list_label_sets()
        found = {
            "template_sets": [ready._asdict() for ready in templates],
            "label_sets": [ready._asdict() for ready in label_sets],
        }
        lines = []
        for title, sets in (("template sets", templates), ("label sets", label_sets)):
            lines.append(f"{title}:")
            lines += [f"  {ready.name:<14}{ready.size:>5}  {ready.description}" for ready in sets]
    elif label_set or (name in list_sets("labels") and name not in list_sets("templates")):
        found_set = read_labels(name)
        log_warnings(found_set)
        found = [
            {"label": label.name, "prompts": label.prompts, "synonyms": label.synonyms}
            if label.prompts or label.synonyms
            else label.name
            for label in found_set
        ]
        text = read_text(find_set("labels", name)[0]).strip()
        lines = [line for line in text.split("\n") if not line.startswith("#")]
    else:
        prompts = read_prompts(name)
        log_warnings(prompts)
        found = lines = list(prompts.templates)
    if as_json:
        click.echo(dump_line(found))
    else:
        for line in lines:
            show(line)
    return 0
