from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcls.errors import InputError
from clipcls.files.text import (
    canonical,
    decode,
    guard,
    number_lines,
    parse_number,
    read_table,
    read_text,
    unguard,
)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_text_is_the_same_in_every_encoding(encoding: str) -> None:
    text = "path;label\nphotos/café.jpg;猫\na.jpg;dog\n"
    assert decode(text.replace("\n", "\r\n").encode(encoding), "t") == text


def test_byte_order_marks_inside_joined_files_are_dropped() -> None:
    assert decode("\ufeffcat\n\ufeff# dogs\ndog\n".encode(), "t") == "cat\n# dogs\ndog\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"cat\ncaf\xe9\n", "t:2: is not UTF-8 text; save the file as UTF-8"),
        (b"PK\x03\x04\x14\0\x06\0\x08\0\xff", "t: is an Excel workbook or zip file; in a spread"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "t: is an Excel workbook; in a spreadsheet, save it"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "t: is a JPEG image, not a text file"),
        (b"\xff\xfec\0a", "t:1: is not UTF-16 text"),
    ],
)
def test_what_is_no_text_is_refused_with_the_cure(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        decode(data, "t")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: cannot be read: no such file"):
        read_text(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("cat", "cat"),
        ("  cat\t", "cat"),
        ("hot\u00a0dog", "hot dog"),
        ("hot\u202fdog\u2003", "hot dog"),
        ("\ufeffcat", "cat"),
        ("c\u200bat\u200d", "cat"),
        ("\u202aC:\\cat.jpg\u202c", "C:\\cat.jpg"),
        ("cafe\u0301", "café"),
        # what joins Persian letters and emoji is part of how they look
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("❤\ufe0f", "❤\ufe0f"),
    ],
)
def test_what_looks_the_same_becomes_the_same(written: str, seen: str) -> None:
    assert canonical(written) == seen


@given(st.text())
def test_the_canonical_spelling_is_its_own(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


def test_comments_and_blank_lines_of_a_list() -> None:
    assert list(number_lines("# c\n\n a \n\\#b\nc#\n")) == [(3, "a"), (4, "#b"), (5, "c#")]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,cat\nb.jpg,\n",
        "\n\npath,label\n,\na.jpg,cat\n\nb.jpg\n",
        "Path;LABEL\na.jpg;cat\nb.jpg;\n",
        "path\tlabel\na.jpg\tcat\nb.jpg\n",
        "sep=;\npath;label\na.jpg;cat\nb.jpg;\n",
        '"sep=;"\n"path";"label"\n"a.jpg";"cat"\n"b.jpg";""\n',
        "path|label\na.jpg|cat\nb.jpg|\n",
        '#TYPE System.IO.FileInfo\n"path","label"\n"a.jpg","cat"\n"b.jpg",\n',
        # A csv with commas that a spreadsheet with semicolons opened, and kept in one column.
        '"path,label"\n"a.jpg,cat"\n"b.jpg,"\n',
        "path,label;;\na.jpg,cat;;\nb.jpg,;;\n",
        "sep=\t\npath\tlabel\na.jpg\tcat\nb.jpg\t\n",
        '\ufeffpath, label\u00a0, "a;b;c"\na.jpg, "cat",\nb.jpg,,,,\n',
    ],
)
def test_a_table_is_the_same_in_every_dialect(text: str) -> None:
    table = read_table(text, "t.csv")
    assert table.columns[:2] == ("path", "label")
    assert [(row["path"], row["label"]) for _, row in table.rows] == [
        ("a.jpg", "cat"),
        ("b.jpg", ""),
    ]


def test_a_header_with_quotes_inside_one_cell_is_taken_as_it_is() -> None:
    table = read_table('x"a;b"\n1\n', "t.csv")
    assert table.columns == ('x"a;b"',)
    assert [row[table.columns[0]] for _, row in table.rows] == ["1"]


def test_rows_are_named_by_the_line_where_they_begin() -> None:
    table = read_table('sep=,\na,b\n"1\n2",3\n\n4,5\n', "t.csv")
    assert table.where == "t.csv:2"
    assert [where for where, _ in table.rows] == ["t.csv:3", "t.csv:6"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('a,b\n1,2\n3,"4\n', "t.csv:3: is not a csv line"),
        ("a,b\n1,2,3\n", 't.csv:2: has 3 cells for 2 columns; put a text with a comma .* " quotes'),
    ],
)
def test_rows_that_are_no_csv_are_refused_with_their_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(read_table(text, "t.csv").rows)


def test_an_empty_table_has_neither_columns_nor_rows() -> None:
    where, columns, rows = read_table("\n", "t.csv")
    assert (where, columns, list(rows)) == ("t.csv", (), [])


cells = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]))


@given(st.lists(st.tuples(cells, cells), min_size=1), st.sampled_from(",;\t"))
def test_cells_of_a_program_come_back_exactly(rows: list[tuple[str, str]], delimiter: str) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow(("path", "label"))
    writer.writerows(map(guard, row) for row in rows)
    found = read_table(file.getvalue(), "t.csv", exact=True)
    wanted = [row for row in rows if any(map(str.strip, row))]
    assert [tuple(cells.values()) for _, cells in found.rows] == wanted


@given(cells)
def test_the_guard_against_formulas_comes_off_again(cell: str) -> None:
    assert unguard(guard(cell)) == cell


def test_numbers_have_a_point_or_a_comma() -> None:
    assert [parse_number(text) for text in ("0.97", "0,97", " 1e-05", "1,5E-05")] == [
        0.97,
        0.97,
        1e-05,
        1.5e-05,
    ]
    assert parse_number("51,2\u00a0%") == 0.512
    for text in ("", "cat", "1,2,3", "%"):
        with pytest.raises(ValueError, match="could not convert"):
            parse_number(text)
