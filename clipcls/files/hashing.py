"""A file's content -> its SHA-256, and whether it is worth remembering."""

from __future__ import annotations

import hashlib
import os
import time

__all__ = ["RACY_NS", "hash_file", "is_settled"]

# A file changed twice within the clock's grain can keep its times (git calls such an entry racy).
RACY_NS = 2_000_000_000


def hash_file(path: str) -> str:
    """The SHA-256 of a file's content as hex, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def is_settled(stat: os.stat_result) -> bool:
    """Whether a file is old enough that any later change would show in its times."""
    return max(stat.st_mtime_ns, stat.st_ctime_ns) < time.time_ns() - RACY_NS
