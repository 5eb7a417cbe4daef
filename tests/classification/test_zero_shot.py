from __future__ import annotations

import inspect
import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from sklearn.base import clone, is_classifier
from sklearn.utils.validation import check_is_fitted

from clipcls import Abstain, FewShotClassifier, ImageError, ZeroShotClassifier
from clipcls.classification.image_classifier import ImageClassifier
from clipcls.errors import ClipclsError, LabelsError
from clipcls.predictions import Prediction
from helpers.encoders import ColourEncoder
from helpers.predictions import all_of

Paint = Callable[..., str]
LABELS = ["red", "green", "blue"]


@pytest.fixture
def classifier(encoder: ColourEncoder) -> ZeroShotClassifier:
    return ZeroShotClassifier(LABELS, encoder, cache=False).fit()


def test_scores_are_the_softmax_over_all_labels(
    classifier: ZeroShotClassifier, paint: Paint
) -> None:
    (result,) = all_of(Prediction, classifier.classify([paint("a.png", (200, 100, 0))], top=2))
    cosines = np.array([200, 100, 0]) / np.hypot(200, 100)
    expected = softmax(10 * cosines)
    assert result.label == "red"
    assert [c.label for c in result.top] == ["red", "green"]
    np.testing.assert_allclose([c.score for c in result.top], expected[:2], rtol=1e-5)
    np.testing.assert_allclose([c.similarity for c in result.top], cosines[:2], rtol=1e-5)


def test_top_k_does_not_change_the_scores(classifier: ZeroShotClassifier, paint: Paint) -> None:
    path = paint("a.png", (200, 100, 30))
    scores = [
        next(iter(all_of(Prediction, classifier.classify([path], top=k)))).score
        for k in (1, 2, 3, 99)
    ]
    assert len(set(scores)) == 1


def test_memory_does_not_grow_with_the_images(
    classifier: ZeroShotClassifier, paint: Paint, tmp_path: Path
) -> None:
    path = paint("a.png", "red")

    def peak(count: int, **settings) -> int:
        run = ZeroShotClassifier(LABELS, classifier.encoder_, **settings).fit()
        tracemalloc.start()
        for _ in run.classify(itertools.repeat(path, count)):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    # From the cache up to some thousand images are under way, more or fewer with the threads' pace.
    for cache, count in ((False, 500), (str(tmp_path / "s.db"), 3500)):
        peak(100, cache=cache)  # what is imported and made once
        assert any(peak(2 * count, cache=cache) < 1.25 * peak(count, cache=cache) for _ in range(3))


def test_below_min_score_the_answer_is_unknown_and_keeps_its_ranking(
    classifier: ZeroShotClassifier, paint: Paint
) -> None:
    grey = paint("grey.png", (128, 128, 128))
    (result,) = all_of(Prediction, classifier.classify([grey], top=3, abstain=Abstain(0.5)))
    assert result.label == "unknown"
    assert len(result.top) == 3
    assert result.score == pytest.approx(1 / 3)


def test_synonyms_and_own_prompts_belong_to_one_class(encoder: ColourEncoder) -> None:
    labels = {"warm": {"synonyms": ["red"], "prompts": ["something yellow"]}, "cold": "all blue"}
    classifier = ZeroShotClassifier(labels, encoder, prompts=["a {}"], cache=False).fit()
    assert classifier.classes_.tolist() == ["warm", "cold"]
    ones, red, yellow = np.array([(1, 1, 1), (1, 0, 0), (1, 1, 0)]).astype(float)
    mean = (ones / 3**0.5 + red + yellow / 2**0.5) / 3
    np.testing.assert_allclose(classifier.weights_[0], mean / np.linalg.norm(mean), rtol=1e-5)


