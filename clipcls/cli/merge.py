"""`clipcls merge`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipcls.cli import groups
from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console
from clipcls.cli.constraints import refuse_overwriting
from clipcls.cli.embed import open_vectors_output
from clipcls.cli.options import quiet_option
from clipcls.cli.outputs import ResultsOutput
from clipcls.cli.param_types import VECTORS
from clipcls.errors import format_count

if TYPE_CHECKING:
    from clipcls.output.merge import Comparison

_NAMED = 10  # contradictions that are shown


@groups.command("merge")
@click.argument(
    "results", nargs=-1, required=True, metavar="RESULTS...", shell_complete=complete_files
)
@quiet_option
def command(console: Console, results: tuple[str, ...], output: ResultsOutput) -> int:
    """Put results together: the shards of one run, or runs on several folders.

    RESULTS are what `classify` or `tag` wrote (csv, tsv, json, jsonl, parquet, or a folder by
    --ray), all with the same model, labels and options; or vectors by `clipcls embed`. An image
    that occurs twice is written once. Missing shards and images with different answers are
    reported, and the exit status is then 1.

    \b
    Examples:
      clipcls classify --labels labels.txt --shard 1/2 photos/ -o 1.csv
      clipcls classify --labels labels.txt --shard 2/2 photos/ -o 2.csv
      clipcls merge 1.csv 2.csv -o all.csv
      clipcls merge vectors-*.parquet -o vectors.parquet
    """
    from clipcls.data.file_kinds import is_vectors

    merge: Comparison
    if any(are_vectors := [is_vectors(file) for file in results]):
        if not all(are_vectors):
            other = results[are_vectors.index(False)]
            raise click.UsageError(f"{other}: holds no vectors; merge files of one kind")
        merge = _merge_vectors(results, output)
    else:
        merge = _merge_results(results, output)
    if merge.twice:
        console.remark(f"{format_count(merge.twice, 'image')} occurred more than once")
    if len(merge.precisions) > 1:
        named = ", ".join(sorted(merge.precisions))
        console.say(f"warning: the model computed in {named}, so scores differ slightly")
    for path, kept, other in merge.contradictory[:_NAMED]:
        console.say(f"{path}: has different {merge.content} in {kept} (kept) and {other}")
    if (more := len(merge.contradictory) - _NAMED) > 0:
        console.say(f"{more:,} more images have different {merge.content}")
    if merge.missing:
        named = ", ".join(map(str, merge.missing[:20])) + (", ..." if merge.missing[20:] else "")
        what = "shard" if len(merge.missing) == 1 else "shards"
        console.say(f"missing: {what} {named} of {merge.of}; run and merge again")
    console.say_written(output.file)
    return 1 if merge.missing or merge.contradictory else 0


def _merge_results(files: tuple[str, ...], output: ResultsOutput) -> Comparison:
    refuse_overwriting(output.file, *files)
    form = output.choose_format()
    from clipcls.output.merge import Merge

    merge = Merge.read(files)
    columns = output.choose_columns(form, merge.columns())
    with output.open(form, columns) as writer:
        merge.write(writer, as_table=form in ("csv", "tsv"))
    return merge


def _merge_vectors(files: tuple[str, ...], output: ResultsOutput) -> Comparison:
    if output.form or output.file is None:
        raise click.UsageError("vectors are merged into -o x.parquet, x.npy or a folder")
    place = VECTORS.convert(output.file, None, None)
    refuse_overwriting(Path(place), *files)
    if os.path.isdir(place) and os.listdir(place):
        raise click.UsageError(f"{place}: is not empty; name a new folder")
    from clipcls.embeddings.vector_merge import VectorMerge

    merge = VectorMerge.read(files)
    with open_vectors_output(place, merge.make_info, merge.dtype) as (write, _):
        for block in merge.blocks():
            write(block)
    return merge
