"""`ImageClassifier`: what all classifiers of images with a linear head have in common."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.decision import Abstain, Decision
from clipcls.classification.estimator import Estimator
from clipcls.classification.head import LinearHead, log_sum_exp
from clipcls.classification.in_blocks import answer_blocks, answer_together, watch_each
from clipcls.classification.whole_videos import WholeVideos
from clipcls.data.inputs import OnError, apply_on_error
from clipcls.embeddings import embed as embedding
from clipcls.embeddings.cache import EmbeddingCache, open_cache
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import CalibrationError, ClipclsError, ImageError
from clipcls.labels.names import make_distinct
from clipcls.models.backend import Backend
from clipcls.models.encoder import Encoder, open_encoder
from clipcls.numerics import unit_rows
from clipcls.output.answer_blocks import Results
from clipcls.predictions import Prediction, Provenance

if TYPE_CHECKING:
    from typing import Self

    from clipcls.calibration.base import Identity
    from clipcls.calibration.single_label import Calibration
    from clipcls.classification.nearness import Nearness
    from clipcls.data.inputs import ImageInput, Images
    from clipcls.labels.prompts import PromptSet
    from clipcls.labels.taxonomy import Hierarchy, Level


@dataclass(eq=False, repr=False)
class ImageClassifier(Estimator):
    """Images -> labels: an encoder makes unit vectors, a `LinearHead` scores, a `Decision` answers.

    Follows scikit-learn's conventions. `ZeroShotClassifier` describes parameters and attributes.
    """

    labels: Any
    model: str | Encoder = "auto"
    _: KW_ONLY
    prompts: str | os.PathLike[str] | Iterable[str] | PromptSet | None = None
    checkpoint: str | os.PathLike[str] | None = None
    backend: Backend | None = None
    cache: bool | str | os.PathLike[str] | EmbeddingCache = True
    calibration: Calibration | str | os.PathLike[str] | None = None
    level: int | str | None = None

    _fitted: ClassVar = "head_"

    @abstractmethod
    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Makes the head."""

    @property
    @abstractmethod
    def identity_(self) -> Identity:
        """The identity that a calibration of this classifier carries."""

    def given_class(self, path: str, content: bytes = b"") -> int | None:
        """The class number of the label that a person gave this image file.

        The file is read only if `content`, its SHA-256, is not given.

        `NO_CLASS` if the person said that it has none of the labels; None if nobody labelled it.
        """
        return None

    def _open(self) -> None:
        """Opens the cache and the encoder that the parameters name."""
        self.cache_ = open_cache(self.cache)
        self.encoder_ = open_encoder(self.model, self.checkpoint, self.backend)

    def _set_classes(
        self, paths: Sequence[tuple[str, ...]], level_names: Sequence[str], source: str
    ) -> None:
        """Sets the classes and their hierarchy.

        Args:
            paths: each label's names from the root.
            level_names: of the hierarchy, or ().
            source: of the labels, for messages.
        """
        self.hierarchy_: Hierarchy | None = None
        self._level: Level | None = None
        names = make_distinct(paths)
        if self.level is not None or any(len(path) > 1 for path in paths):
            from clipcls.labels.taxonomy import Hierarchy

            self.hierarchy_ = Hierarchy(paths, level_names, source)
            if self.level is not None:
                self._level = self.hierarchy_.level(self.level)
                names = self._level.names
        self.classes_: NDArray[np.str_] = np.array(names)

    def _set_head(
        self,
        prompts: PromptSet,
        weights: NDArray[Any],
        scale: Any,
        bias: Any,
        *,
        texts: Sequence[Sequence[str]] = (),
        classifier: str = "",
        temperature: float = 1.0,
    ) -> None:
        """Opens the calibration and sets the head, which makes the classifier fitted.

        Args:
            prompts: the template set.
            weights: a unit row per label, (n_labels, dim).
            scale, bias: of the logits, for all labels or (n_labels,).
            texts: of each label, if it was made of texts.
            classifier: hash of a learnt classifier's file, or "".
            temperature: of the logits without a calibration.
        """
        self.prompts_, self._texts = prompts, texts
        found = None
        if self.calibration is not None:
            from clipcls.calibration.file import load_calibration
            from clipcls.calibration.single_label import Calibration

            found = load_calibration(self.calibration, Calibration, self.identity_)
        self.calibration_: Calibration | None = found
        self.provenance_ = Provenance(
            self.encoder_.name,
            self.encoder_.weights[:12],
            self.encoder_.precision,
            prompts.name,
            found.digest if found else "",
            classifier,
            self.encoder_.licence,
        )
        n = len(weights)
        self.head_ = LinearHead(
            weights.astype(np.float64),
            np.broadcast_to(np.asarray(scale, np.float64), n),
            np.broadcast_to(np.asarray(bias, np.float64), n),
            found.temperature if found else temperature,
            self._level,
        )

    # -- scikit-learn's methods: X is one image or many (`clipcls.data.inputs`), or their vectors,
    # float (n, dim). An array of one comes back for one image.

    def decision_function(
        self, X: Images | NDArray[Any], *, on_error: OnError = "raise"
    ) -> NDArray[np.float64]:
        """Logits: (logit scale x cosine similarity + bias) / temperature.

        Args:
            X: images or vectors.
            on_error: if an image cannot be read, "raise" raises its `ImageError`, "skip" leaves
                its row out and logs it, and "yield" makes its row NaN.

        Returns:
            float64 (n, n_classes); one image has one row.

        Raises:
            ImageError: an image cannot be read.
            TypeError: X is neither an image nor an iterable of them.
            ValueError: the vectors have another dimension, or are not finite.
        """
        vectors = self.vectors(X, on_error=on_error)
        return embedding.compute_rows(self.head_.logits, vectors, np.nan)

    def predict_proba(
        self, X: Images | NDArray[Any], *, on_error: OnError = "raise"
    ) -> NDArray[np.float64]:
        """Softmax scores over all classes, float64 (n, n_classes); rows sum to 1.

        Arguments and errors are those of `decision_function`.
        """
        logits = self.decision_function(X, on_error=on_error)
        return np.asarray(np.exp(logits - log_sum_exp(logits)))

    def predict(self, X: Images | NDArray[Any], *, on_error: OnError = "raise") -> NDArray[np.str_]:
        """The best label of each image, str (n,); of equal ones the first in `classes_`.

        Arguments and errors are those of `decision_function`; with `on_error="yield"` an image that
        cannot be read has the label "".
        """
        vectors = self.vectors(X, on_error=on_error)
        return embedding.compute_rows(
            lambda rows: self.classes_[self.head_.best(rows)], vectors, ""
        )

    def score(self, X: Images | NDArray[Any], y: Any) -> float:
        """The accuracy: the share of images whose label is `y`'s, (n,), as a str.

        Raises:
            ImageError: an image cannot be read.
            ValueError: there are no images, or not as many as labels.
        """
        from sklearn.utils.validation import check_consistent_length, column_or_1d

        answers, right = self.predict(X), column_or_1d(y).astype(str)
        check_consistent_length(answers, right)
        if not len(right):
            raise ValueError("X has no images")
        return float(np.mean(answers == right))

    def classify(
        self,
        images: Images,
        *,
        top: int = 1,
        abstain: Abstain | None = None,
        prediction_sets: float | None = None,
        refine: bool = False,
        explain: bool = False,
        nearness: bool | Nearness = False,
        heatmaps: str | os.PathLike[str] | None = None,
        watch: Callable[[ImageError | None], None] | None = None,
        on_error: OnError = "yield",
    ) -> Iterator[Prediction | ImageError]:
        """Classifies images one by one, in their order, with bounded memory.

        Args:
            images: one image or any number (see `clipcls.data.inputs`); each `ImageError` among
                them is yielded again.
            top, abstain, prediction_sets, explain, nearness: see `decision`.
            refine: let all images decide together: nothing is yielded until the last is embedded,
                and memory grows with the images. A batch that this
                would not help is answered without it, which is logged.
            heatmaps: draw a heat map of each answer into this folder, as `Heatmaps` does; the
                images must be files.
            watch: with `refine`, called after each image is embedded, with the `ImageError` if it
                could not be read.
            on_error: if an image cannot be read, "yield" yields its `ImageError` in its place,
                "skip" leaves it out and logs it, and "raise" raises it at its turn.

        Yields:
            a `Prediction` per image, or the `ImageError` that says why there is none. One image
            makes an iterator of one.

        Raises:
            TypeError: `images` is neither an image nor an iterable of them.
            CalibrationError: see `decision`.
            ClipclsError: see `decision`; `heatmaps` with a custom `Encoder` that has no `seen`.
            OutputError: a heat map cannot be written.
        """
        decision = self.decision(
            top=top,
            abstain=abstain,
            prediction_sets=prediction_sets,
            refine=refine,
            explain=explain,
            nearness=nearness,
        )
        results: Iterator[Prediction | ImageError]
        if refine:
            embedded = watch_each(self.embed(images, on_error=on_error), watch)
            results = answer_together(embedded, decision.answer)
        else:
            blocks = self._embed(embedding.embed_blocks, images)
            results = Results(answer_blocks(blocks, decision.answer))
            results = results if on_error == "yield" else apply_on_error(results, on_error)
        if heatmaps is None:
            return results
        from clipcls.classification.occlusion import Heatmaps

        return Heatmaps({"": self}, heatmaps).draw_each(results)

    def decision(
        self,
        *,
        top: int = 1,
        abstain: Abstain | None = None,
        prediction_sets: float | None = None,
        refine: bool = False,
        explain: bool = False,
        nearness: bool | Nearness = False,
    ) -> Decision:
        """The object that answers embedded images.

        Args:
            top: how many labels each prediction carries.
            abstain: when an image is `unknown`; None: never.
            prediction_sets: give each prediction a `label_set` that holds no right label with at
                most this probability.
            refine: let the images that it answers at once decide together, as in
                `transductive.refine`.
            explain: give each prediction an `explanation`.
            nearness: give each prediction its `nearness`, as `min_similarity` does too; ignored by
                a learnt classifier. A `Nearness` of the same encoder saves embedding its names.

        Raises:
            CalibrationError: the calibration is missing, or cannot promise what is asked of it;
                `refine` with a calibration.
            ClipclsError: `refine` with a hierarchy of labels or a learnt classifier;
                `min_similarity` with a learnt classifier, whose similarities are not to texts.
        """
        self._check_fitted()
        if top < 1:
            raise ValueError(f"top is {top}; the least is 1")
        abstain = abstain or Abstain()
        threshold = abstain.threshold(self.calibration_)
        set_threshold = explainer = measure = None
        if prediction_sets is not None:
            if self.calibration_ is None:
                raise CalibrationError("prediction_sets need a calibration")
            set_threshold = self.calibration_.set_threshold(prediction_sets)
        if explain:
            from clipcls.classification.explain import Explainer

            explainer = Explainer(self.encoder_, self.cache_, self._texts)
        if self.provenance_.classifier:
            if abstain.min_similarity > -math.inf:
                raise ClipclsError("similarities of a learnt classifier are not to texts")
        elif nearness or abstain.min_similarity > -math.inf:
            from clipcls.classification.nearness import Nearness

            measure = nearness if isinstance(nearness, Nearness) else None
            measure = measure or Nearness(self.encoder_, self.cache_)
        levels = self.hierarchy_.levels if self.hierarchy_ else ()
        return Decision(
            self.head_,
            self.classes_,
            replace(self.provenance_, refined=refine),
            levels if self._level is None else (self._level,),
            top,
            abstain,
            threshold.score if threshold else None,
            set_threshold,
            explainer,
            measure,
            refine,
            self.given_class if self.provenance_.classifier else None,
        )

    def heatmap(self, image: ImageInput, label: str | None = None) -> NDArray[np.float32]:
        """Where in an image one label lies, by hiding place after place (see `occlusion`).

        Args:
            image: one image, of any kind that `classify` takes.
            label: a class, or a name or path of the labels' hierarchy; None: the best class.

        Returns:
            float32 (height, width) of the upright image, how far the log-odds of the label's score
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

    def embed(
        self, images: Images, *, on_error: OnError = "yield", hashed: bool = False
    ) -> Iterator[Embedded | ImageError]:
        """As `embed_images`, with `on_error` as for `classify`."""
        return apply_on_error(self._embed(embedding.embed_images, images, hashed=hashed), on_error)

    def _embed(self, embed: Callable[..., Any], images: Any, **options: Any) -> Any:
        self._check_fitted()
        if embedding.is_vector_array(images):
            images = self.vectors(images)
        embed = embedding.embed_images if isinstance(images, WholeVideos) else embed
        found = embed(self.encoder_, images, self.cache_, backend=self.backend, **options)
        return images.average(found) if isinstance(images, WholeVideos) else found

    def vectors(
        self, X: Images | NDArray[Any], *, on_error: OnError = "raise"
    ) -> NDArray[np.float32]:
        """Unit rows of images or vectors, float32 (n, dim).

        Arguments and errors are those of `decision_function`.
        """
        self._check_fitted()
        dim = self.head_.weights.shape[1]
        if embedding.is_vector_array(X):
            if X.shape[1] != dim:
                raise ValueError(f"X has shape {X.shape}; vectors are (n, {dim})")
            if not np.isfinite(X).all():
                raise ValueError("X has numbers that are not finite")
            return unit_rows(X)
        return embedding.embed_array(
            self.encoder_, X, self.cache_, backend=self.backend, on_error=on_error, dim=dim
        )
