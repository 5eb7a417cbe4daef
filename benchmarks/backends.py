"""Which backend encodes images fastest on this CPU?

    python benchmarks/backends.py [--repeats 3] [--isa SSE41]

OpenVINO and torch as clipcls runs them, and ONNX Runtime as rclip does, on the same weights of
ViT-B-32-256 in float32, 1 and 32 images at a time, in turn, each in a process of its own. --isa
limits the instructions that oneDNN may use (ONEDNN_MAX_CPU_ISA; ONNX Runtime does not heed it).
clipcls's figures include turning bytes into normalised floats; ONNX Runtime is given these.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from common import (
    PEERS,
    Work,
    die,
    environment,
    finish,
    parser,
    require,
    run_main,
    say,
    spread,
    work_of,
)

SECONDS = 8


def measure(work: Work, isa: str | None, repeats: int, clipcls: Any) -> dict[str, Any]:
    """Images a second, and how many times as long as OpenVINO an backend takes."""
    onnx = work.rclip_data / "ViT-B-32-256-datacomp_s34b_b86k" / "visual.onnx"
    ours = clipcls.parent / "python"
    backends = {
        "openvino": (ours, require(work.checkpoint_256, "benchmarks/folder.py")),
        "torch": (ours, work.checkpoint_256),
        "onnxruntime": (work.python("rclip"), require(onnx, "benchmarks/folder.py")),
    }
    limits = {"ONEDNN_MAX_CPU_ISA": isa} if isa else {}
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(repeats):
        for batch in (1, 32):
            for backend, (python, model) in backends.items():
                command = [python, PEERS / "encode.py", backend, model, str(batch), str(SECONDS)]
                done = subprocess.run(
                    command, env=environment(work) | limits, capture_output=True, text=True
                )
                if done.returncode:
                    die(f"{backend}: {(done.stderr.strip() or 'it said nothing').splitlines()[-1]}")
                rate = json.loads(done.stdout.splitlines()[-1])["images_per_second"]
                found.setdefault((backend, batch), []).append(rate)
                say(f"  {backend}, {batch} at a time: {rate:.1f} images/s")
    rows = [
        {
            "runner": f"{backend}, {batch} at a time",
            "images_per_second": spread(rates),
            "ratio": spread([a / b for a, b in zip(found["openvino", batch], rates, strict=True)]),
            "note": "",
        }
        for (backend, batch), rates in found.items()
    ]
    return {
        "question": "Images a second by backend, ViT-B-32-256, float32"
        + (f", at most {isa}" if isa else ""),
        "compared_with": "",
        "without": ["seconds", "peak memory"],
        "summary": rows,
        "not_run": {},
        "remark": "Times as long as OpenVINO at the same batch size.",
    }


def main() -> None:
    """The command."""
    arguments = parser(__doc__)
    arguments.add_argument("--isa", help="e.g. AVX2 or SSE41")
    args = arguments.parse_args()
    work = work_of(args)
    name = f"backends-{args.isa.lower()}" if args.isa else "backends"
    finish(work, name, measure(work, args.isa, args.repeats, args.clipcls), args)


if __name__ == "__main__":
    run_main(main)
