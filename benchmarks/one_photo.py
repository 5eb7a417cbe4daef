"""How long does one photo take, from the start of the command to the answer?

    python benchmarks/one_photo.py [--repeats 3]

Whole processes. Each run gets a 12 MP photo that clipcls has not seen; model and labels it has
seen ("clipcls"), or the model only ("labels not known"), or nothing at all ("the very first run",
with an empty cache folder).
"""

from __future__ import annotations

import argparse
import os
import shutil
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

OURS = "clipcls"


def measure(work: Work, args: argparse.Namespace) -> dict[str, Any]:
    """The answer."""
    labels = make_inputs.LABELS
    make_inputs.models(work)
    folders = [_one(work, args.repeats + 1, number) for number in range(args.repeats + 1)]
    cache = work.path("scratch", "one.sqlite")
    forget(cache)
    warm(work, args, ["ViT-B-32"])
    warm(work, args, ["ViT-B-32"], cache, folders[-1])
    empty = work.path("scratch", "empty-cache")

    def peer(name: str, venv: str, script: str, model: Path) -> Runner:
        start = [work.python(venv), PEERS / script, model]
        return Runner(
            name,
            lambda repeat: [*start, labels, folders[repeat], args.stop_after],
            warm_up=[*start, make_inputs.labels(work, 1), folders[-1], args.stop_after],
        )

    runners = [
        Runner(
            OURS,
            lambda repeat: classify(args, work, "ViT-B-32", labels, folders[repeat], cache),
        ),
        Runner(
            "clipcls, labels not known",
            lambda repeat: classify(args, work, "ViT-B-32", labels, folders[repeat], None),
        ),
        Runner(
            "clipcls, the very first run",
            lambda repeat: classify(args, work, "ViT-B-32", labels, folders[repeat], None),
            {"XDG_CACHE_HOME": str(empty)},
            before=lambda repeat: shutil.rmtree(empty, ignore_errors=True),
        ),
        peer("open_clip loop", "open_clip", "open_clip_loop.py", work.checkpoint),
        peer("transformers pipeline", "transformers", "transformers_pipeline.py", work.hf_model),
        peer("pybioclip", "pybioclip", "bioclip_predict.py", work.checkpoint),
    ]
    runs, failed = alternate(work, chosen(runners, args.peers), args.repeats, 1)
    check(work, 1)
    shutil.rmtree(empty, ignore_errors=True)
    return summary("One photo of 12 MP", OURS, runs, failed, without=["images a second"])


def _one(work: Work, count: int, number: int) -> Path:
    """A folder with nothing in it but one photo; all are read, so that none waits for the disk."""
    photo = make_inputs.photos(work, count) / f"{number:06}.jpg"
    folder = work.path("one", str(number), "x").parent
    if not (folder / photo.name).exists():
        os.link(photo, folder / photo.name)
    make_inputs.read_once(folder)
    return folder


def main() -> None:
    """The command."""
    args = parser(__doc__).parse_args()
    work = work_of(args)
    finish(work, "one-photo", measure(work, args), args)


if __name__ == "__main__":
    run_main(main)
