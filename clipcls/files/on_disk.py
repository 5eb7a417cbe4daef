"""Names of files: URLs and paths, joined, found under the disk's spelling, or explained."""

from __future__ import annotations

import contextlib
import functools
import os
import re

from clipcls.files.text import canonical

_URL = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # not C:\\


def is_url(name: str) -> bool:
    """Whether a name is the URL of another place than this disk, such as `s3://bucket/a.jpg`."""
    return "://" in name and _URL.match(name) is not None


def join_address(folder: str, name: str) -> str:
    """A name as seen from a folder, as `os.path.join` does; a URL stays as it is.

    >>> join_address("photos", "a.jpg"), join_address("photos", "s3://b/a.jpg")
    ('photos/a.jpg', 's3://b/a.jpg')
    """
    if is_url(name):
        return name
    if is_url(folder) and name and not name.startswith("/"):
        return f"{folder.rstrip('/')}/{name}"
    return os.path.join(folder, name)


def find_on_disk(path: str) -> str:
    """The path as the disk spells it, if it exists, else as it was given.

    A path that does not exist may mean the one name that looks the same (see `canonical`), be in
    quotes or a `file://` URL, as file managers copy paths, or contain Windows' backslashes.
    """
    if is_url(path):
        return path
    spellings = [path, canonical(path)]
    if quoted := re.fullmatch(r"""(["'])(.+)\1""", spellings[1]):
        spellings.append(quoted[2])
    elif re.match(r"file://(?:localhost)?/", spellings[1], re.IGNORECASE):
        from urllib.parse import unquote, urlsplit

        spellings.append(unquote(urlsplit(spellings[1]).path))
    for spelling in dict.fromkeys((*spellings, *(s.replace("\\", "/") for s in spellings))):
        try:
            found = _find(spelling)
        except (OSError, ValueError):
            continue
        if found is not None:
            return found
    return path


def explain_missing(path: str) -> str:
    """Why the path does not exist, with the likely cause: `no such file; ...`."""
    hint = ""
    name = os.path.basename(path)
    if "\n" in path:
        hint = "its lines end with newlines: leave out -0"
    elif any("\udc80" <= character <= "\udcff" for character in path):
        hint = "the name is not valid UTF-8: save the list as UTF-8"
    elif os.sep == "/" and re.search(r"(?:\A|/)(?:[A-Za-z]:[\\/]|\\\\)", path):
        hint = "it begins with a Windows drive"
    else:
        with contextlib.suppress(OSError, ValueError):
            folder = os.path.abspath(os.path.dirname(path) or os.curdir)
            listed = _names(folder, os.stat(folder).st_mtime_ns)
            cased = [n for names in listed.values() for n in names if n.lower() == name.lower()]
            hint = f"the disk has {cased[0]!r}" if cased else ""
    return f"no such file; {hint}" if hint else "no such file"


def _find(path: str) -> str | None:
    if os.path.lexists(path):
        return path
    folder, name = os.path.split(path.rstrip(os.sep))
    if not name:
        return None
    above = _find(folder) if folder else ""
    if above is None:
        return None
    listed = os.path.abspath(above)
    names = _names(listed, os.stat(listed).st_mtime_ns).get(canonical(name), ())
    return os.path.join(above, names[0]) if len(names) == 1 else None


@functools.lru_cache(maxsize=8)
def _names(folder: str, _changed: int) -> dict[str, list[str]]:
    """The names in a folder, by their `canonical` spelling."""
    found: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        found.setdefault(canonical(name), []).append(name)
    return found
