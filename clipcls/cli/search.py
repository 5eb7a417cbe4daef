"""`clipcls search`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console, watching
from clipcls.cli.options import (
    cache_of,
    cache_options,
    columns_of,
    form_of,
    images_of,
    input_options,
    max_errors_option,
    max_megapixels_option,
    model_options,
    output_options,
)

if TYPE_CHECKING:
    from clipcls.embeddings.embed import Embedded


@click.command("search")
@click.argument("arguments", nargs=-1, metavar="[TEXT] [INPUT...]", shell_complete=complete_files)
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
@max_errors_option
@model_options
@max_megapixels_option
@cache_options
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
    columns: str | None,
    bom: bool,
    quiet: bool,
    cache_file: Path | None,
    no_cache: bool,
    **model_settings: Any,
) -> int:
    """Find the images nearest to a text or to another image.

    With INPUT, searches these images (embedding those that are new); without, every image of
    the cache that this model has seen.

    \b
    Examples:
      clipcls search "a red car" photos/
      clipcls search --image query.jpg photos/
      clipcls search "a red car"
    """
    if query_image is None and not arguments:
        raise click.UsageError("say what to search for: a text, or --image FILE")
    if query_image is None:
        _refuse_path(arguments[0])
        if len(arguments) == 1 and os.path.isdir(arguments[0]):
            console.say(
                f"searching the cache for the text {arguments[0]!r}; to search in the folder of "
                "that name, write a text before it"
            )
    from clipcls.data.file_kinds import LeftOut
    from clipcls.embeddings.embed import embed_images, embed_texts
    from clipcls.embeddings.search import search_cache, search_images
    from clipcls.errors import ImageError
    from clipcls.files.text import canonical
    from clipcls.models.encoder import open_encoder
    from clipcls.output.writing import open_output

    console.quiet = quiet
    left_out, backend = LeftOut(), model_settings["backend"]
    inputs = arguments if query_image else arguments[1:]
    read = skipped = 0
    form = form_of(output, form)
    usual, more = ("rank", "path", "similarity"), ("model", "weights", "precision")
    chosen = columns_of(form, usual, more, wanted=columns, bom=bom)
    with open_output(output, form, columns=chosen, bom=bom) as writer:
        images, total = images_of(inputs, null, left_out) if inputs else (iter(()), 0)
        cache = cache_of(cache_file, no_cache)
        encoder = open_encoder(**model_settings, progress=not quiet)
        if query_image is None:
            text = canonical(arguments[0].encode(errors="replace").decode())
            query = embed_texts(encoder, [text], cache)[0]
        else:
            (found,) = embed_images(encoder, [query_image], cache)
            if isinstance(found, ImageError):
                raise found
            query = found.vector
        if inputs:
            with watching(console, total) as watch:

                def readable() -> Iterator[Embedded]:
                    nonlocal read, skipped
                    for item in embed_images(encoder, images, cache, backend=backend):
                        if isinstance(item, ImageError):
                            skipped += 1
                            watch(item)
                        else:
                            read += 1
                            yield item
                            watch(None)

                hits = search_images(encoder, query, readable(), top)
        elif cache is None:
            raise click.UsageError("name images to search: --no-cache leaves no cache to search")
        else:
            hits = search_cache(encoder, query, cache, top)
        for hit in hits:
            writer.write(hit)
    if not inputs and not hits:
        console.say("the cache holds no images of this model yet: name a folder to search")
    elif inputs:
        unreadable = f", {skipped:,} could not be read" if skipped else ""
        console.say_done(f"{read:,} images searched{unreadable}", matters=skipped > 0)
    if left_out.may_be_images and not quiet:
        console.say(str(left_out))
    console.say_written(output)
    sys.stdout.flush()
    return console.status(skipped, read)


def _refuse_path(text: str) -> None:
    """A path where the text to search for should be.

    Raises:
        click.UsageError: it is one, or it is blank.
    """
    if not text.strip():
        raise click.UsageError("the text to search for is empty; write what the images show")
    is_path = text in ("-", os.curdir, os.pardir) or text.endswith((os.sep, os.altsep or os.sep))
    is_file = os.path.isfile(text)
    if not (is_path or is_file or (os.path.dirname(text) and (os.path.exists(text) or glob(text)))):
        return  # also the bare name of a folder: `search cat` among folders named like labels
    by_image = f"; to search by this image: --image {shlex.quote(text)}" if is_file else ""
    raise click.UsageError(
        f"{text}: is a path, not a text; write first what to search for, as in "
        f'clipcls search "a red car" {shlex.quote(text)}{by_image}'
    )
