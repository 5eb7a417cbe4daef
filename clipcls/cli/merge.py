"""`clipcls merge`."""

from __future__ import annotations

import click

from clipcls.cli import groups
from clipcls.cli.completion import complete_files
from clipcls.cli.console import Console
from clipcls.cli.constraints import refuse_overwriting
from clipcls.cli.options import quiet_option
from clipcls.cli.outputs import ResultsOutput
from clipcls.errors import format_count

_NAMED = 10  # contradictions that are shown


@groups.command("merge")
@click.argument(
    "results", nargs=-1, required=True, metavar="RESULTS...", shell_complete=complete_files
)
@quiet_option
def command(console: Console, results: tuple[str, ...], output: ResultsOutput) -> int:
    """Put results together: the shards of one run, or runs on several folders.

    RESULTS are what `classify` or `tag` wrote (csv, tsv, json, jsonl, parquet), all with the same
    model, labels and options. An image that occurs twice is written once. Missing shards and images
    with different answers are reported, and the exit status is then 1.

    \b
    Examples:
      clipcls classify --labels labels.txt --shard 1/2 photos/ -o 1.csv
      clipcls classify --labels labels.txt --shard 2/2 photos/ -o 2.csv
      clipcls merge 1.csv 2.csv -o all.csv
    """
    refuse_overwriting(output.file, *results)
    form = output.choose_format()
    from clipcls.output.merge import Merge

    merge = Merge.read(results)
    columns = output.choose_columns(form, merge.columns())
    images = 0
    with output.open(form, columns) as writer:
        for record in merge.records(as_table=form in ("csv", "tsv")):
            writer.write(record)
            images += 1
    if merge.twice:
        console.remark(f"{format_count(merge.twice, 'image')} occurred more than once")
    if len(merge.precisions) > 1:
        named = ", ".join(sorted(merge.precisions))
        console.say(f"warning: the model computed in {named}, so scores differ slightly")
    for path, kept, other in merge.contradictory[:_NAMED]:
        console.say(f"{path}: has different answers in {kept} (kept) and {other}")
    if (more := len(merge.contradictory) - _NAMED) > 0:
        console.say(f"{more:,} more images have different answers")
    if merge.missing:
        named = ", ".join(map(str, merge.missing[:20])) + (", ..." if merge.missing[20:] else "")
        what = "shard" if len(merge.missing) == 1 else "shards"
        console.say(f"missing: {what} {named} of {merge.of}; run and merge again")
    console.say_written(output.file)
    return 1 if merge.missing or merge.contradictory else 0
