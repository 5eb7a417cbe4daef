"""`clipcls cache`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, show
from clipcls.cli.options import json_option
from clipcls.cli.param_types import FILE, NEW_FILE
from clipcls.errors import printable

_file = click.option(
    "--cache",
    "path",
    type=FILE,
    help="The cache file; default: `embeddings.sqlite3` in the cache folder.",
)


@click.group("cache")
def command() -> None:
    """Manage stored embeddings and exported models.

    Without them everything works, only slower. Embeddings are in one SQLite file; models that were
    exported for this machine are in a folder next to the default file.
    """


@groups.command("info")
@_file
@json_option
def _info(_console: Console, path: Path | None, as_json: bool) -> int:
    """Show where the cache is and what it holds."""
    from dataclasses import asdict

    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.embeddings.cache_file import default_path
    from clipcls.models import openvino
    from clipcls.output.json import dump_line

    place = path or default_path()
    record: dict[str, Any] = {"path": str(place), "exists": place.exists()}
    if place.exists():
        with EmbeddingCache(path) as cache:
            record |= {**asdict(cache.info()), "path": str(cache.path)}
    exported: dict[str, Any] = {}
    if path is None:
        sizes, folder = openvino.stored_sizes(), str(openvino.default_folder())
        exported = {"path": folder, "models": len(sizes), "size": sum(sizes)}
        record["exported"] = exported
    if as_json:
        click.echo(dump_line(record))
        return 0
    if not record["exists"]:
        show(f"{place}: there is no cache yet")
    else:
        show(f"{record['path']}: {record['size'] / 1e6:,.1f} MB")
        click.echo(
            f"{record['images']:,} images, {record['texts']:,} texts, "
            f"{record['files']:,} files known"
        )
    if exported.get("models"):
        show(f"{exported['path']}: {exported['size'] / 1e6:,.1f} MB")
        click.echo(f"{exported['models']:,} exported models")
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
    sizes = openvino.stored_sizes() if path is None else []
    if not yes and sys.stdin.isatty() and (cache.exists() or sizes):
        size = cache.stat().st_size if cache.exists() else 0
        models = f" and {len(sizes):,} exported models, {sum(sizes) / 1e6:,.1f} MB" if sizes else ""
        question = f"Delete {cache}, {size / 1e6:,.1f} MB{models}?"
        try:
            click.confirm(printable(question), err=True, abort=True)
        except click.Abort:
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
    """Forget images whose files were deleted or have changed."""
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.embeddings.cache_file import default_path

    path = path or default_path()
    if not path.exists():
        show(f"{path}: there is no cache yet")
        return 0
    with EmbeddingCache(path) as cache:
        show(f"{cache.path}: {cache.prune():,} images forgotten")
    return 0


@groups.command("export")
@_file
@click.option("-o", "--output", type=NEW_FILE, required=True, help="A parquet file.")
def _export(console: Console, path: Path | None, output: Path) -> int:
    """Write all vectors of images and texts, of every model, to a parquet file.

    `clipcls cache import` reads it, on this machine or another one. To use one model's vectors in
    other programs, see `clipcls embed`.
    """
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.embeddings.cache_file import default_path
    from clipcls.embeddings.cache_transfer import CacheWriter, dump_blocks
    from clipcls.output.writing import open_output

    path = path or default_path()
    if not path.exists():
        raise click.UsageError(f"{path}: there is no cache yet")
    with EmbeddingCache(path) as cache, open_output(output, CacheWriter) as writer:
        count = 0
        for vectors, files in dump_blocks(cache):
            writer.write((vectors, files))
            count += len(vectors)
        show(f"{output}: {count:,} vectors written")
    return 0


@groups.command("import")
@_file
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
def _import(console: Console, path: Path | None, files: tuple[Path, ...]) -> int:
    """Add the vectors of other caches.

    They may be files by `clipcls cache export` or cache files, also another machine's. Vectors that
    this cache has stay as they are.
    """
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.embeddings.cache_transfer import absorb, read_blocks

    with EmbeddingCache(path) as cache:
        for file in files:
            new, total = absorb(cache, read_blocks(file, cache))
            show(f"{file}: {new:,} of {total:,} vectors were new")
    return 0


for _subcommand in (_info, _clear, _prune, _export, _import):
    command.add_command(_subcommand)
command.add_command(_import, "merge")  # as results are put together by `clipcls merge`
