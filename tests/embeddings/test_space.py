"""A new version of the code that computes vectors costs no encoding unless it changes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from clipcls.classification.explain import Explainer
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.cache_transfer import absorb, dump_blocks
from clipcls.embeddings.embed import embed_images, embed_texts
from clipcls.embeddings.embedded import Embedded
from clipcls.embeddings.search import search_cache
from clipcls.errors import ModelError
from helpers.encoders import ColourEncoder
from helpers.predictions import all_of

Paint = Callable[..., str]
PROBES = 2  # of either kind


class Versioned(ColourEncoder):
    """Of a version, which weighs the colours."""

    version = ""

    def __init__(self, version: str, weights: Sequence[float] = (1, 1, 1)) -> None:
        super().__init__()
        self.version = version
        self._weights = np.array(weights)

    def encode_images(self, pixels):
        return self._unit(super().encode_images(pixels) * self._weights)

    def encode_texts(self, texts):
        return self._unit(super().encode_texts(texts) * self._weights)


@pytest.fixture
def images(paint: Paint) -> list[str]:
    colours = {"yellow": (255, 255, 0), "pink": (255, 120, 120), "sky": (90, 160, 255)}
    return [paint(f"{name}.png", colour) for name, colour in colours.items()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache.sqlite3"


def count(encoder: ColourEncoder, images: list[str], file: Path) -> tuple[int, int]:
    """How many images and texts it encodes."""
    encoder.images, encoder.texts = 0, []
    with EmbeddingCache(file) as cache:
        found = [item.vector for item in all_of(Embedded, embed_images(encoder, images, cache))]
        rows = embed_texts(encoder, ["red and blue", "yellow"], cache)
    expected = encoder.images, len(encoder.texts)
    fresh = [item.vector for item in all_of(Embedded, embed_images(encoder, images))]
    np.testing.assert_allclose(found, fresh, atol=1e-6)
    np.testing.assert_allclose(rows, embed_texts(encoder, ["red and blue", "yellow"]), atol=1e-6)
    return expected


def test_a_version_with_the_same_vectors_encodes_only_the_probe(
    images: list[str], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert count(Versioned("1"), images, file) == (3 + PROBES, 2 + PROBES)
    assert count(Versioned("1"), images, file) == (0, 0)
    for version in ("2", "3"):
        assert count(Versioned(version), images, file) == (PROBES, PROBES)
        assert count(Versioned(version), images, file) == (0, 0)
    assert caplog.text == ""


def test_a_version_with_other_vectors_encodes_anew_and_says_why(
    images: list[str], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, other, third = Versioned("1"), Versioned("9.2", (1, 2, 4)), Versioned("3", (1, 2, 4))
    count(first, images, file)
    assert count(other, images, file) == (3 + PROBES, 2 + PROBES)
    (line,) = caplog.messages
    assert line.startswith("colours: 9.2 computes other vectors than")
    # Both keep theirs, however often they take turns, and a third version finds its own.
    for encoder in (first, other, first, other):
        assert count(encoder, images, file) == (0, 0)
    assert count(third, images, file) == (PROBES, PROBES)
    assert len(caplog.records) == 1


def test_search_and_explanations_look_at_vectors_of_the_same_kind(
    images: list[str], file: Path
) -> None:
    one, same, other = Versioned("1"), Versioned("2"), Versioned("3", (1, 2, 4))
    count(one, images, file)
    with EmbeddingCache(file) as cache:
        yellow = one.encode_texts(["yellow"])[0]
        assert [hit.path for hit in search_cache(same, yellow, cache, 1)] == [images[0]]
        assert len(Explainer(same, cache)._paths) == 3
        assert search_cache(other, yellow, cache, 1) == []
        assert Explainer(other, cache)._paths == []


def test_merged_caches_of_several_versions_share_what_is_the_same(
    images: list[str], file: Path, tmp_path: Path
) -> None:
    one, same, other = Versioned("1"), Versioned("2"), Versioned("3", (1, 2, 4))
    count(one, images[:1], file)
    for encoder, number in ((same, 1), (other, 2)):
        count(encoder, images[number:], tmp_path / f"{number}.sqlite3")
        theirs = EmbeddingCache(tmp_path / f"{number}.sqlite3")
        with EmbeddingCache(file) as cache, theirs:
            assert absorb(cache, dump_blocks(theirs)) == ((2, 4) if number == 1 else (3, 3))
    for encoder in (one, same):
        assert count(encoder, images, file) == (0, 0)
    assert count(other, images[2:], file) == (0, 0)
    assert count(other, images, file) == (2, 0)


def test_nothing_is_encoded_for_a_cache_that_stays_empty(paint: Paint, file: Path) -> None:
    encoder = Versioned("1")
    broken = paint("broken.png", "red")
    Path(broken).write_bytes(b"not an image")
    with EmbeddingCache(file) as cache:
        list(embed_images(encoder, [broken], cache))
        assert search_cache(encoder, np.ones(3, np.float32), cache, 1) == []
    assert encoder.images == 0


def test_processes_that_start_together_agree(images: list[str], file: Path) -> None:
    """Each believes to be the first; a vector is never found under another version's key."""
    one, other = Versioned("1"), Versioned("2", (1, 2, 4))
    with EmbeddingCache(file) as cache:
        runs = [embed_images(encoder, images, cache) for encoder in (one, other)]
        pairs = [(a.vector, b.vector) for a, b in zip(*runs, strict=True)]
    assert all((a != b).any() for a, b in pairs)
    assert count(one, images, file)[0] == 0
    assert count(other, images, file)[0] == 0


def test_a_damaged_probe_costs_time_only(images: list[str], file: Path) -> None:
    count(Versioned("1"), images, file)
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE embeddings SET vector = x'00' WHERE space LIKE 'probe %'")
    assert count(Versioned("2", (1, 2, 4)), images, file)[0] == 3 + PROBES


def test_a_cache_that_fails_is_done_without(
    images: list[str], file: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    count(Versioned("1"), images, file)
    with EmbeddingCache(file) as cache:

        def fail(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(
            cache._file, "write", lambda work, otherwise: cache._file.run(fail, None)
        )
        found = list(embed_images(Versioned("2"), images, cache))
    assert len(found) == 3
    assert "other vectors" not in caplog.text


def test_an_encoder_that_cannot_be_loaded(images: list[str], file: Path) -> None:
    class Broken(Versioned):
        def encode_images(self, pixels):
            raise ModelError("no torch")

    count(Versioned("1"), images, file)
    with EmbeddingCache(file) as cache, pytest.raises(ModelError, match="no torch"):
        list(embed_images(Broken("2"), images, cache))
