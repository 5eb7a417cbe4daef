"""Names of labels: levels of a hierarchy in one text, and words that a text encoder reads."""

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
    "split_unescaped",
    "unescape",
]

# A > between spaces divides the levels of a hierarchy; with a backslash before it, it does not.
_ALONE = re.compile(r"(?<=\s)>(?=\s)")
_LITERAL = re.compile(r"(?<=\s)\\*>(?=\s)")
_UNDERSCORES = re.compile(r"(?<=[^\W_])_+(?=[^\W_])")


def join_levels(path: Sequence[str]) -> str:
    r"""The names from the root to a label as one text; `split_levels` takes them apart.

    A `>` between white space that is part of a name is written `\>`.

    Example:
        >>> join_levels(["animal", "dog"]), join_levels(["a > b"])
        ('animal > dog', 'a \\> b')
    """
    return " > ".join(_LITERAL.sub(r"\\\g<0>", name) for name in path)


def split_levels(text: str) -> tuple[str, ...]:
    """The names that `join_levels` made one text of."""
    return tuple(
        unescape(part.removeprefix(" ").removesuffix(" ")) for part in split_unescaped(text)
    )


def split_unescaped(text: str) -> list[str]:
    r"""The parts of a text between each `>` that divides levels, as written."""
    return _ALONE.split(text)


def unescape(part: str) -> str:
    r"""A name without the backslash of each `\>`."""
    return _LITERAL.sub(lambda mark: mark[0].removeprefix("\\"), part)


def spell_out(name: str) -> str:
    """A name as a text says it: underscores between letters or digits are spaces.

    Class names in folders and class indexes have them; models were trained on captions.

    Example:
        >>> spell_out("golden_retriever"), spell_out("__init__")
        ('golden retriever', '__init__')
    """
    return _UNDERSCORES.sub(" ", name)


def make_line(path: Sequence[str]) -> str:
    r"""A label's path as a line of a text file; one that would be a comment begins with `\`."""
    line = join_levels(path)
    return "\\" + line if line.lstrip("\\").startswith("#") else line


def make_distinct(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The last name of each path; where several have it, the whole path (see `join_levels`)."""
    names = [path[-1] for path in paths]
    for _ in range(2):  # a path may be another label's name
        count = Counter(names)
        names = [
            name if count[name] == 1 else join_levels(path)
            for name, path in zip(names, paths, strict=True)
        ]
    return tuple(names)


def find_kinds(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The name above each label that shares its name with another; "" for the others."""
    count = Counter(path[-1] for path in paths)
    return tuple(path[-2] if count[path[-1]] > 1 and len(path) > 1 else "" for path in paths)
