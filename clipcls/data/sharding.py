"""A deterministic share of the images, for jobs that work on one set independently."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from clipcls.errors import InputError
from clipcls.files.text import canonical

_SEPARATORS = "/" if os.sep == "/" else "/\\"


@dataclass(frozen=True, slots=True)
class Shard:
    """Share `number` (from 1) of `of` shares of about equal size.

    An image's share follows from its name below the input that led to it, a frame's share from the
    name of its video. It depends neither on the other images nor on where the input is mounted.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `3/8` means.

        Raises:
            InputError: it means none.
        """
        found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
        if not found:
            raise InputError(f"{text}: write the share and the number of shares, like 3/8")
        number, of = map(int, found.groups())
        if number == 0 or not 1 <= number <= of:
            raise InputError(f"{text}: shares are numbered from 1 to {of or 'N'}")
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def contains(self, name: str, root: str = "") -> bool:
        """Whether an image that the input `root` led to is in this share."""
        key = canonical(cut_root(name, root)).encode(errors="surrogateescape")
        digest = hashlib.blake2b(key, digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.number - 1


def cut_root(name: str, root: str) -> str:
    """An image's name below the folder or pattern that led to it, else its whole name.

    >>> cut_root("photos/a/b.jpg", "photos/"), cut_root("photos/a/b.jpg", "photos/*/*.jpg")
    ('a/b.jpg', 'a/b.jpg')
    >>> cut_root("photos/b.jpg", "photos/b.jpg"), cut_root("data/s.tar!b.jpg", "data/s.tar")
    ('photos/b.jpg', 'data/s.tar!b.jpg')
    """
    fixed, magic = re.fullmatch(r"([^*?[{]*)(.*)", root, re.DOTALL).groups()  # type: ignore[union-attr]
    end = max(fixed.rfind(separator) for separator in _SEPARATORS)
    folder = fixed[: end + 1] if magic else fixed
    below = name.removeprefix(folder) if folder else name
    is_below = below != name and (folder[-1] in _SEPARATORS or below[:1] in {*_SEPARATORS})
    return (below.lstrip(_SEPARATORS) if is_below else name).replace(os.sep, "/")
