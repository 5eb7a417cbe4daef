from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipcls import ImageError, ZeroShotClassifier, suggest
from clipcls.classification.suggest import (
    VOCABULARY,
    _merge,
    choose_cluster_count,
    read_vocabulary,
    suggest_for_vectors,
)
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import InputError
from clipcls.labels.label_set import read_labels
from clipcls.output.writing import open_output
from helpers.encoders import ColourEncoder
from helpers.predictions import all_of

Paint = Callable[..., str]
WORDS = ["red", "green", "blue", "yellow", "grey"]


def named(words: list[str], encoder: ColourEncoder) -> ZeroShotClassifier:
    return ZeroShotClassifier(words, encoder, prompts=["a {}"], cache=False).fit()


@pytest.fixture
def photos(paint: Paint) -> list[str]:
    """Six reddish, three blueish, one green."""
    rng = np.random.default_rng(0)
    shades = [*(6 * [(230, 10, 10)]), *(3 * [(10, 10, 230)]), (10, 230, 10)]
    return [
        paint(f"{n}.png", tuple(int(c + rng.integers(20)) for c in shade))
        for n, shade in enumerate(shades)
    ]


def test_clusters_are_named_counted_and_sorted(encoder: ColourEncoder, photos: list[str]) -> None:
    found = suggest(named(WORDS, encoder), photos)
    assert [(label.label, label.images) for label in found.labels] == [
        ("red", 6),
        ("blue", 3),
        ("green", 1),
    ]
    assert found.clusters == choose_cluster_count(10) == 7
    assert found.labels[2].example == photos[9]
    scores = named(["red"], encoder).head_.logits(
        np.stack(
            [item.vector for item in all_of(Embedded, named(WORDS, encoder).embed(photos[:6]))]
        )
    )
    assert found.labels[0].example == photos[int(scores.argmax())]
    assert suggest(named(WORDS, encoder), photos) == found


def test_the_file_is_read_back_unchanged(
    encoder: ColourEncoder, photos: list[str], tmp_path: Path
) -> None:
    names = ["# levels: red", r"x \> green", "colour > blue"]
    found = suggest(named(names, encoder), photos)
    assert {label.label for label in found.labels} == {"# levels: red", "x > green", "blue"}
    with open_output(tmp_path / "l.txt", "labels") as writer:
        writer.write({**found.to_dict(), "images": 1})
    labels = read_labels(tmp_path / "l.txt")
    assert labels.names == tuple(label.label for label in found.labels)
    assert [label.path for label in labels if label.parents] == [("colour", "blue")]
    text = (tmp_path / "l.txt").read_text()
    assert text.startswith("# 3 labels for 1 image, suggested by clipcls with colours")
    assert f"# 1 image, such as {photos[9]}\nx \\> green\n" in text


def test_clusters_that_no_name_fits_stay_without_one(
    encoder: ColourEncoder, photos: list[str], paint: Paint, tmp_path: Path
) -> None:
    between = [paint(f"between{n}.png", (120, 120, 118 + n)) for n in range(4)]
    encoder.logit_scale = 3.0
    found = suggest(named(["red", "green", "blue", "red green", "red blue"], encoder), photos)
    assert found.unnamed == ()
    found = suggest(named(["red", "green", "blue"], encoder), [*photos[:6], *between], clusters=2)
    assert [(label.label, label.images) for label in found.labels] == [("red", 6)]
    (cluster,) = found.unnamed
    assert (cluster.images, found.fitted, found.images) == (4, 6, 10)
    assert set(cluster.examples) < set(between)
    with open_output(tmp_path / "l.txt", "labels") as writer:
        writer.write(found.to_dict())
    assert read_labels(tmp_path / "l.txt").names == ("red",)
    assert f"# 4 images, such as {cluster.examples[0]}, " in (tmp_path / "l.txt").read_text()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images(encoder: ColourEncoder, photos: list[str], count: int) -> None:
    found = suggest(named(WORDS, encoder), photos[-count:])
    assert sum(label.images for label in found.labels) == found.images == count


