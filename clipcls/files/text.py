"""Decode users' text files, and read csv tables as spreadsheets write them.

The one place that turns bytes into text (`decode`, `read_text`), text into lines (`number_lines`)
or rows (`read_table`), and texts that look the same into one (`canonical`, `clean`). Cells and
lines come back as written: callers apply `canonical` to labels and numbers, but not to paths, since
`Screenshot at 10.00\\u202fAM.png` is a real file name (see `files.on_disk`).
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clipcls.errors import InputError
from clipcls.files.magic import name_kind

_TEXTS = ("", "JSON", "XML")
# Descriptions, with the cure, of files that people take for text, by their kind.
_OTHER_FILES = {
    "rich text (RTF)": "rich text (RTF); save it as plain text (TextEdit: Format, Make Plain Text)",
    "a zip archive": "an Excel workbook or zip file; in a spreadsheet, save it as CSV UTF-8",
    "an Office document": "an Excel workbook; in a spreadsheet, save it as CSV UTF-8",
}

_BOMS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}

# Soft hyphens, zero-width spaces, direction marks (Windows' file properties put U+202A before a
# copied path), byte order marks; but not the joiners U+200C and U+200D between letters or emoji.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
    "|(?<![^\\x00-\\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\\x00-\\x7f])"
)
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")

# Beginnings that spreadsheets may run as a formula (OWASP, CSV injection), and a byte order mark,
# which `decode` would drop.
_GUARDED = ("=", "+", "-", "@", "\t", "\ufeff")
_NUMBER = re.compile(r"[+-]\d+([.,]\d+)?([eE][+-]?\d+)?", re.ASCII)  # which is no formula


def read_text(path: Path) -> str:
    """Read a whole text file; see `decode`."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {(e.strerror or str(e)).lower()}") from e
    except ValueError as e:  # NUL, or half a surrogate pair
        raise InputError(f"{str(path)!r}: no file can have this name") from e
    except MemoryError as e:
        raise InputError(f"{path}: is too large for this machine's memory") from e
    return decode(data, str(path))


def decode(data: bytes, name: str) -> str:
    r"""Decode UTF-8 with or without a byte order mark, UTF-16 or UTF-32 (see `detect_encoding`).

    Gzip is decompressed. Newlines become `\n`; byte order marks at the beginning of lines, as in
    files that were joined, are dropped.

    Raises:
        InputError: the data is binary or in another encoding; the message names line and cure.
    """
    if data.startswith(b"\x1f\x8b"):
        import gzip
        import zlib

        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as e:
            raise InputError(
                f"{name}: the gzip file is cut off or damaged; `gzip -dc` prints what it still has"
            ) from e
    if (kind := name_kind(data)) not in _TEXTS:
        raise InputError(f"{name}: is {_OTHER_FILES.get(kind, f'{kind}, not a text file')}")
    encoding = detect_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        if encoding == "utf-8-sig" and b"\0" in data:
            raise InputError(f"{name}: is a binary file; name a text file") from e
        line = data.count(b"\n", 0, e.start) + 1
        shown = encoding.removesuffix("-sig").upper()
        raise InputError(
            f"{name}:{line}: is not {shown} text; save the file as UTF-8 (in Excel: CSV UTF-8)"
        ) from e
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.lstrip("\ufeff").replace("\n\ufeff", "\n")


