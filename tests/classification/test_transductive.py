"""Refining a batch: against a dense computation, and what a user relies on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from clipcls import Abstain, ClipclsError, ImageError, Prediction, ZeroShotClassifier
from clipcls.classification import transductive
from clipcls.classification.transductive import refine
from clipcls.embeddings.index import neighbours
from clipcls.errors import CalibrationError
from clipcls.numerics import unit_rows
from helpers.encoders import ColourEncoder
from helpers.predictions import all_of

Paint = Callable[..., str]


def clusters(
    sizes: list[int], noise: float = 0.8, bias: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images in clusters, words that are near them, and one direction that all images share."""
    dice = np.random.default_rng(seed)
    centres = np.linalg.qr(dice.standard_normal((24, len(sizes) + 1)))[0].T
    labels = np.repeat(np.arange(len(sizes)), sizes)
    spread = noise * dice.standard_normal((len(labels), 24)) / 5
    vectors = unit_rows((centres[labels] + centres[-1] + spread).astype(np.float32))
    words = centres[:-1] + 0.15 * dice.standard_normal((len(sizes), 24))
    words[0] += bias * centres[-1]  # a text that fits all of the images
    order = dice.permutation(len(labels))
    return vectors[order], unit_rows(words.astype(np.float32)), labels[order]


def logits_of(words: np.ndarray, scale: float = 10.0) -> Callable[[np.ndarray], np.ndarray]:
    return lambda vectors: scale * (vectors.astype(np.float64) @ words.T.astype(np.float64))


def by_hand(vectors: np.ndarray, words: np.ndarray, k: int = 10, rounds: int = 3) -> np.ndarray:
    """The same without sparse matrices, blocks and FAISS."""
    x = vectors.astype(np.float64)
    n, n_classes = len(x), len(words)
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1)[:, : min(k, n - 1)]
    graph = np.zeros((n, n))
    np.put_along_axis(graph, nearest, np.take_along_axis(similarity, nearest, 1), 1)
    graph = np.maximum(graph, 0) + np.maximum(graph.T, 0)
    graph /= graph.sum(axis=1, keepdims=True)
    logits = logits_of(words)(vectors)
    level = logits.mean(axis=0)
    deviations = logits - logits.mean(axis=1, keepdims=True) - (level - level.mean())
    strength = n / (n + 300)
    centred = x - x.mean(axis=0)
    shares = softmax(logits, axis=1)
    for _ in range(rounds):
        means = np.stack([shares[:, c] @ centred / shares[:, c].sum() for c in range(n_classes)])
        likeness = centred @ means.T - 0.5 * (means**2).sum(axis=1)
        likeness /= (likeness - likeness.mean(axis=1, keepdims=True)).std()
        adjustment = deviations.std() * (0.5 * likeness + 1.5 * graph @ shares) + 0.25 * level
        shares = softmax(logits + strength * adjustment, axis=1)
    return shares


def test_it_is_what_is_written() -> None:
    vectors, words, _ = clusters([40, 20, 30, 10])
    found = refine(vectors, logits_of(words), len(words)).matrix(len(words)).toarray()
    np.testing.assert_allclose(found, by_hand(vectors, words), atol=2e-4)


def test_answers_change_only_with_a_clear_lead() -> None:
    """Answers with a lead of less than 0.4 of the spread are the words', scores included."""
    vectors, words, _ = clusters([120, 120, 80, 40, 40], noise=1.2)
    logits = logits_of(words)(vectors)
    deviations = logits - logits.mean(axis=0)
    deviations -= deviations.mean(axis=1, keepdims=True)
    alone, unlimited = softmax(logits, axis=1), by_hand(vectors, words)
    before, after = alone.argmax(axis=1), unlimited.argmax(axis=1)
    each = np.arange(len(vectors))
    leads = np.log(unlimited[each, after]) - np.log(unlimited[each, before])
    weak = (before != after) & (leads < 0.4 * deviations.std())
    strong = (before != after) & ~weak
    assert weak.any()
    assert strong.any()
    found = refine(vectors, logits_of(words), len(words)).matrix(len(words)).toarray()
    np.testing.assert_allclose(found[weak], alone[weak], atol=2e-4)
    np.testing.assert_array_equal(found[strong].argmax(axis=1), after[strong])


