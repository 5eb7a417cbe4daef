"""A file's content -> its SHA-256."""

from __future__ import annotations

import hashlib

__all__ = ["hash_file"]


def hash_file(path: str) -> str:
    """The SHA-256 of a file's content as hex, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
