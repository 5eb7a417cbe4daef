"""Caches leave their machine and are put together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embed import embed_array, embed_texts
from helpers.cli import Run
from helpers.encoders import ColourEncoder, NamesEncoder

TEXTS = ["a red thing", "a blue thing"]


@pytest.fixture
def filled(tmp_path: Path, paint: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two models' vectors of two images and two texts."""
    monkeypatch.chdir(tmp_path)
    paths = [paint("a.png", "red"), paint("b.png", "blue")]
    with EmbeddingCache("one.db") as cache:
        for encoder in (ColourEncoder(), NamesEncoder()):
            embed_array(encoder, paths, cache)
            embed_texts(encoder, TEXTS, cache)
    return tmp_path / "one.db"


def computes_nothing(path: str) -> None:
    with EmbeddingCache(path) as cache:
        for encoder in (ColourEncoder(), NamesEncoder()):
            embed_array(encoder, ["a.png", "b.png"], cache)
            embed_texts(encoder, TEXTS, cache)
            assert (encoder.images, encoder.texts) == (0, [])
        assert [len(paths) for paths, _ in cache.images("image colours")] == [2]


def test_export_and_import(filled: Path, run: Run) -> None:
    assert run("cache", "export", "--cache", "one.db", "-o", "c.parquet")[0] == 0
    assert pq.read_table("c.parquet").num_rows == 8 + 2
    status, out, _ = run("cache", "import", "c.parquet", "--cache", "two.db")
    assert (status, "8 of 8" in out) == (0, True)
    computes_nothing("two.db")
    assert "0 of 8" in run("cache", "import", "c.parquet", "--cache", "two.db")[1]


def test_another_cache_is_imported(filled: Path, run: Run) -> None:
    with EmbeddingCache("two.db") as cache:
        embed_texts(ColourEncoder(), [TEXTS[0], "yellow"], cache)
    status, out, _ = run("cache", "import", "one.db", "--cache", "two.db")
    assert (status, "7 of 8" in out) == (0, True)
    computes_nothing("two.db")
    with EmbeddingCache("two.db") as cache:
        assert (cache.info().texts, cache.info().images) == (5, 4)


def test_own_knowledge_of_a_file_is_kept(filled: Path, run: Run) -> None:
    run("cache", "export", "--cache", "one.db", "-o", "c.parquet")
    Path("a.png").write_bytes(Path("b.png").read_bytes())
    os.utime("a.png", (1_600_000_000, 1_600_000_000))
    with EmbeddingCache("two.db") as cache:
        digest = cache.file_hash("a.png")
        run("cache", "import", "c.parquet", "--cache", "two.db")
        assert cache.file_hash("a.png") == digest


def test_damaged_rows_stay_behind(filled: Path, run: Run) -> None:
    run("cache", "export", "--cache", "one.db", "-o", "c.parquet")
    table = pq.read_table("c.parquet")
    rows = table.to_pylist()
    rows[0]["vector"] = [9.0, 9.0, 9.0]
    pq.write_table(type(table).from_pylist(rows, table.schema), "c.parquet")
    _, out, errors = run("cache", "import", "c.parquet", "--cache", "two.db")
    assert "7 of 8" in out
    assert "damaged" in errors


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("missing.parquet", "cannot be read"),
        ("a.png", "not a cache"),
        ("other.parquet", "was not made by"),
        ("vectors.parquet", "in place of the images"),
        ("cut.parquet", "not a whole parquet file"),
        ("two.db", "name another"),
    ],
)
def test_foreign_files_are_one_line(filled: Path, run: Run, file: str, said: str) -> None:
    import pandas as pd

    run("cache", "export", "--cache", "one.db", "-o", "c.parquet")
    run("embed", "a.png", "-o", "vectors.parquet")
    pd.DataFrame({"path": ["a"]}).to_parquet("other.parquet")
    Path("cut.parquet").write_bytes(Path("c.parquet").read_bytes()[:-9])
    EmbeddingCache("two.db").close()
    before = Path(file).read_bytes() if Path(file).exists() else None
    status, _, errors = run("cache", "import", file, "--cache", "two.db")
    assert (status, errors.count("\n")) == (2, 1)
    assert said in errors
    assert (Path(file).read_bytes() if Path(file).exists() else None) == before


def test_no_cache_to_export(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("cache", "export", "--cache", "none.db", "-o", "c.parquet")[0] == 2
    assert not list(tmp_path.iterdir())
