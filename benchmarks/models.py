"""How many images per second does each architecture encode, next to ViT-B-32 in the same run?

    python benchmarks/models.py [--rounds 5] [--isa AVX2] [--images 16] [ARCHITECTURE...]

Random weights of open_clip's architectures (speed does not depend on their values) as the graphs
that clipcls runs on a CPU, in float32 and bfloat16. Architecture and ViT-B-32 take turns, and the
best of the rounds counts. A rate is the number of cores divided by the CPU seconds per image, which
other programs on the machine hardly change. --isa limits the instructions that oneDNN may use
(ONEDNN_MAX_CPU_ISA). Prints one JSON line per architecture.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ARCHITECTURES = [
    "ViT-B-32",
    "ViT-B-32-256",
    "PE-Core-T-16-384",
    "PE-Core-S-16-384",
    "PE-Core-B-16",
    "ViT-B-32-SigLIP2-256",
    "ViT-B-16-SigLIP2",
    "ViT-B-16-SigLIP2-256",
    "ViT-L-14",
    "ViT-L-16-SigLIP2-256",
    "PE-Core-L-14-336",
    "ViT-SO400M-16-SigLIP2-256",
    "ViT-SO400M-16-SigLIP2-384",
]


def make_graph(architecture: str, precisions: list[str], folder: Path) -> tuple[int, Any]:
    """The image tower with random weights: its input's side, and a graph per precision."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from clipcls.models import loading, openvino, towers
    from clipcls.models.architectures import read_architecture
    from clipcls.models.registry import ModelSource

    torch.manual_seed(0)
    network = open_clip.create_model(architecture, pretrained=None)
    tensors = network.state_dict()
    file = folder / f"{architecture}.safetensors"
    save_file({k: v for k, v in tensors.items() if k.startswith(("visual.", "logit_"))}, file)
    del network, tensors
    config = read_architecture(architecture)
    source = ModelSource(architecture, architecture, config, None, False, file)
    model = loading.load(source, tower="image")
    file.unlink()
    probe = towers.image_probe(model.preprocess)
    with torch.inference_mode():  # caches what a trace must not record
        model.forward(torch.from_numpy(probe))
    graph = towers._convert(model, probe, [-1, *probe.shape[1:]])
    compiled = {p: openvino.Graph(openvino.compile_graph(graph, p)) for p in precisions}
    return probe.shape[1], compiled


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=ARCHITECTURES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--isa")
    arguments = parser.parse_args()
    if arguments.isa:
        os.environ["ONEDNN_MAX_CPU_ISA"] = arguments.isa
    import numpy as np

    from clipcls.models import openvino

    precisions = ["fp32"] if arguments.isa or not openvino.has_bf16() else ["fp32", "bf16"]
    rng, cores = np.random.default_rng(0), len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        reference = make_graph("ViT-B-32", precisions, Path(folder))
        for architecture in arguments.architectures:
            graphs = {"": make_graph(architecture, precisions, Path(folder)), "ViT-B-32": reference}
            best: dict[str, float] = {}
            for _ in range(arguments.rounds):
                for name, (side, compiled) in graphs.items():
                    shape = (arguments.images, side, side, 3)
                    pixels = rng.integers(0, 256, shape, np.uint8)
                    for precision, graph in compiled.items():
                        key = f"{name} {precision}".strip()
                        graph(pixels[:1])
                        started = time.process_time()
                        graph(pixels)
                        rate = cores * arguments.images / (time.process_time() - started)
                        best[key] = round(max(best.get(key, 0), rate), 2)
            load = round(os.getloadavg()[0], 1)
            print(json.dumps({"architecture": architecture, **best, "load": load}), flush=True)
            del graphs


if __name__ == "__main__":
    sys.exit(main())
