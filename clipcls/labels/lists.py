"""Strip what tools and people put around the lines of a list: numbers, bullets, quotes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from clipcls.errors import LabelsError

_NUMBER = r"(?P<number>\d{1,6})"
# Patterns around every label of a list, and the numbers from which they may count up.
_AROUND: tuple[tuple[str, tuple[int, ...], re.Pattern[str]], ...] = (
    (
        *("numbers", (0, 1)),
        re.compile(
            rf"[(\[]?{_NUMBER}(?:\s*(?:->|=>|→|[:.)\]=|-])\s*|\s*[,;]\s*|\s+)(?P<name>\S.*)"
        ),
    ),
    (
        *("numbers", (0, 1)),
        re.compile(rf"(?P<name>.*[^\s:=,;|>-])(?:\s*(?:->|=>|→|[:=,;|])\s*|\t){_NUMBER}"),
    ),
    ("numbers", (0,), re.compile(rf"(?P<name>.*\S)\s+{_NUMBER}")),
    ("bullets", (), re.compile(r"[-*•–]\s+(?:\[[ xX]\]\s+)?(?P<name>\S.*)")),
    ("WordNet ids", (), re.compile(r"n\d{8}[\s,;:]+(?P<name>\S.*)")),
    ("first letters as folders", (), re.compile(r"/[a-z]/(?P<name>\S.*)")),  # Places365
    ("colours", (), re.compile(r"(?P<name>.*?[^\s:]):\d{1,3},\d{1,3},\d{1,3}:[^:]*:[^:]*")),  # CVAT
)
_KEY = re.compile(
    r"(?:labels?|classes|class_?names|names|categories)\s*[:=]\s*(?=\S)", re.IGNORECASE
)
_SEPARATORS = ("\t", r"\|", ";", r"(?<!\d),|,(?!\d)")  # no comma in a number: 1,000 dollars
_QUOTES = (("'", "'"), ('"', '"'), ("“", "”"), ("‘", "’"), ("„", "“"), ("«", "»"))

_IMAGE = re.compile(r".*\.(?:jpe?g|png|tiff?|webp|heic|gif|bmp)(?:[\s,;]+\S{0,20})?", re.IGNORECASE)
_HEADERS = ("label", "labels", "class", "classes", "class_name", "class name", "category", "name")
_DOUBTS_OF_ALL = (
    (re.compile(r".*[;|].*"), "is read as one label; for synonyms, write a csv with a header"),
    (re.compile(r".*\w: (?:an?|the) .*"), "is read as one label; for `label: prompt`, write .yaml"),
)
# Placeholders of LabelMe, torchvision and others; rules of tables; sections of settings.
_NO_LABEL = re.compile(
    r"__?(?:ignore|background|unlabel+ed|void|none)__?|null|nan|[-+|=_*~.: ]{3,}|\[[\w -]+\]",
    re.IGNORECASE,
)


def strip_lines(lines: Sequence[tuple[int, str]]) -> tuple[str, list[tuple[int, str]]]:
    """Strip what surrounds every label: commas at the end, bullets, numbers, ids, quotes.

    A single line is split at its tabs, bars, semicolons or commas.

    Args:
        lines: line numbers and texts.

    Returns:
        What was stripped, as in `a list with numbers`, or ""; and the lines without it.
    """
    texts = [text for _, text in lines]
    found: list[str] = []
    if len(texts) > 1 and all(text.endswith((",", ";")) for text in texts[:-1]):
        texts = [text.rstrip(",; ") for text in texts]
        found.append("commas at the ends")
    while stripped := _strip_one(texts):  # `1 001.Albatross` has two numbers
        what, texts = stripped
        found.append(what)
    if len(texts) == 1 and (parts := _split_line(_KEY.sub("", texts[0], count=1))):
        lines, texts = [(lines[0][0], part) for part in parts], parts
        found.append("separators on one line")
    if bare := _strip_quotes(texts):
        texts = bare
        found.append("quotes")
    kept = [(number, text) for (number, _), text in zip(lines, texts, strict=True) if text]
    return f"a list with {' and '.join(dict.fromkeys(found))}" if found else "", kept


def find_doubts(path: str, lines: Sequence[tuple[int, str]]) -> list[str]:
    """A warning about the first line that may not be meant as a label.

    Raises:
        LabelsError: all lines are paths of images.
    """
    texts = [text for _, text in lines]
    doubts = [(*lines[0], doubt) for doubt in _doubt_all(path, texts)] if len(texts) > 1 else []
    for number, text in lines:
        if _strip_quotes([text]):
            doubts.append((number, text, "keeps its quotes, because other lines have none"))
        if len(texts) > 1 and _NO_LABEL.fullmatch(text):
            doubts.append((number, text, "is read as a label; if it stands for none, remove it"))
    return [f"{path}:{number}: {text!r} {doubt}" for number, text, doubt in doubts[:1]]


def _doubt_all(path: str, texts: Sequence[str]) -> Iterator[str]:
    if all(map(_IMAGE.fullmatch, texts)):
        raise LabelsError(
            f"{path}: contains paths of images, not labels; to classify these, write `- < FILE`"
        )
    for pattern, doubt in _DOUBTS_OF_ALL:
        if all(map(pattern.fullmatch, texts)):
            yield doubt
    if texts[0].lower() in _HEADERS:
        yield "is read as a label; is it a header?"


def _strip_one(texts: Sequence[str]) -> tuple[str, list[str]] | None:
    """The name of what surrounds every text, and the texts without it.

    Numbers must count up: `1 star`, `2 stars`, `3 stars`, `zone 0`, `zone 1` and `2024 election`
    are labels.
    """
    for what, firsts, pattern in _AROUND:
        matches = [match for text in texts if (match := pattern.fullmatch(text))]
        if len(matches) < max(2, len(texts)):
            continue
        names = [match["name"] for match in matches]
        if firsts:
            numbers = [int(match["number"]) for match in matches]
            counts = numbers == [*range(numbers[0], numbers[0] + len(numbers))]
            distinct = {name.casefold().removesuffix("s") for name in names}
            if not counts or numbers[0] not in firsts or len(distinct) < len(names):
                continue
        return what, names
    return None


def _strip_quotes(texts: Sequence[str]) -> list[str]:
    """The texts without the quotes that all of them have, else []."""
    for left, right in _QUOTES:
        pattern = re.compile(rf"{left}((?:[^{left}{right}\\]|\\.)+){right},?")
        matches = [match for text in texts if (match := pattern.fullmatch(text))]
        if len(matches) == len(texts):
            return [re.sub(r"\\(.)", r"\1", match[1]) for match in matches]
    return []


def _split_line(line: str) -> list[str]:
    for separator in _SEPARATORS:
        parts = [part.strip() for part in re.split(separator, line) if part.strip()]
        if len(parts) > 1:
            return parts
    return []
