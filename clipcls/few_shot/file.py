"""The file of a learnt classifier: its coefficients, and what they were learnt from.

The file is safetensors: `coef` float32 (n_classes, dim), `intercept` float64 (n_classes,),
`learnt_from` uint8 (n_images, 8), the first bytes of each image file's SHA-256, `given` int32
(n_images,), the class of each of these images, or `NO_CLASS`; and, as JSON in the metadata's field
`clipcls`, a `Learnt`. Reading it runs no code from it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.errors import ClassifierError, InputError, raising
from clipcls.files.jsonfiles import build, parse_json
from clipcls.labels.label_set import Label, LabelSet
from clipcls.labels.names import find_kinds
from clipcls.predictions import NO_CLASS

if TYPE_CHECKING:
    from clipcls.few_shot.linear_probe import LinearProbe

HASH_BYTES = 8  # that are kept of an image file's SHA-256

_PARTS = ("text", "mean_text", "regression", "discriminant")
_FORMAT = "clipcls classifier 1"


@dataclass(frozen=True, slots=True)
class Learnt:
    """The origin of a learnt classifier, and its quality.

    Attributes:
        model: the model's name.
        weights: SHA-256 of its weights, hex; with others the classifier is refused.
        precision: the precision it computed in; not compared, since vectors differ by rounding
            only.
        prompts: the template set's name.
        templates: the templates.
        paths: each label's names from the root of the labels' tree; () where they have no levels.
        levels: the names of the tree's levels, or ().
        labels: each label, how many images it was learnt from, and whether from its words too.
        method: the method, and the numbers it chose.
        cross_validation: images, accuracy, negative log-likelihood and the accuracy of the words
            alone, on images held out in turn, answered among the labels with images; empty if no
            label has two images.
        outshouted: how many of its images it answers with a label that has no image.
        versions: the packages that made it.
    """

    model: str
    weights: str
    precision: str
    prompts: str
    templates: tuple[str, ...]
    labels: tuple[tuple[str, int, bool], ...]
    method: dict[str, Any]
    cross_validation: dict[str, float]
    outshouted: int
    versions: dict[str, str]
    paths: tuple[tuple[str, ...], ...] = ()
    levels: tuple[str, ...] = ()

    @property
    def label_paths(self) -> tuple[tuple[str, ...], ...]:
        """Each label's names from the root of the labels' tree."""
        return self.paths or tuple((label,) for label, _, _ in self.labels)

    def make_labels(self) -> LabelSet:
        """The labels, in their tree."""
        paths = self.label_paths
        labels = zip(paths, find_kinds(paths), strict=True)
        return LabelSet(
            tuple(Label(path[-1], parents=path[:-1], kind=kind) for path, kind in labels),
            "the classifier",
            self.levels,
        )

    def summary(self) -> str:
        """One line: what it was learnt from, and how good it is likely to be."""
        images = sum(count for _, count, _ in self.labels)
        line = f"learnt {len(self.labels):,} labels from {images:,} images"
        figures = self.cross_validation
        with_images = sum(count > 0 for _, count, _ in self.labels)
        if not figures:
            line += "; with one image per label nothing can be held out to measure it"
        else:
            line += f"; accuracy on images held out in turn {figures['accuracy']:.1%}"
            if "accuracy_of_words" in figures:
                line += f", of the words alone {figures['accuracy_of_words']:.1%}"
            if with_images < len(self.labels):
                line += f", among the {with_images:,} labels with images"
        if with_images < len(self.labels):
            line += f"; answered with a label without images: {self.outshouted:,} of these images"
        return line


def describe_method(probe: LinearProbe) -> dict[str, Any]:
    """`Learnt.method` of a fitted probe."""
    return {
        "name": "zero-shot logits, ridge regression and linear discriminant",
        "ridge": probe.ridge_,
        "offset": probe.offset_,
        "weights": dict(zip(_PARTS, probe.weights_.tolist(), strict=True)),
    }


def describe_cross_validation(probe: LinearProbe) -> dict[str, float]:
    """`Learnt.cross_validation` of a fitted probe."""
    if not probe.cv_images_:
        return {}
    figures = {
        "images": probe.cv_images_,
        "accuracy": round(probe.cv_accuracy_, 6),
        "nll": round(probe.cv_loss_, 6),
    }
    if np.isfinite(probe.cv_text_accuracy_):
        figures["accuracy_of_words"] = round(probe.cv_text_accuracy_, 6)
    return figures


def classifier_bytes(learnt: Learnt, tensors: dict[str, NDArray[Any]]) -> bytes:
    """The content of a classifier's file, which `read_classifier` reads."""
    from safetensors.numpy import save

    return save(
        {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()},
        {"clipcls": json.dumps({"format": _FORMAT, **asdict(learnt)})},
    )


@raising(ClassifierError)
def read_classifier(path: str | os.PathLike[str]) -> tuple[Learnt, dict[str, NDArray[Any]]]:
    """Reads and checks a classifier's file.

    Returns:
        the `Learnt`, and `coef` float32 (n_classes, dim), `intercept` float64 (n_classes,),
        `learnt_from` uint8 (n_images, 8) and `given` int32 (n_images,).

    Raises:
        ClassifierError: it cannot be read, is not a classifier, or is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    name = os.fspath(path)
    try:
        data = Path(name).read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ClassifierError(f"{name}: cannot be read: {reason}") from error
    try:
        tensors = load(data)
        header = data[8 : 8 + int.from_bytes(data[:8], "little")].decode()
        text = parse_json(header, name)["__metadata__"]["clipcls"]
    except (SafetensorError, InputError, KeyError, TypeError, ValueError) as error:
        cut = "is cut off or damaged, or " if name.endswith(".safetensors") else ""
        raise ClassifierError(f"{name}: {cut}is no classifier; make it by `clipcls fit`") from error
    record = parse_json(text, name)
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise ClassifierError(
            f"{name}: is no classifier of this version of clipcls; make it by `clipcls fit`"
        )
    try:
        learnt = build(Learnt, record)
        keys = ("coef", "intercept", "learnt_from", "given")
        coef, intercept, seen, given = (tensors[key] for key in keys)
        if (
            not (coef.dtype == np.float32 and coef.ndim == 2 and np.isfinite(coef).all())
            or not (intercept.dtype == np.float64 and np.isfinite(intercept).all())
            or not len(learnt.labels) == len(coef) == intercept.size >= 2
            or len(learnt.paths) not in (0, len(coef))
            or not all(learnt.paths)
            or (learnt.cross_validation and "accuracy" not in learnt.cross_validation)
            or not (given.dtype == np.int32 and given.shape == seen.shape[:1])
            or not ((given >= NO_CLASS) & (given < len(coef))).all()
            or not (seen.dtype == np.uint8 and seen.ndim == 2 and seen.shape[1] == HASH_BYTES)
        ):
            raise ValueError("its numbers do not fit each other")
    except (KeyError, ValueError) as error:
        raise ClassifierError(f"{name}: is a damaged classifier ({error}); fit anew") from error
    return learnt, tensors
