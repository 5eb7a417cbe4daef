"""Decode the text files that users have, and read csv tables as spreadsheets write them.

The one place that turns bytes into text (`decode`, `read_text`), text into lines (`number_lines`)
or rows (`read_table`), and texts that look the same into one (`canonical`, `clean`). A cell or line
comes back as written; the caller applies `canonical` where it is a label or a number, but not where
it is a path: `Screenshot at 10.00\\u202fAM.png` is a real file name (see `files.on_disk`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clipcls.errors import ClipclsError, InputError

__all__ = [
    "Row",
    "Table",
    "canonical",
    "clean",
    "decode",
    "detect_encoding",
    "escape_bytes",
    "guard",
    "number_lines",
    "parse_number",
    "read_table",
    "read_text",
    "unguard",
]

# Text files that are not the text a person means, by their first bytes in lower case.
_OTHER_FILES = {
    b"{\\rtf": "is rich text (RTF); save it as plain text (TextEdit: Format, Make Plain Text)",
    b"<!doctype html": "is a web page, not the file itself; download the raw file",
    b"<html": "is a web page, not the file itself; download the raw file",
    b"pk\x03\x04": "is an Excel workbook or zip file; in a spreadsheet, save it as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook; in a spreadsheet, save it as CSV UTF-8",
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; run `git lfs pull`",
}

_BOMS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}

# Soft hyphen, zero-width spaces and joins, direction marks (Windows' file properties put U+202A
# before a path that is copied from there), byte order marks. Not the joiners U+200C and U+200D
# between letters or emoji, which they change, nor marks of Arabic that show something.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
    "|(?<![^\\x00-\\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\\x00-\\x7f])"
)
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")

# What Excel, LibreOffice and Google Sheets may run as a formula (OWASP, CSV injection), and a byte
# order mark, which `decode` drops at the beginning of a line.
_GUARDED = ("=", "+", "-", "@", "\t", "\ufeff")


def read_text(path: Path, error: type[ClipclsError] = InputError) -> str:
    """Read a whole text file; see `decode`.

    Raises:
        error: the file cannot be read or is not text; the message names file and cure.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise error(f"{path}: cannot be read: {(e.strerror or str(e)).lower()}") from e
    except ValueError as e:  # NUL, or half a surrogate pair
        raise error(f"{str(path)!r}: no file can have this name") from e
    except MemoryError as e:
        raise error(f"{path}: is too large for this machine's memory") from e
    return decode(data, str(path), error)


def decode(data: bytes, name: str, error: type[ClipclsError] = InputError) -> str:
    r"""Decode UTF-8 with or without a byte order mark, UTF-16 or UTF-32 (see `detect_encoding`).

    Decompress gzip first. Newlines become `\n`, and byte order marks at the beginning of lines are
    dropped: files that were joined have them inside.

    Args:
        data: the whole file.
        name: what messages begin with.
        error: what to raise.

    Raises:
        error: the data is binary or in another encoding; the message names file, line and cure.
    """
    if data.startswith(b"\x1f\x8b"):
        import gzip
        import zlib

        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as e:
            raise error(
                f"{name}: the gzip file is cut off or damaged; `gzip -dc` prints what it still has"
            ) from e
    for start, reason in _OTHER_FILES.items():
        if data.lstrip(b"\xef\xbb\xbf \r\n\t")[: len(start)].lower() == start:
            raise error(f"{name}: {reason}")
    encoding = detect_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        if encoding == "utf-8-sig" and b"\0" in data:
            raise error(f"{name}: is a binary file; name a text file") from e
        line = data.count(b"\n", 0, e.start) + 1
        shown = encoding.removesuffix("-sig").upper()
        raise error(
            f"{name}:{line}: is not {shown} text; save the file as UTF-8 (in Excel: CSV UTF-8)"
        ) from e
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.lstrip("\ufeff").replace("\n\ufeff", "\n")


def detect_encoding(start: bytes) -> str:
    """The codec for data that begins with `start`: by its byte order mark, else UTF-8.

    Without a mark it is UTF-16 where at least 30 % of the 16-bit units have a zero byte, always on
    the same side, as text with ASCII letters has, and there are newlines but no other control
    characters (of a single line, 70 % and a dot). Names separated by zero bytes are not that.
    """
    for bom, name in _BOMS.items():
        if start.startswith(bom):
            return name
    if b"\0" in start:
        units = len(start) // 2
        zeros = start[0 : 2 * units : 2].count(0), start[1 : 2 * units : 2].count(0)
        codec = "utf-16-be" if zeros[0] else "utf-16-le"
        share = max(zeros) / max(1, units)
        if min(zeros) == 0 and units >= 2 and share > 0.3:
            text = start[: 2 * units].decode(codec, "replace")
            plain = "\n" in text or ("." in text and share > 0.7)
            if plain and not re.search(r"[\0-\x08\x0e-\x1f]", text):
                return codec
    return "utf-8-sig"


def number_lines(text: str) -> Iterator[tuple[int, str]]:
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


