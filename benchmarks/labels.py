"""How long do many labels take?

    python benchmarks/labels.py [--labels 10000] [--repeats 3]

Whole processes that embed the labels with 7 templates each and classify one small image:
clipcls against open_clip.build_zero_shot_classifier with its defaults.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import make_inputs
from common import (
    PEERS,
    Runner,
    Work,
    alternate,
    chosen,
    finish,
    parser,
    run_main,
    summary,
    work_of,
)
from ours import check, classify, warm

OURS = "clipcls"
THEIRS = "build_zero_shot_classifier"
_FEW = 10
_TEMPLATES = 7


def measure(work: Work, args: argparse.Namespace) -> dict[str, Any]:
    """The answer; a text's time is what remains when that of a run with 10 labels is taken off."""
    make_inputs.models(work)
    image = make_inputs.small(work, 1)
    many, few = (make_inputs.labels(work, count) for count in (args.labels, _FEW))
    python, script = work.python("open_clip"), PEERS / "open_clip_labels.py"
    (path,) = image.iterdir()
    warm(work, args, ["ViT-B-32"])
    runners = []
    for suffix, file in (("", many), (f", {_FEW} labels", few)):
        ours = classify(args, work, "ViT-B-32", file, image, None)
        theirs = [python, script, work.checkpoint, file, path, args.stop_after]
        runners += [
            Runner(OURS + suffix, lambda repeat, command=ours: command),
            Runner(
                THEIRS + suffix,
                lambda repeat, command=theirs: command,
                warm_up=[python, script, work.checkpoint, few, path, 60],
            ),
        ]
    runs, failed = alternate(work, chosen(runners, args.peers), args.repeats, 1)
    check(work, 1)
    question = f"{args.labels:,} labels x {_TEMPLATES} templates"
    result = summary(question, OURS, runs, failed, without=["images a second"])
    texts = (args.labels - _FEW) * _TEMPLATES
    rates = {}
    for name in (OURS, THEIRS):
        seconds = [
            statistics.median(run.seconds for run in runs if run.runner == name + suffix)
            for suffix in ("", f", {_FEW} labels")
            if any(run.runner == name + suffix for run in runs)
        ]
        if len(seconds) == 2:
            rates[name] = round(1000 * (seconds[0] - seconds[1]) / texts, 4)
    result["milliseconds_a_text"] = rates
    result["remark"] = "A text takes " + ", ".join(
        f"{rate:.3g} ms with {name}" for name, rate in rates.items()
    )
    return result


def main() -> None:
    """The command."""
    arguments = parser(__doc__)
    make_inputs.add_sizes(arguments)
    args = arguments.parse_args()
    if args.labels <= _FEW:
        arguments.error(f"--labels: more than {_FEW}")
    work = work_of(args)
    finish(work, "labels", measure(work, args), args)


if __name__ == "__main__":
    run_main(main)
