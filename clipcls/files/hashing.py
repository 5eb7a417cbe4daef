"""Hash files, and tell whether a hash is worth remembering."""

from __future__ import annotations

import hashlib
import os
import time

# A file changed twice within the clock's resolution can keep its times (git calls it racy).
RACY_NS = 2_000_000_000


def hash_file(path: str) -> str:
    """The SHA-256 of a file's content, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_file(stat: os.stat_result) -> bytes:
    """A file's size and times, which change with its content; b"" if it is not settled.

    A file replaced by another of the same size and mtime (`cp -p`, `rsync -t`) has a new ctime.
    """
    return mark_file(stat) if is_settled(stat) else b""


def mark_file(stat: os.stat_result) -> bytes:
    """A file's size and times, settled or not."""
    return b"%d %d %d" % (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def read_size(stamp: bytes) -> int:
    """The size in a stamp of `stamp_file`; 0 if it is another stamp."""
    numbers = stamp.split()
    is_file = len(numbers) == 3 and all(map(bytes.isdigit, numbers))
    return int(numbers[0]) if is_file else 0


def is_settled(stat: os.stat_result) -> bool:
    """Whether a file is old enough for any later change to show in its times."""
    return max(stat.st_mtime_ns, stat.st_ctime_ns) < time.time_ns() - RACY_NS
