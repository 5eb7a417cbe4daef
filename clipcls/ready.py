"""The ready sets in the folder `prompts/`, and how a text file of labels or templates is read."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from clipcls.errors import LabelsError, PromptsError

__all__ = [
    "Kind",
    "ReadySet",
    "clean",
    "describe",
    "find_set",
    "numbered",
    "read_text",
    "ready_sets",
]

Kind = Literal["labels", "templates"]

_ERRORS = {"labels": LabelsError, "templates": PromptsError}
_NOUNS = {"labels": "label set", "templates": "template set"}
_SUFFIXES = (".txt", ".yaml")  # those that can carry a description in a comment

# Marks that a byte order mark can leave; utf-8-sig takes UTF-8 with or without one.
_BOMS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


class ReadySet(NamedTuple):
    """One line of the list of ready sets."""

    name: str
    size: int
    description: str


def folder(kind: Kind) -> Path:
    """The folder of the ready sets: inside the wheel, else the checkout's own."""
    package = Path(__file__).parent
    packaged = package / "_prompts" / kind
    return packaged if packaged.is_dir() else package.parent / "prompts" / kind


def ready_sets(kind: Kind) -> dict[str, Path]:
    """Names and files of the ready sets, sorted by name."""
    files = (path for path in folder(kind).glob("*") if path.suffix in _SUFFIXES)
    return {path.stem: path for path in sorted(files, key=lambda path: path.stem)}


def find_set(kind: Kind, source: str | os.PathLike[str]) -> tuple[Path, bool]:
    """The file that `source` means, and whether it is a ready set.

    A file that exists wins over a ready set of the same name; a folder of that name does not.

    Raises:
        LabelsError, PromptsError: there is neither such a file nor such a set.
    """
    error, noun = _ERRORS[kind], _NOUNS[kind]
    name = os.fspath(source)
    is_folder = os.path.isdir(name)
    if os.path.exists(name) and not is_folder:
        return Path(name), False
    sets = {} if isinstance(source, os.PathLike) else ready_sets(kind)
    if name in sets:
        return sets[name], True
    if is_folder:
        raise error(f"{name}: is a folder; name a file or a ready {noun}")
    if not sets or os.sep in name or Path(name).suffix:
        raise error(f"{name}: no such file")
    close = difflib.get_close_matches(name.lower(), sets, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    if kind == "labels" and "," in name:
        hint = "write several labels as a list, not joined by commas. "
    raise error(f"no file and no ready {noun} {name!r}; {hint}Ready sets: {', '.join(sets)}")


def read_text(path: Path, kind: Kind) -> str:
    """A whole text file: UTF-8 with or without BOM, or UTF-16/32 with one; newlines are `\\n`."""
    error = _ERRORS[kind]
    try:
        data = path.read_bytes()
    except OSError as e:
        raise error(f"{path}: cannot be read: {(e.strerror or str(e)).lower()}") from e
    encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        name = encoding.removesuffix("-sig").upper()
        raise error(f"{path}:{line}: is not {name} text; save the file as UTF-8") from e
    return text.replace("\r\n", "\n").replace("\r", "\n")


def numbered(text: str) -> Iterator[tuple[int, str]]:
    r"""Line numbers (from 1) and stripped lines, without blank lines and `#` comments.

    Only a line that begins with `#` is a comment, so that `C#` and `route #66` are whole; a line
    that shall begin with one is written `\#`, and one that shall begin with `\#` is written `\\#`.
    (str.splitlines would also split at form feeds and their like, and the numbers would no longer
    be those of an editor.)
    """
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            escaped = line.startswith("\\") and line.lstrip("\\").startswith("#")
            yield number, line[1:] if escaped else line


def describe(text: str) -> str:
    """The first line's comment: a ready set's description."""
    first = text.partition("\n")[0].strip()
    return first.lstrip("#").strip() if first.startswith("#") else ""


def clean(text: str) -> str:
    """The text without outer white space, in Unicode's composed form (NFC); "" if it shows nothing.

    Raises:
        ValueError: it holds a line break, another control character, or half a surrogate pair.
    """
    text = unicodedata.normalize("NFC", text.strip())
    for character in text:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs"):
            raise ValueError(f"has the control character {character!r}; write it as one plain line")
    return text if any(c.isprintable() and not c.isspace() for c in text) else ""
