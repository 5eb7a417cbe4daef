"""The loop of open_clip's README: one image at a time, after the labels' embeddings.

open_clip_loop.py CHECKPOINT LABELS FOLDER SECONDS [ARCHITECTURE]
"""

from __future__ import annotations

import sys

from report import TEMPLATES, images, lines, phase, report, until

checkpoint, labels, folder, seconds, *rest = sys.argv[1:]
names, paths = lines(labels), images(folder)

import open_clip  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

phase("import")
architecture = rest[0] if rest else "ViT-B-32"
model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=checkpoint)
model.eval()
tokenizer = open_clip.get_tokenizer(architecture)
phase("model")
weights = open_clip.build_zero_shot_classifier(model, tokenizer, names, TEMPLATES)
phase("labels")
answers = []
for (path,) in until(paths, float(seconds)):
    image = preprocess(Image.open(path)).unsqueeze(0)
    with torch.no_grad():
        features = model.encode_image(image)
        features /= features.norm(dim=-1, keepdim=True)
        scores = (100.0 * features @ weights).softmax(dim=-1)
    answers.append((path, names[int(scores.argmax())], float(scores.max())))
phase("images")
report(len(answers), len(paths))
