from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from clipcls import (
    Abstain,
    ClipEmbedder,
    FewShotClassifier,
    LinearProbe,
    ZeroShotClassifier,
    calibrate,
    evaluate,
)
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import (
    CalibrationError,
    ClassifierError,
    ClipclsError,
    ImageError,
    InputError,
    LabelsError,
    NotFittedError,
    OutputError,
)
from clipcls.output.columns import result_columns
from clipcls.output.reader import read_results
from clipcls.output.writing import open_output
from clipcls.predictions import NO_CLASS, Prediction
from helpers.encoders import ColourEncoder
from helpers.predictions import all_of

Paint = Callable[..., str]
# What the labels mean here is not what the words say: that can only be learnt from images.
MEANING = {"red": (230, 120, 20), "green": (40, 200, 200), "blue": (200, 30, 200)}
LABELS = list(MEANING)


def painted(paint: Paint, count: int = 6, seed: int = 0, folder: str = "in") -> dict[str, str]:
    rng = np.random.default_rng(seed)
    data = {}
    for label, colour in MEANING.items():
        for number in range(count):
            shade = np.clip(np.array(colour) + rng.integers(-30, 31, size=3), 0, 255)
            name = f"{folder}/{label}/{seed}-{number}.png"
            data[paint(name, tuple(int(c) for c in shade))] = label
    return data


@pytest.fixture
def learnt(encoder: ColourEncoder, paint: Paint) -> FewShotClassifier:
    classifier = FewShotClassifier(LABELS, encoder, cache=False)
    return classifier.fit(list(painted(paint).items()))


def test_it_learns_what_words_do_not_say(
    learnt: FewShotClassifier, encoder: ColourEncoder, paint: Paint
) -> None:
    others = painted(paint, 20, seed=1, folder="out")
    paths, labels = list(others), list(others.values())
    by_words = ZeroShotClassifier(LABELS, encoder, cache=False).fit()
    assert learnt.score(paths, labels) > 0.95 > by_words.score(paths, labels) + 0.1
    figures = learnt.learnt_.cross_validation
    assert figures["images"] == 18
    assert figures["accuracy"] > figures["accuracy_of_words"]
    assert learnt.learnt_.labels == (("red", 6, True), ("green", 6, True), ("blue", 6, True))


TREE = ["warm > red", "cold > green", "cold > blue"]


