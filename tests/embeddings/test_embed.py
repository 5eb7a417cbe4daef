from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_info

from clipcls import ZeroShotClassifier
from clipcls.data.images import decode_image
from clipcls.embeddings import embed
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embed import embed_images, embed_texts
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import ImageError, ModelError
from clipcls.models.backend import Backend
from clipcls.numerics import one_blas_thread
from helpers.caches import connection
from helpers.encoders import ColourEncoder
from helpers.predictions import all_of

Paint = Callable[..., str]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[EmbeddingCache]:
    with EmbeddingCache(tmp_path / "cache.db") as cache:
        yield cache


def shade(n: int) -> tuple[int, int, int]:
    return (255, n, 255 - n)


def test_vectors_come_in_input_order_with_errors_in_place(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    paths = [paint(f"{n:02}.png", shade(n)) for n in range(30)]
    (tmp_path / "bad.png").write_bytes(b"no image")
    inputs: list[str | ImageError] = [
        *paths[:7],
        str(tmp_path / "bad.png"),
        *paths[7:],
        ImageError("x", "was bad before"),
    ]
    found = list(embed_images(encoder, inputs, backend=Backend(workers=3)))
    assert [item.path for item in found] == [*inputs[:-1], "x"]
    assert isinstance(found[7], ImageError)
    expected = encoder.encode_images([encoder.preprocess(Image.open(paths[12]))])[0]
    assert isinstance(found[13], Embedded)
    np.testing.assert_allclose(found[13].vector, expected, atol=1e-6)


def test_a_second_run_encodes_nothing(
    encoder: ColourEncoder, paint: Paint, cache: EmbeddingCache
) -> None:
    paths = [paint(f"{n}.png", shade(n)) for n in range(10)]
    first = all_of(Embedded, embed_images(encoder, paths, cache))
    encoder.encode_images = encoder.preprocess = None  # type: ignore[assignment]
    second = all_of(Embedded, embed_images(encoder, paths, cache))
    assert all(item.stored for item in second)
    assert not any(item.stored for item in first)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.vector, other.vector)


