"""Images that tables list: paths, URLs and bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from clipcls.data.inputs import NamedImage
from clipcls.data.paths import find_images
from clipcls.data.sources import open_image
from clipcls.data.tables import Cell
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embed import embed_images
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import ImageError
from helpers.encoders import ColourEncoder

Paint = Callable[..., str]


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[EmbeddingCache]:
    with EmbeddingCache(tmp_path / "cache.db") as cache:
        yield cache


def found(*inputs: str, column: str | None = None) -> list[str]:
    items = find_images(inputs, image_column=column)
    return [item.name if isinstance(item, NamedImage) else str(item) for item in items]


def write(name: str, rows: list[dict[str, Any]], **options: Any) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), name, **options)
    elif name.endswith(".jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        cells = [list(rows[0]), *(map(str, row.values()) for row in rows)]
        Path(name).write_text("\n".join(",".join(row) for row in cells))
    os.utime(name, (1_700_000_000, 1_700_000_000))
    return name


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_paths_are_relative_to_the_table(kind: str) -> None:
    rows = [{"id": n, "Image": name} for n, name in enumerate(["a.jpg", "s3://b/c.jpg", " "])]
    table = write(f"t/t.{kind}", rows)
    *names, blank = found(table)
    assert names == ["t/a.jpg", "s3://b/c.jpg"]
    assert "the row has no image" in blank


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_column_is_chosen(kind: str) -> None:
    table = write(f"t.{kind}", [{"url": "a.jpg", "path": "b.jpg", "photo": "c.jpg"}])
    (unclear,) = found(table)
    assert "not clear which column" in unclear
    assert "'url', 'path', 'photo'" in unclear
    assert found(table, column="photo") == ["c.jpg"]
    (missing,) = found(table, column="picture")
    assert "has no column 'picture'" in missing
    assert "'url', 'path', 'photo'" in missing


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_of_columns_that_differ_in_case_the_exact_one_is_chosen(kind: str) -> None:
    table = write(f"t.{kind}", [{"Photo": "a.jpg", "photo": "b.jpg"}])
    assert found(table, column="Photo") == ["a.jpg"]
    assert found(table, column="photo") == ["b.jpg"]
    assert "has no column 'PHOTO'" in found(table, column="PHOTO")[0]


def test_texts_and_bytes_are_read_however_they_are_stored(paint: Paint) -> None:
    photo = paint("red.png", "red")
    images, paths = pyarrow.array([Path(photo).read_bytes()]), pyarrow.array([photo])
    plain = images.dictionary_encode(), paths.dictionary_encode(), images, paths
    views = images.cast(pyarrow.binary_view()), paths.cast(pyarrow.string_view())
    for column in (*plain, *views):
        pyarrow.parquet.write_table(pyarrow.table({"image": column}), "t.parquet")
        (name,) = found("t.parquet")
        assert open_image(name).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("structure", [False, True])
def test_bytes(
    structure: bool,
    paint: Paint,
    encoder: ColourEncoder,
    cache: EmbeddingCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    colours = ["red", "green", "blue"] * 7
    data = [Path(paint(f"{c}.png", c)).read_bytes() for c in colours]
    rows: list[dict[str, Any]] = [
        {"image": {"bytes": d, "path": None} if structure else d} for d in data
    ]
    rows[5]["image"] = {"bytes": None, "path": "red.png"} if structure else None
    table = write("t.parquet", rows, row_group_size=4)
    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", -(1 << 62))  # old enough
    results = list(embed_images(encoder, find_images([table]), cache))
    assert [r.path for r in results] == [f"t.parquet#{n}" for n in range(21)]
    broken = [r for r in results if isinstance(r, ImageError)]
    assert [r.reason for r in broken] == ([] if structure else ["the row has no image"])
    for row, result in enumerate(results):
        if isinstance(result, Embedded) and row != 5:
            assert result.vector.argmax() == ["red", "green", "blue"].index(colours[row])
    assert open_image("t.parquet#13").getpixel((0, 0)) == (0, 255, 0)
    (beyond,) = embed_images(encoder, "t.parquet#21")
    assert isinstance(beyond, ImageError)
    assert "has 21 rows" in beyond.reason

    def refuse(*_: object, **__: object) -> bytes:
        raise AssertionError("read again")

    if structure:
        monkeypatch.setattr(Cell, "read", refuse)
        monkeypatch.setattr(Cell, "load", refuse)
        again = list(embed_images(encoder, find_images([table]), cache))
        assert all(isinstance(r, Embedded) and r.stored for r in again)


def test_behind_a_url(paint: Paint, encoder: ColourEncoder) -> None:
    files = fsspec.filesystem("memory")
    red = Path(paint("red.png", "red")).read_bytes()
    files.pipe("/d/red.png", red)
    files.pipe("/d/t.csv", b"path\nred.png\n")
    files.pipe("/d/b.parquet", Path(write("b.parquet", [{"image": red}])).read_bytes())
    results = list(embed_images(encoder, find_images(["memory://d/t.csv", "memory://d/b.parquet"])))
    assert [r.path for r in results if isinstance(r, Embedded)] == [
        "memory://d/red.png",
        "memory://d/b.parquet#0",
    ]
    files.rm("/d", recursive=True)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_broken_table_is_one_line(name: str) -> None:
    Path(name).write_bytes(b"{\x00\xffPAR1 broken")
    (error,) = found(name)
    assert error.startswith(f"{name}: ")
    assert "\n" not in error
    (missing,) = found(f"no-{name}")
    assert missing == f"no-{name}: no such file"


def test_two_columns_of_bytes_are_not_mixed_up_in_the_cache(
    paint: Paint,
    encoder: ColourEncoder,
    cache: EmbeddingCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", -(1 << 62))
    front, back = (Path(paint(f"{c}.png", c)).read_bytes() for c in ("red", "green"))
    table = write("t.parquet", [{"front": front, "back": back}])
    for column, colour in (("front", 0), ("back", 1), ("front", 0)):
        (result,) = embed_images(encoder, find_images([table], image_column=column), cache)
        assert isinstance(result, Embedded)
        assert result.vector.argmax() == colour
