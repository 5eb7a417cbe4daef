"""How much memory and time do image files take that were made to take much?

    python benchmarks/hostile.py [--workers 2,4,8] [--work FOLDER]

Makes some 200 files that are small on the disk and large in memory, near the limit on pixels and
below it: solid images of every format that Pillow writes, by mode and compression, progressive,
rotated, tiled, animated, with compressed texts, and all of them cut off. `clipcls classify` reads
them, and the same number of small ones for comparison. Then each file is decoded alone, in time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import REPOSITORY, die, run_main

PIXELS = 178_000_000  # just below the limit
SHARES = (1, 4)  # of these pixels: all, a quarter
MODES = ("RGB", "RGBA", "L", "P", "1", "I;16", "LA", "CMYK", "F")
COLOUR: dict[str, Any] = {"RGB": (90, 140, 30), "RGBA": (9, 140, 30, 99), "CMYK": (1, 2, 3, 4)}
# Format -> options to save with, and the longest side that it can have.
FORMATS: dict[str, tuple[str, tuple[dict[str, Any], ...], int]] = {
    "PNG": ("png", ({"compress_level": 1},), 1 << 30),
    "JPEG": ("jpg", ({}, {"progressive": True}, {"exif": "turned"}), 65_500),
    "WEBP": ("webp", ({"lossless": True}, {"quality": 1}), 16_383),
    "AVIF": ("avif", ({"speed": 10, "quality": 1},), 65_535),
    "TIFF": (
        "tif",
        tuple({"compression": c} for c in ("tiff_deflate", "tiff_lzw", "packbits", "jpeg")),
        1 << 30,
    ),
    "GIF": ("gif", ({}, {"frames": 3}), 65_535),
    "TGA": ("tga", ({"compression": "tga_rle"},), 65_535),
    "PCX": ("pcx", ({},), 65_535),
    "QOI": ("qoi", ({},), 1 << 30),
}


def encode(kind: str, mode: str, size: tuple[int, int], options: dict[str, Any]) -> bytes:
    """A solid image as a file; raises what Pillow raises where a format has no such mode."""
    from PIL import Image

    image = Image.new(mode, size, COLOUR.get(mode, 1))
    options = dict(options)
    if options.get("exif"):
        exif = Image.Exif()
        exif[274] = 6
        options["exif"] = exif
    if frames := options.pop("frames", 0):
        options |= {"save_all": True, "append_images": [image] * (frames - 1)}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def files() -> Iterator[tuple[str, bytes]]:
    """Names and contents."""
    from PIL import Image, PngImagePlugin

    Image.MAX_IMAGE_PIXELS = None
    for (kind, (suffix, options, longest)), mode, share in itertools.product(
        FORMATS.items(), MODES, SHARES
    ):
        height = min(longest, int((PIXELS / share) ** 0.5))
        size = min(longest, int(PIXELS / share / height)), height
        for number, option in enumerate(options):
            if share > 1 and number:
                continue
            try:
                data = encode(kind, mode, size, option)
            except (OSError, ValueError, KeyError, SystemError, MemoryError):
                continue  # the format has no such mode
            name = f"{kind}-{mode.replace(';', '')}-{share}-{number}"
            if len(data) < 40 << 20:
                yield f"{name}.{suffix}", data
                if share == 1:
                    yield f"{name}-cut.{suffix}", data[: len(data) * 3 // 4]
    for share in (5,):  # OpenJPEG takes seconds for ten megapixels
        side = int((PIXELS / share) ** 0.5)
        for mode in ("RGB", "L"):
            yield f"JPEG2000-{mode}-{share}.jp2", encode("JPEG2000", mode, (side, side), {})
    for width, height in ((65_500, 2_700), (2_700, 65_500), (PIXELS // 2, 1), (1, PIXELS // 2)):
        yield f"strip-{width}.png", encode("PNG", "RGB", (width, height), {})
    for number in (1, 60):
        text = PngImagePlugin.PngInfo()
        for key in range(number):
            text.add_text(f"k{key}", "a" * 1_000_000, zip=True)
        yield f"text-{number}.png", encode("PNG", "RGB", (13_000, 13_000), {"pnginfo": text})


def peak(folder: Path, workers: int, photos: Path, labels: Path) -> tuple[float, float, int]:
    """Peak memory of a run in MB, its seconds, and how many files it could not read."""
    watch = (
        "import os, resource, subprocess, sys; code = subprocess.call(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3)"
    )
    command = [sys.executable, "-m", "clipcls", "classify", "-m", "mini", "--labels", str(labels)]
    command += ["--no-cache", "--workers", str(workers), "-q", "-f", "jsonl"]
    command += ["-o", str(folder / "results.jsonl"), str(photos)]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", watch, *command], capture_output=True, text=True, check=False
    )
    try:
        memory = float(done.stdout.split()[-1])
        lines = (folder / "results.jsonl").read_text("utf-8").splitlines()
    except (IndexError, ValueError, OSError):
        die(f"clipcls failed: {done.stderr[-500:]}")
    errors = sum("error" in json.loads(line) for line in lines)
    return memory, time.monotonic() - began, errors


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", default="2,4,8")
    parser.add_argument("--work", type=Path, default=Path("/tmp/clipcls-hostile"))
    parser.add_argument("--alone", action="store_true", help="only time each file alone")
    args = parser.parse_args()
    hostile, small = args.work / "hostile", args.work / "small"
    if not hostile.exists():
        hostile.mkdir(parents=True)
        for name, data in files():
            (hostile / name).write_bytes(data)
    names = sorted(hostile.iterdir())
    if not small.exists():
        small.mkdir()
        photos = sorted((REPOSITORY / "examples" / "photos").glob("*.jpg"))
        for number in range(len(names)):
            photo = photos[number % len(photos)]
            (small / f"{number}.jpg").write_bytes(photo.read_bytes())
    labels = REPOSITORY / "examples" / "labels.txt"
    print(f"{len(names)} files, {sum(f.stat().st_size for f in names) / 1e6:.0f} MB")
    for workers in () if args.alone else map(int, args.workers.split(",")):
        own, _, _ = peak(args.work, workers, small, labels)
        most, seconds, errors = peak(args.work, workers, hostile, labels)
        print(
            f"{workers} workers: {most:.0f} MB, {most - own:.0f} over as many small photos;"
            f" {seconds:.0f} s; {errors} not read",
            flush=True,
        )
    from clipcls.data.images import decode_image
    from clipcls.errors import ImageError

    times = []
    for path in names:
        began = time.thread_time()
        with contextlib.suppress(ImageError):
            decode_image(path.read_bytes(), str(path), least_side=224)
        times.append((time.thread_time() - began, path.name))
    for seconds, name in sorted(times, reverse=True)[:5]:
        print(f"{seconds:.1f} s of CPU alone: {name}")


if __name__ == "__main__":
    run_main(main)
