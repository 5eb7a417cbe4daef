"""Torch's vectors for `mini`'s probe batches, which clipcls compares its own with.

python training/probe.py, after `export.py` and with the new weights in clipcls/mini, writes
clipcls/mini/probe.npz.
"""

from __future__ import annotations

import numpy as np

from clipcls.models import loading, registry, towers
from clipcls.models.aliases import MINI
from clipcls.models.tokenizer import ClipTokenizer


def main() -> None:
    """Writes the file."""
    source = registry.resolve("mini")
    model = loading.load(source, tower="image")
    images = model(list(towers.image_probe(model.preprocess)))
    model = loading.load(source, tower="text")
    probe = towers.text_probe(ClipTokenizer(source.context_length))
    texts = np.concatenate([model(tokens) for tokens in probe])
    np.savez(MINI / "probe.npz", image=images, text=texts)


if __name__ == "__main__":
    main()
