"""`clipcls index`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipcls.cli import groups
from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console
from clipcls.cli.options import progress_options
from clipcls.cli.param_types import COUNT, FOLDER, NumberRange
from clipcls.errors import ClipclsError, InputError, format_count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clipcls.embeddings.vectors_info import VectorsInfo

_EVERY = 2  # of the everyday names, to measure the recall with


@groups.command("index")
@click.argument(
    "vectors", nargs=-1, required=True, metavar="VECTORS...", shell_complete=complete_files
)
@click.option(
    "-o", "--output", type=FOLDER, required=True, metavar="DIR", help="The index, a folder."
)
@click.option(
    "--recall",
    type=NumberRange(0, 1, min_open=True),
    metavar="R",
    help="The share of the 10 nearest images that a search has to find; 1 compares with all "
    "images. Default: 1 up to a million images, 0.95 above.",
)
@click.option(
    "--bytes-per-vector",
    type=COUNT,
    help="Length of the codes that a search reads to find candidates; default: one byte per "
    "number. Shorter codes need less memory and find less.",
)
@progress_options
def command(
    console: Console,
    vectors: tuple[str, ...],
    output: Path,
    recall: float | None,
    bytes_per_vector: int | None,
) -> int:
    """Build an index of vectors, to search millions of images at once.

    VECTORS are what `embed` wrote, all by one model. Above a million images, a search in the index
    reads only a part of it, as much as finds the share --recall of the 10 nearest images. The
    recall is measured on images of the index, and on texts if the model is on this machine. An
    index in DIR is replaced when the new one is whole.

    \b
    Examples:
      clipcls embed photos/ -o vectors/
      clipcls index vectors/ -o photos.index
      clipcls search "a red bird" --index photos.index
    """
    from clipcls.data.file_kinds import is_vectors
    from clipcls.embeddings.index_build import build_index
    from clipcls.embeddings.vector_files import open_vectors
    from clipcls.embeddings.vector_index import EXACT, RECALL, choose_kind

    if bytes_per_vector and recall == 1:
        raise click.UsageError("--recall 1 compares whole vectors: leave out --bytes-per-vector")
    for path in vectors:
        if not is_vectors(path):
            missing = "" if Path(path).exists() else " or is missing"
            raise InputError(f"{path}: holds no vectors{missing}; write them with `clipcls embed`")
    files = [open_vectors(path) for path in vectors]
    total, info = sum(map(len, files)), files[0].info
    if (bytes_per_vector or 0) > info.dim:
        raise click.UsageError(
            f"--bytes-per-vector {bytes_per_vector}: use at most {info.dim}, one byte per number"
        )
    kind = choose_kind(total, info.dim, recall, bytes_per_vector)
    texts = None if kind == EXACT else _embed_texts(console, info)
    with console.progress(total):
        found = build_index(
            files, output, kind, recall=recall, texts=texts, on_rows=console.advance
        )
    if total > found.rows:
        console.say(f"{format_count(total - found.rows, 'row')} without a unit vector left out")
    reached = ", ".join(f"{value:.3f} for {name}" for name, value in found.recall.items())
    how = f", {found.probes:,} of its lists per search, recall@10 {reached}" if reached else ""
    console.remark(f"{format_count(found.rows, 'image')} indexed ({kind}{how})")
    if found.recall and min(found.recall.values()) < (recall or RECALL) - 0.01:
        console.say(
            f"warning: the recall is below {recall or RECALL}; use more --bytes-per-vector, or "
            "--recall 1"
        )
    place = shlex.quote(str(output))
    console.remark(f'wrote {output}; next: clipcls search "a red bird" --index {place}')
    return 0


def _embed_texts(console: Console, info: VectorsInfo) -> NDArray[np.float32] | None:
    """Vectors of names; none if the model is not on this machine."""
    from clipcls.embeddings.embed import embed_texts
    from clipcls.labels.prompts import everyday_texts
    from clipcls.models.encoder import open_encoder
    from clipcls.models.registry import resolve

    try:
        resolve(info.model, offline=True)
        encoder = open_encoder(info.model, progress=False)
        info.check(encoder, info.model)
        found: NDArray[np.float32] = embed_texts(encoder, everyday_texts(_EVERY), None)
    except ClipclsError as error:
        console.say(f"the recall is measured on images only, not on texts: {error}")
        return None
    return found
