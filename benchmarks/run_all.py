"""Runs all benchmarks: environments, inputs, measurements, results.json and a table.

python benchmarks/run_all.py                 # the whole of it: hours on 2 cores
python benchmarks/run_all.py --quick         # the same questions, asked small
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder
import labels
import make_inputs
import memory
import new_labels
import one_photo
import venvs
from common import die, machine, parser, run_main, say, table, versions, work_of

# pybioclip takes minutes for its labels alone, and is left out.
_QUICK = {
    "photos": 30,
    "small": 300,
    "labels": 300,
    "repeats": 2,
    "stop_after": 30.0,
    "counts": "200,1000",
    "peers": "open_clip loop,transformers pipeline,rclip,clip-retrieval,build_zero_shot_classifier",
}


def main() -> None:
    """The command."""
    arguments = parser(__doc__)
    make_inputs.add_sizes(arguments)
    memory.add_flags(arguments)
    arguments.add_argument("--torch-from", type=Path, metavar="VENV", help="as of venvs.py")
    arguments.add_argument(
        "--only",
        default="",
        help="by commas: photos, smooth, small, one, labels, new-photos, new-small, memory",
    )
    arguments.add_argument(
        "--quick",
        action="store_true",
        help="ask the same questions small, without pybioclip: a quarter of an hour",
    )
    if arguments.parse_args().quick:
        arguments.set_defaults(**_QUICK)
    args = arguments.parse_args()
    work = work_of(args)
    questions: dict[str, Callable[[], dict[str, Any]]] = {
        "photos": lambda: folder.measure(work, args, "photos"),
        "smooth": lambda: folder.measure(work, args, "smooth"),
        "small": lambda: folder.measure(work, args, "small"),
        "one": lambda: one_photo.measure(work, args),
        "labels": lambda: labels.measure(work, args),
        "new-photos": lambda: new_labels.measure(work, args, "photos"),
        "new-small": lambda: new_labels.measure(work, args, "small"),
        "memory": lambda: memory.measure(work, args),
    }
    wanted = [name.strip() for name in args.only.split(",") if name.strip()] or list(questions)
    for name in wanted:
        if name not in questions:
            die(f"{name}: no such question; there are {', '.join(questions)}")
    if args.torch_from and not args.torch_from.is_dir():
        die(f"{args.torch_from}: there is no such folder")
    missing = venvs.make(
        work, list(venvs.REQUIREMENTS), args.torch_from and args.torch_from.resolve()
    )
    results: dict[str, Any] = {
        "machine": machine(),
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(args).items()
        },
        "versions": {"clipcls": versions(args.clipcls.parent / "python")}
        | {name: versions(work.python(name)) for name in venvs.REQUIREMENTS},
        "environments_not_made": missing,
    }
    path = work.path("results", "results.json")
    for name in wanted:
        say(f"{name}:")
        results[name] = questions[name]()
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    report = markdown(results)
    path.with_name("results.md").write_text(report, encoding="utf-8")
    print(report)
    say(f"written to {path} and {path.with_name('results.md')}")


def markdown(results: dict[str, Any]) -> str:
    """Everything as Markdown, for a README."""
    facts = results["machine"]
    lines = [
        f"{facts['date']}; {facts['processor']}, {facts['cores']} cores, "
        f"{facts['memory_gib']} GiB, {facts['system']}.",
        "",
    ]
    for name, found in results["versions"].items():
        if found and name != "tools":
            said = ", ".join(f"{package} {version}" for package, version in found.items())
            lines.append(f"- {name}: {said}")
    for result in results.values():
        if isinstance(result, dict) and "summary" in result:
            lines += ["", table(result)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_main(main)
