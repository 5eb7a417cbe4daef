"""The zero-shot classifier, as in CLIP (Radford et al. 2021, arXiv 2103.00020, section 3.1.4).

A class is the mean of its prompts' unit vectors, normalised again; an image's score for it is the
softmax, over all classes, of (logit scale x cosine similarity + bias) / temperature.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.calibration.temperature import default_temperature
from clipcls.classification.image_classifier import ImageClassifier
from clipcls.embeddings.embed import embed_texts
from clipcls.labels.label_set import LabelsLike, log_warnings, make_labels
from clipcls.labels.prompts import choose_prompts, make_prompts, make_texts
from clipcls.numerics import PROBE, unit_rows

if TYPE_CHECKING:
    from clipcls.calibration.base import Identity

logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class ZeroShotClassifier(ImageClassifier):
    """Classifies images by labels in words.

    Args:
        labels: a list of labels, a mapping from label to prompts or synonyms, a label file or
            the name of a ready label set.
        model: a model's name as in `clipcls models`, or an `Encoder`.
        prompts: a template set's name, a file of templates or a list of them; None: as
            `choose_prompts` says.
        checkpoint: a file with weights for `model`, where that is an architecture's name.
        backend: how the model runs: device, precision, batch size, ...; None: `Backend()`, which
            takes the best of this machine.
        cache: where embeddings are kept: True for the user's cache directory, False for nowhere,
            or a file. Facts about the model itself are kept in any case.
        calibration: a `Calibration`, or its file.
        level: the level of the labels' hierarchy whose nodes are the classes: its number, 1 being
            the root, or its name; None: the labels are the classes.

    Attributes:
        classes_: the labels, str (n_classes,), in the order given; with `level` the names of that
            level.
        prompts_: the `PromptSet` in use.
        weights_: the labels' unit vectors, float32 (n_labels, dim).
        head_: the `LinearHead`.
        encoder_: the `Encoder` in use.
        cache_: the `EmbeddingCache` in use, or None.
        provenance_: the `Provenance` that its predictions carry.
        calibration_: the `Calibration` in use, or None.
        hierarchy_: the `Hierarchy` of the labels, or None if they have no levels.

    >>> clf = ZeroShotClassifier(["cat", "garden"], model="mini", cache=False).fit()
    >>> clf.predict("examples/photos/chelsea.jpg")
    array(['cat'], dtype='<U6')
    >>> clf.weights_.shape
    (2, 896)
    """

    labels: LabelsLike

    def fit(self, X: object = None, y: object = None) -> ZeroShotClassifier:
        """Embeds the labels; ignores `X` and `y`, which pipelines pass.

        Raises:
            LabelsError, PromptsError, ModelError, CacheError, CalibrationError: the parameter
                cannot be used.
        """
        self._forget()
        labels = make_labels(self.labels)
        given = None if self.prompts is None else make_prompts(self.prompts)
        log_warnings(labels, self.labels)
        if given:
            log_warnings(given, self.prompts)
        self._open()
        prompts = given or choose_prompts(self.encoder_.name)
        count = len(prompts.templates)
        if count > 1 and self.encoder_.name == "mini" and prompts is not self.prompts:
            logger.warning(
                "the model mini answers alike with any template: one is enough, and its labels "
                "are ready %d times as fast as with these %d",
                count,
                count,
            )
        paths, texts = [label.path for label in labels], make_texts(labels, prompts)
        self._set_classes(paths, labels.levels, labels.source)
        rows = embed_texts(self.encoder_, [text for group in texts for text in group], self.cache_)
        self.weights_ = _average(rows, [len(group) for group in texts])
        scale, bias = self.encoder_.logit_scale, self.encoder_.logit_bias
        temperature = default_temperature(self.encoder_.weights, self.weights_)
        self._set_head(prompts, self.weights_, scale, bias, texts=texts, temperature=temperature)
        return self

    @property
    def identity_(self) -> Identity:
        """The identity that a calibration of this classifier carries."""
        from clipcls.calibration.base import Identity, fingerprint

        texts = self._texts
        if (level := self._level) is not None:
            texts = [
                [json.dumps(self._texts[label]) for label in level.labels(number)]
                for number in range(len(self.classes_))
            ]
        formula = fingerprint(_average(PROBE[:, :9], [1, 2, 3]))
        return Identity.of(self.encoder_, self.prompts_, self.classes_.tolist(), texts, formula)


def _average(rows: NDArray[Any], counts: Sequence[int]) -> NDArray[np.float32]:
    """The mean of each class's rows, normalised; the first class has `counts[0]` of them, ..."""
    parts = np.split(rows, np.cumsum(counts)[:-1])
    return unit_rows(np.stack([part.mean(axis=0) for part in parts]))