def test_mini_gets_one_template_and_is_told_so_with_several(
    encoder: ColourEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    def fit(**settings: Any) -> int:
        encoder.texts.clear()
        classifier = ZeroShotClassifier(LABELS, encoder, cache=False, **settings).fit()
        assert classifier.provenance_.prompts == classifier.prompts_.name
        return len(encoder.texts)

    assert fit() == fit(prompts="photo") == 7 * len(LABELS)
    assert not caplog.records
    encoder.name = "mini"
    assert fit() == fit(prompts="none") == len(LABELS)
    assert encoder.texts == LABELS
    assert not caplog.records
    assert fit(prompts="photo") == 7 * len(LABELS)
    assert "7 times as fast as with these 7" in caplog.text


def test_python_methods_agree(classifier: ZeroShotClassifier, paint: Paint) -> None:
    paths = [paint("a.png", "red"), paint("b.png", "blue")]
    images = [Image.open(path) for path in paths]
    assert classifier.predict(paths).tolist() == ["red", "blue"]
    probabilities = classifier.predict_proba(images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        probabilities, softmax(classifier.decision_function(paths), axis=1), rtol=1e-5
    )
    np.testing.assert_array_equal(
        classifier.predict(np.eye(3, dtype=np.float32)), LABELS
    )  # embeddings are taken too
    assert classifier.score(paths, ["red", "green"]) == 0.5
    assert classifier.predict([]).shape == (0,)


def test_accuracy_is_of_as_many_labels_as_images(
    classifier: ZeroShotClassifier, paint: Paint
) -> None:
    paths = [paint("a.png", "red"), paint("b.png", "blue")]
    assert classifier.score(paths, np.array([["red"], ["green"]])) == 0.5
    assert classifier.score(paths, np.array(["red", "blue"], object)) == 1
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier.score(paths, ["red"])
    with pytest.raises(ValueError, match="no images"):
        classifier.score([], [])


def test_an_answer_has_one_label_at_least(classifier: ZeroShotClassifier, paint: Paint) -> None:
    path = paint("a.png", "red")
    with pytest.raises(ValueError, match="top is 0; the least is 1"):
        classifier.classify([path], top=0)
    with pytest.raises(ValueError, match="top is 0; the least is 1"):
        classifier.decision(top=0)


def test_scikit_learns_conventions(encoder: ColourEncoder) -> None:
    classifier = ZeroShotClassifier(LABELS, encoder, prompts="none", cache=False)
    assert set(classifier.get_params()) == set(inspect.signature(ZeroShotClassifier).parameters)
    copy = clone(classifier, safe=False).set_params(prompts="photo")
    assert (classifier.prompts, copy.prompts) == ("none", "photo")
    assert is_classifier(classifier)
    with pytest.raises(ClipclsError, match="not fitted"):
        classifier.predict(["a.png"])
    check_is_fitted(classifier.fit())
    with pytest.raises(ValueError, match="no parameter 'k'"):
        classifier.set_params(k=3)


def test_bad_input_in_python(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        classifier.predict([str(tmp_path / "none.png")])
    with pytest.raises(ImageError, match=r"^photo.jpg: no such file"):
        classifier.predict("photo.jpg")
    with pytest.raises(ValueError, match="vectors are"):
        classifier.predict(np.ones((2, 7)))
    with pytest.raises(ValueError, match="not finite"):
        classifier.predict(np.full((1, 3), np.nan, np.float32))
    with pytest.raises(LabelsError):
        ZeroShotClassifier([], classifier.encoder_, cache=False).fit()


def test_a_cache_that_cannot_be_used_is_said_and_done_without(
    encoder: ColourEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        "clipcls.embeddings.cache_file.default_path", lambda: tmp_path / "file" / "s.db"
    )
    assert ZeroShotClassifier(LABELS, encoder).fit().cache_ is None
    assert "going on without it" in caplog.text


def test_both_classifiers_have_few_members_and_override_nothing_private() -> None:
    def public(kind: type) -> set[str]:
        names = {name for name in dir(kind) if not name.startswith("_")}
        return names - inspect.signature(kind).parameters.keys()

    assert public(ZeroShotClassifier) == {
        *("fit", "predict", "predict_proba", "decision_function", "score", "classify", "heatmap"),
        *("decision", "embed", "vectors", "given_class", "identity_", "get_params", "set_params"),
    }
    own = {name for name in vars(FewShotClassifier) if name.startswith("_") and name[1] != "_"}
    assert not own & set(dir(ImageClassifier))
    assert not issubclass(FewShotClassifier, ZeroShotClassifier)
