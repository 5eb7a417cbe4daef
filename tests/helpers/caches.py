"""What lies in a cache of vectors."""

from __future__ import annotations

import sqlite3

from clipcls.embeddings.cache import EmbeddingCache


def connection(cache: EmbeddingCache) -> sqlite3.Connection:
    """The cache's own connection, which it opened at its first use."""
    found = cache._file._connection
    assert found is not None
    return found