def test_the_same_image_many_times_is_one_cluster(encoder: ColourEncoder, paint: Paint) -> None:
    found = suggest(named(WORDS, encoder), [paint("a.png", "red")] * 9, clusters=4)
    assert (found.clusters, [label.label for label in found.labels]) == (1, ["red"])


def test_images_that_cannot_be_read(
    encoder: ColourEncoder, photos: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    seen: list[ImageError | None] = []
    found = suggest(named(WORDS, encoder), [str(bad), *photos], watch=seen.append)
    assert (found.images, len(found.unreadable)) == (10, 1)
    assert [error is None for error in seen] == [False] + 10 * [True]
    with pytest.raises(InputError, match=r"no image could be read; the first: .*bad.png"):
        suggest(named(WORDS, encoder), [str(bad)])


def test_as_many_clusters_as_are_asked_for(
    encoder: ColourEncoder, photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = named(WORDS, encoder)
    assert suggest(classifier, photos, clusters=1).labels[0].images == 10
    assert suggest(classifier, photos, clusters=99).clusters == 10
    monkeypatch.setattr("clipcls.embeddings.clustering._MOST_CLUSTERED", 4)
    assert suggest(classifier, photos, clusters=9).clusters == 4
    assert [choose_cluster_count(n) for n in (1, 2, 5, 100, 10**6)] == [1, 2, 5, 20, 200]


def test_names_that_cannot_be_told_apart_are_merged(encoder: ColourEncoder) -> None:
    """Brute force: every pair's mean gap over the images of both, the least first."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 8))
    logits[:, 1] = logits[:, 0] + rng.normal(scale=0.3, size=60)
    logits[:, 2] = logits[:, 0] + rng.normal(scale=0.4, size=60)
    logits[:, 6] = logits[:, 5] + rng.normal(scale=0.5, size=60)
    owner = rng.integers(8, size=60)
    expected = owner.copy()
    while True:
        pairs = []
        for a in set(expected):
            for b in set(expected) - {a}:
                both = np.isin(expected, [a, b])
                gap = np.abs(logits[both, a] - logits[both, b]).mean()
                pairs.append((gap, *sorted((a, b), key=lambda x: -(expected == x).sum())))
        gap, kept, gone = min(pairs)
        if gap >= np.log(2):
            break
        expected[expected == gone] = kept
    found, merged = _merge(logits, owner)
    np.testing.assert_array_equal(found, expected)
    assert len(set(found)) == 5
    gone = sorted(name for names in merged.values() for name in names)
    assert gone == sorted(set(range(8)) - set(found))
    assert set(merged) <= set(found)


def test_votes_count_and_ties_go_to_the_nearest(encoder: ColourEncoder) -> None:
    classifier = named(["red", "green", "blue"], encoder)

    def first(rows: list[tuple[float, float, float]]) -> str:
        vectors = np.array(rows, np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        found = suggest_for_vectors(classifier, vectors, [""] * len(rows), clusters=1)
        return found.labels[0].label

    assert first([(5, 4, 0), (5, 4, 0), (0, 9, 0)]) == "red"
    assert first([(5, 4, 0), (0, 9, 0)]) == "green"


def test_the_default_vocabulary_is_made_of_ready_sets() -> None:
    vocabulary = read_vocabulary()
    folded = [name.casefold() for name in vocabulary.names]
    assert len(folded) == len(set(folded)) > 1000
    assert {"dog", "person", "t-shirt", "airport", "pizza"} <= set(folded)
    assert vocabulary.source == " + ".join(VOCABULARY)


def test_a_vocabulary_with_a_class_that_is_no_name_is_refused(encoder: ColourEncoder) -> None:
    classifier = ZeroShotClassifier(["a > red", "a > blue"], encoder, cache=False, level=1).fit()
    with pytest.raises(ValueError, match="without a level"):
        suggest(classifier, [Image.new("RGB", (8, 8), "red")])
