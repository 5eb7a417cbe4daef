"""What a user named as the model and the cache -> an `Encoder` and a `EmbeddingCache`."""

from __future__ import annotations

import logging
import os

from clipcls.embeddings.cache import EmbeddingCache, default_path, facts_path
from clipcls.errors import CacheError
from clipcls.models.backend import Backend
from clipcls.models.encoder import Encoder, OpenClipEncoder
from clipcls.models.loading import resolve

__all__ = ["open_cache", "open_encoder"]

logger = logging.getLogger(__name__)


def open_cache(cache: bool | str | os.PathLike[str] | EmbeddingCache) -> EmbeddingCache | None:
    """The cache to use: True is the default one, False none.

    Raises:
        CacheError: a cache that was asked for by name cannot be opened. Where the default one
            cannot, that is logged and work goes on without.
    """
    if isinstance(cache, EmbeddingCache):
        return cache
    if not isinstance(cache, bool):
        return EmbeddingCache(cache)
    if not cache:
        return None
    try:
        return EmbeddingCache(default_path())
    except CacheError as error:
        logger.warning("%s; going on without it", error)
        return None


def open_encoder(
    model: str | Encoder,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    backend: Backend | None = None,
    cache: EmbeddingCache | None = None,
    progress: bool = True,
) -> Encoder:
    """A model by its name, ready to be loaded when it is first needed; an `Encoder` as it is.

    What is known of the model itself is kept in a file of its own, whatever the cache: it takes
    seconds to find out. The cache is used where that file cannot be.

    Raises:
        ModelError: there is no such model, or its weights cannot be had.
    """
    if not isinstance(model, str):
        return model
    return OpenClipEncoder(
        resolve(model, checkpoint, progress=progress),
        backend=backend,
        known=_open_facts() or cache,
    )


def _open_facts() -> EmbeddingCache | None:
    try:
        return EmbeddingCache(facts_path())
    except CacheError:
        return None  # nothing that was asked for: it only takes longer
