from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from clipcls import Abstain, MultiLabelClassifier, ZeroShotClassifier, calibrate, evaluate
from clipcls.classification.labelled import embed_known
from clipcls.errors import CalibrationError, LabelsError
from clipcls.labels.label_set import Label, make_labels, read_labels
from clipcls.labels.prompts import PromptSet, make_texts
from clipcls.labels.taxonomy import Hierarchy, Level
from clipcls.output.csv import CsvWriter
from clipcls.output.table import TableWriter
from clipcls.predictions import Prediction
from helpers.encoders import ColourEncoder
from helpers.predictions import all_of

Paint = Callable[..., str]
TREE = ["warm > fire > red", "warm > yellow", "cold > green", "cold > blue"]
ORANGE, TURQUOISE, GREY = (255, 128, 0), (0, 200, 200), (128, 128, 128)


@pytest.fixture
def classifier(encoder: ColourEncoder) -> ZeroShotClassifier:
    return ZeroShotClassifier(TREE, encoder, cache=False).fit()


# Reading


FILES = {
    "l.txt": "# levels: kind > family\nanimal > dog\n\nanimal  >  cat\nx->y\na \\> b\n",
    "l.yaml": "# levels: kind > family\n- animal > dog\n- animal > cat\n- x->y\n- a \\> b\n",
    "m.yaml": "# Levels: kind > family\nanimal > dog:\nanimal > cat:\nx->y:\na \\> b:\n",
    "l.csv": "label\nanimal > dog\nanimal > cat\nx->y\na \\> b\n",
    "l.json": '["animal > dog", "animal > cat", "x->y", "a \\\\> b"]',
    "m.json": '{"animal > dog": [], "animal > cat": [], "x->y": [], "a \\\\> b": []}',
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_takes_paths(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    labels = read_labels(tmp_path / name)
    assert [label.path for label in labels] == [
        ("animal", "dog"),
        ("animal", "cat"),
        ("x->y",),
        ("a > b",),
    ]
    assert labels.names == ("dog", "cat", "x->y", "a > b")
    assert labels.levels == (() if Path(name).suffix in (".csv", ".json") else ("kind", "family"))
    assert make_labels(list(labels)).labels == labels.labels  # `Label`s are taken as they are


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a > b\na > > c\n", ":2: the label 'a > > c' has a blank level next to a >; write \\>"),
        ("a > \u200b > c\n", "has a blank level"),
        ("# levels: kind\na > b\n", "l.txt: the comment `levels:` names 1 of 2 levels"),
        ("# levels: kind > Kind\na > b\n", "needs a different name for each level"),
        ("# levels: kind > 1\na > b\n", "needs a different name for each level, no number"),
    ],
)
def test_a_hierarchy_that_cannot_be_used_is_told(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_text(text)
    with pytest.raises(LabelsError) as error:
        read_labels(path)
    assert said in str(error.value)


def test_likely_slips_are_warned_of_and_kept() -> None:
    labels = make_labels(["a > b > c", "A > b > d", "b > a > e", "a > b > c", "a >", "x > x"])
    assert labels.names == ("c", "d", "e", "a >", "x")
    assert labels.warnings == (
        "label 4: the label 'a > b > c' appears twice; one is dropped",
        "label 2: 'a' and 'A' differ only in case",
    )


def test_a_comment_about_levels_means_nothing_without_a_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("# levels: easy\na\nb\n")
    assert read_labels(tmp_path / "l.txt").levels == ()


def test_labels_of_one_name_are_told_apart() -> None:
    labels = make_labels(["bird > crane", "machine > crane", "bird > owl"])
    assert labels.names == ("bird > crane", "machine > crane", "owl")
    assert [texts[0] for texts in make_texts(labels, PromptSet("one", ("a {}.",)))] == [
        "a crane, a type of bird.",
        "a crane, a type of machine.",
        "an owl.",
    ]
    assert labels.labels[0] == Label("crane", parents=("bird",), kind="bird")


def test_a_path_that_is_another_labels_name_is_told_apart() -> None:
    labels = make_labels(["a \\> b", "a > b", "c > b", "d"])
    assert labels.names == ("a \\> b", "a > b", "c > b", "d")


# Sums along the tree


PATHS = [("a", "b", "c"), ("d",), ("a", "b"), ("a", "e", "c"), ("d", "f"), ("a", "b", "g")]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_node_sums_up_what_is_at_and_below_it(depth: int) -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(len(PATHS)), size=5)
    logits = 20 * np.random.default_rng(1).standard_normal((5, len(PATHS)))
    level = Level(PATHS, depth)
    expected: dict[tuple[str, ...], list[int]] = {}
    for number, path in enumerate(PATHS):
        expected.setdefault(path[:depth], []).append(number)
    assert level.paths == tuple(expected)
    for node, below in enumerate(expected.values()):
        np.testing.assert_allclose(level.sums(scores)[:, node], scores[:, below].sum(axis=1))
        np.testing.assert_allclose(
            level.log_sums(logits)[:, node], logsumexp(logits[:, below], axis=1)
        )
        np.testing.assert_array_equal(level.best(logits)[:, node], logits[:, below].max(axis=1))
    np.testing.assert_allclose(level.sums(scores).sum(axis=1), 1)


