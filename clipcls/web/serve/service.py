"""Classifying for many at once: one model, labels by request, bounded queues.

    bytes ─► decoding threads ─► Batcher: one thread for the model ─► matching threads ─► records
    labels ─► texts ─► vectors that are known, else the model's thread, some texts at a time

All methods are called from one event loop, which computes nothing itself. Images come as bytes and
are kept nowhere: neither they nor their vectors nor the labels of requests reach the cache.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.decision import Abstain
from clipcls.classification.image_classifier import ImageClassifier
from clipcls.classification.zero_shot import ZeroShotClassifier
from clipcls.data.images import PIXELS, decode_image
from clipcls.embeddings.embed import Embedded
from clipcls.errors import ImageError, LabelsError, ModelError
from clipcls.labels.label_set import make_labels
from clipcls.labels.prompts import REJECT_TEXTS, make_prompts
from clipcls.models.backend import Backend
from clipcls.predictions import REJECT, UNKNOWN, Prediction
from clipcls.web.admission import Queue
from clipcls.web.serve.batching import Batcher
from clipcls.web.serve.questions import Limits, Question, prepare_question

if TYPE_CHECKING:
    from clipcls.models.encoder import Encoder

__all__ = ["Figures", "Image", "Service"]

# Texts that the model's thread embeds between two batches of images.
_TEXTS_A_CALL = 32

# What is remembered of requests' labels: vectors of texts, and whole classifiers. A class is about
# 8 kB there, a text as much as it is long; at 512 dimensions both together are below 150 MB.
_TEXTS_KEPT = 20_000
_WEIGHT_KEPT = 80_000
_CLASS_WEIGHT = 8

Result = TypeVar("Result")

Image = tuple[str, "bytes | ImageError | Callable[[], Awaitable[bytes]]"]
"""A name, and the file's bytes, what decodes them, or why they are missing."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A classifier of some labels, and what was to be said about these."""

    classifier: ImageClassifier
    warnings: tuple[str, ...] = ()
    weight: int = 0


class Figures:
    """What happens, for whoever wants to count it; called from any thread."""

    def batch(self, size: int, seconds: float) -> None:
        """The model answered so many images in so many seconds."""

    def texts(self, known: int, new: int) -> None:
        """A request's labels needed texts; so many had to be embedded."""

    def image(self, outcome: str) -> None:
        """An image was answered: "classified", "unknown" or "error"."""


