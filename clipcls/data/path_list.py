"""Read the list of paths that `-` stands for, as it comes."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from typing import BinaryIO

from clipcls.errors import InputError
from clipcls.files.text import detect_encoding

_CHUNK = 1 << 16
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
_BINARY = "standard input is binary data, not a list of paths; to classify one image, name its file"


def read_path_list(stdin: BinaryIO, null: bool) -> Iterator[str]:
    """The names on standard input, each as soon as it is complete.

    Raises:
        InputError: it cannot be read, is binary data, or ends names otherwise than `null` says.
    """
    for raw in _split(stdin, b"\0" if null else b"\n"):
        if b"\0" in raw:
            if any(map(os.path.lexists, filter(None, raw.split(b"\0")))):
                raise InputError("the list on standard input is separated by NUL bytes: add -0")
            raise InputError(_BINARY)
        if not null and raw.endswith(b"\r") and not os.path.lexists(raw):
            raw = raw[:-1]
        if raw.strip():
            yield os.fsdecode(raw)


def _split(stdin: BinaryIO, end: bytes) -> Iterator[bytes]:
    read = getattr(stdin, "read1", stdin.read)  # read1: what has arrived, without waiting for more
    try:
        chunk = start = read(_CHUNK)
        while chunk and any(bom.startswith(start) for bom in _BOMS):
            chunk = read(_CHUNK)
            start += chunk
        encoding = detect_encoding(start)
        if is_utf16 := encoding != "utf-8-sig":
            if end == b"\0":
                raise InputError(
                    "the list on standard input is UTF-16 text with one path per line: leave out -0"
                )
            decoder = codecs.getincrementaldecoder(encoding)()
        else:
            start = start.removeprefix(_BOMS[0])
            odd = [raw for raw in start.split(end) if _CONTROL.search(raw.replace(b"\0", b""))]
            if odd and not any(os.path.lexists(raw) for raw in odd if b"\0" not in raw):
                raise InputError(_BINARY)
        rest, chunk = b"", start
        while chunk:
            text = os.fsencode(decoder.decode(chunk)) if is_utf16 else chunk
            *whole, rest = (rest + text).split(end)
            yield from whole
            chunk = read(_CHUNK)
        if rest:
            yield rest
    except (OSError, ValueError) as error:
        raise InputError(f"standard input cannot be read: {error}") from error
