from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from clipcls import (
    MultiLabelClassifier,
    ZeroShotClassifier,
    compare,
    evaluate,
)
from clipcls.evaluation.page import EvaluationPage, make_page_record
from clipcls.metrics.multilabel import MultiLabelOutcomes
from clipcls.metrics.single_label import Outcomes
from clipcls.output.writing import open_output
from helpers.encoders import ColourEncoder, NamesEncoder

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Paint = Callable[..., str]


def page_of(encoder: ColourEncoder, data: list, labels: list[str], path: Path) -> str:
    classifier = ZeroShotClassifier(labels, encoder, cache=False).fit()
    found = evaluate(classifier, data, draws=10)
    with open_output(path, EvaluationPage) as writer:
        writer.write(make_page_record(found, "<my> data"))
    return path.read_text("utf-8")


def shown(page: str) -> list[list[str]]:
    """The confusion matrix as a reader sees it."""
    (table,) = re.findall(r'<table class="matrix">(.*?)</table>', page, re.S)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("</tr>")[1:-1]]


def test_the_page_is_whole_escaped_and_shows_the_images(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script> red"
    sure = paint("sure.png", "blue", size=400)
    data = [
        (paint("<b>a</b>.png", "red"), evil),
        (paint("unsure.png", (200, 190, 0)), evil),
        (sure, evil),
        (paint("less.png", (100, 0, 200)), evil),
        (tmp_path / "gone.png", "blue"),
    ]
    page = page_of(encoder, data, [evil, "blue"], tmp_path / "r.html")
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;my&gt; data" in page
    assert not re.search(r'(src|href)="(?!data:)', page), "it needs nothing from elsewhere"
    assert "gone.png: no such file" in page
    errors = page[page.index("most confident errors") : page.index("least confident hits")]
    assert errors.index("sure.png") < errors.index("less.png")
    hits = page[page.index("least confident hits") :]
    assert hits.index("unsure.png") < hits.index("&lt;b&gt;a")
    images = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(images) == 4
    first = Image.open(io.BytesIO(base64.b64decode(images[0])))
    assert max(first.size) == 160
    red, _, blue = np.asarray(first.convert("RGB"))[80, 80]
    assert blue > 200 > 50 > red


def test_a_browser_has_nothing_to_complain_of(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path, browser: Browser
) -> None:
    data = [(paint(f"{n}.png", colour), "red") for n, colour in enumerate(["red", "blue", "green"])]
    page_of(encoder, data, ["red", "blue"], tmp_path / "r.html")
    page = browser.new_page(offline=True)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "r.html").as_uri())
    assert page.eval_on_selector("img", "image => image.naturalWidth") == 8
    coloured = page.eval_on_selector(".matrix td", "cell => getComputedStyle(cell).backgroundColor")
    page.close()
    assert coloured == "rgba(40, 120, 220, 0.67)"
    assert not said


def test_the_matrix_counts_every_image(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path, monkeypatch
) -> None:
    data = [(paint(f"{n}.png", colour), "red") for n, colour in enumerate(["red", "blue", "green"])]
    data += [(paint("y.png", "yellow"), "yellow"), (paint("b.png", "blue"), "blue")]
    labels = ["red", "green", "blue", "yellow"]
    found = evaluate(ZeroShotClassifier(labels, encoder, cache=False).fit(), data, draws=10)
    matrix = make_page_record(found, "x")["matrix"]
    assert matrix == {
        "labels": labels,
        "counts": [[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]],
        "others": 0,
    }
    page = page_of(encoder, data, labels, tmp_path / "r.html")
    assert shown(page) == [["1", "1", "1", ""], [""] * 4, ["", "", "1", ""], ["", "", "", "1"]]
    monkeypatch.setattr("clipcls.evaluation.page._CLASSES", 2)
    matrix = make_page_record(found, "x")["matrix"]
    assert matrix == {"labels": ["red", "green"], "counts": [[1, 1, 1], [0, 0, 0]], "others": 2}
    page = page_of(encoder, data, labels, tmp_path / "r.html")
    assert "the other 2 together" in page
    assert shown(page) == [["1", "1", "1"], ["", "", ""]]