def test_levels_by_number_and_by_name() -> None:
    tree = Hierarchy(PATHS, ("kind", "family", "breed"), "l.txt")
    assert tree.level("KIND") is tree.level(1) is tree.level(" 1")
    assert tree.level("breed").names == ("a > b > c", "d", "b", "a > e > c", "f", "g")
    with pytest.raises(LabelsError, match=r"^l.txt: has no level '4'; its levels are 1 to 3, by"):
        tree.level(4)
    with pytest.raises(LabelsError, match=r"its levels are 1 only$"):
        Hierarchy([("a",)]).level("kind")


def test_names_in_data_mean_what_is_below_or_around_them() -> None:
    tree = Hierarchy(PATHS)
    leaves, roots = tree.meanings(tree.level(3)), tree.meanings(tree.level(1))
    assert leaves["a"] == (0, 2, 3, 5)
    assert leaves["b"] == leaves["a > b"] == (0, 2, 5)
    assert leaves["c"] == (0, 3)
    assert leaves["a > e > c"] == (3,)
    assert roots["c"] == (0,)
    assert roots["f"] == (1,)


# Answers


def test_at_a_rank_scores_are_sums(encoder: ColourEncoder, paint: Paint) -> None:
    path = paint("a.png", ORANGE)
    leaves = ZeroShotClassifier(TREE, encoder, cache=False).fit()
    roots = ZeroShotClassifier(TREE, encoder, cache=False, level=1).fit()
    assert roots.classes_.tolist() == ["warm", "cold"]
    expected = leaves.predict_proba([path]).reshape(2, 2).sum(axis=1)
    np.testing.assert_allclose(roots.predict_proba([path])[0], expected)
    (result,) = all_of(Prediction, roots.classify([path], top=2))
    assert (result.label, result.lineage) == ("warm", ("warm",))
    assert [c.label for c in result.top] == roots.classes_.tolist()
    np.testing.assert_allclose([c.score for c in result.top], expected)
    # The similarity of a node is that of its nearest label.
    cosines = np.array([255, 383 / 2**0.5, 128, 0]) / np.hypot(255, 128)
    np.testing.assert_allclose([c.similarity for c in result.top], cosines[[1, 2]], rtol=1e-4)
    assert roots.predict([path]).tolist() == ["warm"]
    assert [part.shape for part in roots.head_.top(roots.vectors([path]), 1)] == 3 * [(1, 1)]
    assert roots.score([path], ["warm"]) == 1
    (unsure,) = all_of(
        Prediction, roots.classify([paint("g.png", GREY)], abstain=Abstain(min_score=0.9))
    )
    assert (unsure.label, unsure.lineage, unsure.to_dict()["lineage"]) == ("unknown", (), [])


