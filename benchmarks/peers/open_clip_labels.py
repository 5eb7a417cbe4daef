"""open_clip.build_zero_shot_classifier with its defaults, then one image.

open_clip_labels.py CHECKPOINT LABELS IMAGE SECONDS
"""

from __future__ import annotations

import sys

from report import TEMPLATES, lines, phase, report, until

checkpoint, labels, path, seconds = sys.argv[1:]
names = lines(labels)

import open_clip  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

phase("import")
model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained=checkpoint)
model.eval()
tokenizer = open_clip.get_tokenizer("ViT-B-32")
phase("model")
# It works through 10 labels at a time; a list of 100 at a time is the same and can be stopped.
columns = [
    open_clip.build_zero_shot_classifier(model, tokenizer, some, TEMPLATES)
    for some in until(names, float(seconds), 100)
]
weights = torch.cat(columns, dim=1)
phase("labels")
with torch.no_grad():
    features = model.encode_image(preprocess(Image.open(path)).unsqueeze(0))
    (features / features.norm() @ weights).argmax()
phase("images")
report(weights.shape[1], len(names), "labels")
