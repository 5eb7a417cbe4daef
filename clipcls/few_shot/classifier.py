"""`FewShotClassifier`: labels in words and some labelled images in, a classifier to keep out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.calibration.base import Identity, collect_versions
from clipcls.classification.image_classifier import ImageClassifier
from clipcls.classification.labelled import own_names
from clipcls.classification.zero_shot import ZeroShotClassifier
from clipcls.embeddings.cache import hash_image
from clipcls.errors import ClassifierError, ClipclsError, ImageError, InputError, LabelsError
from clipcls.few_shot.file import (
    HASH_BYTES,
    Learnt,
    classifier_bytes,
    describe_cross_validation,
    describe_method,
    read_classifier,
)
from clipcls.few_shot.training_data import Suspect, find_copies, find_suspects, name_labels
from clipcls.labels.label_set import Label, LabelSet, LabelsLike, log_warnings, make_labels
from clipcls.labels.prompts import PromptSet
from clipcls.numerics import row_blocks
from clipcls.predictions import NO_CLASS, UNKNOWN

if TYPE_CHECKING:
    from clipcls.data.matching import Excluded
    from clipcls.models.encoder import Encoder

_NONE = (UNKNOWN,)  # what a person says of an image that has none of the labels


@dataclass(eq=False, repr=False)
class FewShotClassifier(ImageClassifier):
    """Classifies images by labels in words and labelled images, by a `LinearProbe`.

    Used like a `ZeroShotClassifier`. Scores are the softmax of learnt logits; a candidate's
    similarity is the cosine between the image and its label's learnt coefficients.

    Args:
        labels: as for `ZeroShotClassifier`; None: the data's own labels.
        model, prompts, checkpoint, backend, cache, calibration: as for `ZeroShotClassifier`.
        no_words: labels to learn from images alone, since their words (a code, a number) mean
            nothing. They need not be among `labels`.
        level: the level of the labels' tree to answer with, as for `ZeroShotClassifier`; the labels
            are learnt in any case.

    Attributes:
        classes_: the labels, str (n_classes,), in the order given; with `level` the names of that
            level.
        weights_: float32 (n_labels, dim), learnt coefficients of the logits.
        intercept_: float64 (n_labels,).
        head_: the `LinearHead` that they make.
        learnt_: the `Learnt` that its file holds.
        excluded_: the images that `fit` left out, or None.
        probe_: the `LinearProbe`, after `fit`.

    >>> data = [("examples/photos/chelsea.jpg", "a"), ("examples/photos/garden.jpg", "b")]
    >>> clf = FewShotClassifier(["cat", "garden"], model="mini", cache=False)
    >>> clf.fit([(path, label) for (path, _), label in zip(data, ["cat", "garden"])]).classes_
    array(['cat', 'garden'], dtype='<U6')
    """

    labels: LabelsLike | None = None
    no_words: Sequence[str] = field(default=(), kw_only=True)

    # -- learning -----------------------------------------------------------------------------

    def fit(
        self,
        X: Any = None,
        y: Any = None,
        *,
        watch: Callable[[ImageError | None], None] | None = None,
    ) -> FewShotClassifier:
        """Learns from labelled images.

        Args:
            X: a folder with a folder per class, a csv file, or pairs (see `make_dataset`); with
                `y` images, as `predict` takes them, or their vectors, float (n, dim).
            y: the label of each of these, (n,).
            watch: called after each image, with the `ImageError` if it could not be read.

        Raises:
            InputError: fewer than two labels have images, an image has several labels, or `y` has a
                label that is not among `labels`.
            ImageError: with `y`, an image cannot be read; without, `excluded_` names it.
            LabelsError, PromptsError, ModelError, CacheError, CalibrationError: a parameter cannot
                be used.
        """
        self._forget()
        if X is None:
            raise InputError("give labelled images to learn from")
        if y is None:
            from clipcls.classification.labelled import embed_known, read_labelled

            data = read_labelled(X)
            zero_shot = self._zero_shot(name_labels(data))
            known = embed_known(zero_shot, data, watch, alone=True)
            self.excluded_: Excluded | None = known.excluded
            codes = np.array([classes[0] for classes in known.truth], np.int64)
            none = [p for p, labels in zip(data.paths, data.labels, strict=True) if labels == _NONE]
            if data.folders or UNKNOWN in own_names(zero_shot):
                none = []
            return self._learn(zero_shot, known.vectors, codes, known.paths, known.hashes, none)
        from sklearn.utils.validation import check_consistent_length, column_or_1d

        labels = [str(label) for label in column_or_1d(y, warn=True)]
        zero_shot = self._zero_shot(labels)
        if isinstance(X, np.ndarray) and X.dtype.kind == "f":
            vectors, paths, hashes = zero_shot.vectors(X), [""] * len(X), [b""] * len(X)
        else:
            # With "raise" there are no errors among them.
            found: list[Any] = list(zero_shot.embed(X, on_error="raise", hashed=True))
            vectors = np.array([item.vector for item in found])
            paths = [item.path if item.is_file else "" for item in found]
            hashes = [item.content for item in found]
        check_consistent_length(vectors, labels)
        numbers = own_names(zero_shot)
        if strange := [label for label in labels if label not in numbers]:
            raise InputError(f"y: {strange[0]!r} is none of the labels")
        self.excluded_ = None
        codes = np.array([numbers[label] for label in labels], np.int64)
        return self._learn(zero_shot, vectors, codes, paths, hashes)

    def _zero_shot(self, found: Sequence[str]) -> ZeroShotClassifier:
        """The classifier by words alone, of `labels` or else of the labels found."""
        labels = make_labels(self.labels if self.labels is not None else dict.fromkeys(found))
        log_warnings(labels, self.labels)
        own = [name for name in self.no_words if name not in labels.names]
        labels = LabelSet(
            (*labels, *(Label(name) for name in own)), labels.source, levels=labels.levels
        )
        if len(labels) < 2:
            raise LabelsError(f"{labels.source}: one label is nothing to choose from")
        settings = {
            name: value
            for name, value in self.get_params().items()
            if name not in ("labels", "no_words", "calibration", "level")
        }
        return ZeroShotClassifier(labels, **settings).fit()

    def _learn(
        self,
        zero_shot: ZeroShotClassifier,
        vectors: NDArray[np.float32],
        codes: NDArray[np.int64],
        paths: Sequence[str],
        hashes: Sequence[bytes],
        none: Sequence[str] = (),
    ) -> FewShotClassifier:
        """Learns from vectors; images of `none` are remembered as having none of the labels."""
        from clipcls.few_shot.linear_probe import BLOCK, LinearProbe

        names = zero_shot.classes_
        counts = np.bincount(codes, minlength=len(names))
        if (counts > 0).sum() < 2:
            has_images = repr(str(names[codes[0]])) if len(codes) else "none"
            raise InputError(f"images of at least two labels are needed, not only of {has_images}")
        self.encoder_, self.cache_ = zero_shot.encoder_, zero_shot.cache_
        has_words = ~np.isin(names, list(self.no_words))
        if (nothing := np.flatnonzero(~has_words & (counts == 0))).size:
            raise InputError(
                f"no_words: {str(names[nothing[0]])!r} has no images either, so it cannot be learnt"
            )
        text = np.where(has_words[:, None], zero_shot.weights_, np.nan)
        copies = find_copies(vectors, hashes, paths, names[codes])
        self.probe_ = LinearProbe(
            text, np.arange(len(names)), logit_scale=self.encoder_.logit_scale
        ).fit(vectors, codes, copies)
        self._examples = (vectors, codes, tuple(paths))
        blocks = row_blocks(len(vectors), BLOCK)
        answers = np.concatenate([self.probe_.predict(vectors[rows]) for rows in blocks])
        self.learnt_ = Learnt(
            model=self.encoder_.name,
            weights=self.encoder_.weights,
            precision=self.encoder_.precision,
            prompts=zero_shot.prompts_.name,
            templates=zero_shot.prompts_.templates,
            labels=tuple(
                (str(name), int(count), bool(words))
                for name, count, words in zip(names, counts, has_words, strict=True)
            ),
            method=describe_method(self.probe_),
            cross_validation=describe_cross_validation(self.probe_),
            outshouted=int((counts[answers] == 0).sum()),
            versions=collect_versions("scikit-learn"),
            paths=zero_shot.hierarchy_.levels[-1].paths if zero_shot.hierarchy_ else (),
            levels=zero_shot.hierarchy_.level_names if zero_shot.hierarchy_ else (),
        )
        kept = dict.fromkeys(
            (digest[:HASH_BYTES] for path in none if (digest := hash_image(self.cache_, path))),
            NO_CLASS,
        )
        kept |= {
            digest[:HASH_BYTES]: code for digest, code in zip(hashes, codes, strict=True) if digest
        }
        self._use(
            {
                "coef": self.probe_.coef_.astype(np.float32),
                "intercept": self.probe_.intercept_,
                "learnt_from": np.frombuffer(b"".join(kept), np.uint8).reshape(-1, HASH_BYTES),
                "given": np.fromiter(kept.values(), np.int32, len(kept)),
            }
        )
        return self

    def suspects(self) -> list[Suspect]:
        """Training images whose label is likely wrong, the likeliest first.

        Raises:
            ClipclsError: this classifier was not learnt just now, but read from a file.
        """
        if not hasattr(self, "_examples"):
            raise ClipclsError("suspects are found among the images that fit() was given")
        vectors, codes, paths = self._examples
        names = [label for label, _, _ in self.learnt_.labels]
        return find_suspects(self.probe_, vectors, codes, names, paths)

    # -- its file -----------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes its file, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        from clipcls.files.atomic import write_bytes

        self._check_fitted()
        write_bytes(Path(path), classifier_bytes(self.learnt_, self._tensors))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: str | Encoder | None = None,
        **settings: Any,
    ) -> FewShotClassifier:
        """Reads a classifier's file.

        Fitted again, or cloned and fitted, it learns the same labels, in the same tree. Synonyms
        and prompts of their own, which the file does not keep, are then missing.

        Args:
            path: the file.
            model: None: the model named in the file.
            settings: backend, cache, level, ... as for the class.

        Raises:
            ClassifierError: it cannot be read, is no classifier, or is for another model.
            LabelsError: its labels' tree has no such level.
            ModelError, CacheError, CalibrationError: a setting cannot be used.
        """
        name = os.fspath(path)
        learnt, tensors = read_classifier(name)
        self = cls(
            learnt.make_labels(),
            learnt.model if model is None else model,
            prompts=PromptSet(learnt.prompts, learnt.templates),
            no_words=[label for label, _, words in learnt.labels if not words],
            **settings,
        )
        self._open()
        if self.encoder_.weights != learnt.weights:
            raise ClassifierError(
                f"{name}: it is for the model {learnt.model} (weights {learnt.weights[:12]}), not "
                f"for {self.encoder_.name} ({self.encoder_.weights[:12]}); fit anew"
            )
        self.learnt_ = learnt
        self._use(tensors)
        return self

    def _use(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Sets what answering needs, from `learnt_` and the tensors of its file."""
        self._set_classes(self.learnt_.label_paths, self.learnt_.levels, "the classifier")
        self._tensors = tensors
        given = zip(map(bytes, tensors["learnt_from"]), tensors["given"].tolist(), strict=True)
        self._known = dict(given)
        self.weights_, self.intercept_ = tensors["coef"], tensors["intercept"]
        self.digest_ = hashlib.sha256(classifier_bytes(self.learnt_, tensors)).hexdigest()[:12]
        lengths = np.linalg.norm(self.weights_.astype(np.float64), axis=1)
        lengths[lengths == 0] = 1
        prompts = PromptSet(self.learnt_.prompts, self.learnt_.templates)
        weights = self.weights_ / lengths[:, None]
        self._set_head(prompts, weights, lengths, self.intercept_, classifier=self.digest_)

    @property
    def identity_(self) -> Identity:
        """The identity that a calibration of this classifier carries."""
        learnt = self.learnt_
        return Identity(
            learnt.model,
            learnt.weights,
            learnt.precision,
            learnt.prompts,
            learnt.templates,
            tuple((label, "") for label in self.classes_.tolist()),
            classifier=self.digest_,
        )

    def given_class(self, path: str, content: bytes = b"") -> int | None:
        """As in `ImageClassifier`: `fit` was given these labels by a person."""
        code = self._known.get((content or hash_image(self.cache_, path))[:HASH_BYTES])
        if code in (None, NO_CLASS) or self._level is None:
            return code
        return int(self._level.node[code])
