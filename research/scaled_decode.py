"""Do JPEGs decoded at a reduced scale get the labels they get when decoded whole?

Usage: scaled_decode.py FOLDER [--model mini] [--labels imagenet,coco80] [--photos 1000]
    [--margins 2,3,4]

Takes photos that clipcls would decode at a reduced scale, decodes them whole and reduced, and
prints for each margin (how many times the model's input the reduced sides must leave; clipcls's is
2) how many keep their best label, how far pixels and vectors move, and what decoding costs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from clipcls import ImageError, ZeroShotClassifier
from clipcls.data.images import decode_image, read_bytes


def main() -> None:
    """Prints one JSON object a margin."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--labels", default="imagenet,coco80", help="label sets, by commas")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--margins", default="2,3,4")
    options = parser.parse_args()
    sets = options.labels.split(",")
    encoder = ZeroShotClassifier(sets[0], options.model).fit().encoder_
    classifiers = {name: ZeroShotClassifier(name, encoder).fit() for name in sets}
    side = encoder.least_side / 2
    margins = [float(margin) for margin in options.margins.split(",")]
    ways = ["whole", *margins]
    pending: dict = {way: [] for way in ways}
    vectors: dict = {way: [] for way in ways}
    moved: dict = {way: [] for way in ways}
    seconds = dict.fromkeys(ways, 0.0)
    reduced = dict.fromkeys(ways, 0)
    photos = 0
    for path in sorted(options.folder.rglob("*.jpg")):
        try:
            with Image.open(path) as image:
                if min(image.size) < 4 * side:
                    continue
            data = read_bytes(str(path))
            decoded = {}
            for way in ways:
                least = None if way == "whole" else round(way * side)
                start = time.perf_counter()
                decoded[way] = decode_image(data, str(path), least_side=least)
                seconds[way] += time.perf_counter() - start
        except (ImageError, OSError):
            continue
        whole = decoded["whole"]
        for way, image in decoded.items():
            pending[way].append(encoder.preprocess(image))
            reduced[way] += image.size != whole.size
            moved[way].append(np.abs(pending[way][-1].astype(int) - pending["whole"][-1]).mean())
        photos += 1
        if photos % encoder.batch_size == 0 or photos == options.photos:
            _encode(encoder, pending, vectors)
        if photos == options.photos:
            break
    _encode(encoder, pending, vectors)
    if not photos:
        parser.exit(2, f"{options.folder}: no JPEG large enough to be reduced\n")
    rows = {way: np.concatenate(part) for way, part in vectors.items()}
    for way in ways[1:]:
        cosines = (rows["whole"] * rows[way]).sum(axis=1)
        same = {
            name: round(float((made.predict(rows[way]) == made.predict(rows["whole"])).mean()), 4)
            for name, made in classifiers.items()
        }
        found = {
            "margin": way,
            "photos": photos,
            "reduced": reduced[way],
            "same label": same,
            "mean pixel difference": round(float(np.mean(moved[way])), 3),
            "mean cosine": round(float(cosines.mean()), 5),
            "least cosine": round(float(cosines.min()), 4),
            "ms to decode": round(1000 * seconds[way] / photos, 1),
            "ms to decode whole": round(1000 * seconds["whole"] / photos, 1),
        }
        print(json.dumps(found))


def _encode(encoder, pending, vectors) -> None:
    for way, images in pending.items():
        if images:
            vectors[way].append(encoder.encode_images(images))
            images.clear()


if __name__ == "__main__":
    main()
