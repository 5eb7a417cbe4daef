"""Encodes batches of one model by one backend for some seconds; prints images a second as JSON.

    encode.py openvino|torch CHECKPOINT BATCH SECONDS      in clipcls's environment
    encode.py onnxruntime visual.onnx BATCH SECONDS        in rclip's

ViT-B-32-256, float32, random pixels; loading and five seconds of warming up are not counted.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIDE = 256


def by_clipcls(backend: str, checkpoint: Path, batch: int) -> Callable[[], object]:
    """One call encodes a batch with clipcls's encoder."""
    from clipcls.models.backend import Backend
    from clipcls.models.encoder import open_encoder

    encoder = open_encoder(
        "ViT-B-32-256",
        checkpoint=checkpoint,
        backend=Backend(backend, precision="fp32", batch_size=batch),
    )
    pixels = list(np.random.default_rng(0).integers(0, 256, (batch, SIDE, SIDE, 3), np.uint8))
    return lambda: encoder.encode_images(pixels)


def by_onnxruntime(model: Path, batch: int) -> Callable[[], object]:
    """One call encodes a batch with ONNX Runtime, with the threads that it takes by default."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).random((batch, 3, SIDE, SIDE), np.float32)
    return lambda: session.run(None, {"input": pixels})


def main() -> None:
    """The command."""
    backend, model, batch, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if backend == "onnxruntime":
        encode = by_onnxruntime(model, batch)
    else:
        encode = by_clipcls(backend, model, batch)
    end = time.perf_counter() + 5
    while time.perf_counter() < end:
        encode()
    times = []
    end = time.perf_counter() + float(seconds)
    while time.perf_counter() < end:
        start = time.perf_counter()
        encode()
        times.append(time.perf_counter() - start)
    print(json.dumps({"images_per_second": batch / statistics.median(times)}))


if __name__ == "__main__":
    main()