def test_a_learnt_classifier_answers_at_the_levels_of_its_labels_tree(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    data = list(painted(paint).items())
    flat = FewShotClassifier(LABELS, encoder, cache=False).fit(data)
    file = tmp_path / "c.safetensors"
    FewShotClassifier(TREE, encoder, cache=False).fit(data).save(file)
    labels = FewShotClassifier.load(file, encoder, cache=False)
    roots = FewShotClassifier.load(file, encoder, cache=False, level=1)
    assert (labels.classes_.tolist(), roots.classes_.tolist()) == (LABELS, ["warm", "cold"])
    paths = list(painted(paint, 20, seed=1, folder="out"))
    scores = flat.predict_proba(paths)
    np.testing.assert_allclose(labels.predict_proba(paths), scores)
    sums = np.column_stack([scores[:, 0], scores[:, 1] + scores[:, 2]])
    np.testing.assert_allclose(roots.predict_proba(paths), sums)
    assert roots.predict(paths).tolist() == roots.classes_[sums.argmax(axis=1)].tolist()
    for found, row in zip(all_of(Prediction, roots.classify(paths, top=2)), sums, strict=True):
        assert [c.score for c in found.top] == pytest.approx(sorted(row, reverse=True))
        assert found.lineage == (found.label,)
    # Between green and blue: surely cold, and what is nearest there tells how near.
    between = paint("between.png", (115, 115, 200))
    least = 0.5 + labels.predict_proba([between]).max() / 2
    (found,) = all_of(Prediction, labels.classify([between], abstain=Abstain(least)))
    assert (found.label, found.lineage) == ("cold", ("cold",))
    (deep,) = all_of(Prediction, flat.classify([between]))
    assert found.top[0].similarity == pytest.approx(deep.top[0].similarity)
    # At a level the tree tells what is right, and a calibration is for one level.
    truth = [(path, "cold" if "red" not in Path(path).parent.name else "warm") for path in paths]
    assert evaluate(roots, truth, draws=2).metrics["accuracy"].value == 1
    calibration, _ = calibrate(roots, truth)
    assert calibration.temperature == 1  # every answer is right
    with pytest.raises(CalibrationError):
        FewShotClassifier.load(file, encoder, cache=False, calibration=calibration)
    with pytest.raises(LabelsError, match="the classifier: has no level '3'"):
        FewShotClassifier.load(file, encoder, cache=False, level=3)
    flat.save(file)
    with pytest.raises(LabelsError, match="has no level '2'; its levels are 1 only"):
        FewShotClassifier.load(file, encoder, cache=False, level=2)


def test_what_is_read_from_a_file_and_fitted_again_keeps_its_tree(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    data = list(painted(paint).items())
    tree = ["warm > red", "cold > green", "cold > blue", "warm > light", "cold > light"]
    data.append((paint("p.png", (255, 180, 200)), "pink"))
    first = FewShotClassifier(tree, encoder, cache=False, no_words=["pink"]).fit(data)
    first.save(tmp_path / "c.safetensors")
    read = FewShotClassifier.load(tmp_path / "c.safetensors", ColourEncoder(), cache=False, level=1)
    again = clone(read).fit(data)
    assert again.classes_.tolist() == ["warm", "cold", "pink"]
    assert again.learnt_.paths == first.learnt_.paths
    np.testing.assert_array_equal(again.weights_, first.weights_)
    assert any("light, a type of cold" in text for text in again.encoder_.texts)


def test_two_labels_of_one_name_are_two(encoder: ColourEncoder, paint: Paint) -> None:
    labels = ["warm > colour", "cold > colour", "warm > red"]
    data = [
        (paint("o.png", (255, 128, 0)), "warm > colour"),
        (paint("t.png", (0, 200, 200)), "cold > colour"),
        (paint("r.png", "red"), "warm > red"),
        (paint("s.png", (250, 5, 5)), "Red"),
        (paint("w.png", "red"), "warm"),
    ]
    learnt = FewShotClassifier(labels, encoder, cache=False).fit(data)
    assert learnt.classes_.tolist() == ["warm > colour", "cold > colour", "red"]
    assert [count for _, count, _ in learnt.learnt_.labels] == [1, 1, 2]
    assert "among" not in learnt.learnt_.summary()
    more = FewShotClassifier([*labels, "cold > black"], encoder, cache=False).fit(data)
    assert more.learnt_.summary().endswith(
        ", among the 3 labels with images; answered with a label without images: 0 of these images"
    )
    assert learnt.excluded_ is not None
    assert learnt.excluded_.no_labels == {"warm": 1}
    paths, names = [path for path, _ in data[:3]], [name for _, name in data[:3]]
    assert learnt.predict(paths).tolist() == ["warm > colour", "cold > colour", "red"]
    assert learnt.fit(paths, names).classes_.tolist() == ["warm > colour", "cold > colour", "red"]


def test_scores_are_the_softmax_of_the_probes_logits(
    learnt: FewShotClassifier, encoder: ColourEncoder, paint: Paint
) -> None:
    paths = list(painted(paint, 4, seed=1))
    vectors = np.stack([item.vector for item in all_of(Embedded, learnt.embed(paths))])
    expected = learnt.probe_.predict_proba(vectors)
    np.testing.assert_allclose(learnt.predict_proba(paths), expected, atol=1e-5)
    for result, scores, vector in zip(
        all_of(Prediction, learnt.classify(paths, top=3)), expected, vectors, strict=True
    ):
        order = np.argsort(-scores)
        assert [c.label for c in result.top] == [LABELS[k] for k in order]
        np.testing.assert_allclose([c.score for c in result.top], scores[order], atol=1e-5)
        row = learnt.weights_[order[0]]
        cosine = row @ vector / np.linalg.norm(row)
        assert result.top[0].similarity == pytest.approx(cosine, abs=1e-5)
        assert result.to_dict()["classifier"] == learnt.digest_
    sure = [r.label for r in all_of(Prediction, learnt.classify(paths, abstain=Abstain(0.9, 0.85)))]
    top = np.sort(expected, axis=1)
    unsure = (top[:, -1] < 0.9) | (top[:, -1] - top[:, -2] < 0.85)
    assert [label == "unknown" for label in sure] == unsure.tolist()


def test_a_file_gives_the_same_answers(
    learnt: FewShotClassifier, encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    learnt.save(tmp_path / "c.safetensors")
    assert [p.name for p in tmp_path.glob("c.*")] == ["c.safetensors"]
    found = FewShotClassifier.load(tmp_path / "c.safetensors", encoder, cache=False)
    paths = list(painted(paint, 4, seed=1))
    assert list(found.classify(paths, top=2)) == list(learnt.classify(paths, top=2))
    assert (found.learnt_, found.digest_) == (learnt.learnt_, learnt.digest_)
    assert found.provenance_ == learnt.provenance_
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).weights_, found.weights_)
    with pytest.raises(ClipclsError, match="fit"):
        found.suspects()
    with pytest.raises(OutputError, match="nowhere"):
        learnt.save(tmp_path / "nowhere" / "c.safetensors")


def test_a_file_for_another_model_is_refused_with_the_difference(
    learnt: FewShotClassifier, tmp_path: Path
) -> None:
    learnt.save(tmp_path / "c.safetensors")
    other = ColourEncoder()
    other.name, other.weights = "shapes", "5a" * 32
    with pytest.raises(ClassifierError, match=r"c.safetensors: .* colours .*c0c0.* shapes .*5a5a"):
        FewShotClassifier.load(tmp_path / "c.safetensors", other, cache=False)


def test_files_that_are_no_classifier_are_refused(
    learnt: FewShotClassifier, encoder: ColourEncoder, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    learnt.save(path)
    whole, tensors = path.read_bytes(), load_file(path)
    record = {"format": "clipcls classifier 1"}
    damaged = {**tensors, "coef": tensors["coef"] * np.float32(np.nan)}
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]

    def refused(match: str) -> None:
        with pytest.raises(ClassifierError, match=match):
            FewShotClassifier.load(path, encoder, cache=False)

    for size in (0, 4, 200, len(whole) - 3):
        path.write_bytes(whole[:size])
        refused("cut off or damaged")
    path.write_text('{"a": 1}' * 100)
    refused("no classifier")
    save_file(tensors, path)
    refused("no classifier")
    save_file(tensors, path, {"clipcls": json.dumps({"format": "clipcls classifier 9"})})
    refused("this version")
    save_file(tensors, path, {"clipcls": json.dumps(record)})
    refused("damaged")
    save_file(damaged, path, header)
    refused("damaged")
    path.unlink()
    refused("no such file")


def test_a_folder_names_its_own_labels(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    painted(paint)
    shutil.move(tmp_path / "in/red", tmp_path / "in/light_red")
    learnt = FewShotClassifier(model=encoder, cache=False).fit(tmp_path / "in")
    assert learnt.classes_.tolist() == ["blue", "green", "light red"]
    assert any("light red" in text for text in encoder.texts)


def test_labels_of_pairs_are_kept_whatever_folders_are_near(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    pairs = [(paint("r.png", "red"), "dark_red"), (paint("g.png", "green"), "green")]
    learnt = FewShotClassifier(None, encoder, cache=False).fit(pairs)
    assert learnt.classes_.tolist() == ["dark_red", "green"]


def test_labels_without_images_without_words_and_unknown_ones(
    encoder: ColourEncoder, paint: Paint
) -> None:
    data = painted(paint)
    white = [paint(f"in/white/{n}.png", (250 - n, 250, 250)) for n in range(6)]
    learnt = FewShotClassifier(
        [*LABELS, "yellow"], encoder, cache=False, no_words=["blue", "code-7"]
    )
    strange = paint("in/black/1.png", (0, 0, 0))
    learnt.fit([*data.items(), *((path, "code-7") for path in white), (strange, "black")])
    assert learnt.classes_.tolist() == [*LABELS, "yellow", "code-7"]
    assert [words for _, _, words in learnt.learnt_.labels] == [True, True, False, True, False]
    assert learnt.excluded_ is not None
    assert learnt.excluded_.without_images == ("yellow",)
    assert learnt.excluded_ is not None
    assert learnt.excluded_.no_labels == {"black": 1}
    by_images = FewShotClassifier(LABELS, encoder, cache=False, no_words=["blue", "code-7"])
    by_images.fit([*data.items(), *((path, "code-7") for path in white)])
    assert by_images.predict(white[:1]).tolist() == ["code-7"]


def test_what_cannot_be_learnt_from_is_refused(encoder: ColourEncoder, paint: Paint) -> None:
    red, blue = paint("r.png", "red"), paint("b.png", "blue")

    def fit(data: Any, labels: list[str] = LABELS) -> FewShotClassifier:
        return FewShotClassifier(labels, encoder, cache=False).fit(data)

    with pytest.raises(InputError, match="two labels are needed, not only of 'red'"):
        fit([(red, "red")])
    with pytest.raises(LabelsError, match="one label"):
        fit([(red, "red")], ["red"])
    with pytest.raises(InputError, match=r"r.png has the labels 'red', 'blue'"):
        fit([(red, ["red", "blue"]), (blue, "blue")])
    with pytest.raises(InputError, match="'code-7' has no images either"):
        FewShotClassifier(LABELS, encoder, cache=False, no_words=["code-7"]).fit(
            [(red, "red"), (blue, "blue")]
        )
    with pytest.raises(InputError, match="labelled images"):
        FewShotClassifier(LABELS, encoder, cache=False).fit()
    with pytest.raises(InputError, match="'pink' is none of the labels"):
        FewShotClassifier(LABELS, encoder, cache=False).fit([red, blue], ["red", "pink"])
    with pytest.raises(ClipclsError, match="not fitted"):
        FewShotClassifier(LABELS, encoder, cache=False).save("c.safetensors")


def test_one_image_a_label_is_enough(encoder: ColourEncoder, paint: Paint) -> None:
    learnt = FewShotClassifier(LABELS, encoder, cache=False).fit(list(painted(paint, 1).items()))
    assert learnt.learnt_.cross_validation == {}
    assert "nothing can be held out" in learnt.learnt_.summary()
    others = painted(paint, 10, seed=1)
    by_words = ZeroShotClassifier(LABELS, encoder, cache=False).fit()
    x, y = list(others), list(others.values())
    assert learnt.score(x, y) >= by_words.score(x, y)


def test_an_unreadable_image_is_set_aside(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no image")
    seen: list[ImageError | None] = []
    data = [*painted(paint).items(), (str(tmp_path / "bad.png"), "red")]
    learnt = FewShotClassifier(LABELS, encoder, cache=False).fit(data, watch=seen.append)
    assert learnt.excluded_ is not None
    assert [e.path for e in learnt.excluded_.unreadable] == [str(tmp_path / "bad.png")]
    assert len(seen) == 19


def test_vectors_and_labels_as_scikit_learn_gives_them(
    learnt: FewShotClassifier, encoder: ColourEncoder, paint: Paint
) -> None:
    data = painted(paint)
    vectors = np.stack([item.vector for item in all_of(Embedded, learnt.embed(list(data)))])
    other = clone(FewShotClassifier(LABELS, encoder, cache=False))
    other.fit(vectors, list(data.values()))
    np.testing.assert_allclose(other.weights_, learnt.weights_, atol=1e-4)
    assert other.get_params()["no_words"] == ()
    with pytest.raises(ValueError, match=r"NaN|infinity|finite"):
        clone(other).fit(np.full((2, 3), np.nan), ["red", "blue"])


def test_labels_that_are_numbers_are_scored_as_they_were_learnt(
    learnt: FewShotClassifier, paint: Paint
) -> None:
    data = painted(paint)
    vectors = learnt.vectors(list(data))
    numbers = np.array([LABELS.index(label) for label in data.values()])
    classifier = FewShotClassifier(None, learnt.encoder_, cache=False)
    assert clone(classifier, safe=False).fit(vectors, numbers).score(vectors, numbers) == 1
    assert cross_val_score(classifier, vectors, numbers, cv=3).tolist() == [1, 1, 1]


def test_an_iterator_over_paths_is_as_good_as_a_list(encoder: ColourEncoder, paint: Paint) -> None:
    data = painted(paint)
    learnt = FewShotClassifier(LABELS, encoder, cache=False)
    learnt.fit((path for path in data), list(data.values()))
    assert None not in map(learnt.given_class, data)
    with pytest.raises(InputError, match="two labels are needed, not only of 'red'"):
        learnt.fit(next(iter(data)), ["red"])  # one path, not its letters


def test_wrong_labels_of_vectors_are_found(encoder: ColourEncoder, paint: Paint) -> None:
    data = painted(paint, 12)
    vectors = ZeroShotClassifier(LABELS, encoder, cache=False).fit().vectors(list(data))
    labels = list(data.values())
    labels[3] = "green"
    (suspect,) = FewShotClassifier(LABELS, encoder, cache=False).fit(vectors, labels).suspects()
    assert (suspect.path, suspect.label, suspect.likelier) == ("", "green", "red")


def test_learning_from_and_judging_by_the_same_images_is_told(
    learnt: FewShotClassifier, paint: Paint, caplog: pytest.LogCaptureFixture
) -> None:
    data = painted(paint)
    copy = paint("copy.png", "red")
    Path(copy).write_bytes(Path(next(iter(data))).read_bytes())
    others = painted(paint, 4, seed=1)
    evaluate(learnt, list(others.items()))
    assert caplog.text == ""
    evaluate(learnt, [*others.items(), (copy, "red")])
    assert "learnt from 1 of these 13 images" in caplog.text


def test_the_same_picture_with_two_labels_is_told_and_held_out_together(
    encoder: ColourEncoder, paint: Paint, caplog: pytest.LogCaptureFixture
) -> None:
    data = painted(paint)
    first = next(iter(data))
    copy = paint("copy.png", "red")
    Path(copy).write_bytes(Path(first).read_bytes())
    caplog.set_level(logging.WARNING)
    learnt = FewShotClassifier(LABELS, encoder, cache=False).fit([*data.items(), (copy, "blue")])
    assert "the same picture with two labels" in caplog.text
    assert first in caplog.text
    folds = learnt.probe_.folds_
    assert folds is not None
    assert folds[list(data).index(first)] == folds[-1]


def test_copies_are_held_out_together_though_their_vectors_differ_by_rounding(
    paint: Paint,
) -> None:
    class Rounding(ColourEncoder):
        """As backends do: what an image's vector is to the last digit depends on its batch."""

        def encode_images(self, images):
            vectors = super().encode_images(images)
            return vectors + np.float32(1e-7) * np.arange(len(vectors), dtype=np.float32)[:, None]

    data = [item for item in painted(paint).items() for _ in range(2)]
    copies = [(f"{path[:-4]}-{n}.png", label) for n, (path, label) in enumerate(data)]
    for (path, _), (copy, _) in zip(data, copies, strict=True):
        shutil.copy(path, copy)
    learnt = FewShotClassifier(LABELS, Rounding(), cache=False).fit(copies)
    vectors = learnt._examples[0]
    assert len(np.unique(vectors, axis=0)) == len(copies)
    folds = learnt.probe_.folds_
    assert folds is not None
    np.testing.assert_array_equal(folds[::2], folds[1::2])


def test_wrong_labels_are_found(encoder: ColourEncoder, paint: Paint) -> None:
    data = painted(paint, 20)
    paths = list(data)
    wrong = {paths[3]: "green", paths[20]: "blue", paths[30]: "red"}
    learnt = FewShotClassifier(LABELS, encoder, cache=False).fit(list({**data, **wrong}.items()))
    suspects = learnt.suspects()
    assert {s.path for s in suspects} == set(wrong)
    assert [s.likelier for s in suspects] == [data[s.path] for s in suspects]
    margins = [s.likelier_score - s.score for s in suspects]
    assert margins == sorted(margins, reverse=True)
    assert suspects[0].to_dict()["label"] == wrong[suspects[0].path]
    clean = FewShotClassifier(LABELS, encoder, cache=False).fit(list(data.items()))
    assert clean.suspects() == []


def test_copies_of_a_labels_only_picture_are_no_suspects(
    encoder: ColourEncoder, paint: Paint
) -> None:
    """Held out together, nothing is left to know their label by."""
    data = painted(paint, 12)
    picture = paint("in/grey/1.png", "blue")
    copy = shutil.copy(picture, f"{picture[:-5]}2.png")
    learnt = FewShotClassifier(LABELS, encoder, cache=False, no_words=["grey"])
    learnt.fit([*data.items(), (picture, "grey"), (copy, "grey")])
    assert learnt.probe_.folds_ is not None
    held_out = dict(zip([*data, picture, copy], learnt.probe_.folds_, strict=True))
    assert held_out[picture] == held_out[copy]
    assert [s.path for s in learnt.suspects()] == []


def test_a_calibration_is_for_its_classifier_alone(
    learnt: FewShotClassifier, encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    learnt.save(tmp_path / "c.safetensors")
    others = list(painted(paint, 20, seed=1).items())
    made, _ = calibrate(learnt, others)
    made.save(tmp_path / "cal.json")
    used = FewShotClassifier.load(
        tmp_path / "c.safetensors", encoder, cache=False, calibration=tmp_path / "cal.json"
    )
    assert used.head_.temperature == made.temperature
    paths = [path for path, _ in others]
    sets = [
        r.label_set or () for r in all_of(Prediction, used.classify(paths, prediction_sets=0.2))
    ]
    assert np.mean([y in s for s, (_, y) in zip(sets, others, strict=True)]) >= 0.8
    raw = learnt.predict_proba(paths).max(axis=1)
    answered = [
        r.label != "unknown"
        for r in all_of(Prediction, used.classify(paths, abstain=Abstain(coverage=0.5)))
    ]
    np.testing.assert_array_equal(answered, raw > made.for_coverage(0.5).score)
    with pytest.raises(CalibrationError, match=r"for the classifier .* not for zero-shot answers"):
        ZeroShotClassifier(LABELS, encoder, cache=False, calibration=made).fit()
    more = FewShotClassifier(LABELS, encoder, cache=False, calibration=made)
    with pytest.raises(CalibrationError, match=f"not for the classifier (?!{learnt.digest_})"):
        more.fit(others)
    with pytest.raises(NotFittedError):
        more.predict(paths)
    zero_shot = ZeroShotClassifier(LABELS, encoder, cache=False).fit()
    by_words, _ = calibrate(zero_shot, others)
    with pytest.raises(CalibrationError, match="zero-shot answers, not for the classifier"):
        FewShotClassifier.load(
            tmp_path / "c.safetensors", encoder, cache=False, calibration=by_words
        )


def test_the_embedder_is_a_step_of_a_pipeline(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    data = painted(paint)
    paths, labels = list(data), list(data.values())
    embedder = ClipEmbedder(encoder, cache=False)
    rows = embedder.fit_transform(paths)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(embedder.transform(np.array(paths)), rows)
    search = GridSearchCV(make_pipeline(embedder, LinearProbe()), {"linearprobe__folds": [2, 3]})
    assert search.set_params(cv=2).fit(paths, labels).score(paths, labels) == 1
    with pytest.raises(ImageError, match=r"no\.png"):
        embedder.transform([str(tmp_path / "no.png")])
    np.testing.assert_array_equal(embedder.transform(paths[0]), rows[:1])
    with pytest.raises(ValueError, match="no images"):
        embedder.transform([])


def test_a_label_that_a_person_gave_is_not_overruled(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    data = painted(paint)
    odd = paint("odd.png", (231, 121, 21))  # red as all the others are
    said = {**data, odd: "blue"}
    made = FewShotClassifier(TREE, encoder, cache=False).fit(list(said.items()))
    made.save(tmp_path / "c.safetensors")
    classifier = FewShotClassifier.load(tmp_path / "c.safetensors", encoder, cache=False)
    assert classifier.predict([odd]) == "red"
    copy, new = tmp_path / "copy.png", paint("new.png", (229, 119, 19))
    shutil.copy(odd, copy)
    for settings in ({}, {"top": 3}, {"abstain": Abstain(0.99)}, {"top": 2, "explain": True}):
        first, again, other = all_of(Prediction, classifier.classify([odd, copy, new], **settings))
        for found in (first, again):
            assert (found.label, found.lineage, found.by_person) == ("blue", ("cold", "blue"), True)
            assert found.top[0].label == "blue"
            assert len(found.top) == settings.get("top", 1)
        assert not other.by_person
        assert "labelled_by" not in other.to_dict()
    # A name that comes with data (with an upload, say) is no file to look at.
    (vector,) = classifier.vectors([odd])
    (found,) = all_of(Prediction, classifier.decision().answer([Embedded(odd, vector)]))
    assert (found.label, found.by_person) == ("red", False)
    # The scores stay the classifier's own.
    (found,) = all_of(Prediction, classifier.classify([odd], top=3))
    scores = dict(zip(classifier.classes_, classifier.predict_proba([odd])[0], strict=True))
    assert {c.label: c.score for c in found.top} == pytest.approx(scores)
    result = Prediction.from_dict(found.to_dict())
    assert (result.by_person, result.label_paths) == (True, (("cold", "blue"),))
    roots = FewShotClassifier.load(tmp_path / "c.safetensors", encoder, cache=False, level=1)
    (found,) = all_of(Prediction, roots.classify([odd]))
    assert (found.label, found.by_person) == ("cold", True)
    # What it is measured by is its own answer.
    assert evaluate(classifier, [(odd, "blue")], draws=2).metrics["accuracy"].value == 0


def test_an_image_that_a_person_gave_none_of_the_labels_stays_unknown(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    data = painted(paint)
    odd = paint("odd.png", (231, 121, 21))  # red as others are
    said = [*data.items(), (odd, "unknown")]
    made = FewShotClassifier(TREE, encoder, cache=False).fit(said)
    made.save(tmp_path / "c.safetensors")
    for level in (None, 1):
        classifier = FewShotClassifier.load(
            tmp_path / "c.safetensors", encoder, cache=False, level=level
        )
        found, other = all_of(
            Prediction, classifier.classify([odd, paint("new.png", (229, 119, 19))])
        )
        assert (found.label, found.lineage, found.by_person) == ("unknown", (), True)
        assert other.label == ("warm" if level else "red")
        assert not other.by_person
        assert classifier.given_class(odd) == NO_CLASS


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_who_labelled_is_in_every_kind_of_results(
    form: str, encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    data = painted(paint, 2)
    classifier = FewShotClassifier(LABELS, encoder, cache=False).fit(list(data.items()))
    new = paint("new.png", (229, 119, 19))
    columns = result_columns(1, ["labelled_by"])
    with open_output(tmp_path / f"r.{form}", form, columns=columns) as writer:
        for found in all_of(Prediction, classifier.classify([new, *data])):
            writer.write(found.to_dict())
    results = all_of(Prediction, read_results(tmp_path / f"r.{form}"))
    assert [result.by_person for result in results] == [False] + [True] * len(data)
