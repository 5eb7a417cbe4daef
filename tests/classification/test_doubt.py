"""Nearness to labels, and what says that a batch of answers is likely wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipcls import Abstain, ZeroShotClassifier
from clipcls.classification.doubt import Doubt, count_each
from clipcls.classification.nearness import Nearness
from clipcls.errors import ClipclsError
from clipcls.few_shot.classifier import FewShotClassifier
from clipcls.labels.label_set import read_labels
from clipcls.labels.names import fill_template
from clipcls.labels.prompts import TEMPLATE, everyday_texts
from clipcls.numerics import unit_rows
from clipcls.predictions import Candidate, Prediction
from helpers.cli import Run
from helpers.encoders import ColourEncoder, NamesEncoder
from helpers.predictions import all_of

Paint = Callable[..., str]


def answers(*counts: tuple[str, int, float], nearness: float | None = None) -> list[Prediction]:
    return [
        Prediction("a.png", label, (Candidate(label, score, 0.3),), None, nearness=nearness)
        for label, count, score in counts
        for _ in range(count)
    ]


def reason(results: list[Prediction], n_labels: int = 6) -> str:
    doubt = Doubt(n_labels)
    assert [*count_each({"": doubt}, results, keep_nearness=True)] == results
    return doubt.reason()


def test_everyday_texts_are_those_of_the_ready_sets_whatever_the_folder_contains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [read_labels(name).names for name in ("imagenet", "scenes", "textures")]
    names = dict.fromkeys(name for each in sets for name in each)
    monkeypatch.chdir(tmp_path)
    Path("scenes").write_text("a file of the user's own")
    assert everyday_texts() == [fill_template(TEMPLATE, name) for name in names]
    assert everyday_texts(12) == everyday_texts()[::12]


def test_nearness_is_standardised_by_everyday_names(
    names_encoder: NamesEncoder, paint: Paint
) -> None:
    clf = ZeroShotClassifier(["red", "blue"], names_encoder, cache=False).fit()
    path = paint("red.png", (200, 60, 0))
    (found,) = all_of(Prediction, clf.classify(path, nearness=True))
    vector = clf.vectors([path])[0].astype(float)
    names = names_encoder.encode_texts(everyday_texts()[::12]) @ vector
    expected = (clf.weights_[0] @ vector - names.mean()) / names.std()
    assert found.nearness is not None
    assert found.nearness == pytest.approx(expected, abs=1e-5)
    assert found.to_dict()["nearness"] == round(found.nearness, 6)
    (plain,) = all_of(Prediction, clf.classify(path))
    assert plain.nearness is None
    assert "nearness" not in plain.to_dict()


@pytest.mark.parametrize("refine", [False, True])
def test_images_of_other_things_are_unknown_however_high_their_score(
    refine: bool, names_encoder: NamesEncoder, paint: Paint
) -> None:
    clf = ZeroShotClassifier(["red", "green"], names_encoder, cache=False).fit()
    paths = [paint(f"{n}.png", "red" if n % 2 else (40, 0, 255)) for n in range(40)]
    found = all_of(
        Prediction, clf.classify(paths, abstain=Abstain(min_similarity=2), refine=refine)
    )
    assert [each.label for each in found] == ["unknown", "red"] * 20
    assert found[0].top[0].label == "red"


def test_a_learnt_classifier_has_no_nearness(names_encoder: NamesEncoder, paint: Paint) -> None:
    pairs = [(paint("r.png", "red"), "red"), (paint("b.png", "blue"), "blue")]
    learnt = FewShotClassifier(["red", "blue"], names_encoder, cache=False).fit(pairs)
    with pytest.raises(ClipclsError, match="learnt"):
        learnt.decision(abstain=Abstain(min_similarity=2))


def test_a_label_that_most_images_get_with_low_scores_is_doubtful() -> None:
    collapsed = answers(("scratches", 71, 0.4), ("patches", 19, 0.7))
    assert "71 of 90 images get the label 'scratches', with a mean score" in reason(collapsed)
    assert not reason(answers(("dog", 90, 0.9)))  # a folder of dogs
    assert not reason(answers(("dog", 60, 0.8), ("cat", 10, 0.3)))
    assert "the mean score is only 0.30" in reason(
        answers(*((name, 10, 0.3) for name in ("a", "b", "c", "d", "e")))
    )
    assert not reason(answers(("scratches", 19, 0.2)))  # too few to tell
    assert reason(answers(("defect", 40, 0.55)), n_labels=2)


def test_images_that_are_near_no_label_are_doubtful() -> None:
    far = answers(("shirt", 30, 0.9), nearness=1.2)
    assert reason(far) == "30 of 30 images are near none of the labels"
    assert not reason(answers(("shirt", 30, 0.9), nearness=4.0))


def test_the_command_says_once_that_answers_are_doubtful(
    run, paint: Paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    rng = np.random.default_rng(0)
    for n in range(20):
        paint(f"photos/{n}.png", tuple(rng.integers(100, 120, 3).tolist()))
    labels = ("-l", "red", "-l", "green", "-l", "blue")
    status, out, err = run("classify", *labels, "-f", "jsonl", "photos")
    assert status == 0
    assert err.count("doubtful: ") == 1
    assert "clipcls fit" in err
    assert "nearness" not in json.loads(out.splitlines()[0])
    assert "doubtful" not in run("classify", *labels, "--quiet", "-f", "jsonl", "photos")[2]
    out = run("classify", *labels, "--min-similarity", "-100", "-f", "csv", "photos")[1]
    assert out.splitlines()[0] == "path,label,score,best,similarity,nearness,error"


def test_evaluate_recommends_learning_where_accuracy_is_low(
    run, paint: Paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    for colour in ("red", "blue"):
        paint(f"good/{colour}/a.png", colour)
        paint(f"bad/{colour}/a.png", "red")
    labels = ("-l", "red", "-l", "blue")
    assert run("evaluate", *labels, "bad")[2].count("`clipcls fit`") == 1
    assert "clipcls fit" not in run("evaluate", *labels, "good")[2]
    assert "clipcls fit" not in run("evaluate", *labels, "--quiet", "bad")[2]


def test_a_few_photos_are_not_compared_with_everyday_names(
    run: Run, encoder: ColourEncoder, paint: Paint
) -> None:
    photos = [paint(f"{n}.png", "red") for n in range(20)]
    for count, has_names in ((19, False), (20, True)):
        encoder.texts.clear()
        assert run("classify", "--no-cache", "-l", "red", "-l", "blue", *photos[:count])[0] == 0
        assert (len(encoder.texts) > 90) == has_names


def test_a_table_and_stored_vectors_are_compared_with_everyday_names(
    run: Run, encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    photos = [paint(f"{n}.png", "red") for n in range(20)]
    table, vectors = tmp_path / "t.csv", tmp_path / "v.parquet"
    table.write_text("\n".join(["path", *photos]))
    assert run("embed", *photos, "-o", str(vectors))[0] == 0
    for file in (table, vectors):
        encoder.texts.clear()
        assert run("classify", "--no-cache", "-l", "red", "-l", "blue", str(file))[0] == 0
        assert len(encoder.texts) > 90


def test_a_sample_tells_the_share_of_far_images() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_rows(rng.standard_normal((2000, 3), np.float32))
    similarities = vectors[:, 0].astype(np.float64)
    encoder = NamesEncoder()
    vectors = np.pad(vectors, ((0, 0), (0, 29)))
    whole = Nearness(encoder, None).measure(vectors, similarities)
    sample = Nearness(encoder, None, is_sampled=True).measure(vectors, similarities)
    known = ~np.isnan(sample)
    assert 256 <= known.sum() < 500
    np.testing.assert_allclose(sample[known], whole[known])
