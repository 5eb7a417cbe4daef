"""`clipcls search`."""

from __future__ import annotations

import os
import shlex
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipcls.cli import groups
from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console, watching
from clipcls.cli.inputs import InputSettings
from clipcls.cli.options import ModelSettings, run_options
from clipcls.cli.outputs import OutputSettings
from clipcls.cli.param_types import COUNT, FILE, FOLDER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.models.encoder import Encoder


@groups.command("search")
@click.argument("arguments", nargs=-1, metavar="[TEXT] [INPUT...]", shell_complete=complete_files)
@click.option("--image", type=FILE, help="Search by this image instead of TEXT.")
@click.option(
    "--index",
    "index_paths",
    type=FOLDER,
    multiple=True,
    help="Search in this index by `clipcls index`, or in all indexes in this folder; may be "
    "repeated.",
)
@click.option("-k", "--top", type=COUNT, default=10, help="Images to find.")
@run_options
def command(
    console: Console,
    arguments: tuple[str, ...],
    image: Path | None,
    index_paths: tuple[Path, ...],
    top: int,
    reading: InputSettings,
    output: OutputSettings,
    model: ModelSettings,
) -> int:
    """Find the images nearest to a text or to another image.

    With INPUT, searches these images, embedding those that are new. With --index, searches those of
    indexes. Without either, searches all images in the cache that this model has embedded.

    \b
    Examples:
      clipcls search "a red car" photos/
      clipcls search --image query.jpg photos/
      clipcls search "a red car"
    """
    if image is None:
        _check_text(console, arguments, in_cache=not index_paths)
    inputs = arguments if image else arguments[1:]
    if index_paths and inputs:
        raise click.UsageError(f"{inputs[0]}: --index says where to search; leave one of them out")
    from clipcls.classification.in_blocks import watch_each
    from clipcls.embeddings.embed import embed_images
    from clipcls.embeddings.search import search_cache, search_images, search_indexes
    from clipcls.embeddings.vector_index import open_indexes
    from clipcls.errors import ImageError
    from clipcls.models.encoder import open_encoder

    form = output.choose_format()
    columns = output.choose_columns(
        form, ("rank", "path", "similarity"), ("model", "weights", "precision", "licence")
    )
    with output.open(form, columns) as writer:
        found = reading.find_images(inputs) if inputs else None
        indexes = open_indexes(index_paths)
        settings = model.make_arguments(inputs, indexes[0].info.vectors if indexes else None)
        cache = settings.pop("cache") or None
        encoder = open_encoder(**settings, progress=not console.quiet)
        query = _embed_query(encoder, image or arguments[0], cache)
        if found:
            embedded = embed_images(encoder, found.images, cache, backend=settings["backend"])
            with watching(console, found.total) as watch:
                seen = watch_each(embedded, watch)
                read = (item for item in seen if not isinstance(item, ImageError))
                hits = search_images(encoder, query, read, top)
        elif indexes:
            hits = search_indexes(encoder, query, indexes, top)
        elif cache is None:
            raise click.UsageError("name images to search: --no-cache leaves no cache to search")
        else:
            hits = search_cache(encoder, query, cache, top)
        for hit in hits:
            writer.write(hit)
    if found:
        unreadable = f", {watch.skipped:,} could not be read" if watch.skipped else ""
        summary = f"{watch.read:,} images searched{unreadable}"
        console.say_done(summary, found.left_out, matters=watch.skipped > 0)
    elif not hits and not indexes:
        console.say("the cache holds no images of this model yet: name a folder to search")
    console.say_written(output.file)
    return console.status(watch.skipped, watch.read) if found else 0


def _embed_query(
    encoder: Encoder, query: str | Path, cache: EmbeddingCache | None
) -> NDArray[np.float32]:
    from clipcls.embeddings.embed import embed_images, embed_texts
    from clipcls.errors import ImageError
    from clipcls.files.text import canonical

    if isinstance(query, str):
        text = canonical(query.encode(errors="replace").decode())
        found: NDArray[np.float32]
        (found,) = embed_texts(encoder, [text], cache)
        return found
    (image,) = embed_images(encoder, [query], cache)
    if isinstance(image, ImageError):
        raise image
    return image.vector


def _check_text(console: Console, arguments: tuple[str, ...], in_cache: bool) -> None:
    """Refuse a path in place of the text to search for; warn if it may be either."""
    if not arguments:
        raise click.UsageError("say what to search for: a text, or --image FILE")
    text = arguments[0]
    if not text.strip():
        raise click.UsageError("the text to search for is empty; write what the images show")
    from clipcls.data.sources import find_file

    is_file, has_folder = os.path.isfile(find_file(text)), bool(os.path.dirname(text))
    is_path = text in ("-", os.curdir, os.pardir) or text.endswith((os.sep, os.altsep or os.sep))
    if is_path or is_file or (has_folder and (os.path.exists(text) or glob(text))):
        by_image = f"; to search by this image: --image {shlex.quote(text)}" if is_file else ""
        raise click.UsageError(
            f"{text}: is a path, not a text; write first what to search for, as in "
            f'clipcls search "a red car" {shlex.quote(text)}{by_image}'
        )
    # The bare name of a folder may be meant as text: `search cat` among folders named like labels.
    if in_cache and len(arguments) == 1 and os.path.isdir(text):
        console.say(
            f"searching the cache for the text {text!r}; to search in the folder of that name, "
            "write a text before it"
        )
