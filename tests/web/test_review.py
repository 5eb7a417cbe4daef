"""A review as a library, and what is learnt from it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipcls.classification.zero_shot import ZeroShotClassifier
from clipcls.cli.review import find_templates
from clipcls.data.dataset import read_dataset
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.errors import ImageError, InputError
from clipcls.few_shot.classifier import FewShotClassifier
from clipcls.labels.prompts import make_prompts
from clipcls.output.reader import read_results
from clipcls.output.writing import open_output
from clipcls.predictions import Prediction, Provenance, Result
from clipcls.web.review.annotations import Corrections
from clipcls.web.review.files import ReviewFiles
from clipcls.web.review.learner import Relearner
from clipcls.web.review.session import Review
from helpers.encoders import ColourEncoder
from helpers.predictions import all_of, predicted

Paint = Callable[..., str]
LABELS = ["red", "green", "blue"]


def results(paths: list[str], encoder: ColourEncoder, tmp_path: Path, form: str = "jsonl") -> Path:
    classifier = ZeroShotClassifier(LABELS, encoder, cache=False).fit()
    file = tmp_path / f"results.{form}"
    with open_output(file, form) as writer:
        for prediction in classifier.classify(paths, top=2):
            writer.write(prediction)
    return file


@pytest.fixture
def paths(paint: Paint) -> list[str]:
    return [paint("red.png", "red"), paint("mixed.png", (130, 120, 0)), paint("blue.png", "blue")]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_the_doubtful_come_first(
    paths: list[str], encoder: ColourEncoder, tmp_path: Path, form: str
) -> None:
    found = all_of(Prediction, read_results(results(paths, encoder, tmp_path, form)))
    with Corrections(tmp_path / "c.csv") as corrections:
        review = Review(found, corrections)
        assert review.labels == ["blue", "green", "red"]
        assert review.order[0] == 1
        assert [review.images[n].answer.label for n in range(3)] == [
            "red",
            "red",
            "blue",
        ]
        margin = review.images[1].answer.margin
        top = found[1].top
        assert margin == pytest.approx(top[0].score - top[1].score)


def test_a_file_under_two_names_is_labelled_once(
    paths: list[str], encoder: ColourEncoder, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    again = str(tmp_path / "link" / Path(paths[0]).relative_to(tmp_path))
    found = read_results(results([*paths, again], encoder, tmp_path))
    assert len(found) == 4
    with Corrections(tmp_path / "c.csv") as corrections:
        review = Review(found, corrections)
        assert sorted(review.order) == [0, 1, 2]
        assert review.images[3].error == f"is the same file as {paths[0]}"
        assert review.label({0: "green"}) == [0]
        assert review.done() == {0: "green"}


def test_labels_undo_and_a_second_start(
    paths: list[str], encoder: ColourEncoder, tmp_path: Path
) -> None:
    found = read_results(results(paths, encoder, tmp_path))
    with Corrections(tmp_path / "c.csv") as corrections:
        review = Review(found, corrections, labels=LABELS)
        assert review.label({0: "red", 2: "red"}) == [0, 2]
        review.label({1: "unknown"})
        review.label({2: "a new one"})
        assert review.done() == {0: "red", 1: "unknown", 2: "a new one"}
        assert review.undo() == [2]
        assert review.undo() == [1]
        assert review.redo() == [1]
        assert review.done() == {0: "red", 1: "unknown", 2: "red"}
        review.label({2: "a new one"})
    with Corrections(tmp_path / "c.csv") as corrections:
        again = Review(found, corrections, labels=LABELS)
        assert again.labels == [*LABELS, "a new one"]
        assert again.done() == {0: "red", 1: "unknown", 2: "a new one"}


def test_an_action_that_cannot_be_done_whole_is_not_done(
    paths: list[str], encoder: ColourEncoder, tmp_path: Path
) -> None:
    found = read_results(results(paths, encoder, tmp_path))
    with Corrections(tmp_path / "c.csv") as corrections:
        review = Review(found, corrections)
        for labels in ({3: "red"}, {-1: "red"}, {0: "red", 3: None}):
            with pytest.raises(IndexError):
                review.label(labels)
        with pytest.raises(InputError, match=r"a\|b"):
            review.label({0: "new", 1: "a|b"})
        assert (review.done(), review.labels) == ({}, ["blue", "green", "red"])


def test_results_that_cannot_be_reviewed(tmp_path: Path, paint: Paint) -> None:
    here = paint("a.png", "red")
    cases: list[tuple[list[Result], str]] = [
        ([predicted(here, ("cat",), ("dog",))], "several labels"),
        ([predicted("gone.png", ("cat",))], "--root"),
        ([predicted(here, ("a|b",))], "|"),
        ([ImageError(here, "truncated")], "truncated"),
    ]
    with Corrections(tmp_path / "c.csv") as corrections:
        for found, message in cases:
            with pytest.raises(InputError) as error:
                Review(found, corrections)
            assert message in str(error.value)


def test_images_that_could_not_be_read_are_shown_and_not_asked_about(
    tmp_path: Path, paint: Paint
) -> None:
    found: list[Result] = [
        predicted(paint("a.png", "red"), ("cat",)),
        ImageError("bad.png", "truncated"),
        predicted("odd\udcff.png", ("cat",)),
    ]
    with Corrections(tmp_path / "c.csv") as corrections:
        review = Review(found, corrections)
        assert review.order == [0]
        assert review.images[1].error == "truncated"
        assert "UTF-8" in review.images[2].error
        with pytest.raises(InputError, match="truncated"):
            review.label({0: "cat", 1: "cat"})
        assert review.done() == {}
        json.loads(json.dumps(review.record()))


def test_names_that_labels_share_are_told_apart_by_their_path(tmp_path: Path, paint: Paint) -> None:
    found = [
        predicted(paint("a.png", "red"), ("animal", "bat"), top=(("animal > bat", 0.9),)),
        predicted(paint("b.png", "red"), ("animal", "dog"), top=(("dog", 0.9),)),
    ]
    with Corrections(tmp_path / "c.csv") as corrections:
        review = Review(found, corrections)
        assert [image.answer.label for image in review.images] == [
            "animal > bat",
            "dog",
        ]


def test_unknown_is_no_label(tmp_path: Path, paint: Paint) -> None:
    top = (("cat", 0.4), ("dog", 0.3))
    found = [predicted(paint("a.png", "red"), ("unknown",), top=top)]
    with Corrections(tmp_path / "c.csv") as corrections:
        review = Review(found, corrections)
        assert review.labels == ["cat", "dog"]
        assert review.images[0].answer.label == "unknown"
        assert review.images[0].answer.margin == pytest.approx(0.1)
        review.label({0: "unknown"})
        assert review.labels == ["cat", "dog"]
        review.label({0: " cafe\u0301\u200b "})
        assert review.labels == ["cat", "dog", "caf\u00e9"]
        assert review.done() == {0: "caf\u00e9"}


def test_templates_that_the_results_do_not_hold_are_not_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def templates(prompts: str) -> str | None:
        return find_templates(Provenance("mini", "0" * 12, "fp32", prompts))

    assert templates("a {} | the {}") == "a {} | the {}"
    assert templates("photo") == "photo"
    assert templates("a photo of a {}.") is None  # the default of mini
    assert not caplog.records
    long = make_prompts([f"a photo of a {{}}, number {n}" for n in range(9)])
    assert templates(long.name) is templates("gone.txt") is None
    assert "cannot be found here" in caplog.text
    assert find_templates(None) is None


def test_clusters_and_new_answers_change_the_order(
    paths: list[str], encoder: ColourEncoder, tmp_path: Path
) -> None:
    found = read_results(results(paths, encoder, tmp_path))
    with Corrections(tmp_path / "c.csv") as corrections:
        review = Review(found, corrections)
        sure, unsure = (("blue", 0.9), ("red", 0.1)), (("blue", 0.5), ("red", 0.5))
        gone = ImageError(paths[2], "no such file")
        relearnt = [
            predicted(path, ("blue",), top=top)
            for path, top in zip(paths, (unsure, sure), strict=False)
        ]
        review.use_relearnt([*relearnt, gone])
        assert review.order[0] == 0
        assert review.images[2].latest is review.images[2].answer
        review.label({0: "red"})
        review.use_relearnt([*relearnt, gone])
        assert review.order[-1] == 0


def test_known_images_are_not_encoded_again_and_fit_learns_the_same(
    paint: Paint, encoder: ColourEncoder, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    paths = [
        paint(f"{kind}-{n}.png", tuple(rng.integers(40, 90, 3) + 150 * (np.arange(3) == kind)))
        for n in range(8)
        for kind in range(3)
    ]
    cache = EmbeddingCache(tmp_path / "cache.sqlite3")
    classifier = ZeroShotClassifier(LABELS, encoder, cache=cache).fit()
    all_of(Prediction, classifier.classify(paths))
    encoded = encoder.images
    relearner = Relearner(classifier, [*paths, "gone.png"])
    relearner.embed()
    assert relearner.vectors.any(axis=1).tolist() == [True] * 24 + [False]
    # Somebody's own idea of them, and a label that was not there.
    said = {n: ["green", "blue", "my own"][n % 3] for n in range(12)}
    learnt, [*answers, gone] = relearner.learn(said)
    found = all_of(Prediction, answers)
    assert encoder.images == encoded
    assert [result.label for result in found] == ["green", "blue", "my own"] * 8
    assert isinstance(gone, ImageError)
    for result in found:
        assert sum(candidate.score for candidate in result.top) <= 1 + 1e-9
    with Corrections(tmp_path / "corrections.csv") as corrections:
        corrections.set({paths[n]: label for n, label in said.items()})
        by_file = FewShotClassifier([*LABELS, "my own"], encoder, cache=cache).fit(corrections.path)
    np.testing.assert_allclose(by_file.weights_, learnt.weights_, atol=1e-6)
    assert [count for _, count, _ in learnt.learnt_.labels] == [0, 4, 4, 4]


def test_what_names_several_labels_of_a_hierarchy_is_no_new_label(
    paint: Paint, encoder: ColourEncoder
) -> None:
    paths = [paint(f"{n}.png", colour) for n, colour in enumerate(["red", "green", "yellow"])]
    labels = ["warm > red", "warm > yellow", "cold > green"]
    relearner = Relearner(ZeroShotClassifier(labels, encoder, cache=False).fit(), paths)
    relearner.embed()
    learnt, _ = relearner.learn({0: "red", 1: "cold > green", 2: "warm"})
    assert learnt.classes_.tolist() == ["red", "yellow", "green"]
    assert sum(count for _, count, _ in learnt.learnt_.labels) == 2


def test_one_label_is_nothing_to_learn_from(
    paths: list[str], encoder: ColourEncoder, tmp_path: Path
) -> None:
    classifier = ZeroShotClassifier(LABELS, encoder, cache=False).fit()
    relearner = Relearner(classifier, paths)
    relearner.embed()
    with pytest.raises(InputError, match="'red'"):
        relearner.learn({0: "red", 1: "red"})


def test_images_marked_unknown_are_no_class_of_fit(
    paths: list[str], encoder: ColourEncoder, tmp_path: Path
) -> None:
    with Corrections(tmp_path / "c.csv") as corrections:
        corrections.set(dict(zip(paths, ["red", "unknown", "blue"], strict=True)))
        learnt = FewShotClassifier(model=encoder, cache=False).fit(corrections.path)
    assert learnt.classes_.tolist() == ["red", "blue"]
    assert learnt.excluded_ is not None
    assert learnt.excluded_.no_labels == {"unknown": 1}


def answered(paths: list[str], *labels: str) -> list[Prediction]:
    return [
        predicted(p, (label,), top=((label, 0.6),)) for p, label in zip(paths, labels, strict=True)
    ]


def test_corrections_of_another_list_are_refused_by_name(paths: list[str], tmp_path: Path) -> None:
    animals = answered(paths, "cat", "dog", "other")
    colours = answered(paths, "red", "other", "blue")
    file = tmp_path / "c.csv"
    with Corrections(file) as corrections:
        review = Review(animals, corrections)
        # Labels that a person added are no sign of another list.
        review.label(dict.fromkeys(range(3), "fox"))
    with Corrections(file) as corrections:
        assert set(Review(animals, corrections).done()) == {0, 1, 2}
    text = file.read_text()
    with Corrections(file) as corrections:
        with pytest.raises(
            InputError, match=r"c\.csv: holds labels of another list \('cat', 'dog'\)"
        ):
            Review(colours, corrections)
        Review(colours, corrections, labels=["cat", "dog"])
    assert file.read_text() == text


def test_files_are_named_after_the_results(tmp_path: Path) -> None:
    cat, colour = (
        ReviewFiles.for_results(str(tmp_path / name)) for name in ("cat.jsonl.gz", "colour.csv")
    )
    assert cat.corrections == tmp_path / "cat.corrections.csv"
    assert colour.corrections == tmp_path / "colour.corrections.csv"
    assert cat.table == tmp_path / "cat.reviewed.csv"
    other = ReviewFiles.for_results("cat.jsonl", tmp_path / "mine.csv")
    assert (other.table, other.classifier) == (
        tmp_path / "mine.reviewed.csv",
        tmp_path / "mine.safetensors",
    )
    cat.refuse_foreign_table()
    cat.table.write_text("name,phone\nAnn,123\n")
    with pytest.raises(InputError, match=r"cat\.reviewed\.csv: .*another file"):
        cat.refuse_foreign_table()
    colour.table.symlink_to(tmp_path / "none yet")
    os.mkfifo(other.table)
    for files in (colour, other):
        with pytest.raises(InputError, match=r"\.reviewed\.csv: .*another file"):
            files.refuse_foreign_table()


def table(review: Review, file: Path) -> dict[str, dict[str, str]]:
    review.write_table(file)
    with file.open(newline="") as stream:
        return {os.path.basename(row["path"]): row for row in csv.DictReader(stream)}


def test_the_reviewed_table_has_a_persons_labels_and_elsewhere_the_answers(
    paths: list[str], encoder: ColourEncoder, tmp_path: Path
) -> None:
    found = list(read_results(results(paths, encoder, tmp_path)))
    found.append(ImageError("bad.png", "truncated"))
    file = tmp_path / "r.reviewed.csv"
    with Corrections(tmp_path / "c.csv") as corrections:
        review = Review(found, corrections, labels=LABELS)
        review.label({0: "green", 1: "unknown"})
        rows = table(review, file)
        # A classifier learnt later changes other answers, never what a person said.
        labels = ("blue", "blue", "red")
        review.use_relearnt([*answered(paths, *labels), ImageError("bad.png", "truncated")])
        learnt = table(review, tmp_path / "later.csv")
    said = {name: (row["label"], row["labelled_by"], row["best"]) for name, row in rows.items()}
    assert said == {
        "red.png": ("green", "person", "red"),
        "mixed.png": ("unknown", "person", "red"),
        "blue.png": ("blue", "model", "blue"),
        "bad.png": ("", "", ""),
    }
    assert [learnt[n]["label"] for n in ("red.png", "mixed.png", "blue.png")] == [
        *("green", "unknown", "red")
    ]
    assert learnt["blue.png"]["labelled_by"] == "learnt"
    # What reads it: results with these labels, and labelled images that a person labelled.
    again = read_results(file)
    answers = all_of(Prediction, again[:3])
    assert [r.label for r in answers] == ["green", "unknown", "blue"]
    assert [r.by_person for r in answers] == [True, True, False]
    assert isinstance(again[3], ImageError)
    known = read_dataset(file)
    assert (known.paths, known.labels) == ((paths[0], paths[1]), (("green",), ("unknown",)))
    assert known.unreviewed == 2
    # Reviewed once more, the first person's labels stay theirs.
    with Corrections(tmp_path / "d.csv") as corrections:
        review = Review(again, corrections, labels=LABELS)
        review.label({2: "red"})
        rows = table(review, tmp_path / "again.csv")
    assert [row["labelled_by"] for row in rows.values()] == ["person", "person", "person", ""]


def test_the_reviewed_table_finds_its_images_from_its_own_folder(
    paint: Paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint("photos/a.png", "red")
    paint("photos/b.png", "red")
    monkeypatch.chdir(tmp_path)
    os.makedirs("out")
    found = answered(["photos/a.png", "photos/b.png"], "cat", "dog")
    for folder, expected in ((".", "photos/a.png"), ("out", str(tmp_path / "photos/a.png"))):
        with Corrections(f"{folder}/c.csv") as corrections:
            review = Review(found, corrections)
            review.label({0: "dog"})
            review.write_table(Path(folder, "t.csv"))
        assert read_results(f"{folder}/t.csv")[0].path == expected
        (path,) = read_dataset(f"{folder}/t.csv").paths
        assert os.path.samefile(path, "photos/a.png")


def test_a_label_of_a_hierarchy_keeps_its_place_in_the_reviewed_table(
    paint: Paint, tmp_path: Path
) -> None:
    found = [
        predicted(paint("a.png", "red"), ("animal", "dog")),
        predicted(paint("b.png", "red"), ("animal", "cat")),
        predicted(paint("c.png", "red"), ("animal", "cat")),
    ]
    with Corrections(tmp_path / "c.csv") as corrections:
        lineages = {"oak": ("plant", "oak")}
        review = Review(found, corrections, labels=["oak"], lineages=lineages)
        review.label({0: "cat", 1: "oak"})
        review.write_table(tmp_path / "t.csv")
    labels = [result.label_paths for result in all_of(Prediction, read_results(tmp_path / "t.csv"))]
    assert labels == [(("animal", "cat"),), (("plant", "oak"),), (("animal", "cat"),)]


def test_a_name_that_labels_share_keeps_its_place_in_the_reviewed_table(
    paint: Paint, tmp_path: Path
) -> None:
    top = (("animal > bat", 0.6), ("sport > bat", 0.4))
    found = [predicted(paint(f"{n}.png", "red"), ("animal", "bat"), top=top) for n in range(2)]
    with Corrections(tmp_path / "c.csv") as corrections:
        review = Review(found, corrections, lineages={"sport > bat": ("sport", "bat")})
        review.label({0: "sport > bat"})
        review.write_table(tmp_path / "t.csv")
    labels = [result.label_paths for result in all_of(Prediction, read_results(tmp_path / "t.csv"))]
    assert labels == [(("sport", "bat"),), (("animal", "bat"),)]
    assert read_dataset(tmp_path / "t.csv").labels == (("sport > bat",),)


def test_a_table_that_nobody_reviewed_measures_nothing(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("path,label,labelled_by\na.png,cat,model\n")
    with pytest.raises(InputError, match=r"t\.csv: none of its labels"):
        read_dataset(file)
