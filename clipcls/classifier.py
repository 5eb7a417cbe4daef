"""The zero-shot classifier: labels in words, images in, labels with scores out.

The method is CLIP's (Radford et al. 2021, arXiv 2103.00020, section 3.1.4): a class is the mean
of its prompts' unit vectors, normalised again; an image's score for it is the softmax, over all
classes, of logit scale x cosine similarity (+ bias).
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipcls.embedder import embed_images, embed_texts
from clipcls.encoder import Encoder, Engine, OpenClipEncoder, Precision, unit_rows
from clipcls.errors import ClipclsError, ImageError, StoreError
from clipcls.index import FlatIndex
from clipcls.labels import LabelsLike, make_labels
from clipcls.models import resolve
from clipcls.predictions import UNKNOWN, Candidate, Prediction, Provenance
from clipcls.prompts import PromptSet, class_texts, make_prompts
from clipcls.store import Store, default_path, facts_path

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageLike = str | os.PathLike[str] | Image

__all__ = ["ZeroShotClassifier", "open_encoder", "open_store"]

logger = logging.getLogger(__name__)

# Images matched at a time, and classes in one block of the softmax's sum: both bound memory.
_MATCHED_TOGETHER = 1024
_CLASSES_A_BLOCK = 16_384


class ZeroShotClassifier:
    """Classifies images by labels in words; follows scikit-learn's conventions.

    Args:
        labels: a list of labels, a mapping from label to prompts or synonyms, a label file or
            the name of a ready label set.
        model: a model's name as in `clipcls models`, or an `Encoder`.
        prompts: a template set's name, a file of templates or a list of them.
        checkpoint: a file with weights for `model`, where that is an architecture's name.
        device: a torch device; None takes the best there is.
        precision: what the model computes in: "fp32", "bf16" or "fp16"; "auto" is bf16 on a CPU
            made for it, fp16 on CUDA, else fp32.
        batch_size: images a forward pass; None: by the device.
        engine: what runs the model on a CPU: "openvino", "torch" or "auto".
        workers: threads that read and decode images; None: by the CPU.
        store: where embeddings are kept: True for the user's cache directory, False for nowhere,
            or a file. What is known of the model itself is kept in any case.

    Attributes:
        classes_: the labels, str (n_classes,), in the order given.
        weights_: the classes' unit vectors, float32 (n_classes, dim).
        index_: `FlatIndex` over `weights_`.
        encoder_: the `Encoder` in use.
        store_: the `Store` in use, or None.

    >>> clf = ZeroShotClassifier(["cat", "garden"], model="mini", store=False).fit()
    >>> clf.predict(["examples/photos/chelsea.jpg"])
    array(['cat'], dtype='<U6')
    >>> clf.weights_.shape
    (2, 512)
    """

    classes_: NDArray[np.str_]
    weights_: NDArray[np.float32]

    def __init__(
        self,
        labels: LabelsLike,
        model: str | Encoder = "auto",
        *,
        prompts: str | os.PathLike[str] | Iterable[str] | PromptSet = "photo",
        checkpoint: str | os.PathLike[str] | None = None,
        device: str | None = None,
        precision: Precision | Literal["auto"] = "auto",
        batch_size: int | None = None,
        engine: Engine = "auto",
        workers: int | None = None,
        store: bool | str | os.PathLike[str] | Store = True,
    ) -> None:
        self.labels = labels
        self.model = model
        self.prompts = prompts
        self.checkpoint = checkpoint
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.engine = engine
        self.workers = workers
        self.store = store

    def fit(self, X: object = None, y: object = None) -> ZeroShotClassifier:
        """Embeds the labels; learns nothing from `X` and `y`, which are there for pipelines.

        Raises:
            LabelsError, PromptsError, ModelError, StoreError: the parameter cannot be used.
        """
        labels = make_labels(self.labels)
        prompts = make_prompts(self.prompts)
        self.store_ = open_store(self.store)
        if isinstance(self.model, str):
            self.encoder_: Encoder = open_encoder(
                self.model,
                checkpoint=self.checkpoint,
                device=self.device,
                precision=self.precision,
                batch_size=self.batch_size,
                engine=self.engine,
                store=self.store_,
            )
        else:
            self.encoder_ = self.model
        self.weights_ = _class_weights(self.encoder_, class_texts(labels, prompts), self.store_)
        self.classes_ = np.array(labels.names)
        self.index_ = FlatIndex(self.weights_)
        self._exact_weights = self.weights_.astype(np.float64)
        self._made_by = Provenance(
            self.encoder_.name, self.encoder_.weights[:12], self.encoder_.precision, prompts.name
        )
        return self

    # -- scikit-learn's methods: X is a sequence of paths or PIL images, or float (n, dim) -----

    def decision_function(self, X: Sequence[ImageLike] | NDArray[Any]) -> NDArray[np.float64]:
        """Logits: logit scale x cosine similarity + bias, float64 (n, n_classes).

        Raises:
            ImageError: an image cannot be read; `classify` reports it and goes on.
        """
        return self._logits(self._embed(X), self._exact_weights)

    def predict_proba(self, X: Sequence[ImageLike] | NDArray[Any]) -> NDArray[np.float64]:
        """Softmax scores over all classes, float64 (n, n_classes); rows sum to 1.

        Raises:
            ImageError: an image cannot be read.
        """
        logits = self.decision_function(X)
        scores: NDArray[np.float64] = np.exp(logits - _log_sum_exp(logits))
        return scores

    def predict(self, X: Sequence[ImageLike] | NDArray[Any]) -> NDArray[np.str_]:
        """The best label of each image, str (n,); of equal ones the first in `classes_`.

        Raises:
            ImageError: an image cannot be read.
        """
        vectors = self._embed(X)
        _, rows = self.index_.search(vectors, 1)
        return self.classes_[rows[:, 0]]

    def score(self, X: Sequence[ImageLike] | NDArray[Any], y: Sequence[str]) -> float:
        """Accuracy: the share of images whose label is `y`'s."""
        return float(np.mean(self.predict(X) == np.asarray(y)))

    # -- classifying files --------------------------------------------------------------------

    def classify(
        self,
        images: Iterable[ImageLike | ImageError],
        *,
        top: int = 1,
        min_score: float = 0.0,
    ) -> Iterator[Prediction | ImageError]:
        """Classifies images one after the other, in their order, with bounded memory.

        Args:
            images: paths or PIL images, any number; an `ImageError` is handed through.
            top: how many labels each answer carries.
            min_score: an answer whose best score is below it is `unknown`.

        Yields:
            a `Prediction` for each image, or the `ImageError` that says why there is none.
        """
        self._check_fitted()
        if top < 1:
            raise ValueError(f"top is {top}; the least is 1")
        block: list[Any] = []
        for item in embed_images(self.encoder_, images, self.store_, workers=self.workers):
            block.append(item)
            # What the encoder just finished goes out at once; what is stored comes in blocks.
            fresh = not isinstance(item, ImageError) and not item.stored
            if fresh or len(block) == _MATCHED_TOGETHER:
                yield from self._predictions(block, top, min_score)
                block = []
        yield from self._predictions(block, top, min_score)

    def _predictions(
        self, block: Sequence[Any], top: int, min_score: float
    ) -> Iterator[Prediction | ImageError]:
        images = [item for item in block if not isinstance(item, ImageError)]
        if images:
            matches = zip(*self.match(np.stack([item.vector for item in images]), top), strict=True)
        for item in block:
            if isinstance(item, ImageError):
                yield item
                continue
            candidates = tuple(
                Candidate(str(self.classes_[row]), float(score), float(similarity))
                for score, similarity, row in zip(*next(matches), strict=True)
            )
            accepted = candidates[0].score >= min_score
            label = candidates[0].label if accepted else UNKNOWN
            yield Prediction(item.path, label, candidates, self._made_by)

    def match(
        self, vectors: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """The k best classes of each image vector, best first.

        The k come out of the FAISS index; the softmax's denominator is summed over all classes,
        a block of them at a time, so memory does not grow as images x classes. All of it is
        float64: in float32 the sixth digit of a score depends on the images beside it.

        Args:
            vectors: unit rows, float32 (n, dim).
            k: how many classes; no more than there are come back.

        Returns:
            scores float64, similarities float64 and class numbers int64, (n, k) each.
        """
        similarities, rows = self.index_.search(vectors, k)
        total = np.full((len(vectors), 1), -np.inf)
        for start in range(0, len(self.weights_), _CLASSES_A_BLOCK):
            logits = self._logits(vectors, self._exact_weights[start : start + _CLASSES_A_BLOCK])
            total = np.logaddexp(total, _log_sum_exp(logits))
        scale, bias = self.encoder_.logit_scale, self.encoder_.logit_bias
        scores = np.exp(scale * similarities + bias - total)
        return np.minimum(scores, 1.0), similarities, rows

    def _logits(
        self, vectors: NDArray[np.float32], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        logits: NDArray[np.float64] = vectors.astype(np.float64) @ weights.T
        logits *= self.encoder_.logit_scale
        logits += self.encoder_.logit_bias
        return logits

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
                raise ValueError(f"ZeroShotClassifier has no parameter {name!r}")
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
        return hasattr(self, "weights_")

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"ZeroShotClassifier({given})"

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise ClipclsError("this ZeroShotClassifier is not fitted yet: call fit() first")

    def _embed(self, X: Sequence[ImageLike] | NDArray[Any]) -> NDArray[np.float32]:
        self._check_fitted()
        if isinstance(X, str | os.PathLike):
            raise TypeError("X is a sequence of images; for one image write [image]")
        if isinstance(X, np.ndarray) and X.dtype.kind == "f":
            if X.ndim != 2 or X.shape[1] != self.weights_.shape[1]:
                raise ValueError(
                    f"X has shape {X.shape}; embeddings are (n, {self.weights_.shape[1]})"
                )
            return unit_rows(X)
        rows = []
        for item in embed_images(self.encoder_, X, self.store_, workers=self.workers):
            if isinstance(item, ImageError):
                raise item
            rows.append(item.vector)
        return np.stack(rows) if rows else np.empty((0, self.weights_.shape[1]), np.float32)


def open_store(store: bool | str | os.PathLike[str] | Store) -> Store | None:
    """The store to use: True is the default one, False none.

    Raises:
        StoreError: a store that was asked for by name cannot be opened. Where the default one
            cannot, that is logged and work goes on without.
    """
    if isinstance(store, Store):
        return store
    if not isinstance(store, bool):
        return Store(store)
    if not store:
        return None
    try:
        return Store(default_path())
    except StoreError as error:
        logger.warning("%s; going on without it", error)
        return None


def open_encoder(
    model: str,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    precision: Precision | Literal["auto"] = "auto",
    batch_size: int | None = None,
    engine: Engine = "auto",
    store: Store | None = None,
    progress: bool = True,
) -> OpenClipEncoder:
    """A model by its name, ready to be loaded when it is first needed.

    What is known of the model itself is looked up in the store; without one, in a file of its own,
    for it takes seconds to find out.

    Raises:
        ModelError: there is no such model, or its weights cannot be had.
    """
    return OpenClipEncoder(
        resolve(model, checkpoint, progress=progress),
        device=device,
        precision=precision,
        batch_size=batch_size,
        engine=engine,
        known=store or _open_facts(),
    )


def _open_facts() -> Store | None:
    try:
        return Store(facts_path())
    except StoreError:
        return None  # nothing that was asked for: it only takes longer


def _class_weights(
    encoder: Encoder, texts: Sequence[Sequence[str]], store: Store | None
) -> NDArray[np.float32]:
    """A unit vector a class, float32 (n_classes, dim): the mean of its texts', normalised."""
    rows = embed_texts(encoder, [text for group in texts for text in group], store)
    ends = np.cumsum([len(group) for group in texts])[:-1]
    return unit_rows(np.stack([part.mean(axis=0) for part in np.split(rows, ends)]))


def _log_sum_exp(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """log sum exp over the last axis, which is kept."""
    highest = logits.max(axis=-1, keepdims=True)
    total: NDArray[np.float64] = highest + np.log(
        np.exp(logits - highest).sum(axis=-1, keepdims=True)
    )
    return total
