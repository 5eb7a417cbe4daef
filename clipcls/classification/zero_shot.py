"""The zero-shot classifier: labels in words, images in, labels with scores out.

The method is CLIP's (Radford et al. 2021, arXiv 2103.00020, section 3.1.4): a class is the mean
of its prompts' unit vectors, normalised again; an image's score for it is the softmax, over all
classes, of logit scale x cosine similarity (+ bias).
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.decision import (
    Rule,
    check_refinable,
    classify_each,
    classify_together,
    predictions,
)
from clipcls.classification.scores import LinearScores, log_sum_exp
from clipcls.data.inputs import OnError, apply_on_error
from clipcls.embeddings.cache import EmbeddingCache, open_cache
from clipcls.embeddings.embed import Embedded, compute_rows, embed_array, embed_images, embed_texts
from clipcls.embeddings.index import FlatIndex
from clipcls.errors import CalibrationError, ImageError, LabelsError, not_fitted
from clipcls.labels.label_set import LabelSet, LabelsLike, log_warnings, make_labels
from clipcls.labels.names import join_levels
from clipcls.labels.prompts import REJECT_TEXTS, PromptSet, make_prompts, make_texts
from clipcls.models.backend import Backend
from clipcls.models.encoder import Encoder, open_encoder
from clipcls.numerics import unit_rows
from clipcls.predictions import REJECT, Prediction, Provenance

if TYPE_CHECKING:
    from clipcls.calibration.base import Identity
    from clipcls.calibration.single_label import Calibration, Threshold
    from clipcls.classification.explain import Explainer
    from clipcls.data.inputs import ImageInput, Images
    from clipcls.labels.taxonomy import Hierarchy, Level

__all__ = ["ZeroShotClassifier"]


class ZeroShotClassifier(LinearScores):
    """Classifies images by labels in words; follows scikit-learn's conventions.

    Args:
        labels: a list of labels, a mapping from label to prompts or synonyms, a label file or
            the name of a ready label set.
        model: a model's name as in `clipcls models`, or an `Encoder`.
        prompts: a template set's name, a file of templates or a list of them.
        checkpoint: a file with weights for `model`, where that is an architecture's name.
        backend: how the model runs: device, precision, batch size, ...; None: `Backend()`, which
            takes the best of this machine.
        cache: where embeddings are kept: True for the user's cache directory, False for nowhere,
            or a file. What is known of the model itself is kept in any case.
        reject: whether there is one more class, `none of these`, made of generic texts.
        calibration: a `Calibration`, or its file.
        level: the level of a hierarchy of labels whose nodes are the classes: its number, 1 being
            the root, or its name; None: the labels are.

    Attributes:
        classes_: the labels, str (n_classes,), in the order given; the last
            with `reject` being `none of these`; with `level` the names of that level.
        weights_: the labels' unit vectors, float32 (n_labels, dim).
        index_: `FlatIndex` over `weights_`.
        encoder_: the `Encoder` in use.
        cache_: the `EmbeddingCache` in use, or None.
        made_by_: the `Provenance` that its predictions carry.
        calibration_: the `Calibration` in use, or None.
        hierarchy_: the `Hierarchy` of the labels, or None where they have no levels.

    >>> clf = ZeroShotClassifier(["cat", "garden"], model="mini", cache=False).fit()
    >>> clf.predict("examples/photos/chelsea.jpg")
    array(['cat'], dtype='<U6')
    >>> clf.weights_.shape
    (2, 896)
    """

    def __init__(
        self,
        labels: LabelsLike,
        model: str | Encoder = "auto",
        *,
        prompts: str | os.PathLike[str] | Iterable[str] | PromptSet = "photo",
        checkpoint: str | os.PathLike[str] | None = None,
        backend: Backend | None = None,
        cache: bool | str | os.PathLike[str] | EmbeddingCache = True,
        reject: bool = False,
        calibration: Calibration | str | os.PathLike[str] | None = None,
        level: int | str | None = None,
    ) -> None:
        self.labels = labels
        self.model = model
        self.prompts = prompts
        self.checkpoint = checkpoint
        self.backend = backend
        self.cache = cache
        self.reject = reject
        self.calibration = calibration
        self.level = level

    def fit(self, X: object = None, y: object = None) -> ZeroShotClassifier:
        """Embeds the labels; learns nothing from `X` and `y`, which are there for pipelines.

        Raises:
            LabelsError, PromptsError, ModelError, CacheError, CalibrationError: the parameter
                cannot be used.
        """
        self._forget()
        labels = make_labels(self.labels)
        prompts = make_prompts(self.prompts)
        log_warnings(labels, self.labels)
        log_warnings(prompts, self.prompts)
        self.cache_ = open_cache(self.cache)
        self.encoder_ = open_encoder(self.model, self.checkpoint, self.backend)
        names, texts = list(labels.names), make_texts(labels, prompts)
        if self.reject:
            if REJECT in names or any(label.path[0] == REJECT for label in labels):
                raise LabelsError(f"{labels.source}: {REJECT!r} is a label already; leave one out")
            names.append(REJECT)
            texts.append(REJECT_TEXTS)
        self._texts, self._prompts = texts, prompts
        self.hierarchy_, self._level = self._levels_of(labels)
        self.classes_ = np.array(names if self._level is None else self._level.names)
        self.calibration_ = self._usable_calibration()
        self.temperature_ = self.calibration_.temperature if self.calibration_ else 1.0
        weights = _class_weights(self.encoder_, texts, self.cache_)
        self.index_ = FlatIndex(weights)
        self._exact_weights = weights.astype(np.float64)
        self.made_by_ = Provenance(
            self.encoder_.name,
            self.encoder_.weights[:12],
            self.encoder_.precision,
            prompts.name,
            self.calibration_.digest if self.calibration_ else "",
        )
        self.weights_ = weights
        return self

    @property
    def identity_(self) -> Identity:
        """What a calibration of this classifier is made for."""
        from clipcls.calibration.base import Identity

        texts: Sequence[Sequence[str]] = self._texts
        if (level := self._level) is not None:
            texts = [
                [json.dumps(self._texts[label]) for label in np.flatnonzero(level.node == number)]
                for number in range(len(self.classes_))
            ]
        return Identity.of(self.encoder_, self._prompts, self.classes_.tolist(), texts)

    def _levels_of(self, labels: LabelSet) -> tuple[Hierarchy | None, Level | None]:
        """The labels' hierarchy, and the level that `level` asks for."""
        if self.level is None and not any(label.parents for label in labels):
            return None, None
        from clipcls.labels.taxonomy import Hierarchy

        paths = [*(label.path for label in labels), *([(REJECT,)] if self.reject else [])]
        hierarchy = Hierarchy(paths, labels.levels, labels.source)
        return hierarchy, None if self.level is None else hierarchy.level(self.level)

    @property
    def meanings_(self) -> dict[str, tuple[int, ...]]:
        """What a label of labelled data means: its name -> the class numbers that are right.

        In a hierarchy every node has a name: see `Hierarchy.meanings`.
        """
        found: dict[str, tuple[int, ...]] = {}
        if self.hierarchy_ is not None and (level := self.level_) is not None:
            found = self.hierarchy_.meanings(level)
        return found | {name: (number,) for number, name in enumerate(self.classes_.tolist())}

    @property
    def own_names_(self) -> dict[str, int]:
        """What means one class alone: its name and, in a hierarchy, its path as it is written."""
        names: list[str] = self.classes_.tolist()
        found = {name: number for number, name in enumerate(names)}
        if (level := self.level_) is not None:
            paths = (join_levels(path) for path in level.paths)
            found = {path: number for number, path in enumerate(paths)} | found
        return found

    def _usable_calibration(self) -> Calibration | None:
        if self.calibration is None:
            return None
        from clipcls.calibration.file import load_calibration
        from clipcls.calibration.single_label import Calibration

        return load_calibration(self.calibration, Calibration, self.identity_)

    # -- scikit-learn's methods: X is one image or many (`clipcls.data.inputs`), or their vectors,
    # float (n, dim). An array of one comes back for one image.

    def decision_function(
        self, X: Images | NDArray[Any], *, on_error: OnError = "raise"
    ) -> NDArray[np.float64]:
        """Logits: (logit scale x cosine similarity + bias) / temperature.

        Args:
            X: one image, many, or vectors.
            on_error: for an image that cannot be read, "raise" raises its `ImageError`, "skip"
                leaves its row out (and logs it), and "yield" makes its row NaN.

        Returns:
            float64 (n, n_classes); one image has one row.

        Raises:
            ImageError: an image cannot be read.
            TypeError: X is neither an image nor an iterable of them.
            ValueError: vectors of another dimension, or not finite.
        """
        return compute_rows(self.logits, self.vectors(X, on_error=on_error), np.nan)

    def predict_proba(
        self, X: Images | NDArray[Any], *, on_error: OnError = "raise"
    ) -> NDArray[np.float64]:
        """Softmax scores over all classes, float64 (n, n_classes); rows sum to 1.

        Arguments and errors are those of `decision_function`.
        """
        logits = self.decision_function(X, on_error=on_error)
        scores: NDArray[np.float64] = np.exp(logits - log_sum_exp(logits))
        return scores

    def predict(self, X: Images | NDArray[Any], *, on_error: OnError = "raise") -> NDArray[np.str_]:
        """The best label of each image, str (n,); of equal ones the first in `classes_`.

        Arguments and errors are those of `decision_function`; with `on_error="yield"` an image that
        cannot be read has the label "".
        """
        return compute_rows(self._best_labels, self.vectors(X, on_error=on_error), "")

    def _best_labels(self, vectors: NDArray[np.float32]) -> NDArray[np.str_]:
        if self._level is not None:
            return self.classes_[self.match(vectors, 1)[2][:, 0]]
        return self.classes_[self.index_.search(vectors, 1)[1][:, 0]]

    def score(self, X: Images | NDArray[Any], y: Any) -> float:
        """Accuracy: the share of images whose label is `y`'s, (n,), as a str.

        Raises:
            ImageError: an image cannot be read.
            ValueError: there are no images, or not as many as labels.
        """
        from sklearn.utils.validation import column_or_1d

        answers = self.predict(X)
        right = [str(label) for label in column_or_1d(y)]
        if len(right) != len(answers):
            raise ValueError(f"X has {len(answers)} images and y {len(right)} labels")
        if not right:
            raise ValueError("X has no images: there is no share of them to tell")
        return float(np.mean(answers == np.array(right)))

    # -- classifying files --------------------------------------------------------------------

    def classify(
        self,
        images: Images,
        *,
        top: int = 1,
        min_score: float = 0.0,
        min_margin: float = 0.0,
        coverage: float | None = None,
        max_error: float | None = None,
        prediction_sets: float | None = None,
        refine: bool = False,
        explain: bool = False,
        heatmaps: str | os.PathLike[str] | None = None,
        watch: Callable[[ImageError | None], None] | None = None,
        on_error: OnError = "yield",
    ) -> Iterator[Prediction | ImageError]:
        """Classifies images one after the other, in their order, with bounded memory.

        Args:
            images: one image or many, any number (see `clipcls.data.inputs`); an `ImageError` is
                handed through.
            top: how many labels each answer carries.
            min_score: an answer whose best score is below it is `unknown`. Labels in a hierarchy
                without `level` are answered at the deepest level where the best score, summed along
                the tree, reaches it.
            min_margin: so is one whose best score is less than this above the second.
            coverage: answer only the surest images, at least this share of images like those of
                the calibration; the others are `unknown`.
            max_error: answer as many as can be with at most this share of the answers wrong.
            prediction_sets: give each prediction a `label_set` that holds no right label with this
                probability at most.
            refine: let all images decide together, as `transductive.refine` does: nothing is
                yielded until the last is embedded, and memory grows with the images. A batch that
                this does not help is answered as without, which is logged.
            explain: give each prediction an `explanation`.
            heatmaps: draw where each answer lies in its image into this folder, as `Heatmaps`; the
                images are then files.
            watch: with `refine` called after each image is embedded, with the `ImageError` if it
                could not be read.
            on_error: for an image that cannot be read, "yield" yields its `ImageError` in its
                place, "skip" leaves it out (and logs it), and "raise" raises it at its turn.

        Yields:
            a `Prediction` for each image, or the `ImageError` that says why there is none. For one
            image it is an iterator of one.

        Raises:
            TypeError: `images` is neither an image nor an iterable of them.
            CalibrationError: `coverage`, `max_error` or `prediction_sets` without a calibration, or
                with one that cannot promise that much; `refine` with a calibration.
            ClipclsError: `refine` with a hierarchy of labels or a learnt classifier; `heatmaps`
                with an `Encoder` of one's own that has no `seen`.
            OutputError: a heat map cannot be written.
        """
        self._check_asked(top)
        rule = Rule(
            min_score,
            min_margin,
            None
            if coverage is None and max_error is None
            else self.threshold(coverage, max_error).score,
            None if prediction_sets is None else self._calibrated().set_threshold(prediction_sets),
            self._explainer() if explain else None,
        )
        embedded = self.embed(images, on_error=on_error if refine else "yield")
        if refine:
            check_refinable(self)
            results = classify_together(self, embedded, top, rule, watch)
        else:
            results = apply_on_error(classify_each(self, embedded, top, rule), on_error)
        if heatmaps is None:
            return results
        from clipcls.classification.occlusion import Heatmaps

        return Heatmaps(self, heatmaps).drawn(results)

    def heatmap(self, image: ImageInput, label: str | None = None) -> NDArray[np.float32]:
        """Where in an image one label lies, by hiding place after place (see `occlusion`).

        Args:
            image: one image, of any kind that `classify` takes.
            label: a class, or a name or path of the labels' hierarchy; None: the best class.

        Returns:
            float32 (height, width) of the upright image: how far the log-odds of the label's score
            (against all other labels together; with one label alone its logit) fall when the
            surroundings of a pixel are hidden. Above 0 speaks for the label, below 0 against it,
            and 0 is where the model does not look.

        Raises:
            ImageError: the image cannot be read.
            LabelsError: there is no such label.
            ClipclsError: the classifier's `Encoder` has no `seen`.
        """
        self._check_fitted()
        from clipcls.classification.occlusion import heatmap

        return heatmap(self, image, label)

    def answer(
        self,
        embedded: Sequence[Embedded | ImageError],
        *,
        top: int = 1,
        min_score: float = 0.0,
        min_margin: float = 0.0,
    ) -> list[Prediction | ImageError]:
        """`classify` of images that are embedded already, all at once.

        Args:
            embedded: as `embed` gives them.
            top, min_score, min_margin: as for `classify`.
        """
        self._check_asked(top)
        rule = Rule(min_score, min_margin, None, None)
        return list(predictions(self, embedded, top, rule))

    def _check_asked(self, top: int) -> None:
        self._check_fitted()
        if top < 1:
            raise ValueError(f"top is {top}; the least is 1")

    def _explainer(self) -> Explainer:
        from clipcls.classification.explain import Explainer

        return Explainer(self.encoder_, self.cache_)

    def texts_of(self, number: int, level: Level | None = None) -> list[str]:
        """The texts of a class, or of all labels below a node of a level of the hierarchy."""
        if level is None:
            return list(self._texts[number])
        return [
            text for label in np.flatnonzero(level.node == number) for text in self._texts[label]
        ]

    def threshold(self, coverage: float | None = None, max_error: float | None = None) -> Threshold:
        """Where `classify` begins to answer for a coverage or an error.

        Raises:
            CalibrationError: there is no calibration, or it cannot promise that much.
        """
        if (coverage is None) == (max_error is None):
            raise ValueError("give coverage or max_error: one of the two")
        if coverage is not None:
            return self._calibrated().for_coverage(coverage)
        assert max_error is not None
        return self._calibrated().for_error(max_error)

    def _calibrated(self) -> Calibration:
        if self.calibration_ is None:
            raise CalibrationError("coverage, max_error and prediction_sets need a calibration")
        return self.calibration_

    def embed(
        self, images: Images, *, on_error: OnError = "yield"
    ) -> Iterator[Embedded | ImageError]:
        """The unit vector of each image, as `embed_images` gives them; `on_error` as `classify`."""
        self._check_fitted()
        embedded = embed_images(self.encoder_, images, self.cache_, backend=self.backend)
        return apply_on_error(embedded, on_error)

    def hash_image(self, path: str) -> bytes:
        """The SHA-256 of an image file's content; b"" where the file cannot be read."""
        from clipcls.files.hashing import hash_file

        try:
            return bytes.fromhex((self.cache_.file_hash if self.cache_ else hash_file)(path))
        except OSError:
            return b""

    def learnt_from(self, paths: Iterable[str]) -> int:
        """How many of these image files it was learnt from: by words alone, none."""
        return 0

    def given_class(self, path: str) -> int | None:
        """The number of the label that a person gave this image file: of words alone, None."""
        return None

    # -- what scikit-learn's clone, pipelines and displays ask for ------------------------------

    @classmethod
    def _parameters(cls) -> list[str]:
        return list(inspect.signature(cls.__init__).parameters)[1:]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters as given."""
        return {name: getattr(self, name) for name in self._parameters()}

    def set_params(self, **parameters: Any) -> ZeroShotClassifier:
        """Changes parameters; `fit` again to use them."""
        for name, value in parameters.items():
            if name not in self._parameters():
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=True, string=True),
            requires_fit=True,
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_")  # which a fit sets last

    def _forget(self) -> None:
        """Until a fit is done, and after one that failed, it is not fitted."""
        vars(self).pop("weights_", None)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({given})"

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise not_fitted(self)

    def vectors(
        self, X: Images | NDArray[Any], *, on_error: OnError = "raise"
    ) -> NDArray[np.float32]:
        """Unit rows of images or vectors, float32 (n, dim).

        Arguments and errors are those of `decision_function`.
        """
        self._check_fitted()
        dim = self.weights_.shape[1]
        if isinstance(X, np.ndarray) and X.dtype.kind == "f" and X.ndim < 3:
            if X.ndim != 2 or X.shape[1] != dim:
                raise ValueError(f"X has shape {X.shape}; vectors are (n, {dim})")
            if not np.isfinite(X).all():
                raise ValueError("X has numbers that are not finite")
            vectors: NDArray[Any] = X
            return unit_rows(vectors)
        return embed_array(
            self.encoder_, X, self.cache_, backend=self.backend, on_error=on_error, dim=dim
        )


def _class_weights(
    encoder: Encoder, texts: Sequence[Sequence[str]], cache: EmbeddingCache | None
) -> NDArray[np.float32]:
    """A unit vector a class, float32 (n_classes, dim): the mean of its texts', normalised."""
    rows = embed_texts(encoder, [text for group in texts for text in group], cache)
    ends = np.cumsum([len(group) for group in texts])[:-1]
    return unit_rows(np.stack([part.mean(axis=0) for part in np.split(rows, ends)]))
