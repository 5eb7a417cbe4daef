"""scikit-learn's own checks, and its `NotFittedError`.

`LinearProbe`, which takes numbers, passes all checks (tests/test_probe.py). The others take images
or a model's vectors, so that some checks ask for what they are not; each with its reason.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

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

WIDTH = "X are images, or vectors as wide as the model's are; the check's have another width"
KIND = "X are images or an array of floats; the check's are numbers in another form"
WORDS = "labels are words; the check compares predictions with numbers"
WORDING = "refused with a message of our own that does not have the words the check looks for"
NOTHING_LEARNT = "fit learns nothing and looks neither at X nor at y"
OWN_LABELS = "the labels are a parameter, and not found in y"

OF_BOTH = {
    "check_n_features_in_after_fitting": WIDTH,
    "check_estimators_dtypes": WIDTH,
    "check_decision_proba_consistency": WIDTH,
    "check_fit_idempotent": WIDTH,
    "check_n_features_in": WIDTH,
    "check_dtype_object": KIND,
    "check_estimator_sparse_tag": KIND,
    "check_estimator_sparse_array": KIND,
    "check_estimator_sparse_matrix": KIND,
    "check_classifier_data_not_an_array": KIND,
    "check_estimators_pickle": WORDS,
    "check_methods_sample_order_invariance": WORDS,
    "check_methods_subset_invariance": WORDS,
    "check_fit2d_predict1d": WORDING,
}
EXPECTED = {
    ZeroShotClassifier: OF_BOTH
    | {
        "check_complex_data": NOTHING_LEARNT,
        "check_estimators_empty_data_messages": NOTHING_LEARNT,
        "check_estimators_nan_inf": NOTHING_LEARNT,
        "check_classifiers_train": NOTHING_LEARNT,
        "check_classifiers_regression_target": NOTHING_LEARNT,
        "check_supervised_y_no_nan": NOTHING_LEARNT,
        "check_supervised_y_2d": NOTHING_LEARNT,
        "check_fit1d": NOTHING_LEARNT,
        "check_classifiers_one_label": OWN_LABELS,
        "check_classifiers_classes": OWN_LABELS,
    },
    FewShotClassifier: OF_BOTH
    | {
        "check_estimators_overwrite_params": WIDTH,
        "check_estimators_fit_returns_self": WIDTH,
        "check_readonly_memmap_input": WIDTH,
        "check_positive_only_tag_during_fit": WIDTH,
        "check_estimators_nan_inf": WIDTH,
        "check_classifiers_classes": WIDTH,
        "check_classifiers_train": WIDTH,
        "check_classifiers_regression_target": WIDTH,
        "check_supervised_y_2d": WIDTH,
        "check_fit_check_is_fitted": WIDTH,
        "check_estimators_empty_data_messages": WORDING,
        "check_classifiers_one_label": WORDING,
        "check_fit2d_1sample": WORDING,
        "check_fit2d_1feature": WORDING,
    },
}


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


@parametrize_with_checks(
    estimators(), expected_failed_checks=lambda estimator: EXPECTED.get(type(estimator), {})
)
def test_scikit_learns_own_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


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
