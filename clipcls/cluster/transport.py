"""A fitted classifier as bytes for another machine, which opens the model itself.

The head, with its labels' vectors, goes along; the model's weights and the cache do not.
"""

from __future__ import annotations

import io
import pickle
import platform
from collections.abc import Iterator
from typing import Any

from clipcls.classification.multilabel import MultiLabelClassifier
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.errors import ModelError
from clipcls.models.backend import Backend
from clipcls.models.encoder import open_encoder
from clipcls.models.open_clip_encoder import OpenClipEncoder
from clipcls.models.registry import ModelSource


def pack(content: Any, backend: Backend) -> bytes:
    """Bytes of an object with fitted classifiers.

    Args:
        content: the object.
        backend: how the other machine is to run the model.
    """
    stream = io.BytesIO()
    _Packer(stream, backend).dump(content)
    return stream.getvalue()


def unpack(data: bytes) -> Any:
    """The object that `pack` made bytes of; its classifiers have no cache.

    Raises:
        ModelError: the model cannot be opened here, or has other weights.
    """
    return _Unpacker(io.BytesIO(data)).load()


def with_provenance(classifier: Any) -> Iterator[Any]:
    """The fitted classifiers that a classifier consists of, whose records carry provenance."""
    for one in getattr(classifier, "classifiers", {"": classifier}).values():
        yield one
        if isinstance(one, MultiLabelClassifier):
            yield one.classifier


class _Packer(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, backend: Backend) -> None:
        super().__init__(stream, protocol=5)
        self._backend = backend

    def persistent_id(self, item: Any) -> Any:
        if isinstance(item, EmbeddingCache):
            return ("cache",)
        if isinstance(item, OpenClipEncoder):
            return "encoder", item.source, self._backend, item.weights
        return None


class _Unpacker(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self._encoders: dict[str, Any] = {}

    def persistent_load(self, key: Any) -> Any:
        if key == ("cache",):
            return None
        _, source, backend, weights = key
        if weights not in self._encoders:
            self._encoders[weights] = _open(source, backend, weights)
        return self._encoders[weights]


def _open(source: ModelSource, backend: Backend, weights: str) -> Any:
    where = f"on the machine {platform.node()}"
    encoder: Any
    try:
        if source.weights.is_file():
            encoder = OpenClipEncoder(source, backend)
        else:
            encoder = open_encoder(source.name, backend=backend, progress=False)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    if encoder.weights != weights:
        raise ModelError(
            f"{where}, {source.name} has other weights ({encoder.weights[:12]}, not {weights[:12]})"
        )
    return encoder
