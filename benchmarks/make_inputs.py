"""Makes the images, labels and models that the benchmarks use; always the same ones.

    python benchmarks/make_inputs.py [--photos 300] [--small 5000] [--labels 10000]

The photos are those of examples/photos at 12 MP with grain, so that their files have the size of a
camera's (1 to 7 MB), or without it (smooth), whose files are small and soon decoded. The small
images are pieces of the photos. No two are alike.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import HERE, REPOSITORY, Work, die, parser, require, run_main, say, work_of

EXAMPLES = REPOSITORY / "examples" / "photos"
LABELS = REPOSITORY / "examples" / "labels.txt"
_QUALITIES = (75, 85, 90, 95)
_LONG, _SHORT = 4000, 3000


def photos(work: Work, count: int) -> Path:
    """A folder of so many 12 MP photos."""
    return _folder(work, "photos", count, partial(_make_photos, grain=4))


def smooth(work: Work, count: int) -> Path:
    """A folder of so many 12 MP photos without grain."""
    return _folder(work, "smooth", count, partial(_make_photos, grain=0))


def small(work: Work, count: int) -> Path:
    """A folder of so many images of 200 to 400 pixels."""
    return _folder(work, "small", count, _make_small)


def labels(work: Work, count: int) -> Path:
    """A file of so many labels of one to five words."""
    path = work.path("labels", f"{count}.txt")
    names = _lines(REPOSITORY / "prompts" / "labels" / "imagenet.txt")
    kinds = ("", "old", "small", "red", "wooden", "wet", "broken", "painted", "young", "striped")
    made = [f"{kind} {name}".strip() for kind, name in itertools.product(kinds, names)]
    if count > len(made):
        die(f"{count} labels: there are at most {len(made)}")
    path.write_text("\n".join(made[:count]) + "\n", encoding="utf-8")
    return path


def other_labels(work: Work, number: int) -> Path:
    """As many labels as examples/labels.txt has, but others: another file for each number."""
    size = len(_lines(LABELS))
    kinds = ("blue", "heavy", "tiny", "dusty", "golden", "plastic", "ancient", "shiny", "folded")
    path = work.path("labels", f"other-{number}.txt")
    kind = f"{kinds[number % len(kinds)]} {'very ' * (number // len(kinds))}".strip()
    names = _lines(REPOSITORY / "prompts" / "labels" / "imagenet.txt")[-size:]
    path.write_text("\n".join(f"{kind} {name}" for name in names) + "\n", encoding="utf-8")
    return path


def models(work: Work) -> None:
    """The models, made by the environment `tools`."""
    forms = (work.checkpoint, work.checkpoint_256, work.hf_model, work.rclip_data)
    if all(path.exists() for path in forms):
        return
    python = require(work.python("tools"), "benchmarks/venvs.py")
    say("making the models")
    log = work.path("logs", "make-models.txt")
    with log.open("w") as out:
        command = [python, HERE / "make_models.py", work.checkpoint.parent]
        if subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode:
            die(f"the models could not be made; why is in {log}")


def read_once(folder: Path) -> None:
    """Reads a folder's files, so that no run is the one that waits for the disk."""
    for path in folder.iterdir():
        path.read_bytes()


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _folder(work: Work, kind: str, count: int, make: Callable[[Path, list[int]], None]) -> Path:
    """A folder with the first `count` of the images that are or will be in kind's pool."""
    folder = work.root / f"{kind}-{count}"
    if folder.is_dir():
        return folder
    pool = work.path("pool", kind, "x").parent
    missing = [number for number in range(count) if not (pool / f"{number:06}.jpg").exists()]
    if missing:
        say(f"making {len(missing):,} images")
        # In a process of its own: what this one holds would count as its children's peak memory.
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(pool, missing))
        maker.start()
        maker.join()
        if maker.exitcode:
            die(f"the images could not be made in {pool}")
    part = work.root / f"{kind}-{count}.part"
    part.mkdir(exist_ok=True)
    for number in range(count):
        link = part / f"{number:06}.jpg"
        if not link.exists():
            os.link(pool / link.name, link)
    part.rename(folder)
    return folder


def _originals() -> list[Path]:
    found = sorted(EXAMPLES.glob("*.jpg"))
    return found or die(f"{EXAMPLES}: there are no photos: run this in a clone of the repository")


def _make_photos(pool: Path, numbers: list[int], grain: float) -> None:
    import numpy as np
    from PIL import Image, ImageOps

    paths = _originals()
    size = (_LONG + 512, _LONG + 512)
    noise = np.random.default_rng(0).normal(0, grain, size).astype(np.int8)
    for number in numbers:
        chance = random.Random(number)
        with Image.open(paths[number % len(paths)]) as image:
            size = (_LONG, _SHORT) if image.width >= image.height else (_SHORT, _LONG)
            zoom = chance.uniform(0.8, 1)
            middle = (chance.random(), chance.random())
            box = [round(side * zoom) for side in image.size]
            left, top = (
                round((side - part) * at)
                for side, part, at in zip(image.size, box, middle, strict=True)
            )
            piece = image.convert("RGB").crop((left, top, left + box[0], top + box[1]))
        large = ImageOps.fit(piece, size, Image.Resampling.BICUBIC)
        if chance.random() < 0.5:
            large = ImageOps.mirror(large)
        y, x = chance.randrange(512), chance.randrange(512)
        here = noise[y : y + size[1], x : x + size[0], None]
        pixels = np.clip(np.asarray(large, np.int16) + here, 0, 255).astype(np.uint8)
        _save(Image.fromarray(pixels), pool / f"{number:06}.jpg", _QUALITIES[number // 20 % 4])


def _make_small(pool: Path, numbers: list[int]) -> None:
    from PIL import Image, ImageOps

    originals = [Image.open(path).convert("RGB") for path in _originals()]
    for number in numbers:
        chance = random.Random(number)
        image = originals[number % len(originals)]
        width, height = (round(side * chance.uniform(0.5, 1)) for side in image.size)
        left = chance.randrange(image.width - width + 1)
        top = chance.randrange(image.height - height + 1)
        piece = image.crop((left, top, left + width, top + height))
        size = (chance.randrange(200, 401), chance.randrange(200, 401))
        piece = ImageOps.fit(piece, size, Image.Resampling.BICUBIC)
        if chance.random() < 0.5:
            piece = ImageOps.mirror(piece)
        _save(piece, pool / f"{number:06}.jpg", chance.choice(_QUALITIES))


def _save(image: object, path: Path, quality: int) -> None:
    """Writes a JPEG; whole or not at all."""
    part = path.with_suffix(".part")
    image.save(part, "JPEG", quality=quality)  # type: ignore[attr-defined]
    part.rename(path)


def add_sizes(arguments: argparse.ArgumentParser) -> None:
    """The flags that say how many."""
    arguments.add_argument("--photos", type=int, default=300, help="photos of 12 MP")
    arguments.add_argument("--small", type=int, default=5000, help="small images")
    arguments.add_argument("--labels", type=int, default=10_000, help="labels, 7 texts each")


def main() -> None:
    """The command."""
    arguments = parser(__doc__)
    add_sizes(arguments)
    args = arguments.parse_args()
    work = work_of(args)
    photos(work, args.photos)
    small(work, args.small)
    labels(work, args.labels)
    models(work)


if __name__ == "__main__":
    run_main(main)
