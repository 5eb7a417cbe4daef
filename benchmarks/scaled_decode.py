"""Do JPEGs decoded at a reduced scale get the labels they get when decoded whole?

Usage: scaled_decode.py FOLDER [--model mini] [--labels imagenet] [--photos 1000]

Takes photos that clipcls would decode at a reduced scale, decodes them both ways, and prints how
many keep their best label, and how far vectors and pixels move.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from clipcls import ZeroShotClassifier
from clipcls.images import decode_image, read_bytes


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--labels", default="imagenet")
    parser.add_argument("--photos", type=int, default=1000)
    options = parser.parse_args()
    classifier = ZeroShotClassifier(options.labels, options.model).fit()
    encoder = classifier.encoder_
    pixels: tuple[list, list] = ([], [])
    vectors: tuple[list, list] = ([], [])
    for path in sorted(options.folder.rglob("*.jpg")):
        with Image.open(path) as image:
            if min(image.size) < 2 * encoder.least_side:
                continue
        data = read_bytes(str(path))
        for number, least in enumerate((None, encoder.least_side)):
            pixels[number].append(encoder.preprocess(decode_image(data, least_side=least)))
        if len(pixels[0]) == encoder.batch_size:
            _encode(encoder, pixels, vectors)
        if sum(map(len, vectors[0])) >= options.photos:
            break
    _encode(encoder, pixels, vectors)
    if not vectors[0]:
        parser.exit(2, f"{options.folder}: no JPEG large enough to be reduced\n")
    whole, scaled = (np.concatenate(part)[: options.photos] for part in vectors)
    same = classifier.predict(whole) == classifier.predict(scaled)
    cosines = (whole * scaled).sum(axis=1)
    found = {
        "photos": len(same),
        "same label": float(same.mean()),
        "least cosine": float(cosines.min()),
    }
    print(
        json.dumps(
            found | {"mean cosine": float(cosines.mean()), "labels": len(classifier.classes_)}
        )
    )


def _encode(encoder, pixels, vectors) -> None:
    for images, rows in zip(pixels, vectors, strict=True):
        if images:
            rows.append(encoder.encode_images(images))
            images.clear()


if __name__ == "__main__":
    main()