def detect_encoding(start: bytes) -> str:
    """The codec of data that begins with `start`: by its byte order mark, else UTF-8.

    Without a mark it is UTF-16 if that makes at least 30 % of it ASCII, with newlines but no other
    control characters (for a single line, 70 % and a dot). Names separated by NUL are not that.
    """
    for bom, name in _BOMS.items():
        if start.startswith(bom):
            return name
    for codec in ("utf-16-le", "utf-16-be") if b"\0" in start else ():
        text = start[: len(start) // 2 * 2].decode(codec, "replace")
        share = sum(map(str.isascii, text)) / max(2, len(text))
        is_text = "\n" in text or ("." in text and share > 0.7)
        if share > 0.3 and is_text and not re.search(r"[\0-\x08\x0e-\x1f]", text):
            return codec
    return "utf-8-sig"


def number_lines(text: str) -> Iterator[tuple[int, str]]:
    r"""Line numbers (from 1) and stripped lines, without blank lines and `#` comments.

    `C#` and `route #66` are whole; a line that should begin with `#` is written `\#`, and one that
    should begin with `\#` is written `\\#`. Lines are numbered as in an editor, unlike those of
    str.splitlines.
    """
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            escaped = line.startswith("\\") and line.lstrip("\\").startswith("#")
            yield number, line[1:] if escaped else line


def canonical(text: str) -> str:
    r"""The one spelling of texts that look the same.

    Composed (NFC), without invisible characters and outer white space, with plain spaces.

    Example:
        >>> canonical("\u202acafe\u0301\u00a0bar\u200b ")
        'café bar'
    """
    if text.isascii():
        return text.strip()
    text = _SPACES.sub(" ", _INVISIBLE.sub("", text))
    return unicodedata.normalize("NFC", text).strip()


def clean(text: str) -> str:
    """The `canonical` spelling; "" if nothing of it is visible.

    Raises:
        ValueError: it contains a line break, another control character, or half a surrogate pair.
    """
    text = canonical(text)
    for character in text:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs"):
            raise ValueError(f"has the control character {character!r}; write it as one plain line")
    return text if any(c.isprintable() and not c.isspace() for c in text) else ""


class Table(NamedTuple):
    """A csv file, whose rows are read lazily.

    Attributes:
        where: the header's `file:line`.
        columns: the header's cells, `canonical` and in lower case; () for an empty file.
        rows: `file:line` and column -> cell as written ("" if missing) of each row with a cell.
    """

    where: str
    columns: tuple[str, ...]
    rows: Iterator[tuple[str, dict[str, str]]]


def read_table(text: str, name: str, *, exact: bool = False) -> Table:
    """Read a csv as people and spreadsheets write it.

    The delimiter is comma, semicolon, tab or bar, whichever the header has most of, or what Excel's
    first line `sep=;` says. Blank rows and PowerShell's first line `#TYPE` are skipped, the `'`
    that guards against formulas is removed (see `guard`), and a csv that a spreadsheet kept in one
    column is unpacked.

    Args:
        text: the whole file, as from `decode`.
        name: the file's name, for messages.
        exact: keep white space at the beginning of cells, as programs write it. (People write
            `cat, "a cat, asleep"`.)

    Raises:
        InputError: it is not csv, or a row has more cells than the header; for rows, once they are
            read, after which the next row can be read.
    """
    import csv
    import io

    first, _, rest = text.partition("\n")
    hint = re.fullmatch(r'(?:"?sep=(.?)"?|#TYPE .*)[,;\t]*', first.strip("\ufeff "), re.IGNORECASE)
    body = rest if hint else text
    header = re.sub(r'"[^"]*"', "", body.lstrip("\n").partition("\n")[0])
    delimiter = (hint and hint[1]) or max(",;\t|", key=header.count)
    reader = csv.reader(
        io.StringIO(body), delimiter=delimiter, strict=True, skipinitialspace=not exact
    )

    def read_rows() -> Iterator[tuple[str, list[str]]]:
        skipped = 2 if hint else 1
        line = skipped
        try:
            for row in reader:
                where, line = f"{name}:{line}", reader.line_num + skipped
                if any(cell.strip() for cell in row):
                    yield where, row
        except csv.Error as e:
            raise InputError(f"{name}:{line}: is not a csv line: {e}") from e

    def name_cells(where: str, row: list[str]) -> tuple[str, dict[str, str]]:
        if any(cell.strip() for cell in row[len(columns) :]):
            raise InputError(
                f"{where}: has {len(row)} cells for {len(columns)} columns; "
                'put a text with a comma in it between " quotes'
            )
        cells = itertools.chain(map(unguard, row), itertools.repeat(""))
        return where, dict(zip(columns, cells, strict=False))

    rows = read_rows()
    where, header_row = next(rows, (name, []))
    found = [cell for cell in header_row if cell.strip()]
    if len(found) == 1 and re.search("[,;]", found[0]):  # one column, in quotes or not
        others = list(rows)
        unpacked = "\n".join(["\n" * bool(hint) + header_row[0], *(row[0] for _, row in others)])
        if hint or len(unpacked) < len(text):
            return read_table(unpacked, name, exact=exact)
        rows = iter(others)
    columns = tuple(canonical(cell).lower() for cell in header_row)
    return Table(where, columns, itertools.starmap(name_cells, rows))


def escape_bytes(path: str) -> str:
    r"""Write a path as text, with bytes that are not UTF-8 and half surrogate pairs as `\xff`.

    Example:
        >>> escape_bytes("\udcff.jpg")
        '\\xff.jpg'
    """
    try:
        return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # from JSON; no file can have this name
        return path.encode(errors="backslashreplace").decode()


def guard(cell: str) -> str:
    """Put a `'` before a cell that a spreadsheet would run as a formula."""
    is_guarded = cell.lstrip("'").startswith(_GUARDED) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_guarded else cell


def unguard(cell: str) -> str:
    """Remove the `'` that `guard` put before a cell."""
    return cell[1:] if cell.startswith("'") and guard(cell[1:]) != cell[1:] else cell


def parse_number(text: str) -> float:
    """Parse a spreadsheet's number: with a decimal point or comma, or as a percentage."""
    text = canonical(text)
    if text.endswith("%"):
        return parse_number(text[:-1]) / 100
    return float(text.replace(",", ".") if "." not in text else text)
