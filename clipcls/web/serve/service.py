"""Answer many clients at once with one model: labels per request, bounded queues.

    bytes ─► decoding threads ─► Batcher: one thread for the model ─► matching threads ─► records
    labels ─► texts ─► vectors that are known, else the model's thread, some texts at a time

All methods are called from one event loop, which computes nothing itself. Images come as bytes and
are kept nowhere: neither they nor their vectors nor the labels of requests reach the cache.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.decision import Abstain
from clipcls.classification.image_classifier import ImageClassifier
from clipcls.classification.in_blocks import answer_together
from clipcls.classification.multi_question import (
    QuestionClassifier,
    answer_questions,
    make_answerers,
)
from clipcls.classification.multilabel import MultiLabelClassifier, find_base
from clipcls.classification.nearness import Nearness
from clipcls.classification.zero_shot import ZeroShotClassifier
from clipcls.data.images import PIXELS, decode_image
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import ImageError, LabelsError, ModelError, PromptsError
from clipcls.labels.label_set import LabelSet, make_labels
from clipcls.labels.presets import list_sets
from clipcls.labels.prompts import PromptSet, make_prompts, make_texts, read_prompts
from clipcls.models.backend import Backend
from clipcls.predictions import UNKNOWN, Prediction
from clipcls.questions import Answers, share_provenance
from clipcls.web.admission import Queue
from clipcls.web.serve.batching import Batcher
from clipcls.web.serve.metrics import Metrics
from clipcls.web.serve.requests import Image, decode_base64, gather
from clipcls.web.serve.schemas import ClassifyRequest, EmbedRequest, Limits

if TYPE_CHECKING:
    from clipcls.models.encoder import Encoder

# Texts that the model's thread embeds between two batches of images.
_TEXTS_A_CALL = 32

# Bounds of what requests' labels leave behind: vectors of texts, and classifiers, each of which may
# have `Limits.labels` classes. At 512 dimensions both together take less than 150 MB.
_TEXTS_KEPT = 20_000
_CLASSES_KEPT = 25_000

_MADE_BY = ("model", "weights", "precision")


Known = tuple[Mapping[str, QuestionClassifier], list[str]]
"""A classifier per question, and the warnings about their labels."""


class Service:
    """Answers requests to classify or embed images.

    Args:
        classifiers: fitted, by the questions that they answer; a single one may be that of "".
            Their encoder, of which all have the same, answers all requests, their labels those
            without labels.
        limits: what a request may hold.
        max_batch: images per forward pass; None: the encoder's `batch_size`.
        max_wait: how long an image waits for others while the model is idle, seconds.
    """

    def __init__(
        self,
        classifiers: Mapping[str, QuestionClassifier],
        *,
        limits: Limits | None = None,
        max_batch: int | None = None,
        max_wait: float = 0.002,
    ) -> None:
        self.limits = limits or Limits()
        self.own = classifiers
        self.first = find_base(next(iter(classifiers.values())))
        self.metrics = Metrics()
        self.queue = Queue(self.limits.queue, self.limits.held)
        self.metrics.queue_images.set_function(lambda: self.queue.images)
        self.metrics.held_bytes.set_function(lambda: self.queue.held)
        self._encoder = self.first.encoder_
        # Read now, since their files may change; their warnings are not for clients.
        in_words = {
            name: classifier
            for name, classifier in classifiers.items()
            if isinstance(classifier, ImageClassifier) and not classifier.provenance_.classifier
        }
        self._own_labels = {
            name: replace(make_labels(each.labels), warnings=()) for name, each in in_words.items()
        }
        prompts = next(iter(in_words.values()), self.first).prompts_
        self._own_prompts = replace(prompts, warnings=())
        self._texts: dict[str, NDArray[np.float32]] = {}  # the last used come last
        self._classifiers: dict[str, Known] = {}
        threads = (self.first.backend or Backend()).threads
        self._decoders = ThreadPoolExecutor(threads, "clipcls-decode")
        self._batcher = Batcher[NDArray[Any], NDArray[np.float32]](
            self._encode,
            max_batch=min(max_batch or self._encoder.batch_size, self._encoder.batch_size),
            max_wait=max_wait,
        )

    def describe(self) -> dict[str, Any]:
        """The labels, or those of each question, and the provenance that all answers share."""
        labels = {name: each.classes_.tolist() for name, each in self.own.items()}
        made_by = share_provenance([each.provenance_.to_dict() for each in self.own.values()])
        return {**({"labels": labels[""]} if "" in labels else {"questions": labels}), **made_by}

    def warm(self) -> None:
        """Load all that the first request would have to wait for."""
        from PIL import Image

        self._encoder.encode_images([self._encoder.preprocess(Image.new("RGB", (64, 64)))])

    def close(self) -> None:
        """Finish what was begun and end the threads."""
        self._decoders.shutdown(cancel_futures=True)
        self._batcher.close()

    # -- images ---------------------------------------------------------------------------------

    async def classify(
        self, images: Sequence[Image], options: ClassifyRequest
    ) -> tuple[list[Prediction | Answers | ImageError], list[str]]:
        """The answer or, with questions, the answers for each image, and warnings about the labels.

        Raises:
            LabelsError, PromptsError: the labels or templates cannot be used.
        """
        classifiers, warnings = await self._open(options)
        least, nearness = options.min_similarity, None
        if least is not None:
            for name, classifier in classifiers.items():
                if classifier.provenance_.classifier:
                    those = f"those of {name!r}" if name else "the server's"
                    raise LabelsError(
                        f"min_similarity needs labels; {those} were learnt from images"
                    )
            names = await self._vectors(Nearness.texts())
            nearness = Nearness(cast("Encoder", _Informed(self._encoder, names)), None)
        embedded = await gather(self._embed(name, data) for name, data in images)
        abstain = Abstain(
            options.min_score, options.min_margin, -math.inf if least is None else least
        )
        answerers = make_answerers(
            classifiers,
            top=options.top,
            min_score=options.min_score or None,
            abstain=abstain,
            nearness=nearness or False,
        )
        answer: Any = answerers.get("") or partial(answer_questions, answerers)
        results = await asyncio.to_thread(lambda: list(answer_together(embedded, answer)))
        for result in results:
            self.metrics.images.labels(_find_outcome(result)).inc()
        return results, warnings

    async def embed(self, images: Sequence[Image], options: EmbedRequest) -> dict[str, Any]:
        """The unit vectors of images and texts, in order, as JSON takes them."""
        embedded = await gather(self._embed(name, data) for name, data in images)
        vectors = await self._vectors(options.texts)
        cut = await asyncio.to_thread(self._encoder.describe_cut, options.texts)
        for item in embedded:
            outcome = "error" if isinstance(item, ImageError) else "embedded"
            self.metrics.images.labels(outcome).inc()
        write = _write_base64 if options.encoding_format == "base64" else _write_floats

        def make_answer() -> dict[str, Any]:
            return {
                "images": [
                    item.to_dict()
                    if isinstance(item, ImageError)
                    else {"path": item.path, "vector": write(item.vector)}
                    for item in embedded
                ],
                "texts": [{"text": text, "vector": write(vectors[text])} for text in options.texts],
                **{name: getattr(self.first.provenance_, name) for name in _MADE_BY},
                "dim": self.first.head_.weights.shape[1],
                "warnings": list(dict.fromkeys(cut)),
            }

        return await asyncio.to_thread(make_answer)

    async def _embed(self, name: str, data: bytes | str | ImageError) -> Embedded | ImageError:
        if isinstance(data, ImageError):
            return data
        try:
            decode = partial(self._decode, name, data)
            loop = asyncio.get_running_loop()
            pixels, content = await loop.run_in_executor(self._decoders, decode)
            del data  # the batcher's queue holds pixels alone
            vector = await self._batcher.submit(pixels)
        except ImageError as error:
            return error.without_frames()
        if not np.isfinite(vector).all() or not vector.any():
            return ImageError(name, "the model gave no finite vector; try --precision fp32")
        return Embedded(name, vector, content=content)

    def _decode(self, name: str, data: bytes | str) -> tuple[NDArray[Any], bytes]:
        """The model's input, and the SHA-256 by which learnt classifiers know their images."""
        try:
            if isinstance(data, str):
                data = decode_base64(name, data)
            with PIXELS.share() as reserve:
                image = decode_image(
                    data,
                    name,
                    max_pixels=self.limits.pixels,
                    least_side=self._encoder.least_side,
                    reserve=reserve,
                    raw=False,
                )
                pixels = self._encoder.preprocess(image)
            return pixels, hashlib.sha256(data).digest()
        except MemoryError as error:
            raise ImageError(name, "not enough memory to decode it") from error

    def _encode(self, pixels: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        started = time.monotonic()
        rows = list(self._encoder.encode_images(pixels))
        seconds = time.monotonic() - started
        self.queue.learn(len(rows), seconds)
        self.metrics.batch_images.observe(len(rows))
        self.metrics.batch_seconds.observe(seconds)
        return rows

    # -- labels ---------------------------------------------------------------------------------

    async def _open(self, options: ClassifyRequest) -> Known:
        """The classifiers of a request: its labels make a single one, its templates one each."""
        if options.labels is None and options.prompts is None:
            return self.own, []
        key = repr((options.labels, options.prompts))
        known = self._classifiers.pop(key, None) or await self._make_classifiers(options)
        self._classifiers[key] = known
        _drop_oldest(self._classifiers, max(1, _CLASSES_KEPT // self.limits.labels))
        return known

    async def _make_classifiers(self, options: ClassifyRequest) -> Known:
        asked, prompts = await asyncio.to_thread(self._read, options)
        every = [make_texts(labels, prompts) for labels in asked.values()]
        texts = [text for question in every for label in question for text in label]
        informed = _Informed(self._encoder, await self._vectors(texts))
        cut = await asyncio.to_thread(self._encoder.describe_cut, texts)
        made: dict[str, QuestionClassifier] = dict(self.own) if options.labels is None else {}
        for name, labels in asked.items():
            level = find_base(made[name]).level if name in made else None
            made[name] = ZeroShotClassifier(
                labels, cast("Encoder", informed), prompts=prompts, level=level, cache=False
            )
            await asyncio.to_thread(made[name].fit)
        informed.vectors = {}
        about_labels = (warning for labels in asked.values() for warning in labels.warnings)
        return made, list(dict.fromkeys([*about_labels, *prompts.warnings, *cut]))

    def _read(self, options: ClassifyRequest) -> tuple[Mapping[str, LabelSet], PromptSet]:
        """A request's labels, those of each question where it brings none, and templates."""
        limits = self.limits
        asked, prompts = self._own_labels, self._own_prompts
        if options.labels is not None:
            if len(options.labels) > limits.labels:
                raise LabelsError(f"{len(options.labels):,} labels; the most are {limits.labels:,}")
            given = (
                item if isinstance(item, str) else item.model_dump(exclude_none=True)
                for item in options.labels
            )
            asked = {"": make_labels(given)}
        elif tagged := [n for n, c in self.own.items() if isinstance(c, MultiLabelClassifier)]:
            raise LabelsError(f"prompts: the question {tagged[0]!r} keeps its own; send labels too")
        if not asked:
            raise LabelsError("the server's classifier was learnt from images: prompts need labels")
        if options.prompts is not None:
            prompts = _make_prompts(options.prompts)
        count = sum(
            len(label.words) * len(prompts.templates) + len(label.prompts)
            for labels in asked.values()
            for label in labels
        )
        if count > limits.texts:
            raise LabelsError(
                f"labels, synonyms and templates make {count:,} texts; the most are "
                f"{limits.texts:,}"
            )
        return asked, prompts

    async def _vectors(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The texts' vectors; those not known are embedded between batches of images."""
        found: dict[str, NDArray[np.float32]] = {}
        while missing := [text for text in dict.fromkeys(texts) if text not in found]:
            known = {text: self._texts.pop(text) for text in missing if text in self._texts}
            if not known:
                chunk = missing[:_TEXTS_A_CALL]
                rows = await self._batcher.call(partial(self._encoder.encode_texts, chunk))
                if not np.isfinite(rows).all():
                    raise ModelError("the model gave no finite vector for a text")
                known = {text: row.copy() for text, row in zip(chunk, rows, strict=True)}
            found |= known
            self._texts |= known
        _drop_oldest(self._texts, _TEXTS_KEPT)
        return found


def _drop_oldest(cache: dict[str, Any], most: int) -> None:
    while len(cache) > most:
        del cache[next(iter(cache))]


def _find_outcome(result: Prediction | Answers | ImageError) -> str:
    """The outcome of an image in the metrics."""
    if isinstance(result, ImageError):
        return "error"
    is_unknown = all(answer.label == UNKNOWN for answer in result.questions.values())
    return "unknown" if is_unknown else "classified"


def _make_prompts(given: str | list[str]) -> PromptSet:
    """Templates, or those of a ready set; files are not read."""
    if isinstance(given, list) or "{" in given:
        return make_prompts([given] if isinstance(given, str) else given)
    sets = list_sets("templates")
    if given not in sets:
        raise PromptsError(f"no ready template set {given[:50]!r}; they are {', '.join(sets)}")
    return PromptSet(given, read_prompts(sets[given]).templates)


def _write_floats(vector: NDArray[np.float32]) -> list[float]:
    """Its numbers, rounded well below what float32 tells apart, in half the characters."""
    return [round(number, 9) for number in vector.tolist()]


def _write_base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


class _Informed:
    """An encoder whose texts' vectors are known, as `fit` needs it: it runs nothing."""

    def __init__(self, encoder: Encoder, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        self._encoder = encoder
        self.vectors = vectors

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self.vectors[text] for text in texts])

    def describe_cut(self, texts: Sequence[str]) -> list[str]:
        """Nothing: the request has these warnings."""
        return []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)
