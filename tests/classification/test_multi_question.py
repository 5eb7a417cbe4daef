"""Several questions per image: each answer is that of a run of its own."""

from __future__ import annotations

import pytest

from clipcls import (
    Abstain,
    Calibration,
    FewShotClassifier,
    ImageError,
    MultiLabelClassifier,
    MultiQuestionClassifier,
    ZeroShotClassifier,
    calibrate,
)
from clipcls.errors import CalibrationError, ClipclsError, LabelsError, ModelError, NotFittedError
from clipcls.questions import Answers
from helpers.encoders import ColourEncoder, NamesEncoder
from helpers.predictions import all_of

WARM, NAMES = ["red or yellow", "blue or green"], ["red", "green", "blue"]


@pytest.fixture
def photos(paint) -> list[str]:
    mixed = {"a": (255, 0, 0), "b": (0, 90, 200), "c": (250, 240, 30), "d": (40, 200, 60)}
    return [paint(f"{name}.png", colour) for name, colour in mixed.items()]


def assert_same(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.path, one.label, one.labels is None) == (
            other.path,
            other.label,
            other.labels is None,
        )
        assert one.provenance == other.provenance
        for mine, theirs in zip((*one.top, *one.given), (*other.top, *other.given), strict=True):
            assert mine.label == theirs.label
            assert mine.score == pytest.approx(theirs.score, abs=1e-6)
            assert mine.similarity == pytest.approx(theirs.similarity, abs=1e-6)


@pytest.mark.parametrize("refine", [False, True])
def test_answers_are_those_of_separate_runs_with_each_image_embedded_once(
    encoder: ColourEncoder, photos: list[str], refine: bool
) -> None:
    def make() -> dict:
        learnt = FewShotClassifier(NAMES, encoder, cache=False)
        learnt.fit([(path, label) for path, label in zip(photos, ["red", "blue"], strict=False)])
        return {
            "warmth": ZeroShotClassifier(WARM, encoder, cache=False),
            "colour": ZeroShotClassifier(NAMES, encoder, cache=False),
            "colours": MultiLabelClassifier(ZeroShotClassifier(NAMES, encoder, cache=False)),
        } | ({} if refine else {"learnt": learnt})

    clf = MultiQuestionClassifier(make()).fit()
    before = encoder.images
    images = [*photos[:2], "missing.png", *photos[2:]] * 12
    found = list(clf.classify(images, top=2, refine=refine))
    assert encoder.images - before == len(photos) * 12
    assert [one.path for one in found] == images
    answers = [one for one in found if isinstance(one, Answers)]
    assert len(answers) == len(photos) * 12
    for name, alone in make().items():
        if name != "learnt":
            alone.fit()
        options = {} if name == "colours" else {"top": 2, "refine": refine}
        expected = alone.classify(images, on_error="skip", **options)
        assert_same([one.questions[name] for one in answers], expected)


def test_options_go_to_the_questions_that_have_them(encoder, paint, photos: list[str]) -> None:
    def words(names, **more) -> ZeroShotClassifier:
        return ZeroShotClassifier(names, encoder, cache=False, **more)

    colours = MultiLabelClassifier(words(NAMES))
    clf = MultiQuestionClassifier({"warmth": words(WARM), "colours": colours}).fit()
    (found,) = all_of(
        Answers,
        clf.classify(
            photos[0], abstain=Abstain(min_score=1), min_score=0.0, max_labels=2, explain=True
        ),
    )
    assert found.questions["warmth"].label == "unknown"
    assert len(found.questions["colours"].given) == 2
    assert found.questions["warmth"].explanation is not None
    truth = [(paint(f"{n}.png", (25 * n, 0, 255 - 25 * n)), WARM[n < 5]) for n in range(10)]
    calibration, _ = calibrate(words(WARM).fit(), truth)
    assert isinstance(calibration, Calibration)
    mixed = {"warmth": words(WARM, calibration=calibration), "colour": words(NAMES)}
    with pytest.raises(CalibrationError, match="question 'colour'"):
        list(MultiQuestionClassifier(mixed).fit().classify(photos, abstain=Abstain(coverage=0.5)))
    tree = {"warmth": words(WARM), "tree": words(["warm > red", "cold > blue"])}
    with pytest.raises(ClipclsError, match=r"question 'tree'.*hierarchy"):
        MultiQuestionClassifier(tree).fit().classify(photos, refine=True)
    with pytest.raises(ImageError):
        list(clf.classify(["missing.png"], on_error="raise"))


def test_impossible_questions_are_refused(encoder) -> None:
    one = ZeroShotClassifier(NAMES, encoder, cache=False)
    other = ZeroShotClassifier(NAMES, NamesEncoder(), cache=False)
    with pytest.raises(ModelError, match="question 'b'"):
        MultiQuestionClassifier({"a": one, "b": other}).fit()
    with pytest.raises(LabelsError, match="'path'"):
        MultiQuestionClassifier({"path": one})
    with pytest.raises(ValueError, match="each question"):
        MultiQuestionClassifier({})
    with pytest.raises(NotFittedError):
        MultiQuestionClassifier({"a": one}).classify([])


def test_a_model_that_all_name_is_opened_once(monkeypatch, encoder) -> None:
    opened = []

    def open_encoder(model, *_):
        if model == "auto":
            opened.append(model)
            return encoder
        return model

    monkeypatch.setattr("clipcls.classification.image_classifier.open_encoder", open_encoder)
    one, other = (ZeroShotClassifier(NAMES, cache=False) for _ in range(2))
    MultiQuestionClassifier({"a": one, "b": other}).fit()
    assert (opened, other.model, other.encoder_) == (["auto"], "auto", encoder)