class Service:
    """Answers questions about images.

    Args:
        classifier: fitted; its encoder answers all questions, its labels those that bring none.
        limits: what may be asked.
        max_batch: images a forward pass; None: the encoder's `batch_size`.
        max_wait: how long an image may wait for others while the model is idle, seconds.
        figures: where to count.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        *,
        limits: Limits | None = None,
        max_batch: int | None = None,
        max_wait: float = 0.002,
        figures: Figures | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.own = classifier
        self.queue = Queue(self.limits.queue, self.limits.held)
        self.figures = figures or Figures()
        self._encoder = classifier.encoder_
        # Read now: their files may change.
        self._is_learnt = bool(classifier.provenance_.classifier)
        # Their warnings are the server's, not those of requests.
        self._own_labels = (
            None if self._is_learnt else replace(make_labels(classifier.labels), warnings=())
        )
        own_prompts = make_prompts("photo" if self._is_learnt else classifier.prompts)
        self._own_prompts = replace(own_prompts, warnings=())
        self._texts: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._classifiers: OrderedDict[bytes, _Known] = OrderedDict()
        self._weight = 0
        threads = (classifier.backend or Backend()).threads
        self._decoders = ThreadPoolExecutor(threads, "clipcls-decode")
        self._matchers = ThreadPoolExecutor(2, "clipcls-match")
        self._batcher = Batcher[NDArray[Any], NDArray[np.float32]](
            self._encode,
            max_batch=min(max_batch or self._encoder.batch_size, self._encoder.batch_size),
            max_wait=max_wait,
            watch=self._watch,
        )

    def warm(self) -> None:
        """Loads all that the first request would have to wait for."""
        from PIL import Image

        pixels = self._encoder.preprocess(Image.new("RGB", (64, 64)))
        self._batcher.submit(pixels).result()

    def close(self) -> None:
        """Finishes what was begun and ends the threads."""
        self._decoders.shutdown(cancel_futures=True)
        self._batcher.close()
        self._matchers.shutdown(cancel_futures=True)

    # -- images ---------------------------------------------------------------------------------

    async def classify(
        self,
        images: Sequence[Image],
        question: Question,
    ) -> tuple[list[Prediction | ImageError], list[str]]:
        """The answer for each image, in order, and warnings about the labels.

        Args:
            images: names and the files' bytes, what decodes them, or why they are missing.
            question: what is asked.

        Raises:
            LabelsError, PromptsError: the labels or templates cannot be used.
        """
        known = await self._classifier(question)
        tasks = [asyncio.ensure_future(self._embed(name, data)) for name, data in images]
        try:
            embedded = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        abstain = Abstain(question.min_score, question.min_margin)
        top = min(question.top, len(known.classifier.classes_))
        results = await self._in(
            self._matchers,
            lambda: list(known.classifier.decision(top=top, abstain=abstain).answer(embedded)),
        )
        for result in results:
            if isinstance(result, ImageError):
                self.figures.image("error")
            else:
                self.figures.image("unknown" if result.label == UNKNOWN else "classified")
        return results, list(known.warnings)

    async def _embed(
        self, name: str, data: bytes | ImageError | Callable[[], Awaitable[bytes]]
    ) -> Embedded | ImageError:
        if isinstance(data, ImageError):
            return data
        try:
            content = data if isinstance(data, bytes) else await data()
            pixels = await self._in(self._decoders, self._decode, name, content)
            del content, data  # the encoder's queue holds pixels alone
            vector = await asyncio.wrap_future(self._batcher.submit(pixels))
        except ImageError as error:
            return error.without_frames()
        if not np.isfinite(vector).all() or not vector.any():
            return ImageError(name, "the model gave no finite vector; try --precision fp32")
        return Embedded(name, vector)

    def _decode(self, name: str, data: bytes) -> NDArray[Any]:
        try:
            with PIXELS.share() as share:
                image = decode_image(
                    data,
                    name,
                    max_pixels=self.limits.pixels,
                    least_side=self._encoder.least_side,
                    reserve=share.fill,
                    raw=False,
                )
                return self._encoder.preprocess(image)
        except MemoryError as error:
            raise ImageError(name, "not enough memory to decode it") from error

    def _encode(self, pixels: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        return list(self._encoder.encode_images(pixels))

    def _watch(self, size: int, seconds: float) -> None:
        self.queue.learn(size, seconds)
        self.figures.batch(size, seconds)

    @staticmethod
    async def _in(pool: ThreadPoolExecutor, function: Callable[..., Result], *given: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *given)

    # -- labels ---------------------------------------------------------------------------------

    async def _classifier(self, question: Question) -> _Known:
        """The classifier of a question's labels, templates and `reject`."""
        if question.labels is None and question.prompts is None and question.reject is None:
            return _Known(self.own)
        asked = repr((question.labels, question.prompts, question.reject))
        key = hashlib.sha256(asked.encode()).digest()
        if found := self._classifiers.get(key):
            self._classifiers.move_to_end(key)
            return found
        labels, prompts, texts = await self._in(
            self._matchers,
            prepare_question,
            question,
            self.limits,
            self._own_labels,
            self._own_prompts,
        )
        reject = self.own.reject if question.reject is None else question.reject
        if reject and any(REJECT in (label.name, label.path[0]) for label in labels):
            raise LabelsError(f"labels: {REJECT!r} is a label already; leave one out")
        vectors = await self._vectors([*texts, *(REJECT_TEXTS if reject else ())])
        cut = await self._in(self._matchers, self._encoder.describe_cut, texts)
        informed = _Informed(self._encoder, vectors)
        classifier = ZeroShotClassifier(
            labels,
            cast("Encoder", informed),
            prompts=prompts,
            reject=reject,
            level=self.own.level if question.labels is None else None,
            cache=False,
        )
        await self._in(self._matchers, classifier.fit)
        informed.forget()
        weight = _CLASS_WEIGHT * len(classifier.classes_) + len(texts)
        warnings = dict.fromkeys([*labels.warnings, *prompts.warnings, *cut])
        known = _Known(classifier, tuple(warnings), weight)
        if key not in self._classifiers:  # another request may have been quicker
            self._classifiers[key] = known
            self._weight += weight
        while self._weight > _WEIGHT_KEPT and len(self._classifiers) > 1:
            _, oldest = self._classifiers.popitem(last=False)
            self._weight -= oldest.weight
        return known

    async def _vectors(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The texts' vectors; those not known are embedded between batches of images."""
        found: dict[str, NDArray[np.float32]] = {}
        new = 0
        wanted = list(dict.fromkeys(texts))
        while missing := [text for text in wanted if not self._is_known(text, found)]:
            chunk = missing[:_TEXTS_A_CALL]
            embed = partial(self._encoder.encode_texts, chunk)
            rows = await asyncio.wrap_future(self._batcher.call(embed))
            if not np.isfinite(rows).all():
                raise ModelError("the model gave no finite vector for a text")
            new += len(chunk)
            found.update((text, row.copy()) for text, row in zip(chunk, rows, strict=True))
            self._texts.update((text, found[text]) for text in chunk)
        while len(self._texts) > _TEXTS_KEPT:
            self._texts.popitem(last=False)
        self.figures.texts(len(wanted) - new, new)
        return found

    def _is_known(self, text: str, found: dict[str, NDArray[np.float32]]) -> bool:
        if text in found:
            return True
        if text not in self._texts:
            return False
        self._texts.move_to_end(text)
        found[text] = self._texts[text]
        return True


class _Informed:
    """An encoder as `fit` needs it, whose texts' vectors are known: it runs nothing."""

    def __init__(self, encoder: Encoder, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        self._encoder = encoder
        self._vectors = vectors

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self._vectors[text] for text in texts])

    def describe_cut(self, texts: Sequence[str]) -> list[str]:
        """Nothing: the request has these warnings."""
        return []

    def forget(self) -> None:
        """Lets go of the vectors."""
        self._vectors = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)
