"""The images nearest to a query, in a folder and in the cache."""

from __future__ import annotations

import os
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clipcls.data.boxes import Boxes
from clipcls.data.paths import find_images
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embed import embed_images, embed_texts
from clipcls.embeddings.embedded import Embedded
from clipcls.embeddings.search import search_cache, search_images
from clipcls.numerics import unit_rows
from helpers.caches import connection
from helpers.encoders import ColourEncoder
from helpers.predictions import all_of

Paint = Callable[..., str]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[EmbeddingCache]:
    with EmbeddingCache(tmp_path / "cache.db") as cache:
        yield cache


def test_nearest_first_and_no_more_than_there_are(encoder: ColourEncoder, paint: Paint) -> None:
    paths = [paint("blue.png", "blue"), paint("red.png", "red"), paint("yellow.png", "yellow")]
    (query,) = embed_texts(encoder, ["red"])
    hits = search_images(encoder, query, all_of(Embedded, embed_images(encoder, paths)), 2)
    assert [(hit.rank, Path(hit.path).name) for hit in hits] == [(1, "red.png"), (2, "yellow.png")]
    np.testing.assert_allclose([hit.similarity for hit in hits], [1, 0.5**0.5], rtol=1e-6)
    assert (
        len(search_images(encoder, query, all_of(Embedded, embed_images(encoder, paths)), 9)) == 3
    )
    assert search_images(encoder, query, iter(()), 9) == []


def test_the_cache_names_files_that_are_there(
    encoder: ColourEncoder, paint: Paint, cache: EmbeddingCache, tmp_path: Path
) -> None:
    names = ["a-copy.png", "red.png", "yellow.png", "blue.png"]
    paths = [paint(n, n.partition(".")[0] if n[0] != "a" else "red") for n in names]
    list(embed_images(encoder, paths, cache))
    (query,) = embed_texts(encoder, ["red"])

    def found(k: int) -> list[str]:
        return [Path(hit.path).name for hit in search_cache(encoder, query, cache, k)]

    assert found(2) == ["a-copy.png", "yellow.png"]
    os.unlink(tmp_path / "a-copy.png")
    assert found(1) == ["red.png"]  # the same content under another name
    os.unlink(tmp_path / "red.png")
    assert found(1) == ["yellow.png"]
    shutil.rmtree(tmp_path, ignore_errors=True)
    assert found(3) == []


def test_the_cache_finds_images_in_archives_and_crops(
    encoder: ColourEncoder,
    paint: Paint,
    cache: EmbeddingCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", 0)
    red, yellow = paint("red.png", "red"), paint("yellow.png", "yellow")
    archive, boxes = str(tmp_path / "a.zip"), tmp_path / "boxes.csv"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.write(red, "red.png")
    boxes.write_text(f"path,x,y,w,h\n{yellow},0,0,1,1\n")
    list(embed_images(encoder, find_images([archive]), cache))
    list(embed_images(encoder, Boxes(boxes).crop_each(find_images([yellow])), cache))
    (query,) = embed_texts(encoder, ["red"])
    names = [f"{archive}!red.png", f"{yellow}#1"]

    def found() -> list[str]:
        return [hit.path for hit in search_cache(encoder, query, cache, 9)]

    assert found() == names
    assert cache.prune() == 0
    assert found() == names
    os.unlink(archive)
    assert found() == names[1:]
    os.unlink(yellow)
    assert found() == []
    assert cache.prune() == 2


@pytest.mark.parametrize(
    "damage", [b"\0\0\0", b"\xff" * 12, b"\0\0\x80\x7f" * 3, b"\xff\xff\x7f\x7f" * 3]
)
def test_an_image_whose_vector_is_damaged_is_not_found(
    encoder: ColourEncoder, paint: Paint, cache: EmbeddingCache, damage: bytes
) -> None:
    paths = [paint(f"{name}.png", name) for name in ("red", "yellow", "blue")]
    list(embed_images(encoder, paths, cache))
    connection(cache).execute("UPDATE embeddings SET vector = ? WHERE id = 2", (damage,))
    (query,) = embed_texts(encoder, ["red"])
    found = search_cache(encoder, query, cache, 3)
    assert [Path(hit.path).name for hit in found] == ["red.png", "blue.png"]
    np.testing.assert_allclose([hit.similarity for hit in found], [1, 0], atol=1e-6)


def test_memory_does_not_grow_with_the_vectors(encoder: ColourEncoder) -> None:
    """Of 10,000 images, whose vectors are 20 MB; NumPy's memory is among what is counted."""
    dim, count = 512, 10_000
    chance = np.random.default_rng(0)

    def images() -> Iterator[Embedded]:
        for number in range(count):
            yield Embedded(str(number), unit_rows(chance.standard_normal((1, dim)))[0])

    query = unit_rows(np.ones((1, dim)))[0]
    tracemalloc.start()
    try:
        assert len(search_images(encoder, query, images(), 5)) == 5
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 13e6