def test_a_label_above_the_rank_answers_for_itself(encoder: ColourEncoder, paint: Paint) -> None:
    labels = ["warm", "warm > red", "warm > yellow", "blue"]
    second = ZeroShotClassifier(labels, encoder, cache=False, level=2).fit()
    assert second.classes_.tolist() == ["warm", "red", "yellow", "blue"]
    first = ZeroShotClassifier(labels, encoder, cache=False, level="1").fit()
    np.testing.assert_allclose(
        first.predict_proba([paint("a.png", ORANGE)])[0, 0],
        second.predict_proba([paint("a.png", ORANGE)])[0, :3].sum(),
    )


def test_without_rank_the_answer_is_at_the_deepest_level_that_is_sure(
    classifier: ZeroShotClassifier, paint: Paint
) -> None:
    path = paint("a.png", ORANGE)
    scores = dict(zip(classifier.classes_, classifier.predict_proba([path])[0], strict=True))
    warm = scores["red"] + scores["yellow"]
    assert scores["yellow"] < 0.7 < warm

    def answer(least: float, **others: float) -> Prediction:
        abstain = Abstain(least, **others)
        (result,) = all_of(Prediction, classifier.classify([path], abstain=abstain, top=2))
        return result

    sure, unsure, none = answer(0.1), answer(0.7), answer(0.9999)
    assert (sure.label, sure.lineage) == ("yellow", ("warm", "yellow"))
    assert (unsure.label, unsure.lineage) == ("warm", ("warm",))
    assert [c.label for c in unsure.top] == ["warm", "cold"]
    assert unsure.score == pytest.approx(warm)
    assert (none.label, none.lineage) == ("unknown", ())
    assert [c.label for c in none.top] == ["yellow", "red"]
    assert answer(0.0, min_margin=0.5).label == "warm"


def test_the_level_between_is_tried_too(encoder: ColourEncoder, paint: Paint) -> None:
    labels = ["x > warm > red", "x > warm > yellow", "x > green", "cold > blue"]
    classifier = ZeroShotClassifier(labels, encoder, cache=False).fit()
    (result,) = classifier.classify([paint("a.png", ORANGE)], abstain=Abstain(min_score=0.7))
    assert result.to_dict()["lineage"] == ["x", "warm"]


