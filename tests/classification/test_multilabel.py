from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipcls import Calibration, MultiLabelClassifier, ZeroShotClassifier
from clipcls.calibration.multilabel import DEFAULT_THRESHOLD
from clipcls.classification.multilabel import score_odds
from clipcls.errors import CalibrationError, ClipclsError, ImageError, LabelsError
from clipcls.few_shot.classifier import FewShotClassifier
from clipcls.predictions import Prediction
from helpers.encoders import NamesEncoder
from helpers.predictions import all_of

Paint = Callable[..., str]
LABELS = ["red", "green", "blue"]


def several(encoder: NamesEncoder, labels=LABELS, **settings) -> MultiLabelClassifier:
    return MultiLabelClassifier(ZeroShotClassifier(labels, encoder, cache=False), **settings).fit()


@pytest.mark.parametrize("count", [1, 3, 7, 30])
def test_scores_are_the_documented_distances(count: int) -> None:
    rng = np.random.default_rng(0)
    labels, names = rng.normal(1, 2, (6, count)), rng.normal(size=(6, 200))
    for row, others, found in zip(labels, names, score_odds(labels, names), strict=True):
        z, v = ((x - others.mean()) / others.std() for x in (row, others))
        unrelated = np.quantile(v, max(0.5, 1 - 3 / count))
        shows_any = z.max() - (0.85 * unrelated + 0.15 * v.max())
        if count > 5:
            unrelated = max(unrelated, np.sort(z)[-6])
        shows_label = z - (0.6 * unrelated + 0.4 * z.max())
        np.testing.assert_allclose(found, np.minimum(shows_any, shows_label))


@pytest.mark.parametrize("count", [5, 7, 20, 80, 101, 1000])
def test_clear_labels_are_given_however_many_are_asked_for(count: int) -> None:
    rng = np.random.default_rng(count)
    names = rng.normal(size=(400, 1151))
    for shown in (1, 2, 3):
        labels = rng.normal(size=(400, count))
        labels[:, :shown] += 5
        given = score_odds(labels, names) >= 0
        assert given[:, :shown].mean() > 0.8
        assert given[:, shown:].sum() < 0.25 * given.sum()


def test_images_of_none_of_the_labels_get_few() -> None:
    rng = np.random.default_rng(3)
    labels, names = rng.normal(size=(400, 7)), rng.normal(size=(400, 1151))
    names[:, :58] += 4  # what they show has a name in the vocabulary, and others are like it
    given = score_odds(labels, names) >= 0
    assert given.any(axis=1).mean() < 0.7


def test_scores_know_neither_the_logit_scale_nor_a_shift_of_similarities() -> None:
    rng = np.random.default_rng(1)
    labels, names = rng.normal(size=(5, 4)), rng.normal(size=(5, 50))
    expected = score_odds(labels, names)
    np.testing.assert_allclose(score_odds(3 * labels - 1, 3 * names - 1), expected, atol=1e-12)


def test_none_one_or_both_of_two_labels(names_encoder: NamesEncoder, paint: Paint) -> None:
    clf = several(names_encoder, ["red", "blue"])
    paths = [paint("r.png", "red"), paint("m.png", (200, 0, 200)), paint("g.png", "green")]
    red, both, none = all_of(Prediction, clf.classify(paths))
    assert [c.label for c in red.given] == ["red"]
    assert {c.label for c in both.given} == {"red", "blue"}
    assert (none.labels, none.label) == ((), "unknown")
    assert none.score < DEFAULT_THRESHOLD
    np.testing.assert_array_equal(clf.predict(paths), [[1, 0], [1, 1], [0, 0]])
    proba = clf.predict_proba(paths)
    assert [c.score for c in both.given] == sorted(proba[1], reverse=True)
    assert none.score == proba[2].max()
    single = all_of(Prediction, several(names_encoder, ["red"]).classify(paths))
    assert [p.label for p in single] == ["red", "red", "unknown"], "one label can be refused too"


