"""Names of labels: the levels of a hierarchy in one text, and words for a text encoder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

__all__ = [
    "find_kinds",
    "join_levels",
    "make_distinct",
    "make_line",
    "spell_out",
    "split_levels",
]

# A > between spaces divides levels, unless a backslash precedes it.
_ALONE = re.compile(r"(?<=\s)>(?=\s)")
_LITERAL = re.compile(r"(?<=\s)\\*>(?=\s)")
_UNDERSCORES = re.compile(r"(?<=[^\W_])_+(?=[^\W_])")


def join_levels(path: Sequence[str]) -> str:
    r"""Join the names from the root to a label to one text; `split_levels` splits it again.

    A `>` between white space that is part of a name is written `\>`.

    Example:
        >>> join_levels(["animal", "dog"]), join_levels(["a > b"])
        ('animal > dog', 'a \\> b')
    """
    return " > ".join(_LITERAL.sub(r"\\\g<0>", name) for name in path)


def split_levels(text: str) -> tuple[str, ...]:
    """Split what `join_levels` joined."""
    parts = (part.removeprefix(" ").removesuffix(" ") for part in _ALONE.split(text))
    return tuple(_LITERAL.sub(lambda mark: mark[0].removeprefix("\\"), part) for part in parts)


def spell_out(name: str) -> str:
    """Replace underscores between letters or digits by spaces, as captions have them.

    Example:
        >>> spell_out("golden_retriever"), spell_out("__init__")
        ('golden retriever', '__init__')
    """
    return _UNDERSCORES.sub(" ", name)


def make_line(path: Sequence[str]) -> str:
    r"""Write a label's path as a line of a text file; `\` precedes what would be a comment."""
    line = join_levels(path)
    return "\\" + line if line.lstrip("\\").startswith("#") else line


def make_distinct(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The last name of each path; the whole path if several share the name (see `join_levels`)."""
    names = [path[-1] for path in paths]
    for _ in range(2):  # a path may be another label's name
        count = Counter(names)
        names = [
            name if count[name] == 1 else join_levels(path)
            for name, path in zip(names, paths, strict=True)
        ]
    return tuple(names)


def find_kinds(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """For each label that shares its name with another, the name above it; "" for the others."""
    count = Counter(path[-1] for path in paths)
    return tuple(path[-2] if count[path[-1]] > 1 and len(path) > 1 else "" for path in paths)