def test_the_temperature_changes_scores_alone() -> None:
    vectors, words, _ = clusters([40, 20, 30, 10])
    one, two = (refine(vectors, logits_of(words), 4, temperature=t) for t in (1.0, 2.0))
    np.testing.assert_array_equal(one.classes, two.classes)
    cooled = np.sqrt(one.scores)
    np.testing.assert_allclose(two.scores, cooled / cooled.sum(axis=1, keepdims=True), atol=1e-5)


def test_blocks_and_classes_that_are_left_out_change_next_to_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, words, _ = clusters([15] * 12)
    whole = refine(vectors, logits_of(words), 12)
    monkeypatch.setattr(transductive, "_LOGITS_A_BLOCK", 12 * 7)
    in_blocks = refine(vectors, logits_of(words), 12)
    np.testing.assert_array_equal(whole.classes[:, 0], in_blocks.classes[:, 0])
    np.testing.assert_allclose(whole.scores, in_blocks.scores, atol=1e-5)
    monkeypatch.setattr(transductive, "_KEPT", 4)
    fewer = refine(vectors, logits_of(words), 12)
    assert fewer.scores.shape == (180, 4)
    assert (fewer.classes[:, 0] == whole.classes[:, 0]).mean() > 0.98


@pytest.mark.parametrize(
    ("sizes", "gain"),
    [
        ([80] * 5, 0.02),
        ([120, 120, 80, 40, 40], 0.01),
        ([200, 200, 0, 0, 0], 0.0),
        ([0, 0, 0, 20, 20], 0.0),
        ([300, 25, 25, 25, 25], 0.0),
        ([25, 360, 5, 5, 5], 0.0),
        ([0, 0, 400, 0, 0], 0.0),
    ],
)
def test_answers_get_better_or_stay_as_good_whatever_labels_occur(
    sizes: list[int], gain: float
) -> None:
    rights = []
    for seed in range(5):
        vectors, words, labels = clusters(sizes, noise=1.2, seed=seed)
        alone = logits_of(words)(vectors).argmax(axis=1)
        together = refine(vectors, logits_of(words), 5).classes[:, 0]
        rights.append([(alone == labels).mean(), (together == labels).mean()])
    alone, together = np.mean(rights, axis=0)
    assert 0.5 < alone < 0.97
    assert together >= alone + gain


def test_the_same_batch_gives_the_same_answer() -> None:
    vectors, words, _ = clusters([50, 50, 50])
    first, second = (refine(vectors, logits_of(words), 3) for _ in range(2))
    np.testing.assert_array_equal(first.classes, second.classes)
    np.testing.assert_array_equal(first.scores, second.scores)


@pytest.mark.parametrize("sizes", [[1], [2], [1, 1], [60], [60, 1], [300, 3, 3]])
def test_odd_batches_give_numbers(sizes: list[int]) -> None:
    vectors, words, _ = clusters(sizes)
    words = np.concatenate([words, words[:1]])  # and two labels with the same words
    for batch in (vectors, np.repeat(vectors[:1], 50, axis=0)):
        found = refine(batch, logits_of(words), len(words))
        assert np.isfinite(found.scores).all()
        np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-5)
        assert (np.diff(found.scores, axis=1) <= 0).all()


@pytest.mark.parametrize("copies", [1, 30])
def test_neighbours_are_numpys(copies: int) -> None:
    vectors = np.repeat(
        unit_rows(np.random.default_rng(1).standard_normal((40, 8), np.float32)), copies, axis=0
    )
    similarities, rows = neighbours(vectors, 5)
    product = vectors.astype(np.float64) @ vectors.T
    np.fill_diagonal(product, -np.inf)
    np.testing.assert_allclose(similarities, -np.sort(-product, axis=1)[:, :5], atol=1e-6)
    assert (rows != np.arange(len(rows))[:, None]).all()
    assert all(len(set(row)) == 5 for row in rows.tolist())


