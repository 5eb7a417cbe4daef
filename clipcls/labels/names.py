"""Names of labels: the levels of a hierarchy in one text, and words for a text encoder."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

# A > between spaces divides levels, unless a backslash precedes it.
_ALONE = re.compile(r"(?<=\s)>(?=\s)")
_LITERAL = re.compile(r"(?<=\s)\\*>(?=\s)")
_UNDERSCORES = re.compile(r"(?<=[^\W_])_+(?=[^\W_])")

_PLACE = re.compile(r"(?:\b(an?|the) )?\{\}", re.IGNORECASE)
# Read letter by letter, as in MP3, SUV or X-ray: no vowel, or consonants that begin no word.
_SPELLED = re.compile(
    r"(?!(?:st|mrs?|ms)\b)(?:[a-z]\b|[^aeiouy]+\b|(?:led|suv)\b|"
    r"(?!f[jlr]|l[hl]|m[cn]|r[hw]|s[bcfghklmnpqrtvwz])[fhlmnrsx][^aeiouy])"
)
_VOWEL = re.compile(
    r"8|1[18](?!\d)|hour(?!i)|honou?r|honest|heir|hors d|"  # eight, eleven, eighteen; silent h
    # u as in use, eu as in Europe and o as in one begin with a consonant.
    r"(?!eu|ew|on(?:e|es|esie|ce)\b|oui|uni(?![nmd])|unimo|ubi|ugand|ukr|usn|"
    r"u[cfhjkqrst][aeiou]|u(?:k|sb|sa|rl|v)\b)[aeiou]"
)


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


def fill_template(template: str, word: str) -> str:
    """Put a word in place of the template's `{}`, after the article that it needs.

    A word with an article of its own replaces the template's; `{c}` keeps the template's as it is.

    Example:
        >>> [fill_template("a photo of a {}.", word) for word in ("airport", "unicorn", "an X-ray")]
        ['a photo of an airport.', 'a photo of a unicorn.', 'a photo of an X-ray.']
        >>> fill_template("a photo of a {c}.", "airport")
        'a photo of a airport.'
    """

    def fill(match: re.Match[str]) -> str:
        article = match[1]
        if article is None or re.match("(?:an?|the) ", word):
            return word
        if article[0] in "aA":
            article = article[0] + "n" * _begins_with_vowel(word)
        return f"{article} {word}"

    return _PLACE.sub(fill, template) if "{}" in template else template.replace("{c}", word)


def _begins_with_vowel(word: str) -> bool:
    """Whether English says `an` before it, by its sound."""
    plain = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode().lower()
    plain = plain.lstrip("\"'( ")
    spelled = re.match(r"[a-z]*", plain)
    if spelled and _SPELLED.match(spelled[0]):
        return plain[0] in "aefhilmnorsx"
    return _VOWEL.match(plain) is not None


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
