"""`clipcls store`."""

from __future__ import annotations

from pathlib import Path

import click

from clipcls.cli.options import FILE

_file = click.option("--store", "path", type=FILE, help="The store; default: the usual one.")


@click.group("store")
def command() -> None:
    """Look after what is kept: embeddings and exported models.

    All of it is a cache: without it everything works, only slower. Embeddings are in one SQLite
    file; models that were exported for this machine are in a folder beside the usual one.
    """


@command.command("info")
@_file
def info(path: Path | None) -> None:
    """Show where the store is and what it holds."""
    from clipcls import graph
    from clipcls.store import Store, default_path

    if not (path or default_path()).exists():
        click.echo(f"{path or default_path()}: there is no store yet")
    else:
        with Store(path) as store:
            held = store.info()
        click.echo(f"{held.path}: {held.size / 1e6:,.1f} MB")
        views = f"{held.views:,} views of images, " if held.views else ""
        click.echo(
            f"{held.images:,} images, {views}{held.texts:,} texts, {held.files:,} files known"
        )
    if path is None and (sizes := graph.kept()):
        click.echo(f"{graph.default_folder()}: {sum(sizes) / 1e6:,.1f} MB")
        click.echo(f"{len(sizes):,} exported models")


@command.command("clear")
@_file
def clear(path: Path | None) -> None:
    """Delete the store, damaged or not; without --store, what is kept of models too."""
    from clipcls import graph
    from clipcls.store import clear, default_path, facts_path

    store = path or default_path()
    click.echo(f"{store}: {'deleted' if clear(store) else 'there was no store'}")
    if path is None:
        graph.clear()
        clear(facts_path())


@command.command("prune")
@_file
def prune(path: Path | None) -> None:
    """Forget images whose files are gone or have changed."""
    from clipcls.store import Store, default_path

    path = path or default_path()
    if not path.exists():
        click.echo(f"{path}: there is no store yet")
        return
    with Store(path) as store:
        click.echo(f"{store.path}: {store.prune():,} images forgotten")
