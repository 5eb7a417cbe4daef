"""`clipcls embed`."""

from __future__ import annotations

import contextlib
import functools
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, watching
from clipcls.cli.constraints import refuse_overwriting
from clipcls.cli.inputs import InputSettings, inputs_argument
from clipcls.cli.options import ModelSettings, run_options
from clipcls.cli.param_types import VECTORS

if TYPE_CHECKING:
    from clipcls.embeddings.vector_files import DType
    from clipcls.embeddings.vectors_info import VectorBlock, VectorsInfo

ROWS = 16_384
_BLOCK = 1024  # images that are handed to a writer together


@groups.command("embed")
@inputs_argument
@click.option(
    "-o",
    "--output",
    type=VECTORS,
    required=True,
    metavar="FILE|DIR/",
    help="x.parquet; x.npy, with its paths in x.npy.jsonl; or a folder, which gets parquet files "
    "and to which the same command adds images that are missing.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    help="float16 halves the files; scores then differ in the third decimal.",
)
@click.option("--rows", type=click.IntRange(1), default=ROWS, help="Images per file of a folder.")
@run_options
def command(
    console: Console,
    inputs: tuple[str, ...],
    output: str,
    dtype: Literal["float32", "float16"],
    rows: int,
    reading: InputSettings,
    model: ModelSettings,
) -> int:
    """Write images' vectors to a file that other programs read.

    DuckDB, pandas, LanceDB and pgvector read the result, and clipcls takes it in place of the
    images, without decoding them again. Each row has the image's path, the SHA-256 and the size of
    its file, and the vector, of length 1. Images that cannot be read have no row.

    \b
    Examples:
      clipcls embed photos/ -o vectors.parquet
      clipcls embed photos/ -o vectors/
      clipcls classify --labels labels.txt vectors.parquet
    """
    refuse_overwriting(Path(output), *inputs)
    import numpy as np

    from clipcls.embeddings.embed import embed_images
    from clipcls.embeddings.embedded import Embedded
    from clipcls.embeddings.vectors_info import VectorBlock, VectorsInfo
    from clipcls.errors import ImageError, InputError
    from clipcls.models.encoder import open_encoder

    images, total, left_out = reading.find_images(inputs)
    settings = model.make_arguments(inputs)
    cache = settings.pop("cache") or None
    encoder = open_encoder(**settings, progress=not console.quiet)
    shard = str(reading.shard or "")
    make_info = functools.partial(VectorsInfo.of, encoder, shard=shard)
    known, block = 0, list[Embedded]()
    with (
        open_vectors_output(output, make_info, dtype, rows) as (write, has),
        watching(console, total) as watch,
    ):

        def is_new(image: Any) -> bool:
            """Whether the image is missing in the output; counts it otherwise."""
            nonlocal known
            name = image if isinstance(image, str) else getattr(image, "name", "")
            if isinstance(image, ImageError) or not has(getattr(image, "path", name)):
                return True
            known += 1
            watch(None)
            return False

        def write_block() -> None:
            write(
                VectorBlock(
                    [image.path for image in block],
                    np.stack([image.vector for image in block])
                    if block
                    else encoder.encode_images([]),
                    [image.content.hex() for image in block],
                    [image.size for image in block],
                )
            )
            block.clear()

        new = filter(is_new, images)
        embedded = embed_images(encoder, new, cache, backend=settings["backend"], hashed=True)
        try:
            for item in filter(is_new, embedded):  # again: some are rows of a file of vectors
                if isinstance(item, ImageError):
                    watch(item)
                    continue
                block.append(item)
                if len(block) == _BLOCK:
                    write_block()
                watch(None)
        finally:  # of an interrupted run, too
            if block:
                write_block()
        if shard:
            write_block()  # a share without images is a file, too
        elif not watch.read:
            raise InputError("no image could be read, so nothing was written")
    parts = [f"{watch.read - known:,} images embedded"]
    parts += [f"{known:,} were known"] if known else []
    parts += [f"{watch.skipped:,} could not be read"] if watch.skipped else []
    console.say_done(", ".join(parts), left_out, matters=watch.skipped > 0 or known > 0)
    next_step = f"clipcls classify --labels labels.txt {shlex.quote(output)}"
    console.say_written(Path(output), next_step)
    return console.status(watch.skipped, watch.read)


@contextlib.contextmanager
def open_vectors_output(
    output: str, make_info: Callable[[int], VectorsInfo], dtype: DType, rows: int = ROWS
) -> Iterator[tuple[Callable[[VectorBlock], None], Callable[[str], bool]]]:
    """The function that writes vectors, and the one that tells which are written already."""
    from clipcls.embeddings import vector_files
    from clipcls.embeddings.vector_folder import VectorFolder
    from clipcls.output.writing import open_output

    kinds: dict[str, dict[str, Any]] = {
        ".parquet": {output: vector_files.VectorParquetWriter},
        ".npy": {
            vector_files.sidecar_path(output): vector_files.NpyPathsWriter,
            output: vector_files.NpyWriter,
        },
    }
    if (files := kinds.get(Path(output).suffix.lower())) is None:
        with VectorFolder(output, make_info, dtype, rows) as folder:
            yield folder.write, folder.has
        return
    with contextlib.ExitStack() as stack:
        writers: list[Any] = [
            stack.enter_context(
                open_output(Path(path), functools.partial(kind, make_info=make_info, dtype=dtype))
            )
            for path, kind in files.items()
        ]

        def write(block: VectorBlock) -> None:
            for writer in writers:
                writer.write(block)

        yield write, lambda path: False
