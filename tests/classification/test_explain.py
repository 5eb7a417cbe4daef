"""What an answer rests on, against NumPy."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipcls import Abstain, Prediction, ZeroShotClassifier
from clipcls.output.csv import CsvWriter
from clipcls.output.table import TableWriter
from clipcls.predictions import Explanation
from helpers.encoders import ColourEncoder

Paint = Callable[..., str]
PROMPT = "a photo of a {}."
LABELS = {"red": {"synonyms": ["yellow"]}, "blue": {}}


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache.sqlite3")


def explained(
    labels: Any, encoder: ColourEncoder, images: list[str], **settings: Any
) -> list[Explanation]:
    asked = {k: settings.pop(k) for k in ("top", "refine", "abstain") if k in settings}
    classifier = ZeroShotClassifier(labels, encoder, prompts=[PROMPT], **settings).fit()
    results = list(classifier.classify(images, explain=True, **asked))
    assert all(isinstance(r, Prediction) and len(r.top) == asked.get("top", 1) for r in results)
    return [r.explanation for r in results if isinstance(r, Prediction) and r.explanation]


def test_the_labels_texts_come_with_their_similarity_best_first(
    encoder: ColourEncoder, paint: Paint
) -> None:
    orange = paint("orange.png", (255, 120, 0))
    (found,) = explained(LABELS, encoder, [orange], cache=False)
    vector = np.array([255, 120, 0]) / np.hypot(255, 120)
    wanted = {
        "a photo of a yellow.": vector @ [1, 1, 0] / np.sqrt(2),
        "a photo of a red.": vector[0],
    }
    assert [text for text, _ in found.texts] == sorted(wanted, key=lambda t: -wanted[t])
    assert dict(found.texts) == pytest.approx(wanted, abs=1e-6)
    assert found.nearest == ()


def test_the_margin_is_to_the_runner_up_whatever_is_shown(
    encoder: ColourEncoder, paint: Paint
) -> None:
    images = [paint("a.png", (200, 90, 30)), paint("b.png", (20, 90, 100))]
    classifier = ZeroShotClassifier(["red", "green", "blue"], encoder, cache=False).fit()
    scores = np.sort(classifier.predict_proba(images), axis=1)
    for top in (1, 3):
        found = explained(["red", "green", "blue"], encoder, images, cache=False, top=top)
        assert [e.margin for e in found] == pytest.approx(scores[:, -1] - scores[:, -2])
    assert [e.runner_up for e in found] == ["green", "green"]
    (alone,) = explained(["red"], encoder, images[:1], cache=False)
    assert (alone.runner_up, alone.margin) == ("", 1.0)


def test_an_unknown_answer_is_explained_too(encoder: ColourEncoder, paint: Paint) -> None:
    grey = paint("grey.png", (90, 80, 80))
    (found,) = explained(["red", "green"], encoder, [grey], cache=False, abstain=Abstain(0.99))
    assert found.texts[0][0] == "a photo of a red."


def test_the_nearest_images_of_the_cache_without_itself_and_what_is_gone(
    encoder: ColourEncoder, paint: Paint, cache: str
) -> None:
    colours = {"a": (200, 40, 0), "b": (200, 60, 0), "c": (200, 0, 90), "d": (0, 0, 200)}
    images = [paint(f"{name}.png", colour) for name, colour in colours.items()]
    gone = paint("gone.png", (200, 45, 0))
    copy = paint("copy.png", colours["a"])
    labels = ["red", "blue"]
    assert explained(labels, encoder, [*images, gone], cache=cache)[0].nearest == ()
    os.unlink(gone)
    found = explained(labels, encoder, [images[0], copy], cache=cache)
    rows = np.array(list(colours.values()), float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    wanted = dict(zip(images[1:], rows[1:] @ rows[0], strict=True))
    assert [path for path, _ in found[0].nearest] == sorted(wanted, key=lambda p: -wanted[p])
    assert dict(found[0].nearest) == pytest.approx(wanted, abs=1e-5)
    # One that was not in the cache has the stored one with the same content as its nearest,
    # unless that is itself.
    assert found[1].nearest[0][0] in (images[0], images[1])


def test_refined_answers_and_hierarchies_are_explained(
    encoder: ColourEncoder, paint: Paint
) -> None:
    shades = [(200, i, 40) for i in range(25)] + [(40, i, 200) for i in range(25)]
    images = [paint(f"{n:02}.png", colour) for n, colour in enumerate(shades)]
    found = explained(["red", "blue"], encoder, images, cache=False, refine=True)
    assert [e.runner_up for e in found] == ["blue"] * 25 + ["red"] * 25
    assert found[0].texts[0][0] == "a photo of a red."
    tree = ["warm > red", "warm > yellow", "cold > blue"]
    (found_at,) = explained(tree, encoder, images[:1], cache=False, level=1)
    assert {text for text, _ in found_at.texts} == {"a photo of a red.", "a photo of a yellow."}
    assert found_at.runner_up == "cold"


def test_how_it_is_written(encoder: ColourEncoder, paint: Paint, cache: str) -> None:
    images = [paint("a.png", (200, 90, 30)), paint("b.png", (20, 90, 100))]
    classifier = ZeroShotClassifier(["red", "green"], encoder, prompts=[PROMPT], cache=cache).fit()
    list(classifier.classify(images))
    results = [r.to_dict() for r in classifier.classify(images, explain=True)]
    assert set(results[0]["explain"]) == {"texts", "runner_up", "margin", "nearest"}
    stream = io.StringIO()
    writer = CsvWriter(stream)
    for record in results:
        writer.write(record)
    rows = list(csv.DictReader(stream.getvalue().splitlines()))
    assert rows[0]["runner_up"] == "green"
    assert rows[0]["text"] == "a photo of a red."
    assert rows[0]["nearest"] == images[1]
    assert float(rows[0]["margin"]) == results[0]["explain"]["margin"]
    stream = io.StringIO()
    TableWriter(stream).write(results[0])
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["texts", "margin", "nearest"]
    assert all(line.startswith("    ") for line in lines[1:])
