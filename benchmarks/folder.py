"""How long does a folder of images take?

    python benchmarks/folder.py [--images photos|smooth|small] [--photos 300] [--repeats 3]

Whole processes, from the start of Python to the written result: imports, loading the model,
embedding the labels and all images.
"""

from __future__ import annotations

import argparse
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
from ours import check, classify, forget, search, warm

OURS = "clipcls"
SEARCH = "clipcls search, ViT-B-32-256"
QUERY = "a photo of a cat."
KINDS = {
    "photos": "photos of 12 MP",
    "smooth": "photos of 12 MP without grain",
    "small": "small images",
}


def runners(work: Work, args: argparse.Namespace, folder: Path) -> list[Runner]:
    """All programs that can classify or index a folder."""
    labels, one = make_inputs.LABELS, make_inputs.small(work, 1)

    def peer(name: str, venv: str, script: str, model: Path) -> Runner:
        start = [work.python(venv), PEERS / script, model]
        return Runner(
            name,
            lambda repeat: [*start, labels, folder, args.stop_after],
            warm_up=[*start, make_inputs.labels(work, 1), one, args.stop_after],
        )

    def emptied(name: str) -> Path:
        path = work.path("scratch", name)
        shutil.rmtree(path, ignore_errors=True)
        return path

    def clean_rclip(repeat: int) -> None:
        place = emptied("rclip")
        place.mkdir()
        for entry in work.rclip_data.iterdir():
            (place / entry.name).symlink_to(entry)

    cache = work.path("scratch", "folder.sqlite")

    bins = {name: work.python(name).parent for name in ("rclip", "clip_retrieval")}
    rclip = [bins["rclip"] / "rclip", "--filepath-only", QUERY]
    retrieval = [
        bins["clip_retrieval"] / "clip-retrieval",
        "inference",
        f"--output_folder={work.path('scratch', 'clip-retrieval')}",
        "--enable_text=False",
        "--batch_size=32",  # clipcls's; by default it warms up with 4 batches of 256
        f"--clip_model=open_clip:ViT-B-32/{work.checkpoint}",
    ]
    return [
        Runner(
            OURS,
            lambda repeat: classify(args, work, "ViT-B-32", labels, folder, None),
        ),
        Runner(
            SEARCH,
            lambda repeat: search(args, work, "ViT-B-32-256", QUERY, folder, cache),
            before=lambda repeat: forget(cache),
        ),
        peer("open_clip loop", "open_clip", "open_clip_loop.py", work.checkpoint),
        peer("transformers pipeline", "transformers", "transformers_pipeline.py", work.hf_model),
        Runner(
            "rclip",
            lambda repeat: rclip,
            {"RCLIP_DATADIR": str(work.path("scratch", "rclip"))},
            before=clean_rclip,
            cwd=lambda repeat: folder if repeat >= 0 else one,
            warm_up=rclip,
        ),
        Runner(
            "clip-retrieval",
            lambda repeat: [*retrieval, f"--input_dataset={folder}"],
            before=lambda repeat: emptied("clip-retrieval") and None,
            warm_up=[*retrieval, f"--input_dataset={one}"],
        ),
        peer("pybioclip", "pybioclip", "bioclip_predict.py", work.checkpoint),
    ]


def measure(work: Work, args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """The answer for one of KINDS."""
    count = args.small if kind == "small" else args.photos
    folder = getattr(make_inputs, kind)(work, count)
    make_inputs.models(work)
    make_inputs.read_once(folder)
    warm(work, args, ("ViT-B-32", "ViT-B-32-256"))
    programs = chosen(runners(work, args, folder), args.peers)
    runs, failed = alternate(work, programs, args.repeats, count)
    check(work, count)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    result = summary(
        f"{count:,} {KINDS[kind]}, {size:,.0f} MB",
        OURS,
        runs,
        failed,
    )
    against_rclip = summary("", SEARCH, runs, {})
    for row in against_rclip["summary"]:
        if row["runner"] == "rclip":
            low, middle, high = row["ratio"]
            result["rclip_ratio"] = row["ratio"]
            result["remark"] = (
                f"rclip is to be compared with `{SEARCH}`: the same model, the same search by one "
                f"text, embeddings kept. It takes {low:.3g} / {middle:.3g} / {high:.3g} times as "
                f"long."
            )
    return result


def main() -> None:
    """The command."""
    arguments = parser(__doc__)
    make_inputs.add_sizes(arguments)
    arguments.add_argument("--images", choices=list(KINDS), default="photos", help="which")
    args = arguments.parse_args()
    work = work_of(args)
    finish(work, f"folder-{args.images}", measure(work, args, args.images), args)


if __name__ == "__main__":
    run_main(main)
