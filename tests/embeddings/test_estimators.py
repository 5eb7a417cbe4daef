"""Image estimators in scikit-learn's hands, and its `NotFittedError`.

scikit-learn's own checks give numbers of any width; the images and vectors that these estimators
take they cannot make. `LinearProbe`, which takes numbers, passes them all
(tests/few_shot/test_linear_probe.py).
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

import clipcls.errors
from clipcls import (
    Backend,
    ClipclsError,
    ClipEmbedder,
    FewShotClassifier,
    LinearProbe,
    MultiLabelClassifier,
    ZeroShotClassifier,
)
from helpers.encoders import ColourEncoder

Paint = Callable[..., str]
COLOURS = ["red", "green", "blue"]


class PlainEncoder(ColourEncoder):
    """Keeps no record of what it was asked: a parameter must not change."""

    def __repr__(self) -> str:  # in the names of tests: the same in each process
        return "PlainEncoder()"

    def encode_texts(self, texts: Any) -> Any:
        found = super().encode_texts(texts)
        self.texts.clear()
        return found


def estimators() -> list[Any]:
    encoder = PlainEncoder()
    return [
        ZeroShotClassifier(["red", "green"], encoder, cache=False),
        FewShotClassifier(model=encoder, cache=False),
        ClipEmbedder(encoder, cache=False),
    ]


@pytest.fixture
def data(paint: Paint) -> tuple[list[str], list[str]]:
    labels = COLOURS * 4
    return [paint(f"{n}.png", label) for n, label in enumerate(labels)], labels


@pytest.mark.parametrize("estimator", estimators(), ids=lambda estimator: type(estimator).__name__)
def test_clone_parameters_and_pickle(estimator: Any, data: tuple[list[str], list[str]]) -> None:
    copy = clone(estimator, safe=False)
    assert copy is not estimator
    assert repr(copy) == repr(estimator)
    assert copy.get_params(deep=False).keys() == estimator.get_params(deep=False).keys()
    with pytest.raises(ValueError, match="nonsense"):
        copy.set_params(nonsense=1)
    assert copy.set_params(checkpoint="x.pt").checkpoint == "x.pt"
    assert is_classifier(estimator) == hasattr(estimator, "predict")
    fitted = clone(estimator, safe=False).fit(*data)
    again = pickle.loads(pickle.dumps(fitted))
    ask = "predict_proba" if hasattr(fitted, "predict") else "transform"
    np.testing.assert_array_equal(getattr(again, ask)(data[0]), getattr(fitted, ask)(data[0]))


@pytest.mark.parametrize("estimator", estimators()[:2], ids=["ZeroShot", "FewShot"])
def test_a_classifier_is_cross_validated_and_searched(
    estimator: Any, data: tuple[list[str], list[str]]
) -> None:
    estimator.set_params(labels=COLOURS)
    assert cross_val_score(estimator, *data, cv=2).tolist() == [1, 1]
    search = GridSearchCV(estimator, {"prompts": ["none", ["a photo of a {}."]]}, cv=2)
    assert search.fit(*data).best_score_ == 1
    assert make_pipeline(estimator).fit(*data).score(*data) == 1


def test_the_embedder_is_a_step_of_a_pipeline(data: tuple[list[str], list[str]]) -> None:
    steps = make_pipeline(ClipEmbedder(PlainEncoder(), cache=False), LogisticRegression())
    assert cross_val_score(steps, *data, cv=2).tolist() == [1, 1]


def test_parameters_of_the_inner_classifier_are_reached(data: tuple[list[str], list[str]]) -> None:
    several = MultiLabelClassifier(ZeroShotClassifier(["red"], PlainEncoder(), cache=False))
    copy = clone(several, safe=False).set_params(classifier__labels=COLOURS)
    assert copy.classifier.labels == COLOURS
    assert several.classifier.labels == ["red"]
    assert is_classifier(copy)
    assert copy.fit().predict(data[0]).shape == (12, 3)


@pytest.mark.parametrize(
    "estimator",
    [*estimators(), MultiLabelClassifier(ZeroShotClassifier(["red"], ColourEncoder()))],
    ids=lambda estimator: type(estimator).__name__,
)
def test_an_estimator_that_is_not_fitted_says_so_to_both(estimator: Any) -> None:
    ask = getattr(estimator, "predict", None) or estimator.transform
    for kind in (NotFittedError, ClipclsError, clipcls.errors.NotFittedError):
        with pytest.raises(
            kind, match=f"this {type(estimator).__name__} is not fitted yet"
        ) as told:
            ask(["a.png"])
    again = pickle.loads(pickle.dumps(told.value))  # as joblib's processes hand it over
    assert isinstance(again, clipcls.errors.NotFittedError)
    assert str(again) == str(told.value)
    if not isinstance(estimator, MultiLabelClassifier | ClipEmbedder):
        with pytest.raises(NotFittedError):
            estimator.classify(["a.png"])
    with pytest.raises(NotFittedError):
        LinearProbe().predict([[0.0]])


def test_scikit_learn_is_not_imported_to_say_so() -> None:
    script = (
        "import sys\n"
        "from clipcls.errors import NotFittedError, not_fitted\n"
        "assert type(not_fitted('x')) is NotFittedError\n"
        "assert 'sklearn' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("estimator", [ClipEmbedder, FewShotClassifier, ZeroShotClassifier])
def test_how_a_model_runs_is_a_parameter_as_any_other(estimator: type) -> None:
    given = Backend(precision="fp32", workers=2)
    made = estimator(
        model=ColourEncoder(),
        backend=given,
        **({} if estimator is ClipEmbedder else {"labels": ["red"]}),
    )
    copy = clone(made)
    assert copy.get_params()["backend"] == given
    copy.set_params(backend=Backend(device="cpu"))
    assert (copy.backend.device, made.backend) == ("cpu", given)
    assert pickle.loads(pickle.dumps(copy)).backend == Backend(device="cpu")