def test_answers_do_not_depend_on_blocks(
    classifier: ZeroShotClassifier, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    paths = [paint(f"{n}.png", tuple(map(int, rng.integers(256, size=3)))) for n in range(20)]
    whole = [r.to_dict() for r in classifier.classify(paths, abstain=Abstain(min_score=0.6))]
    monkeypatch.setattr("clipcls.classification.head._LOGITS_A_BLOCK", 12)
    assert [
        r.to_dict() for r in classifier.classify(paths, abstain=Abstain(min_score=0.6))
    ] == whole
    labels = {record["label"] for record in whole}
    assert labels & {"warm", "cold"}
    assert labels & {"red", "yellow", "green", "blue"}


def test_flat_labels_are_as_ever(encoder: ColourEncoder, paint: Paint) -> None:
    flat = ZeroShotClassifier(["red", "blue"], encoder, cache=False).fit()
    (result,) = all_of(
        Prediction, flat.classify([paint("g.png", GREY)], abstain=Abstain(min_score=0.9))
    )
    assert result.label == "unknown"
    assert "lineage" not in result.to_dict()
    levelled = ZeroShotClassifier(["red", "blue"], encoder, cache=False, level=1).fit()
    assert levelled.predict([paint("r.png", "red")]).tolist() == ["red"]


# Measuring


def test_evaluate_tells_the_accuracy_of_each_level(
    classifier: ZeroShotClassifier, paint: Paint
) -> None:
    data = [
        (paint("1.png", "red"), "red"),
        (paint("2.png", "yellow"), "warm > fire > red"),
        (paint("3.png", "blue"), "warm"),
        (paint("4.png", "yellow"), "Warm"),
    ]
    found = evaluate(classifier, data, draws=10)
    assert found.metrics["accuracy"].value == 2 / 4
    assert [share.value for _, share in found.levels] == [3 / 4, 2 / 4, 2 / 4]
    record = found.to_dict()["levels"]
    assert [(level["level"], level["name"]) for level in record] == [(1, ""), (2, ""), (3, "")]
    assert record[2]["low"] == found.to_dict()["metrics"]["accuracy"]["low"]
    roots = ZeroShotClassifier(TREE, classifier.encoder_, cache=False, level=1).fit()
    at_root = evaluate(roots, data, draws=10)
    assert at_root.metrics["accuracy"].value == 3 / 4
    assert at_root.levels == ()
    assert at_root.several == 0


def test_where_a_label_means_itself_alone_a_path_does_too(
    classifier: ZeroShotClassifier, paint: Paint
) -> None:
    data = [
        (paint("1.png", "red"), ["red", "warm > yellow"]),
        (paint("2.png", "blue"), ["Cold > Blue", "cold"]),
    ]
    several = MultiLabelClassifier(classifier).fit()
    known = embed_known(several, data)
    assert known.truth == ((0, 1), (3,))
    assert known.excluded.no_labels == {"cold": 1}
    data = [*data, (paint("3.png", "blue"), ["cold"]), (paint("4.png", "blue"), ["pink"])]
    known = embed_known(several, data)
    assert known.truth == ((0, 1), (3,), ())
    assert (known.excluded.as_none, known.excluded.left_out) == (1, 1)


def test_calibrations_are_for_one_rank(
    classifier: ZeroShotClassifier, paint: Paint, encoder: ColourEncoder
) -> None:
    rng = np.random.default_rng(0)
    data = [
        (paint(f"{n}.png", tuple(map(int, rng.integers(256, size=3)))), ("warm", "cold")[n % 2])
        for n in range(40)
    ]
    roots = ZeroShotClassifier(TREE, encoder, cache=False, level=1).fit()
    calibration, _ = calibrate(roots, data)
    moved = ["warm > fire > red", "warm > green", "cold > yellow", "cold > blue"]
    for level, labels in ((None, TREE), (2, TREE), (1, moved)):
        other = ZeroShotClassifier(
            labels, encoder, cache=False, level=level, calibration=calibration
        )
        with pytest.raises(CalibrationError):
            other.fit()
    calibrated = ZeroShotClassifier(
        TREE, encoder, cache=False, level=1, calibration=calibration
    ).fit()
    path = paint("o.png", ORANGE)
    expected = softmax(roots.decision_function([path])[0] / calibration.temperature)
    (result,) = all_of(
        Prediction,
        calibrated.classify([path], top=2, abstain=Abstain(coverage=0.99), prediction_sets=0.1),
    )
    np.testing.assert_allclose([c.score for c in result.top], expected, rtol=1e-6)
    assert set(result.label_set or ()) <= {"warm", "cold"}
    paths = [path for path, _ in data]
    found = all_of(Prediction, calibrated.classify(paths, abstain=Abstain(coverage=0.5)))
    answered = [result.label != "unknown" for result in found]
    raw = roots.predict_proba(paths).max(axis=1)
    np.testing.assert_array_equal(answered, raw > calibration.for_coverage(0.5).score)
    assert 10 < sum(answered) < 30


# Writing


def test_lineages_in_csv_and_on_a_terminal(classifier: ZeroShotClassifier, paint: Paint) -> None:
    (deep,) = classifier.classify([paint("a.png", "red")])
    (unsure,) = classifier.classify([paint("g.png", GREY)], abstain=Abstain(min_score=0.999))
    stream = io.StringIO()
    writer = CsvWriter(stream)
    for result in (deep, unsure):
        writer.write(result.to_dict())
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [row["lineage"] for row in rows] == ["warm > fire > red", ""]
    assert [row["label"] for row in rows] == ["red", "unknown"]
    stream = io.StringIO()
    TableWriter(stream).write({**deep.to_dict(), "path": "a"})
    assert "warm > fire > red" in stream.getvalue()
    assert json.loads(json.dumps(deep.to_dict()))["lineage"] == ["warm", "fire", "red"]
