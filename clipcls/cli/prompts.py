"""`clipcls prompts`."""

from __future__ import annotations

from typing import Any

import click

from clipcls.cli import groups
from clipcls.cli.completion import complete_sets
from clipcls.cli.console import Console, show
from clipcls.cli.options import json_option


@groups.command("prompts")
@click.argument("name", required=False, shell_complete=complete_sets)
@click.option("--label-set", is_flag=True, help="Print the label set if both have this name.")
@json_option
def command(_console: Console, name: str | None, label_set: bool, as_json: bool) -> int:
    """List the template sets and label sets, or print the set NAME.

    A template set goes with `classify --prompts`, a label set with `classify --labels`. Print one
    to edit it: `clipcls prompts products > products.txt`.
    """
    from clipcls.files.text import read_text
    from clipcls.labels.label_set import log_warnings, read_labels
    from clipcls.labels.presets import find_set, list_sets
    from clipcls.labels.prompts import list_ready_sets, read_prompts
    from clipcls.output.json import dump_line

    found: Any
    if name is None:
        sets = {
            "template_sets": list_ready_sets("templates"),
            "label_sets": list_ready_sets("labels"),
        }
        found, lines = {key: [ready._asdict() for ready in sets[key]] for key in sets}, []
        for key, group in sets.items():
            lines.append(f"{key.replace('_', ' ')}:")
            lines += [f"  {ready.name:<14}{ready.size:>5}  {ready.description}" for ready in group]
    elif label_set or (name in list_sets("labels") and name not in list_sets("templates")):
        labels = read_labels(name)
        log_warnings(labels)
        found = [
            {"label": label.name, "prompts": label.prompts, "synonyms": label.synonyms}
            if label.prompts or label.synonyms
            else label.name
            for label in labels
        ]
        text = read_text(find_set("labels", name)[0]).strip()
        lines = [line for line in text.split("\n") if not line.startswith("#")]
    else:
        prompts = read_prompts(name)
        log_warnings(prompts)
        found = lines = list(prompts.templates)
    for line in [dump_line(found)] if as_json else lines:
        show(line)
    return 0