def test_many_rows_are_sought_in_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _, _ = clusters([150] * 8)
    exact = neighbours(vectors, 5)[1]
    monkeypatch.setattr("clipcls.embeddings.index._EXACT_UP_TO", 100)
    similarities, rows = neighbours(vectors, 5)
    np.testing.assert_array_equal(rows, neighbours(vectors, 5)[1])
    shared = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(exact, rows, strict=True)])
    assert shared > 0.7
    assert (rows >= 0).all()
    assert np.isfinite(similarities).all()


# -- in the classifier ----------------------------------------------------------------------


@pytest.fixture
def photos(paint: Paint) -> list[str]:
    dice = np.random.default_rng(0)
    near = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}
    return [
        paint(f"{name}{number:02}.png", tuple(int(c) for c in dice.normal(colour, 25).clip(0, 255)))
        for number in range(20)
        for name, colour in near.items()
    ]


def test_records_come_in_order_and_say_that_they_are_refined(
    encoder: ColourEncoder, photos: list[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    given = [*photos[:7], str(tmp_path / "bad.png"), *photos[7:]]
    seen: list[ImageError | None] = []
    classifier = ZeroShotClassifier(["red", "green", "blue"], encoder, cache=False).fit()
    results = classifier.classify(given, top=2, refine=True, watch=seen.append)
    assert seen == []
    first = next(results)
    assert len(seen) == len(given)
    found = [first, *results]
    assert [r.path for r in found] == given
    assert isinstance(found[7], ImageError)
    assert seen[7] is found[7]
    answers = [r for r in found if isinstance(r, Prediction)]
    assert all(r.to_dict()["refined"] is True for r in answers)
    assert all(r.label == Path(r.path).name[:-6] for r in answers)
    vectors = classifier.vectors([r.path for r in answers])
    for answer, vector in zip(answers, vectors, strict=True):
        assert len(answer.top) == 2
        assert answer.top[0].score >= answer.top[1].score
        row = classifier.classes_.tolist().index(answer.label)
        assert answer.top[0].similarity == pytest.approx(float(classifier.weights_[row] @ vector))


def test_min_score_and_min_margin_hold_for_refined_scores(
    encoder: ColourEncoder, photos: list[str]
) -> None:
    classifier = ZeroShotClassifier(["red", "green", "blue"], encoder, cache=False).fit()
    plain = all_of(Prediction, classifier.classify(photos, refine=True))
    cut = float(np.median([r.score for r in plain]))
    asked = all_of(Prediction, classifier.classify(photos, abstain=Abstain(cut), refine=True))
    assert [r.score >= cut for r in plain] == [r.label != "unknown" for r in asked]
    margins = [
        r.top[0].score - r.top[1].score
        for r in all_of(Prediction, classifier.classify(photos, top=2, refine=True))
    ]
    middle = float(np.median(margins))
    asked = all_of(
        Prediction, classifier.classify(photos, abstain=Abstain(min_margin=middle), refine=True)
    )
    assert [m >= middle for m in margins] == [r.label != "unknown" for r in asked]


def test_any_number_of_images_is_refined(encoder: ColourEncoder, photos: list[str]) -> None:
    classifier = ZeroShotClassifier(["red", "green", "blue"], encoder, cache=False).fit()
    for batch in (photos[:1], photos[:2], [path for path in photos if "red" in path]):
        found = all_of(Prediction, classifier.classify(batch, refine=True))
        assert [r.path for r in found] == batch
        assert all(r.provenance is not None and r.provenance.refined for r in found)
        assert [r.label for r in found] == [Path(path).name[:-6] for path in batch]
    assert list(classifier.classify([], refine=True)) == []


def test_what_refining_is_not_for(encoder: ColourEncoder, photos: list[str]) -> None:
    tree = ["warm > red", "cold > green", "cold > blue"]
    classifier = ZeroShotClassifier(tree, encoder, cache=False, level=1).fit()
    with pytest.raises(ClipclsError, match="hierarchy"):
        classifier.classify(photos, refine=True)
    classifier = ZeroShotClassifier(["red", "green"], encoder, cache=False).fit()
    classifier.provenance_ = replace(classifier.provenance_, calibration="c0")
    with pytest.raises(CalibrationError, match="promises"):
        classifier.classify(photos, refine=True)
