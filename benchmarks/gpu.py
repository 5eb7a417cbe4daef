"""How fast is a CUDA device, by precision, memory format, compilation and batch?

    python benchmarks/gpu.py [--device cuda] [--models ViT-B-32,mini,ViT-L-14] [--json FILE]

- `network`: the image tower alone, on pixels that lie on the device, with its cosine to float32 on
  the CPU and its share of the peak of a product of matrices. `pure` is half precision for all of
  the network: clipcls leaves a ViT's norms in float32.
- `encode`: the whole call that clipcls makes, from arrays on the host to vectors on the host, by
  batch; `plain` stacks in pageable memory and computes channels first.
- `files`: JPEGs to vectors by so many decoding threads, and decoding alone.
- `texts`: labels in a template to vectors, and their tokens alone.

ViTs have random weights, which take the same time. Rows are printed as they are measured, and
written to --json; what matters most comes first. --device cpu tries the script.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from clipcls.data.images import decode_image, read_bytes
from clipcls.embeddings import benchmark
from clipcls.embeddings.embed import Embedded, embed_images
from clipcls.models import cuda, loading, registry
from clipcls.models.backend import Backend
from clipcls.models.facts import ModelFacts
from clipcls.models.open_clip_encoder import OpenClipEncoder
from clipcls.models.torch_model import TorchModel, dtype
from clipcls.models.towers import least_cosine
from clipcls.numerics import unit_rows

PHOTOS = sorted((Path(__file__).resolve().parent.parent / "examples/photos").glob("*.jpg"))
Row = dict[str, Any]


class Table:
    """Rows as they come: printed, and written to a file of JSON."""

    def __init__(self, facts: Row, path: Path | None) -> None:
        self._facts, self._path, self._started = facts, path, time.perf_counter()
        self._rows: list[Row] = []
        print(json.dumps(facts))
        print(f"{'MODEL':<10}{'WHAT':<9}{'HOW':<44}{'images/s':>10}{'ms':>10}  NOTE", flush=True)

    def add(
        self, model: str, what: str, how: str, count: int, seconds: float, **notes: Any
    ) -> None:
        """One measurement: so many images in so many seconds."""
        at = round(time.perf_counter() - self._started, 1)
        rate = count / seconds
        row = {"model": model, "what": what, "how": how, "images_per_second": round(rate, 1)}
        self._rows.append(row | {"milliseconds": round(1000 * seconds, 3), "at": at} | notes)
        said = ", ".join(f"{name} {value}" for name, value in notes.items())
        print(
            f"{model:<10}{what:<9}{how:<44}{rate:>10,.0f}{1000 * seconds:>10.2f}  {said}",
            flush=True,
        )
        if self._path:
            self._path.write_text(json.dumps({**self._facts, "rows": self._rows}, indent=1))


def measured(work: Callable[[], object], device: str, seconds: float) -> float:
    """The median time of `work`, the device waited for, after two times that do not count."""
    times: list[float] = []
    for number in itertools.count():
        started = time.perf_counter()
        work()
        if cuda.is_cuda(device):
            torch.cuda.synchronize()
        if number > 1:
            times.append(time.perf_counter() - started)
        if len(times) >= 3 and sum(times) > seconds:
            return float(np.median(times))
    raise AssertionError


def sources(names: Sequence[str], folder: Path) -> Iterator[tuple[str, registry.ModelSource]]:
    """The models; ViTs with random weights, of ViT-L-14 the image tower alone."""
    for name in names:
        if name == "mini":
            yield name, registry.resolve(name)
            continue
        torch.manual_seed(0)
        text = {"text_cfg": {"layers": 1, "width": 8, "heads": 1}} if name == "ViT-L-14" else {}
        network = open_clip.create_model(name, load_weights=False, **text)
        tensors = {
            key: tensor.half().contiguous()
            for key, tensor in network.state_dict().items()
            if not text or key.startswith(("visual.", "logit_"))
        }
        save_file(tensors, folder / f"{name}.safetensors")
        yield name, registry.resolve(name, folder / f"{name}.safetensors")


def images_of(prepare: Callable[[Image.Image], Any], count: int) -> list[Any]:
    """So many preprocessed photos."""
    photos = [prepare(Image.open(path).convert("RGB")) for path in PHOTOS]
    return list(itertools.islice(itertools.cycle(photos), count))


def towers(source: registry.ModelSource, device: str) -> Iterator[tuple[str, TorchModel]]:
    """An image tower in each precision and memory format."""
    halves = cuda.half_precisions(device) if cuda.is_cuda(device) else ("bf16",)
    for precision in ("fp32", *halves):
        model = loading.load(source, device=device, precision=precision, tower="image")
        last = dataclasses.replace(model, channels_last=True)
        first = dataclasses.replace(model, channels_last=False)
        model.network.visual.to(memory_format=torch.contiguous_format)
        yield f"{precision}, channels first", first
        model.network.visual.to(memory_format=torch.channels_last)
        yield f"{precision}, channels last", last
        if precision == "fp32" and halves:
            # Built for float32 its norms are plain ones, which compute in what they are given.
            pure = copy.deepcopy(model.network).to(dtype(halves[0]))
            yield (
                f"pure {halves[0]}, channels last",
                dataclasses.replace(last, network=pure, precision=halves[0]),
            )


def on_device(model: TorchModel, images: Sequence[Any]) -> torch.Tensor:
    """Pixels as the network takes them."""
    pixels = torch.from_numpy(np.stack(images)).to(model.device).permute(0, 3, 1, 2)
    pixels = (pixels.float() / 127.5 - 1).to(dtype(model.precision))
    form = torch.channels_last if model.channels_last else torch.contiguous_format
    return pixels.contiguous(memory_format=form)


def network(
    table: Table, name: str, source: registry.ModelSource, device: str, args: argparse.Namespace
) -> None:
    """The image tower alone."""
    cpu = loading.load(source, tower="image")
    photos = images_of(cpu.preprocess, len(PHOTOS))
    with torch.inference_mode():
        expected = cpu.encode(photos).numpy()
    flops = count_operations(source)
    peak = functools.cache(lambda precision: gemm_peak(precision, device, 0.1))
    for how, model in towers(source, device):
        with torch.inference_mode():
            cosine = least_cosine(model.encode(photos).float().cpu().numpy(), expected)
        slow = model.precision == "fp32" and name == "ViT-L-14"
        for batch in (args.batch // 4,) if slow else (1, args.batch // 4, args.batch):
            pixels = on_device(model, images_of(cpu.preprocess, batch))
            run = inferred(model, pixels)
            if cuda.is_cuda(device):
                torch.cuda.reset_peak_memory_stats()
            taken = measured(run, device, args.seconds)
            notes: Row = {"cosine": round(cosine, 6)}
            notes["peak"] = f"{batch * flops / taken / peak(model.precision):.0%}"
            if cuda.is_cuda(device):
                notes["MB"] = torch.cuda.max_memory_allocated() >> 20
            table.add(name, "network", f"{how}, {batch} at a time", batch, taken, **notes)
        if name == "mini" and how.startswith("fp16"):
            torch.backends.cudnn.benchmark = True
            taken = measured(run, device, args.seconds)
            torch.backends.cudnn.benchmark = False
            table.add(name, "network", f"{how}, cudnn.benchmark", batch, taken)


def gemm_peak(precision: str, device: str, seconds: float) -> float:
    """The most multiplications and additions per second in a product of square matrices."""
    size = 2048 if device == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device).to(dtype(precision)) for _ in range(2))
    with torch.inference_mode():
        return 2 * size**3 / measured(lambda: torch.mm(left, right), device, seconds)


def count_operations(source: registry.ModelSource) -> float:
    """Multiplications and additions per image in the image tower."""
    model = loading.load(source, tower="image")
    pixels = torch.zeros(1, 3, model.preprocess.height, model.preprocess.width)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know fused attention
    try:
        with FlopCounterMode(display=False) as counter:
            model.network.encode_image(pixels)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return float(counter.get_total_flops())


def inferred(model: TorchModel, pixels: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A forward pass, to be called."""

    def run() -> torch.Tensor:
        with torch.inference_mode(), cuda.exact_float32():
            vectors: torch.Tensor = model.network.encode_image(pixels)
        return vectors

    return run


