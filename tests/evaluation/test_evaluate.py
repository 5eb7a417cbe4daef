from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from clipcls import MultiLabelClassifier, ZeroShotClassifier, calibrate, evaluate
from clipcls.errors import ImageError, InputError, NotFittedError
from clipcls.evaluation.evaluate import compute_outcomes
from clipcls.metrics.single_label import Outcomes
from helpers.encoders import ColourEncoder

Paint = Callable[..., str]
LABELS = ["red", "green", "blue", "yellow"]


@pytest.fixture
def classifier(encoder: ColourEncoder) -> ZeroShotClassifier:
    return ZeroShotClassifier(LABELS, encoder, cache=False).fit()


def test_a_small_folder(classifier: ZeroShotClassifier, paint: Paint, tmp_path: Path) -> None:
    paint("d/red/a.png", "red")
    paint("d/red/b.png", "red")
    wrong = paint("d/red/c.png", "blue")
    paint("d/Blue/a.png", "blue")
    paint("d/pink/a.png", "red")
    bad = tmp_path / "d/red/bad.png"
    bad.write_text("no image")
    seen: list[ImageError | None] = []
    found = evaluate(classifier, tmp_path / "d", draws=50, watch=seen.append)
    assert found.images == 4
    assert found.metrics["accuracy"].value == 3 / 4
    assert found.metrics["balanced_accuracy"].value == pytest.approx((2 / 3 + 1) / 2)
    assert "top5" not in found.metrics  # four labels
    assert isinstance(found.outcomes, Outcomes)
    assert found.outcomes.confused_pairs() == [("red", "blue", 1)]
    assert found.outcomes.describe(found.paths.index(wrong)) == ("red", "blue")
    assert found.excluded.no_labels == {"pink": 1}
    assert found.excluded.without_images == ("green", "yellow")
    assert [error.path for error in found.excluded.unreadable] == [str(bad)]
    assert [e.path for e in seen if e] == [str(bad)]
    assert len(seen) == 5
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["per_class"][1] == {
        **{"label": "green", "precision": None, "recall": None},
        **{"f1": None, "support": 0, "answers": 0},
    }
    assert record["model"] == "colours"


def test_several_right_labels(classifier: ZeroShotClassifier, paint: Paint) -> None:
    data = [
        (paint("a.png", "red"), ["blue", "red"]),  # right: counts for red
        (paint("b.png", "green"), ["yellow", "blue"]),  # wrong: counts for yellow
    ]
    found = evaluate(classifier, data, draws=10)
    assert (found.several, found.metrics["accuracy"].value) == (2, 0.5)
    assert isinstance(found.outcomes, Outcomes)
    assert found.outcomes.confused_pairs() == [("yellow", "green", 1)]
    assert [c.support for c in found.classes] == [1, 0, 0, 1]
    logits = classifier.decision_function([path for path, _ in data])
    scores = softmax(logits, axis=1)
    expected = -np.log([scores[0, 2] + scores[0, 0], scores[1, 3] + scores[1, 2]]).mean()
    assert found.metrics["nll"].value == pytest.approx(expected)


def test_outcomes_are_those_of_the_whole_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcls.classification.head._IMAGES_A_BLOCK", 7)
    encoder = ColourEncoder()
    labels = ["red", "green", "blue", "yellow", "red green", "red blue", "green blue", "grey"]
    classifier = ZeroShotClassifier(labels, encoder, cache=False).fit()
    rng = np.random.default_rng(0)
    vectors = rng.random((50, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = rng.integers(8, size=50)
    found = compute_outcomes(classifier, vectors, [(int(t),) for t in truth])
    scores = log_softmax(classifier.decision_function(vectors), axis=1)
    np.testing.assert_array_equal(found.answer, scores.argmax(axis=1))
    np.testing.assert_allclose(found.confidence, np.exp(scores.max(axis=1)), rtol=1e-6)
    np.testing.assert_allclose(found.loss, -scores[np.arange(50), truth], rtol=1e-6)
    ranks = (scores > scores[np.arange(50), truth][:, None]).sum(axis=1)
    np.testing.assert_array_equal(found.top5, ranks < 5)
    np.testing.assert_array_equal(found.truth, truth)


def test_nothing_that_can_be_read(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        evaluate(classifier, [(tmp_path / "none.png", "red")])


@pytest.mark.parametrize("verb", [evaluate, calibrate])
def test_a_classifier_that_is_not_fitted_is_refused(encoder: ColourEncoder, verb) -> None:
    one = ZeroShotClassifier(LABELS, encoder, cache=False)
    for classifier in (one, MultiLabelClassifier(one)):
        with pytest.raises(NotFittedError, match="not fitted"):
            verb(classifier, [("a.png", "red")])