def test_top_and_min_score_are_per_label(names_encoder: NamesEncoder, paint: Paint) -> None:
    clf = several(names_encoder)
    paths = [paint("m.png", (200, 0, 180)), paint("w.png", (99, 99, 99))]
    scores = clf.predict_proba(paths)
    mixed, grey = all_of(Prediction, clf.classify(paths, top=1))
    assert [c.label for c in mixed.given] == ["red"]
    mixed, grey = all_of(Prediction, clf.classify(paths, min_score=0))
    assert [c.label for c in mixed.given] == ["red", "blue", "green"]
    assert len(grey.given) == 3
    between = (scores[0, 0] + scores[0, 2]) / 2
    mixed, _ = all_of(Prediction, clf.classify(paths, min_score=between))
    assert [c.label for c in mixed.given] == ["red"]
    with pytest.raises(ValueError, match="top is 0"):
        clf.classify(paths, top=0)


def test_labels_of_equal_score_are_given_by_similarity(
    names_encoder: NamesEncoder, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The level for any label holds for all labels, so that several can have the same score.
    monkeypatch.setattr("clipcls.classification.multilabel._TOWARDS_BEST_LABEL", -9.0)
    (mixed,) = all_of(
        Prediction, several(names_encoder).classify([paint("m.png", (100, 20, 180))], min_score=0)
    )
    assert len({c.score for c in mixed.given}) == 1
    assert [c.label for c in mixed.given] == ["blue", "red", "green"]


def test_bad_images_keep_their_place(
    names_encoder: NamesEncoder, paint: Paint, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no image")
    images: list[Any] = [
        paint("r.png", "red"),
        tmp_path / "bad.png",
        Image.new("RGB", (4, 4), "blue"),
    ]
    first, bad, last = several(names_encoder).classify(images)
    assert isinstance(first, Prediction)
    assert isinstance(last, Prediction)
    assert (first.label, last.label, last.path) == ("red", "blue", "images[2]")
    assert isinstance(bad, ImageError)


def test_many_labels_need_no_more_memory_and_change_nothing(
    names_encoder: NamesEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(2).random((30, 32)).astype(np.float32)
    clf = several(names_encoder)
    expected = clf.predict_proba(vectors)
    monkeypatch.setattr("clipcls.classification.multilabel._SCORES_A_BLOCK", 4000)
    np.testing.assert_array_equal(clf.predict_proba(vectors).round(12), expected.round(12))


def test_parameters(names_encoder: NamesEncoder) -> None:
    unfitted = MultiLabelClassifier(ZeroShotClassifier(LABELS, names_encoder, cache=False))
    with pytest.raises(ClipclsError, match="not fitted"):
        unfitted.classify([])
    assert set(unfitted.get_params(deep=False)) == {"classifier", "calibration"}
    with pytest.raises(ValueError, match="shoes"):
        unfitted.set_params(shoes=1)
    ranked = ZeroShotClassifier(["a > red", "b > blue"], names_encoder, cache=False, level=1)
    with pytest.raises(LabelsError, match="level"):
        MultiLabelClassifier(ranked).fit()


def test_a_learnt_classifier_is_refused(names_encoder: NamesEncoder, paint: Paint) -> None:
    data = [(paint(f"{colour}.png", colour), colour) for colour in LABELS]
    learnt = FewShotClassifier(LABELS, names_encoder, cache=False).fit(data)
    with pytest.raises(ClipclsError, match="learnt classifier"):
        MultiLabelClassifier(learnt).fit()


def test_calibrations_of_the_other_kind_are_refused(names_encoder: NamesEncoder) -> None:
    base = ZeroShotClassifier(LABELS, names_encoder, cache=False).fit()
    one: Any = Calibration(
        base.identity_,
        images=10,
        note="",
        metrics={},
        versions={},
        temperature=1.0,
        thresholds=((-1.0, 10, 0),),
        set_scores=((10, 1.0, 1.0),),
    )
    with pytest.raises(CalibrationError, match="for one label per image"):
        MultiLabelClassifier(base, calibration=one).fit()
    with pytest.raises(CalibrationError, match="give the calibration to"):
        MultiLabelClassifier(
            ZeroShotClassifier(LABELS, names_encoder, cache=False, calibration=one)
        ).fit()
