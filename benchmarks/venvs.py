"""Makes an environment of its own for each peer, in the work folder.

python benchmarks/venvs.py [--only rclip,transformers] [--torch-from VENV]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from common import Work, die, parser, run_main, say, work_of

# Environment -> what pip is asked for. "tools" makes the models and is not measured.
REQUIREMENTS = {
    "tools": ["open_clip_torch", "transformers", "onnx", "onnxruntime", "onnxscript"],
    "open_clip": ["open_clip_torch"],
    "transformers": ["transformers", "torch", "torchvision", "pillow"],
    "rclip": ["rclip"],
    # setuptools: its dependencies still import pkg_resources, which newer ones lack.
    "clip_retrieval": ["clip-retrieval", "setuptools<81"],
    "pybioclip": ["pybioclip"],
}

# What torch is made of, by the beginnings of names in site-packages.
_TORCH = ("torch", "functorch", "nvidia", "triton", "cuda", "_cuda")


def make(work: Work, names: list[str], torch_from: Path | None = None) -> dict[str, str]:
    """Makes the environments that are not there yet.

    Args:
        work: the work folder.
        names: keys of `REQUIREMENTS`.
        torch_from: an environment whose torch the new ones are to use instead of their own, to
            save 5 GB and some minutes each.

    Returns:
        environment -> why it could not be made, in one line.
    """
    failed = {}
    for name in names:
        python = work.python(name)
        done = python.parent.parent / "made"
        if done.exists():
            continue
        say(f"making the environment {name}: pip install {' '.join(REQUIREMENTS[name])}")
        log = work.path("logs", f"pip-{name}.txt")
        subprocess.run([sys.executable, "-m", "venv", "--clear", python.parent.parent], check=True)
        if torch_from is not None and name != "rclip":  # rclip needs no torch
            _borrow_torch(work, python, torch_from)
        with log.open("w") as out:
            command = [python, "-m", "pip", "install", *REQUIREMENTS[name]]
            status = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode
        if status:
            lines = [line for line in log.read_text().splitlines() if "ERROR" in line]
            failed[name] = f"pip: {(lines or ['it failed'])[-1]} (all of it: {log})"
            say(f"  {failed[name]}")
        else:
            done.touch()
    return failed


def _borrow_torch(work: Work, python: Path, lender: Path) -> None:
    """Lets an environment see another's torch, and nothing else of that other's."""
    (packages,) = lender.glob("lib/python3*/site-packages")
    shared = work.path("borrowed-torch", "x").parent
    for entry in packages.iterdir():
        link = shared / entry.name
        if entry.name.startswith(_TORCH) and not link.is_symlink():
            link.symlink_to(entry)
    query = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    (Path(own) / "borrowed_torch.pth").write_text(f"{shared}\n")


def main() -> None:
    """The command."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", default=",".join(REQUIREMENTS), help="environments")
    arguments.add_argument("--torch-from", type=Path, metavar="VENV", help="use this one's torch")
    args = arguments.parse_args()
    names = [name.strip() for name in args.only.split(",")]
    for name in names:
        if name not in REQUIREMENTS:
            die(f"{name}: no such environment; there are {', '.join(REQUIREMENTS)}")
    if args.torch_from and not args.torch_from.is_dir():
        die(f"{args.torch_from}: there is no such folder")
    if os.name == "nt" and args.torch_from:
        die("--torch-from needs symbolic links; leave it out")
    if make(work_of(args), names, args.torch_from and args.torch_from.resolve()):
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
