"""`clipcls cache`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, show
from clipcls.cli.options import json_option
from clipcls.cli.param_types import FILE
from clipcls.errors import printable

_file = click.option("--cache", "path", type=FILE, help="The cache; default: the usual one.")


@click.group("cache")
def command() -> None:
    """Manage stored embeddings and exported models.

    All of it is a cache: without it everything works, only slower. Embeddings are in one SQLite
    file; models that were exported for this machine are in a folder beside the usual one.
    """


@groups.command("info")
@_file
@json_option
def _info(_console: Console, path: Path | None, as_json: bool) -> int:
    """Show where the cache is and what it holds."""
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.embeddings.cache_file import default_path
    from clipcls.models import openvino

    place, held = path or default_path(), None
    if place.exists():
        with EmbeddingCache(path) as cache:
            held = cache.info()
    sizes = openvino.kept() if path is None else []
    if as_json:
        from dataclasses import asdict

        from clipcls.output.json import dump_line

        record: dict[str, Any] = {"path": str(place), "exists": held is not None}
        if held:
            record |= {**asdict(held), "path": str(held.path)}
        if path is None:
            record["exported"] = {
                "path": str(openvino.default_folder()),
                "models": len(sizes),
                "size": sum(sizes),
            }
        click.echo(dump_line(record))
        return 0
    if held is None:
        show(f"{place}: there is no cache yet")
    else:
        show(f"{held.path}: {held.size / 1e6:,.1f} MB")
        views = f"{held.views:,} views of images, " if held.views else ""
        click.echo(
            f"{held.images:,} images, {views}{held.texts:,} texts, {held.files:,} files known"
        )
    if sizes:
        show(f"{openvino.default_folder()}: {sum(sizes) / 1e6:,.1f} MB")
        click.echo(f"{len(sizes):,} exported models")
    return 0


@groups.command("clear")
@_file
@click.option("--yes", is_flag=True, help="Do not ask.")
def _clear(console: Console, path: Path | None, yes: bool) -> int:
    """Delete the cache; without --cache, exported models too.

    On a terminal asks first.
    """
    from clipcls.embeddings.cache_file import clear, default_path
    from clipcls.models import openvino
    from clipcls.models.facts import ModelFacts

    cache = path or default_path()
    sizes = openvino.kept() if path is None else []
    if not yes and sys.stdin.isatty() and (cache.exists() or sizes):
        size = cache.stat().st_size if cache.exists() else 0
        models = f" and {len(sizes):,} exported models, {sum(sizes) / 1e6:,.1f} MB" if sizes else ""
        question = f"Delete {cache}, {size / 1e6:,.1f} MB{models}?"
        try:
            agreed = click.confirm(printable(question), err=True)
        except click.Abort:
            agreed = False
        if not agreed:
            console.say("nothing was deleted")
            return 2
    show(f"{cache}: {'deleted' if clear(cache) else 'there was no cache'}")
    if path is None:
        openvino.clear()
        ModelFacts().clear()
    return 0


@groups.command("prune")
@_file
def _prune(_console: Console, path: Path | None) -> int:
    """Forget images whose files are gone or have changed."""
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.embeddings.cache_file import default_path

    path = path or default_path()
    if not path.exists():
        show(f"{path}: there is no cache yet")
        return 0
    with EmbeddingCache(path) as cache:
        show(f"{cache.path}: {cache.prune():,} images forgotten")
    return 0


for _subcommand in (_info, _clear, _prune):
    command.add_command(_subcommand)