def plain(model: TorchModel, images: Sequence[Any]) -> np.ndarray:
    """Without what clipcls does for speed."""
    batch = torch.from_numpy(np.stack(images)).pin_memory().to(model.device, non_blocking=True)
    batch = batch.permute(0, 3, 1, 2).contiguous().float() / 255
    mean, std = (
        torch.tensor(values, device=model.device).view(3, 1, 1)
        for values in (model.preprocess.mean, model.preprocess.std)
    )
    batch = ((batch - mean) / std).to(dtype(model.precision))
    with torch.inference_mode():
        return unit_rows(model.network.encode_image(batch).float().cpu().numpy())


def encode(
    table: Table, name: str, source: registry.ModelSource, device: str, args: argparse.Namespace
) -> None:
    """From arrays to vectors, by batch."""
    chosen = OpenClipEncoder(source, Backend(device=device), facts=args.facts).precision
    model = loading.load(source, device=device, precision=chosen, tower="image")
    images = images_of(model.preprocess, 4 * args.batch)
    if cuda.is_cuda(device):
        taken = measured(lambda: plain(model, images[: args.batch]), device, args.seconds)
        table.add(name, "encode", f"{chosen}, {args.batch}, plain", args.batch, taken)
        taken = measured(
            lambda: cuda.copy_to_device(images[: args.batch], device), device, args.seconds
        )
        table.add(name, "encode", f"{args.batch}, stacked and copied only", args.batch, taken)
    for batch in (args.batch, args.batch // 4, args.batch // 2, 2 * args.batch, 1):
        made = OpenClipEncoder(source, Backend(device=device, precision=chosen, batch_size=batch))
        made._towers["image"] = model
        count = batch if batch == 1 else 4 * args.batch
        run = functools.partial(made.encode_images, images[:count])
        taken = measured(run, device, args.seconds)
        table.add(name, "encode", f"{chosen}, {batch} at a time", count, taken)


def files(
    table: Table, name: str, source: registry.ModelSource, device: str, args: argparse.Namespace
) -> None:
    """JPEGs to vectors, and their decoding alone, by threads."""
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.jpg"
        large.write_bytes(benchmark.sample_photo())
        # Without a cache every file is decoded, however often it comes.
        small = list(itertools.islice(itertools.cycle(map(str, PHOTOS)), args.images))
        sets = {"small": small, "12 MP": [str(large)] * (args.images // 8)}
        made = OpenClipEncoder(source, Backend(device=device), facts=args.facts)
        made.encode_images(images_of(made.preprocess, args.batch))
        for workers in args.workers:
            for kind, paths in sets.items():
                if workers < 8:
                    paths = paths[: len(paths) // 4]
                how = f"{kind}, {workers} threads"
                started = time.perf_counter()
                found = list(embed_images(made, paths, backend=Backend(workers=workers)))
                taken = time.perf_counter() - started
                assert all(isinstance(item, Embedded) for item in found)
                table.add(name, "files", f"{how}, {made.precision}", len(paths), taken)
                if name == "mini":
                    started = time.perf_counter()
                    with ThreadPoolExecutor(workers) as pool:
                        prepare = functools.partial(decoded, made)
                        assert len(list(pool.map(prepare, paths))) == len(paths)
                    taken = time.perf_counter() - started
                    table.add(name, "files", f"{how}, decoded only", len(paths), taken)


def decoded(made: OpenClipEncoder, path: str) -> np.ndarray:
    """A file's pixels as the model takes them."""
    return made.preprocess(decode_image(read_bytes(path), path, least_side=made.least_side))


def texts(
    table: Table, name: str, source: registry.ModelSource, device: str, args: argparse.Namespace
) -> None:
    """Labels in a template."""
    made = OpenClipEncoder(source, Backend(device=device), facts=args.facts)
    labels = [f"a photo of a thing number {number}." for number in range(4 * args.images)]
    made.encode_texts(labels[: args.batch])
    for how, work in (
        (f"{made.precision}", lambda: made.encode_texts(labels)),
        ("tokens only", lambda: made._tokenizer(labels)),
    ):
        started = time.perf_counter()
        work()
        table.add(name, "texts", how, len(labels), time.perf_counter() - started)


def compiled(
    table: Table, name: str, source: registry.ModelSource, device: str, args: argparse.Namespace
) -> None:
    """torch.compile, and what it costs."""
    precision = (cuda.half_precisions(device) or ("fp32",))[0] if cuda.is_cuda(device) else "fp32"
    batch = args.batch
    for mode in ("default", "reduce-overhead"):
        model = loading.load(source, device=device, precision=precision, tower="image")
        pixels = on_device(model, images_of(model.preprocess, batch))
        visual = torch.compile(model.network.visual, mode=mode, dynamic=False)

        def run(visual: Any = visual, pixels: torch.Tensor = pixels) -> torch.Tensor:
            with torch.inference_mode():
                vectors: torch.Tensor = visual(pixels)
            return vectors

        started = time.perf_counter()
        run()
        if cuda.is_cuda(device):
            torch.cuda.synchronize()
        first = time.perf_counter() - started
        taken = measured(run, device, args.seconds)
        how = f"{precision}, compiled ({mode}), {batch} at a time"
        table.add(name, "network", how, batch, taken, first_s=round(first, 1))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", default="ViT-B-32,mini,ViT-L-14")
    parser.add_argument("--parts", default="encode,files,network,texts,compiled")
    parser.add_argument("--batch", type=int, default=256, help="the usual batch")
    parser.add_argument("--images", type=int, default=1024, help="files to encode")
    parser.add_argument("--workers", default="4,8,16", help="decoding threads")
    parser.add_argument("--seconds", type=float, default=0.2, help="about how long each is tried")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.workers = [int(number) for number in args.workers.split(",")]
    device = args.device
    if cuda.is_cuda(device):
        cuda.check(device)
    facts = {
        "device": torch.cuda.get_device_name(device) if cuda.is_cuda(device) else device,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    table = Table(facts, args.json)
    parts = {part.__name__: part for part in (network, encode, files, texts, compiled)}
    with tempfile.TemporaryDirectory(prefix="clipcls-cuda-") as folder:
        args.facts = ModelFacts(Path(folder))
        made = list(sources(args.models.split(","), Path(folder)))
        for part in args.parts.split(","):
            for name, source in made:
                if name == "ViT-L-14" and part in ("texts", "compiled"):
                    continue
                parts[part](table, name, source, device, args)


if __name__ == "__main__":
    main()
