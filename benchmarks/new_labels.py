"""How long do new labels take on a folder that was classified before?

    python benchmarks/new_labels.py [--images photos|small] [--photos 300] [--repeats 3]

Whole processes. clipcls has the images' embeddings in its cache and never saw the labels, which
are others in each run; the peers keep nothing and compute everything again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
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
from ours import check, classify, forget, warm

OURS = "clipcls, images kept"


def measure(work: Work, args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """The answer for `photos` or `small`."""
    count = getattr(args, kind)
    folder = getattr(make_inputs, kind)(work, count)
    make_inputs.models(work)
    make_inputs.read_once(folder)
    cache = work.path("scratch", "new-labels.sqlite")
    forget(cache)
    warm(work, args, ["ViT-B-32"], cache, folder)

    def labels(repeat: int) -> Path:
        return make_inputs.other_labels(work, repeat)

    def peer(name: str, venv: str, script: str, model: Path) -> Runner:
        start = [work.python(venv), PEERS / script, model]
        return Runner(
            name,
            lambda repeat: [*start, labels(repeat), folder, args.stop_after],
            warm_up=[*start, make_inputs.labels(work, 1), make_inputs.small(work, 1), 60],
        )

    runners = [
        Runner(
            OURS, lambda repeat: classify(args, work, "ViT-B-32", labels(repeat), folder, cache)
        ),
        peer("open_clip loop", "open_clip", "open_clip_loop.py", work.checkpoint),
        peer("transformers pipeline", "transformers", "transformers_pipeline.py", work.hf_model),
    ]
    runs, failed = alternate(work, chosen(runners, args.peers), args.repeats, count)
    check(work, count)
    what = "photos of 12 MP" if kind == "photos" else "small images"
    return summary(f"36 new labels on {count:,} {what} seen before", OURS, runs, failed)


def main() -> None:
    """The command."""
    arguments = parser(__doc__)
    make_inputs.add_sizes(arguments)
    arguments.add_argument("--images", choices=["photos", "small"], default="photos", help="which")
    args = arguments.parse_args()
    work = work_of(args)
    finish(work, f"new-labels-{args.images}", measure(work, args, args.images), args)


if __name__ == "__main__":
    run_main(main)
