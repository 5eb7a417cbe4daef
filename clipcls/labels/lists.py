"""Take off what tools and people put around the lines of a list: numbers, bullets, quotes."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["find_doubt", "strip_lines"]

_NUMBER_FIRST = re.compile(
    r"[(\[]?(?P<number>\d{1,6})(?:\s*(?:->|=>|→|[:.)\]=|-])\s*|\s*[,;]\s*|\s+)(?P<name>\S.*)"
)
_NUMBER_LAST = re.compile(
    r"(?P<name>.*[^\s:=,;|>-])(?:\s*(?:->|=>|→|[:=,;|])\s*|\t)(?P<number>\d{1,6})"
)
_INDEX_LAST = re.compile(r"(?P<name>.*\S)\s+(?P<number>\d{1,6})")  # counted from 0 alone

# What tools and people put around every label of a list.
_AROUND = {
    "bullets": re.compile(r"[-*•–]\s+(?:\[[ xX]\]\s+)?(\S.*)"),
    "WordNet ids": re.compile(r"n\d{8}[\s,;:]+(\S.*)"),
    "first letters as folders": re.compile(r"/[a-z]/(\S.*)"),  # Places365
    "colours": re.compile(r"(.*?[^\s:]):\d{1,3},\d{1,3},\d{1,3}:[^:]*:[^:]*"),  # CVAT
}
_KEY = re.compile(
    r"(?:labels?|classes|class_?names|names|categories)\s*[:=]\s*(?=\S)", re.IGNORECASE
)
_IMAGE = re.compile(r".*\.(?:jpe?g|png|tiff?|webp|heic|gif|bmp)(?:[\s,;]+\S{0,20})?", re.IGNORECASE)
_HEADERS = ("label", "labels", "class", "classes", "class_name", "class name", "category", "name")
_QUOTES = (("'", "'"), ('"', '"'), ("“", "”"), ("‘", "’"), ("„", "“"), ("«", "»"))


def strip_lines(lines: Sequence[tuple[int, str]]) -> tuple[str, list[tuple[int, str]]]:
    """Lines without what a tool or a person put around the labels, and a name for it or "".

    A comma at the end, a bullet, a number, an ImageNet id or quotes go where all lines have them;
    a single line is divided at its tabs, bars, semicolons or commas.
    """
    texts = [text for _, text in lines]
    found: list[str] = []
    if len(texts) > 1 and all(text.endswith((",", ";")) for text in texts[:-1]):
        texts = [text.rstrip(",; ") for text in texts]
        found.append("commas at the ends")
    peeled: list[str] | None = texts
    while peeled is not None:  # `1 001.Albatross` has two numbers, `- 1. cat` a bullet and one
        texts = peeled
        what, peeled = _without_what_is_around(texts)
        if what and what not in found:
            found.append(what)
    if len(texts) == 1 and (parts := _divided(_KEY.sub("", texts[0], count=1))):
        lines, texts = [(lines[0][0], part) for part in parts], parts
        found.append("separators on one line")
    if (bare := _without_quotes(texts)) is not None:
        texts = bare
        found.append("quotes")
    kept = [(number, text) for (number, _), text in zip(lines, texts, strict=True) if text]
    return f"a list with {' and '.join(found)}" if found else "", kept


def find_doubt(lines: Sequence[tuple[int, str]]) -> tuple[int, str, str] | None:
    """The first line that may not be meant as a label: its number, it, and what is said of it.

    Raises:
        ValueError: no line is a label; the message says what they are.
    """
    texts = [text for _, text in lines]
    if len(texts) > 1:
        if all(map(_IMAGE.fullmatch, texts)):
            raise ValueError(
                "holds paths of images, not labels; to classify these, write `- < FILE`"
            )
        for pattern, said in _DOUBTS_OF_ALL:
            if all(map(pattern.fullmatch, texts)):
                return (*lines[0], said)
        if texts[0].lower() in _HEADERS:
            return (*lines[0], "is taken for a label; is it a header?")
        matches = [_NUMBER_FIRST.fullmatch(t) or _VALUE_LAST.fullmatch(t) for t in texts]
        names = {match["name"].casefold() for match in matches if match}
        years = all(re.match(r"(?:19|20)\d\d\b", text) for text in texts)
        if all(matches) and len(names) == len(texts) and not years:
            return (*lines[0], "is read as one label; if the number is none of it, remove it")
    for number, text in lines:
        if _without_quotes([text]) is not None:
            return number, text, "keeps its quotes, because other lines have none"
        if len(texts) > 1 and _NO_LABEL.fullmatch(text):
            return number, text, "is taken for a label; if it stands for none, remove the line"
    return None


_DOUBTS_OF_ALL = (
    (re.compile(".*;.*"), "is read as one label; for synonyms, write a csv with a header"),
    (re.compile(r".*\|.*"), "is read as one label; for synonyms, write a csv with a header"),
    (re.compile(r".*\w: (?:an?|the) .*"), "is read as one label; for `label: prompt`, write .yaml"),
)
_VALUE_LAST = re.compile(r"(?P<name>.*?[^\s:=,;])(?:\s*[:=,;]\s*|\s+)[\d.]+\s*%?")
# Placeholders of LabelMe, torchvision and others; rules of tables; sections of settings.
_NO_LABEL = re.compile(
    r"__?(?:ignore|background|unlabel+ed|void|none)__?|null|nan|[-+|=_*~.: ]{3,}|\[[\w -]+\]",
    re.IGNORECASE,
)


def _without_what_is_around(texts: Sequence[str]) -> tuple[str, list[str] | None]:
    """The name of what surrounds every text, and the texts without it; else ("", None)."""
    if (bare := _without_numbers(texts)) is not None:
        return "numbers", bare
    for what, pattern in _AROUND.items():
        matches = [match for text in texts if (match := pattern.fullmatch(text))]
        if len(texts) > 1 and len(matches) == len(texts):
            return what, [match[1] for match in matches]
    return "", None


def _without_numbers(texts: Sequence[str]) -> list[str] | None:
    """The texts without numbers that count up, before or after them; None where they do not.

    `1 star`, `2 stars`, `3 stars`, `zone 0`, `zone 1` and `2024 election` are labels.
    """
    for pattern in (_NUMBER_FIRST, _NUMBER_LAST, _INDEX_LAST):
        matches = [match for text in texts if (match := pattern.fullmatch(text))]
        if len(matches) < max(2, len(texts)):
            continue
        numbers = [int(match["number"]) for match in matches]
        names = [match["name"] for match in matches]
        counts = numbers == [*range(numbers[0], numbers[0] + len(numbers))]
        several = len({name.casefold().removesuffix("s") for name in names}) == len(names)
        if counts and several and numbers[0] in ((0,) if pattern is _INDEX_LAST else (0, 1)):
            return names
    return None


def _without_quotes(texts: Sequence[str]) -> list[str] | None:
    for left, right in _QUOTES:
        pattern = re.compile(rf"{left}((?:[^{left}{right}\\]|\\.)+){right},?")
        matches = [pattern.fullmatch(text) for text in texts]
        if texts and all(matches):
            return [re.sub(r"\\(.)", r"\1", match[1]) for match in matches if match]
    return None


def _divided(line: str) -> list[str] | None:
    for mark in "\t|;,":
        # A comma in a number divides nothing: 1,000 dollars.
        parts = re.split(r"(?<!\d),|,(?!\d)" if mark == "," else re.escape(mark), line)
        parts = [part.strip() for part in parts]
        parts = [part for part in parts if part]
        if len(parts) > 1:
            return parts
    return None
