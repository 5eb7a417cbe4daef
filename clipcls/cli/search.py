"""`clipcls search`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from clipcls.cli.console import Console
from clipcls.cli.options import (
    form_of,
    images_of,
    input_options,
    model_options,
    output_options,
    store_of,
    store_options,
)


@click.command("search")
@click.argument("arguments", nargs=-1, metavar="[TEXT] [INPUT...]")
@click.option(
    "--image",
    "query_image",
    type=click.Path(path_type=Path),
    help="Search by this image instead of TEXT.",
)
@click.option(
    "-k", "--top", type=click.IntRange(1), default=10, show_default=True, help="Images to find."
)
@input_options
@output_options
@model_options
@store_options
@click.pass_obj
def command(
    console: Console,
    /,
    arguments: tuple[str, ...],
    query_image: Path | None,
    top: int,
    null: bool,
    form: str | None,
    output: Path | None,
    quiet: bool,
    store_file: Path | None,
    no_store: bool,
    **model_settings: Any,
) -> int:
    """Find the images nearest to a text or to another image.

    With INPUT, searches these images (embedding those that are new); without, every image of
    the store that this model has seen.

    \b
    Examples:
      clipcls search "a red car" photos/
      clipcls search --image query.jpg photos/
      clipcls search "a red car"
    """
    if query_image is None and not arguments:
        raise click.UsageError("say what to search for: a text, or --image FILE")
    from clipcls.embedder import embed_images, embed_texts
    from clipcls.errors import ImageError
    from clipcls.opening import open_encoder
    from clipcls.search import search_images, search_store
    from clipcls.writers import open_output

    console.quiet = quiet
    inputs = arguments if query_image else arguments[1:]
    workers = model_settings.pop("workers")
    skipped = 0
    with open_output(output, form_of(output, form), top) as writer:
        images, total = images_of(inputs, null) if inputs else (iter(()), 0)
        store = store_of(store_file, no_store)
        encoder = open_encoder(**model_settings, store=store, progress=not quiet)
        if query_image is None:
            text = arguments[0].encode(errors="replace").decode()
            query = embed_texts(encoder, [text], store)[0]
        else:
            (found,) = embed_images(encoder, [query_image], store)
            if isinstance(found, ImageError):
                raise found
            query = found.vector
        if inputs:
            with console.progress(total) as progress:

                def readable() -> Any:
                    nonlocal skipped
                    for item in embed_images(encoder, images, store, workers=workers):
                        if isinstance(item, ImageError):
                            skipped += 1
                            console.say(f"skipped {item}")
                        else:
                            yield item
                        progress(skipped)

                hits = search_images(encoder, query, readable(), top)
        elif store is None:
            raise click.UsageError("name images to search: --no-store leaves no store to search")
        else:
            hits = search_store(encoder, query, store, top)
        for hit in hits:
            writer.write(hit.record())
    if not inputs and not hits:
        console.say("the store holds no images of this model yet: name a folder to search")
    elif skipped and not quiet:
        console.say(f"{skipped:,} images could not be read")
    sys.stdout.flush()
    return 1 if skipped else 0
