"""`clipcls models`."""

from __future__ import annotations

import click

from clipcls.cli import groups
from clipcls.cli.console import Console
from clipcls.cli.options import json_option


@groups.command("models")
@json_option
def command(_console: Console, as_json: bool) -> int:
    """List the models that have a short name.

    IMAGENET is the zero-shot top-1 accuracy in % that open_clip publishes. Any other model that
    open_clip can load works by its full name.
    """
    from importlib.util import find_spec

    from clipcls.errors import install_command
    from clipcls.models.aliases import list_models

    if as_json:
        from dataclasses import asdict

        from clipcls.output.json import dump_line

        click.echo(dump_line([asdict(model) for model in list_models()]))
        return 0
    rows = [("NAME", "MODEL", "LICENCE", "PARAMETERS", "SIZE", "IMAGENET", "PIXELS", "HERE")]
    rows += [
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
        for model in list_models()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())
    if not find_spec("transformers"):
        for model in list_models():
            if model.extra:
                click.echo(f"{model.alias} needs {install_command(model.extra)}", err=True)
    return 0
