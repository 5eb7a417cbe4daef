from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from clipcls import MultiLabelClassifier, ZeroShotClassifier, evaluate
from clipcls.data.dataset import make_dataset, read_dataset
from clipcls.errors import InputError
from clipcls.evaluation.evaluate import round_metrics
from clipcls.evaluation.page import EvaluationPage, make_page_record
from clipcls.evaluation.tables import EvaluationTable
from clipcls.metrics.multilabel import MultiLabelOutcomes
from clipcls.output.writing import open_output
from helpers.encoders import NamesEncoder

Paint = Callable[..., str]


def simulated(n: int = 60, labels: int = 5) -> MultiLabelOutcomes:
    """Scores with ties, what is given, and the truth; the last label is never right."""
    rng = np.random.default_rng(0)
    truth = rng.random((n, labels)) < 0.3
    truth[:, -1] = False
    scores = (rng.random((n, labels)) + 0.3 * truth).round(1)
    return MultiLabelOutcomes(scores, scores > 0.7, truth, tuple("abcdefg"[:labels]))


def test_metrics_are_scikit_learns() -> None:
    outcomes = simulated()
    scores, given, truth = outcomes.scores, outcomes.given, outcomes.truth
    found = outcomes.metrics(draws=20)
    expected = {
        "map_macro": average_precision_score(truth[:, :-1], scores[:, :-1], average="macro"),
        "map_micro": average_precision_score(truth, scores, average="micro"),
        "f1_macro": f1_score(truth[:, :-1], given[:, :-1], average="macro"),
        "f1_micro": f1_score(truth, given, average="micro"),
    }
    assert {k: v.value for k, v in found.items()} == pytest.approx(expected)
    assert all(0 <= v.low <= v.value <= v.high <= 1 for v in found.values())
    last = outcomes.class_metrics(np.full(5, 0.7))[-1]
    assert np.isnan(np.array([last.average_precision, last.recall], float)).all()
    assert (last.support, last.answers) == (0, given[:, -1].sum())


def test_the_metrics_of_a_label_do_not_depend_on_the_others() -> None:
    outcomes = simulated()
    alone = outcomes.take(np.arange(len(outcomes)), np.array([0]))
    (one,) = alone.class_metrics(np.full(1, 0.7))
    first = outcomes.class_metrics(np.full(5, 0.7))[0]
    assert round_metrics(one) == round_metrics(first)


def test_metrics_of_drawn_images_are_scikit_learns() -> None:
    outcomes = simulated()
    measure, n = outcomes.measurer(), len(outcomes)
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(n, size=n)
        s, g, t = outcomes.scores[rows], outcomes.given[rows], outcomes.truth[rows]
        has = t.any(axis=0)
        expected = [
            average_precision_score(t[:, has], s[:, has], average="macro"),
            average_precision_score(t, s, average="micro"),
            f1_score(t[:, has], g[:, has], average="macro"),
            f1_score(t, g, average="micro"),
        ]
        np.testing.assert_allclose(measure(np.bincount(rows, minlength=n)), expected)


@pytest.fixture
def classifier(names_encoder: NamesEncoder) -> MultiLabelClassifier:
    base = ZeroShotClassifier(["red", "green", "bicycle"], names_encoder, cache=False)
    return MultiLabelClassifier(base).fit()


def test_a_csv_whose_images_have_several_labels_or_none(
    classifier: MultiLabelClassifier, paint: Paint, tmp_path: Path
) -> None:
    for name, colour in (("r", "red"), ("y", "yellow"), ("b", "blue"), ("g", "green")):
        paint(f"{name}.png", colour)
    paint("p.png", "red")
    (tmp_path / "bad.png").write_text("no image")
    rows = ["r.png,red", "y.png,red|green", "b.png,", "g.png,red", "p.png,pink", "bad.png,red"]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    found = evaluate(classifier, tmp_path / "t.csv", draws=20)
    assert isinstance(found.outcomes, MultiLabelOutcomes)
    # p.png has a label that is not asked for, so none of those that are.
    assert (found.images, found.outcomes.truth.sum(), found.outcomes.given.sum()) == (5, 4, 5)
    red, green, bicycle = found.classes
    assert [red.precision, red.recall] == pytest.approx([2 / 3, 2 / 3])
    assert red.support == 3
    assert (green.average_precision, green.precision, green.answers) == (0.5, 0.5, 2)
    assert (bicycle.support, bicycle.answers) == (0, 0)
    images = [Path(path).name for path in found.paths]
    labels = found.outcomes.labels
    assert {(images[row], labels[column]) for row, column in found.outcomes.wrong(9)} == {
        ("g.png", "green"),
        ("p.png", "red"),
    }
    ((row, column),) = found.outcomes.missed(9)
    assert (images[row], labels[column]) == ("g.png", "red")
    assert found.excluded.no_labels == {"pink": 1}
    assert (found.excluded.as_none, found.excluded.left_out) == (1, 0)
    assert found.excluded.without_images == ("bicycle",)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["labels_per_image"] == {"right": 0.8, "given": 1}
    assert record["unknown"] == 1
    assert record["as_none"] == 1
    assert record["per_class"][2]["average_precision"] is None
    assert record["per_class"][0]["threshold"] == 0.5

    stream = io.StringIO()
    EvaluationTable(stream).write(found.to_dict())
    text = stream.getvalue()
    assert "5 images; 2 of 3 labels occur" in text
    assert "mAP, mean over labels" in text

    with open_output(tmp_path / "r.html", EvaluationPage) as writer:
        writer.write(make_page_record(found, "<my> data"))
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "&lt;my&gt; data" in page
    assert page.count("data:image/jpeg") == 3
    assert page.index("wrongly given") < page.index("were missed")
    assert "pink: none of the labels" in page


def test_no_label_is_an_error_where_one_is_asked_for(
    classifier: MultiLabelClassifier, paint: Paint, tmp_path: Path
) -> None:
    data = [(paint("r.png", "red"), ["red"]), (paint("w.png", (9, 9, 9)), [])]
    with pytest.raises(InputError, match=r"w\.png has no label"):
        evaluate(classifier.classifier, data)
    with pytest.raises(InputError, match="an image has no label"):
        evaluate(classifier.classifier, make_dataset(data, unlabelled=True))
    with pytest.raises(InputError, match="no image has"):
        evaluate(classifier, data[1:])
    (tmp_path / "t.csv").write_text("path,label\nr.png,\n")
    with pytest.raises(InputError, match=r"t\.csv:2: the label is blank"):
        read_dataset(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("path,label\n,\n,red\n")
    with pytest.raises(InputError, match=r"t\.csv:3: the path is blank"):
        read_dataset(tmp_path / "t.csv", unlabelled=True)
