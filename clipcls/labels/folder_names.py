"""Turn labels into folder names that are valid on every system."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from clipcls.predictions import UNKNOWN

_LONGEST = 100  # bytes: eCryptfs takes 143, most others 255, and Windows 260 for a whole path
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?|clipcls-sort-.*\.jsonl", re.I
)


def normalize_name(name: str) -> str:
    """Fold case and composition of letters, which some file systems do not distinguish."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def safe_name(name: str) -> str:
    r"""Turn a label into the name of one folder.

    Characters that Windows forbids and control characters become `_`. Trailing dots and spaces go,
    as Windows drops them. A `_` precedes a leading dot, which would hide the folder, and names of
    devices (`con`, `nul.x`) and journals. A name over 100 bytes is cut, and marked with 8 hex
    digits of the label's SHA-256.

    >>> safe_name("b/w"), safe_name(".."), safe_name("aux"), safe_name("etc. ")
    ('b_w', '_', '_aux', 'etc')
    """
    name = unicodedata.normalize("NFC", name)
    safe = "".join("_" if unicodedata.category(c) in ("Cc", "Cs") else c for c in name)
    safe = _FORBIDDEN.sub("_", safe).strip()
    if safe.startswith(".") or _RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    safe = safe.rstrip(". ")
    if len(safe.encode()) > _LONGEST:
        safe = _mark(safe.encode()[: _LONGEST - 9].decode(errors="ignore").rstrip(". "), name)
    return safe or "_"


def assign_folders(labels: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Assign each label a folder, as the names below the target; the label () is `unknown`.

    Of labels that would share a folder on some system (`Polish`, `polish`), the first by code point
    that needs no change keeps its name; the others are marked with 8 hex digits of their SHA-256.
    The order of the labels does not matter.

    >>> assign_folders([("a/b",), ("a_b", "c")])
    {('a/b',): ('a_b~c14cddc0',), ('a_b', 'c'): ('a_b', 'c')}
    """
    wanted = list(dict.fromkeys(labels))
    nodes = sorted({label[:depth] for label in wanted for depth in range(1, len(label) + 1)})
    nodes.sort(key=lambda node: (len(node), safe_name(node[-1]) != node[-1]))
    made: dict[tuple[str, ...], tuple[str, ...]] = {(): ()}
    taken: set[tuple[str, ...]] = {(UNKNOWN,)}
    for node in nodes:
        above = made[node[:-1]]
        name = safe_name(node[-1])
        if (*map(normalize_name, above), normalize_name(name)) in taken:
            name = _mark(name, node[-1])
        made[node] = (*above, name)
        taken.add((*map(normalize_name, above), normalize_name(name)))
    return {label: made[label] if label else (UNKNOWN,) for label in wanted}


def folder_names(label: str) -> tuple[str, str]:
    """The two names that `assign_folders` can give a label's folder: plain and marked.

    >>> folder_names("a/b")
    ('a_b', 'a_b~c14cddc0')
    """
    plain = safe_name(label)
    return plain, _mark(plain, label)


def _mark(name: str, label: str) -> str:
    return f"{name}~{hashlib.sha256(label.encode(errors='surrogateescape')).hexdigest()[:8]}"
