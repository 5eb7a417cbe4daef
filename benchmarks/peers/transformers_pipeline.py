"""transformers' zero-shot-image-classification pipeline, called as its documentation does.

transformers_pipeline.py MODEL_FOLDER LABELS FOLDER SECONDS
"""

from __future__ import annotations

import sys

from report import images, lines, phase, report, until

model, labels, folder, seconds = sys.argv[1:]
names, paths = lines(labels), images(folder)

from transformers import pipeline  # noqa: E402

phase("import")
classify = pipeline("zero-shot-image-classification", model=model)
phase("model")
answers = []
for (path,) in until(paths, float(seconds)):
    best = classify(path, candidate_labels=names)[0]
    answers.append((path, best["label"], best["score"]))
phase("images")
report(len(answers), len(paths))
