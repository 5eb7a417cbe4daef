"""Names kinds of files by their first bytes, for messages about files with a wrong suffix."""

from __future__ import annotations

import re

_KINDS = {
    b"version https://git-lfs": "a Git LFS pointer (run `git lfs pull`)",
    b"<?xml": "XML",
    b"{\\rtf": "rich text (RTF)",
    b"{": "JSON",
    b"[": "JSON",
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"BZh91AY&SY": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!\x1a": "a RAR archive",
    b"PAR1\x15": "a parquet file",
    b"\x93NUMPY": "a NumPy file",
    b"\xd0\xcf\x11\xe0": "an Office document",
    b"%PDF": "a PDF",
    b"%!PS": "a PostScript file",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"\x1a\x45\xdf\xa3": "a video",
    b"\0\x05\x16\x07\0\x02": "a metadata file of macOS",
}
_WEB_PAGE = re.compile(rb"<(?:!doctype html|html|head|body)\b", re.IGNORECASE)
_ERROR_CODE = re.compile(rb"<code>\s*([\w.-]{1,60})\s*</code>", re.IGNORECASE)

START = 1024
"""The number of bytes that `name_kind` looks at."""


def name_kind(data: bytes) -> str:
    """The kind of a file by its first bytes, such as `a zip archive`, perhaps with a cure.

    "" if they are unknown, which includes all text but HTML, XML and JSON.
    """
    start = data[:START]
    begin = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \r\n\t")
    if begin.startswith(b"<"):
        if _WEB_PAGE.search(begin):
            return "a web page (download the raw file, perhaps after a login)"
        if b"<svg" in begin:
            return "an SVG drawing"
        if code := _ERROR_CODE.search(start):  # such as a bucket's AccessDenied
            return f"a server's error message ({code[1].decode()})"
    if start[257:262] == b"ustar":
        return "a tar archive"
    if start[128:132] == b"DICM":
        return "a DICOM image"
    if start[4:8] == b"ftyp":
        return "a video"
    return next((kind for magic, kind in _KINDS.items() if begin.startswith(magic)), "")
