"""The ready label and template sets in the folder `prompts/`."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Literal, NamedTuple

from clipcls.errors import LabelsError, PromptsError

Kind = Literal["labels", "templates"]

_ERRORS = {"labels": LabelsError, "templates": PromptsError}
_NOUNS = {"labels": "label set", "templates": "template set"}
_SUFFIXES = (".txt", ".yaml")  # those that can carry a description in a comment


class ReadySet(NamedTuple):
    """A row in the list of ready sets."""

    name: str
    size: int
    description: str


def list_sets(kind: Kind) -> dict[str, Path]:
    """Names and files of the ready sets, sorted by name: the wheel's, else the checkout's."""
    package = Path(__file__).parents[1]
    packaged = package / "_prompts" / kind
    folder = packaged if packaged.is_dir() else package.parent / "prompts" / kind
    files = (path for path in folder.glob("*") if path.suffix in _SUFFIXES)
    return {path.stem: path for path in sorted(files, key=lambda path: path.stem)}


def find_set(kind: Kind, source: str | os.PathLike[str]) -> tuple[Path, bool]:
    """The file that `source` means, and whether it is a ready set.

    An existing file wins over a ready set of its name; a folder of that name does not.

    Raises:
        LabelsError, PromptsError: neither such a file nor such a set exists.
    """
    error, noun = _ERRORS[kind], _NOUNS[kind]
    name = os.fspath(source)
    is_folder = os.path.isdir(name)
    if os.path.exists(name) and not is_folder:
        return Path(name), False
    sets = {} if isinstance(source, os.PathLike) else list_sets(kind)
    if name in sets:
        return sets[name], True
    if is_folder:
        raise error(f"{name}: is a folder; name a file or a ready {noun}")
    if not sets or os.sep in name or Path(name).suffix:
        raise error(f"{name}: no such file")
    close = difflib.get_close_matches(name.lower(), sets, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    if kind == "labels" and "," in name:
        hint = "write several labels as -l CAT -l DOG, or as a Python list, not joined by commas. "
    if kind == "templates" and " " in name:
        hint = "in a template, write {} where the label goes. "
    if name in list_sets(other := "labels" if kind == "templates" else "templates"):
        hint = f"it is a {_NOUNS[other]}. "
    raise error(f"no file and no ready {noun} {name!r}; {hint}Ready sets: {', '.join(sets)}")


def describe(path: Path) -> str:
    """A ready set's description: the comment in its first line."""
    first = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    return first.lstrip("#").strip() if first.startswith("#") else ""