def canonical(text: str) -> str:
    r"""The one spelling of texts that look the same to a person.

    Composed (NFC), without invisible characters, with plain spaces for no-break and other Unicode
    spaces, and without outer white space. Callers who compare texts compare these; callers who
    replace a text by it say so once per file (see `describe_change`).

    Example:
        >>> canonical("\u202acafe\u0301\u00a0bar\u200b ")
        'café bar'
    """
    if text.isascii():
        return text.strip()
    text = _SPACES.sub(" ", _INVISIBLE.sub("", text))
    return unicodedata.normalize("NFC", text).strip()


def clean(text: str) -> str:
    """The text as `canonical` spells it; "" if it shows nothing.

    Raises:
        ValueError: it holds a line break, another control character, or half a surrogate pair.
    """
    text = canonical(text)
    for character in text:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs"):
            raise ValueError(f"has the control character {character!r}; write it as one plain line")
    return text if any(c.isprintable() and not c.isspace() for c in text) else ""


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        where: what a message begins with: `file:line`.
        cells: column -> cell as written, "" where the row is too short.
    """

    where: str
    cells: dict[str, str]


class Table(NamedTuple):
    """A csv file.

    Attributes:
        where: the header's `file:line`.
        columns: the header's cells: `canonical`, lower case; () for an empty file.
        rows: the rows that are not blank, read as they are asked for.
    """

    where: str
    columns: tuple[str, ...]
    rows: Iterator[Row]


def read_table(
    text: str, name: str, error: type[ClipclsError] = InputError, *, exact: bool = False
) -> Table:
    """Read a csv as people and spreadsheets write it.

    Comma, semicolon, tab or bar between cells, whichever the header has most of, or what Excel's
    first line `sep=;` says; quotes doubled inside quotes; blank rows skipped; the `'` that guards
    against formulas taken off (see `guard`). PowerShell's first line `#TYPE` is skipped, and a csv
    that a spreadsheet kept in one column is read again.

    Args:
        text: the whole file, as from `decode`.
        name: what messages begin with.
        error: what to raise.
        exact: keep white space at the beginning of cells, as a program wrote it. (People write
            `cat, "a cat, asleep"`.)

    Raises:
        error: from `rows` (or at once, in the header): it is not csv, or a row has more cells than
            the header; the message names file, line and cure.
    """
    import csv
    import io

    lines = text.split("\n", 1)
    skipped = 0
    delimiter = ""
    if said := re.fullmatch(r'"?sep=(.?)"?[,;\t]*', lines[0].strip("\ufeff "), re.IGNORECASE):
        delimiter, skipped, text = said[1], 1, "".join(lines[1:])
    elif lines[0].startswith("#TYPE "):
        skipped, text = 1, "".join(lines[1:])
    if not delimiter:
        header = re.sub(r'"[^"]*"', "", text.lstrip("\n").partition("\n")[0])
        delimiter = max(",;\t|", key=header.count)
    reader = csv.reader(
        io.StringIO(text), delimiter=delimiter, strict=True, skipinitialspace=not exact
    )

    def rows() -> Iterator[tuple[str, list[str]]]:
        line = 1 + skipped
        try:
            for row in reader:
                where, line = f"{name}:{line}", reader.line_num + 1 + skipped
                if any(cell.strip() for cell in row):
                    yield where, row
        except csv.Error as e:
            raise error(f"{name}:{line}: is not a csv line: {e}") from e

    def named(columns: tuple[str, ...]) -> Iterator[Row]:
        for where, row in whole:
            if any(cell.strip() for cell in row[len(columns) :]):
                raise error(
                    f"{where}: has {len(row)} cells for {len(columns)} columns; "
                    'put a text with a comma in it between " quotes'
                )
            row += [""] * (len(columns) - len(row))
            yield Row(where, dict(zip(columns, map(unguard, row), strict=False)))

    whole = rows()
    where, header_row = next(whole, (name, []))
    if len(found := [cell for cell in header_row if cell.strip()]) == 1 and re.search(
        "[,;]", found[0]
    ):
        first, rest = "\n" * skipped + header_row[0], list(whole)
        unquoted = "\n".join([first, *(row[0] for _, row in rest)])
        if skipped or len(unquoted) < len(text):
            return read_table(unquoted, name, error, exact=exact)
        whole = iter(rest)
    columns = tuple(canonical(cell).lower() for cell in header_row)
    return Table(where, columns, named(columns))


def escape_bytes(path: str) -> str:
    r"""The path as text: bytes that are no UTF-8, and half surrogate pairs, as `\xff`.

    Example:
        >>> escape_bytes("\udcff.jpg")
        '\\xff.jpg'
    """
    try:
        return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # from JSON; no file can have this name
        return path.encode(errors="backslashreplace").decode()


def guard(cell: str) -> str:
    """The cell with a `'` in front, if a spreadsheet would run it as a formula."""
    return f"'{cell}" if cell.lstrip("'").startswith(_GUARDED) else cell


def unguard(cell: str) -> str:
    """The cell without the `'` that `guard` put in front."""
    return cell[1:] if cell.startswith("'") and guard(cell[1:]) != cell[1:] else cell


def parse_number(text: str) -> float:
    """A number out of a spreadsheet, with a decimal point or a decimal comma, or as a percentage.

    Raises:
        ValueError: the text is not a number.
    """
    text = canonical(text)
    if text.endswith("%"):
        return parse_number(text[:-1]) / 100
    return float(text.replace(",", ".") if "." not in text else text)