def test_the_image_tower_is_loaded_beside_decoding_and_for_nothing_else(
    encoder: ColourEncoder,
    paint: Paint,
    cache: EmbeddingCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = paint("a.png", "red")
    list(embed_images(encoder, [path], cache))
    shutil.copy(path, tmp_path / "copy.png")
    bad = {"empty": b"", "text": b"<html>not found</html>", "cut": Path(path).read_bytes()[:20]}
    for name, content in bad.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    calls: list[str] = []
    decode, encode = decode_image, encoder.encode_images
    is_loaded = threading.Event()

    def load() -> None:
        calls.append("load")
        is_loaded.set()

    def decode_beside(*args: Any, **settings: Any) -> Image.Image:
        image = decode(*args, **settings)
        assert is_loaded.wait(10)
        return image

    monkeypatch.setattr(encoder, "load_image_tower", load)
    monkeypatch.setattr(embed, "decode_image", decode_beside)

    def encode_after(pixels: Any) -> np.ndarray:
        calls.append("encode")
        return encode(pixels)

    monkeypatch.setattr(encoder, "encode_images", encode_after)
    known = [path, str(tmp_path / "copy.png")]
    unreadable = [str(tmp_path / f"{name}.png") for name in bad]
    found = list(embed_images(encoder, [*known, *unreadable], cache))
    assert [type(item) for item in found] == [Embedded] * 2 + [ImageError] * 3
    assert calls == []
    list(embed_images(encoder, [paint("b.png", "blue")], cache))
    assert calls == ["load", "encode"]


def test_a_copy_is_known_by_its_content(
    encoder: ColourEncoder, paint: Paint, cache: EmbeddingCache, tmp_path: Path
) -> None:
    path = paint("a.png", "red")
    list(embed_images(encoder, [path], cache))
    shutil.copy(path, tmp_path / "copy.png")
    list(embed_images(encoder, [str(tmp_path / "copy.png")], cache))
    assert encoder.images == 1


def test_a_changed_file_is_encoded_again(
    encoder: ColourEncoder, paint: Paint, cache: EmbeddingCache
) -> None:
    path = paint("a.png", "red")
    (before,) = all_of(Embedded, embed_images(encoder, [path], cache))
    paint("a.png", "blue")
    os.utime(path, (1_700_000_009, 1_700_000_009))
    (after,) = all_of(Embedded, embed_images(encoder, [path], cache))
    assert before.vector[0] == after.vector[2] == 1


def test_a_run_stopped_half_way_goes_on_where_it_was(
    encoder: ColourEncoder, paint: Paint, cache: EmbeddingCache
) -> None:
    paths = [paint(f"{n:02}.png", shade(n)) for n in range(40)]
    stopped = embed_images(encoder, paths, cache)
    assert isinstance(stopped, Generator)
    list(itertools.islice(stopped, 21))
    stopped.close()
    done = encoder.images
    assert done < 40
    list(embed_images(encoder, paths, cache))
    assert encoder.images == 40


def test_stopping_waits_for_no_thread(
    encoder: ColourEncoder, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector may stop a run while it has threading's locks."""
    paths = [paint(f"{n}.png", shade(n)) for n in range(3)]
    encode, released = encoder.preprocess, threading.Event()

    def preprocess(image: Image.Image) -> Any:
        if image.getpixel((0, 0)) != shade(0):
            released.wait(60)
        return encode(image)

    monkeypatch.setattr(encoder, "preprocess", preprocess)
    monkeypatch.setattr(encoder, "batch_size", 1)
    run = embed_images(encoder, paths, backend=Backend(workers=1))
    monkeypatch.setattr(embed, "_LONGEST_BATCH", 1)
    queued = itertools.islice(run, 1)
    assert [item.path for item in queued] == paths[:1]
    stopping = threading.Thread(target=run.close)  # type: ignore[attr-defined]
    stopping.start()
    stopping.join(10)
    is_stopped = not stopping.is_alive()
    released.set()
    assert is_stopped


def test_look_ahead_is_bounded(encoder: ColourEncoder, paint: Paint) -> None:
    path = paint("a.png", "red")
    asked = 0

    def endless() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield path

    found = embed_images(encoder, endless(), backend=Backend(workers=2))
    assert len(list(itertools.islice(found, 100))) == 100
    assert asked < 100 + 4 * encoder.batch_size


def test_errors_hold_no_files(encoder: ColourEncoder, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.jpg" for n in range(8)]
    for path in paths:
        path.write_bytes(bytes(range(256)) * 8_000)
    tracemalloc.start()
    try:
        found = list(embed_images(encoder, [str(path) for path in paths]))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [type(item) for item in found] == [ImageError] * 8
    assert held < 2_000_000  # of 16 MB


def test_pil_images_need_no_path(encoder: ColourEncoder, cache: EmbeddingCache) -> None:
    (item,) = embed_images(encoder, [Image.new("RGBA", (4, 4), (255, 0, 0, 255))], cache)
    assert isinstance(item, Embedded)
    assert item.path == "images[0]"
    np.testing.assert_allclose(item.vector, [1, 0, 0])
    assert cache.info().images == 0


def test_a_vector_that_is_not_finite_is_an_error_and_not_stored(
    encoder: ColourEncoder, paint: Paint, cache: EmbeddingCache
) -> None:
    black = paint("black.png", (0, 0, 0))  # its norm is 0: 0 / 0
    with np.errstate(invalid="ignore"):
        good, bad = embed_images(encoder, [paint("red.png", "red"), black], cache)
    assert isinstance(good, Embedded)
    assert isinstance(bad, ImageError)
    assert cache.info().images == 1


def test_each_text_is_encoded_once_ever(encoder: ColourEncoder, cache: EmbeddingCache) -> None:
    rows = embed_texts(encoder, ["red", "blue", "red"], cache)
    np.testing.assert_array_equal(rows, [[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    embed_texts(encoder, ["blue", "green"], cache)
    assert encoder.texts == ["red", "blue", "green"]


def test_a_file_deleted_during_the_run(
    encoder: ColourEncoder, paint: Paint, cache: EmbeddingCache
) -> None:
    paths = [paint(f"{n}.png", shade(n)) for n in range(3)]

    def meanwhile() -> Iterator[str]:
        for path in paths:
            if path == paths[1]:
                os.unlink(path)
            yield path

    first, gone, last = embed_images(encoder, meanwhile(), cache)
    assert isinstance(gone, ImageError)
    assert gone.reason == "no such file"
    assert isinstance(first, Embedded)
    assert isinstance(last, Embedded)


def test_a_damaged_vector_in_the_cache_is_made_again(
    encoder: ColourEncoder, paint: Paint, cache: EmbeddingCache
) -> None:
    path = paint("a.png", "red")
    all_of(Embedded, embed_images(encoder, [path], cache))
    connection(cache).execute("UPDATE embeddings SET vector = zeroblob(12)")
    (item,) = all_of(Embedded, embed_images(encoder, [path], cache))
    np.testing.assert_allclose(item.vector, [1, 0, 0])
    (item,) = all_of(Embedded, embed_images(encoder, [path], cache))
    assert item.stored


def test_a_text_without_a_finite_vector_is_an_error_and_not_stored(
    encoder: ColourEncoder, cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = lambda texts: np.full((len(texts), 3), np.nan, np.float32)  # noqa: E731
    monkeypatch.setattr(encoder, "encode_texts", nothing)
    with pytest.raises(ModelError, match="no finite vector"):
        embed_texts(encoder, ["red"], cache)
    assert cache.info().texts == 0


def test_what_is_no_image(encoder: ColourEncoder) -> None:
    with pytest.raises(TypeError, match="not float64"):
        list(embed_images(encoder, [np.zeros((4, 4, 3))]))  # type: ignore[list-item]
    (item,) = embed_images(encoder, [Image.new("RGB", (0, 0))])
    assert isinstance(item, ImageError)


def test_an_image_that_memory_does_not_suffice_for_stops_nothing(
    encoder: ColourEncoder, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess = encoder.preprocess

    def short(image: Image.Image) -> np.ndarray:
        if image.width > 100:
            raise MemoryError
        return preprocess(image)

    monkeypatch.setattr(encoder, "preprocess", short)
    large = Image.new("RGB", (200, 8), "red")
    images: list[str | Image.Image] = [
        large,
        large.resize((8, 8)),
        paint("a.png", "red", 200),
        paint("b.png", "red"),
    ]
    found = list(embed_images(encoder, images))
    assert [type(item) for item in found] == [ImageError, Embedded] * 2
    reasons = {item.reason for item in found if isinstance(item, ImageError)}
    assert reasons == {"not enough memory to decode it"}


def test_a_truncated_image_warns_in_every_run(
    encoder: ColourEncoder, cache: EmbeddingCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 8 // 10])
    for _ in range(2):
        (found,) = embed_images(encoder, [str(path)], cache)
        assert isinstance(found, Embedded)
    assert [record.getMessage()[:30] for record in caplog.records] == 2 * [
        f"{path}: truncated"[:30],
    ]


def test_known_images_are_looked_up_together_and_keep_their_places(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipcls.files.hashing.is_settled", lambda stat: True)
    colours = "red", "green", "blue"
    paths = [paint(f"{n}.png", colours[n % 3]) for n in range(700)]
    for n in (5, 600):
        Path(paths[n]).write_bytes(b"no image")
    classifier = ZeroShotClassifier(colours, encoder, cache=tmp_path / "c.db").fit()
    answers = [getattr(each, "label", None) for each in classifier.classify(paths)]
    assert answers == [None if n in (5, 600) else colours[n % 3] for n in range(700)]
    paint("300.png", "blue", size=9)  # changed since
    paths.insert(100, paint("new.png", "green", size=7))
    answers.insert(100, "green")
    answers[301] = "blue"

    asked: list[str] = []
    cache = classifier.cache_
    assert cache
    rows = cache._file.rows

    def count(sql: str, *parameters: Any) -> list[Any]:
        asked.append(sql)
        return rows(sql, *parameters)

    monkeypatch.setattr(cache._file, "rows", count)
    again = list(classifier.classify(paths))
    assert [getattr(each, "path", "") for each in again] == paths
    assert [getattr(each, "label", None) for each in again] == answers
    assert len(asked) < 20
    stored = all_of(Embedded, embed_images(encoder, paths[:3], cache))
    assert [item.stored for item in stored] == [True] * 3


def test_images_before_a_failure_of_their_list_are_embedded(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipcls.files.hashing.is_settled", lambda stat: True)
    path = paint("a.png", "red")

    def failing() -> Iterator[Any]:
        yield path
        yield 7

    with EmbeddingCache(tmp_path / "c.db") as cache:
        assert len(list(embed_images(encoder, path, cache))) == 1
        found = embed_images(encoder, failing(), cache)
        assert next(found).path == path
        with pytest.raises(TypeError):
            next(found)


def test_products_have_their_threads_again_after_the_last_limit() -> None:
    def count() -> list[int]:
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    before = count()
    with one_blas_thread(), contextlib.ExitStack() as other:
        other.enter_context(one_blas_thread())
        assert set(count()) <= {1}
        other.close()
        assert set(count()) <= {1}
    assert count() == before
