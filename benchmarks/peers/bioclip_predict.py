"""pybioclip's `bioclip predict --cls LABELS --model ViT-B-32 --pretrained CHECKPOINT IMAGES`.

    bioclip_predict.py CHECKPOINT LABELS FOLDER SECONDS

It is run through the class that the command uses, to see the labels' and the images' time apart:
pybioclip embeds each label with 80 templates, which cannot be changed.
"""

from __future__ import annotations

import sys

from report import images, lines, phase, report, until

checkpoint, labels, folder, seconds = sys.argv[1:]
names, paths = lines(labels), images(folder)

from bioclip.predict import CustomLabelsClassifier  # noqa: E402

phase("import")
classifier = CustomLabelsClassifier(names, model_str="ViT-B-32", pretrained_str=checkpoint)
phase("model and labels")
answers = []
for batch in until(paths, float(seconds), 10):  # its own batch size
    answers += classifier.predict(batch, k=1, batch_size=10, callback=lambda done, total: None)
phase("images")
report(len(answers), len(paths))
