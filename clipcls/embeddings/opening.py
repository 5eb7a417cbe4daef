"""What a user named as the model and the store -> an `Encoder` and a `Store`."""

from __future__ import annotations

import logging
import os
from typing import Literal

from clipcls.embeddings.cache import Store, default_path, facts_path
from clipcls.errors import StoreError
from clipcls.models.encoder import Encoder, Engine, OpenClipEncoder, Precision
from clipcls.models.loading import resolve

__all__ = ["open_encoder", "open_store"]

logger = logging.getLogger(__name__)


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
    model: str | Encoder,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    precision: Precision | Literal["auto"] = "auto",
    batch_size: int | None = None,
    engine: Engine = "auto",
    store: Store | None = None,
    progress: bool = True,
) -> Encoder:
    """A model by its name, ready to be loaded when it is first needed; an `Encoder` as it is.

    What is known of the model itself is kept in a file of its own, whatever the store: it takes
    seconds to find out. The store is used where that file cannot be.

    Raises:
        ModelError: there is no such model, or its weights cannot be had.
    """
    if not isinstance(model, str):
        return model
    return OpenClipEncoder(
        resolve(model, checkpoint, progress=progress),
        device=device,
        precision=precision,
        batch_size=batch_size,
        engine=engine,
        known=_open_facts() or store,
    )


def _open_facts() -> Store | None:
    try:
        return Store(facts_path())
    except StoreError:
        return None  # nothing that was asked for: it only takes longer