def test_a_comparison_and_the_images_that_changed_sides_are_on_the_page(
    encoder: ColourEncoder, paint: Paint, tmp_path: Path
) -> None:
    data = [
        (paint("always.png", "red"), "red"),
        (paint("won.png", (200, 0, 60)), "blue"),
        (paint("lost.png", (200, 190, 0)), "red"),
        (paint("never.png", "yellow"), "blue"),
    ]
    classifier = ZeroShotClassifier(["red", "blue"], encoder, cache=False).fit()
    first = evaluate(classifier, data, draws=10)
    assert isinstance(first.outcomes, Outcomes)
    blue = [Path(path).stem in ("won", "lost") for path in first.paths]
    answer = np.where(blue, 1, first.outcomes.answer)
    other = replace(first, outcomes=replace(first.outcomes, answer=answer))
    comparisons = compare(first, {"<i>prompts</i>=art": other})
    with open_output(tmp_path / "with.html", EvaluationPage) as writer:
        writer.write(make_page_record(first, "data", comparisons))
    page = (tmp_path / "with.html").read_text("utf-8")
    compared = page[page.index("Compared") : page.index("<h2>Classes")]
    assert "<i>" not in compared
    assert "&lt;i&gt;prompts&lt;/i&gt;=art, on 4 images<" in compared
    assert "<td>accuracy</td><td>50.0\N{NBSP}%</td><td>+0.0</td>" in compared
    won, lost = compared.index("1 image right here"), compared.index("1 image wrong here")
    assert won < compared.index("won.png") < lost < compared.index("lost.png")
    assert not re.search("always|never", compared)
    assert compared.count("data:image/jpeg") == 2
    with open_output(tmp_path / "without.html", EvaluationPage) as writer:
        writer.write(make_page_record(first, "data"))
    assert "Compared" not in (tmp_path / "without.html").read_text("utf-8")


def test_a_comparison_of_several_labels_is_on_the_page(
    names_encoder: NamesEncoder, paint: Paint, tmp_path: Path
) -> None:
    base = ZeroShotClassifier(["red", "blue"], names_encoder, cache=False)
    data = [(paint("a.png", "red"), ["red"]), (paint("b.png", "blue"), ["blue"])]
    first = evaluate(MultiLabelClassifier(base).fit(), data, draws=2)
    assert isinstance(first.outcomes, MultiLabelOutcomes)
    truth = first.outcomes.truth
    right = replace(first, outcomes=replace(first.outcomes, given=truth))
    wrong = replace(first, outcomes=replace(first.outcomes, given=~truth))
    comparisons = compare(right, {"calibration=c.json": wrong}, draws=2)
    with open_output(tmp_path / "r.html", EvaluationPage) as writer:
        writer.write(make_page_record(right, "data", comparisons))
    page = (tmp_path / "r.html").read_text("utf-8")
    compared = page[page.index("Compared") : page.index("<h2>Labels")]
    assert "calibration=c.json, on 2 images and 2 labels" in compared
    assert "2 images wrong here, right in the first" in compared
    assert compared.count("data:image/jpeg") == 2


def test_few_images_have_no_curves(encoder: ColourEncoder, paint: Paint, tmp_path: Path) -> None:
    red = paint("a.png", "red")
    for count in (3, 30):
        data = [(shutil.copy(red, tmp_path / f"{n}.png"), "red") for n in range(count)]
        page = page_of(encoder, data, ["red", "blue"], tmp_path / "r.html")
        assert f"{count} of {count} answers are right" in page
        assert ("too few for curves" in page) == ("<svg" not in page) == (count < 30)
