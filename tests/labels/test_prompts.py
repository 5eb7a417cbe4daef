from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clipcls.errors import PromptsError
from clipcls.labels import presets
from clipcls.labels.label_set import Label, LabelSet, make_labels
from clipcls.labels.names import fill_template
from clipcls.labels.prompts import (
    PromptSet,
    list_ready_sets,
    make_prompts,
    make_texts,
    read_prompts,
)

ROOT = Path(__file__).parents[2]


def test_a_file_of_templates(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes(b"\xef\xbb\xbf# mine\r\na {} here\r\n\r\n\\#{}\r\na {} here\r\n")
    prompts = read_prompts(path)
    assert prompts == PromptSet(str(path), ("a {} here", "#{}"))
    assert prompts.fill("{0} cat") == ["a {0} cat here", "#{0} cat"]
    assert prompts.warnings == (
        f"{path}:5: the template 'a {{}} here' appears twice; one is dropped",
    )


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        ("a {}\na photo\n", ":2: ", "has {} no times"),
        ("# c\n{} and {}\n", ":2: ", "has {} 2 times"),
        ("a {0}\n", ":1: ", "has {} no times"),
        ("a {} with {label}\n", ":1: ", "other braces"),
        ("a {} and {\n", ":1: ", "other braces"),
        ("{{}}\n", ":1: ", "other braces"),
        ("a\t{}\n", ":1: ", "control character"),
        (b"a {}\n\xe9 {}\n", ":2: ", "not UTF-8"),
        ("# nothing\n", ": ", "no templates"),
        ("", ": ", "no templates"),
    ],
)
def test_templates_that_cannot_be_used_are_refused_with_their_line(tmp_path, content, where, words):
    path = tmp_path / "own.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PromptsError) as error:
        read_prompts(str(path))
    assert str(error.value).startswith(f"{path}{where}")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_python_lists_of_templates():
    prompts = make_prompts(["a {}", "the {}"])
    assert prompts == PromptSet("a {} | the {}", ("a {}", "the {}"))
    assert make_prompts(prompts.name) == prompts
    assert make_prompts([f"a {{}} {word}" for word in range(20)]).name == "custom"
    assert make_prompts(prompts) is prompts
    assert make_prompts("none").templates == ("{}",)
    with pytest.raises(PromptsError, match="template 2"):
        make_prompts(["a {}", "a photo"])
    assert make_prompts("a picture of a {}") == PromptSet(
        "a picture of a {}", ("a picture of a {}",)
    )
    assert make_prompts(["a {c} there"]) == PromptSet("a {c} there", ("a {c} there",))
    with pytest.raises(PromptsError, match="custom: contains no templates"):
        make_prompts([])


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("t.txt", "a photo of a {c}.\nart of the {c}.\n", ""),
        ("t.json", '["a photo of a {}.", "art of the {c}."]', "JSON"),
        ("en.json", '{"mine": ["a photo of a {c}.", "art of the {c}."]}', "templates of 'mine'"),
        ("t.txt", "'a photo of a {}.',\n'art of the {}.',\n", "a list in code"),
        ("t.txt", "T = [\n  'a photo of a {}.',\n  'art of the {}.'\n]\n", "a list in code"),
        (
            "t.txt",
            "T = (\n    lambda c: f'a photo of a {c}.',\n    lambda c: f'art of the {c}.',\n)\n",
            "a list in code",
        ),
        ("t.yaml", "- a photo of a {}.\n- art of the {}.\n", "bullets"),
    ],
)
def test_templates_of_other_tools(tmp_path, name, content, what):
    path = tmp_path / name
    path.write_text(content)
    prompts = read_prompts(path)
    assert prompts.fill("cat") == ["a photo of a cat.", "art of the cat."]
    is_code = "lambda" in content or "{c}" in content
    assert ("{c}" in prompts.templates[-1]) == is_code
    assert [what in warning for warning in prompts.warnings] == [True] * bool(what)


def test_json_escapes_in_a_text_file_are_characters(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text('["\\ud83d\\udc31 {}", "a {}"]')
    assert read_prompts(path).templates == ("\U0001f431 {}", "a {}")


def test_templates_of_several_datasets_are_refused_with_their_names(tmp_path):
    path = tmp_path / "en.json"
    path.write_text('{"cifar10": ["a {c}"], "imagenet1k": ["the {c}"]}')
    with pytest.raises(
        PromptsError, match=r"of 2 datasets \(cifar10, imagenet1k.*keep those of one"
    ):
        read_prompts(path)


AN = """
airport, apple, elephant, island, orange, umbrella, urn, urchin, usher, upright piano, hour,
heirloom, honest man, hors d'oeuvre, X-ray, x-ray image, MRI scan, MP3 player, LED lamp, SUV,
FBI agent, F1 car, HDMI cable, S-bend, ATM, iPod, 8, 8-ball, 11, 18-wheeler, 80s car, A, H, éclair,
unidentified object, unimportant thing, "owl", udon bowl, e-bike, Übergang
"""
A = """
cat, house, hotel, unicorn, uniform, university, unicycle, union, user, utensil, ukulele, one,
yacht, Ukrainian, USB stick, UFO, URL, U-turn, European, eucalyptus, ewer, one-armed bandit, onesie,
once, ouija board, T-shirt, TV, DVD, 3D printer, 1, 100, 110, B, LION, SNAKE, llama, fjord,
xylophone, St. Bernard, McLaren, rhino, schnauzer, snowman, houri, 車, кот, "cat", __init__
"""


@pytest.mark.parametrize(("article", "words"), [("an", AN), ("a", A)])
def test_a_template_has_the_article_of_its_word(article, words):
    for word in re.split(r",\s", words.strip()):
        assert fill_template("a {}", word) == fill_template("an {}", word) == f"{article} {word}"
        assert fill_template("A {} here", word) == f"{article.capitalize()} {word} here"
        assert fill_template("the {}", word) == f"the {word}"
        assert fill_template("data {}", word) == f"data {word}"


def test_an_article_of_the_word_replaces_that_of_the_template():
    for word in ("an owl", "a cat", "the Eiffel Tower"):
        assert fill_template("a photo of a {}.", word) == f"a photo of {word}."
        assert fill_template("a photo of the {}.", word) == f"a photo of {word}."


def test_published_templates_keep_their_articles():
    assert make_prompts("a {c}|a {}").fill("owl") == ["a owl", "an owl"]
    for ready in list_ready_sets("templates"):
        source = presets.list_sets("templates")[ready.name].read_text().split("\n")[1]
        if "Source: openai/CLIP" in source:
            assert all("{c}" in template for template in read_prompts(ready.name).templates)


def test_a_set_of_the_other_kind_and_a_template_without_its_place_are_named():
    with pytest.raises(PromptsError, match="'products'; it is a label set"):
        make_prompts("products")
    with pytest.raises(PromptsError, match=r"write \{\} where the label goes"):
        make_prompts("a photo of a cat")


def test_unknown_sets_come_with_what_is_close(tmp_path):
    with pytest.raises(PromptsError, match=r"did you mean .*photo.*\? Ready sets: .*imagenet-7"):
        read_prompts("foto")
    with pytest.raises(PromptsError, match=r"none\.txt: no such file"):
        read_prompts(tmp_path / "none.txt")


def test_a_file_wins_over_a_ready_set_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("none").mkdir()
    assert read_prompts("none").templates == ("{}",)
    Path("photo").write_text("my {}\n")
    assert read_prompts("photo").templates == ("my {}",)


def test_a_template_may_be_the_label_alone(tmp_path):
    (tmp_path / "t.txt").write_text("{}\n")
    assert read_prompts(tmp_path / "t.txt").templates == ("{}",)


def test_texts_have_spaces_for_the_underscores_of_labels():
    labels = make_labels(
        {
            "golden_retriever": {"prompts": ["my {}", "as_written"], "synonyms": ["golden_dog"]},
            "__init__": None,
            "_": None,
        }
    )
    assert labels.names == ("golden_retriever", "__init__", "_")
    assert make_texts(labels, PromptSet("p", ("a {}",))) == [
        ("a golden retriever", "a golden dog", "my golden retriever", "as_written"),
        ("a __init__",),
        ("a _",),
    ]
    assert make_texts(make_labels(["dog > big_dog", "cat > big_dog"]), PromptSet("p", ("{}",))) == [
        ("big dog, a type of dog",),
        ("big dog, a type of cat",),
    ]


def test_class_texts_fill_words_add_prompts_and_drop_doubles():
    labels = make_labels(
        {
            "cat": {"synonyms": ["kitten"], "prompts": ["my {} asleep", "a kitten", "a {0} cat"]},
            "{}": "whole {}",
        }
    )
    assert make_texts(labels, PromptSet("p", ("a {}", "the {}"))) == [
        ("a cat", "the cat", "a kitten", "the kitten", "my cat asleep", "a {0} cat"),
        ("a {}", "the {}", "whole {}"),
    ]
    assert make_texts(LabelSet((Label("x", ("x",)),)), PromptSet("none", ("{}",))) == [("x",)]


@pytest.mark.parametrize("name", presets.list_sets("templates"))
def test_ready_sets_load_without_a_warning(name):
    prompts = read_prompts(name)
    assert prompts.name == name
    assert prompts.templates
    assert not prompts.warnings


def test_lists_of_ready_sets_have_names_sizes_and_descriptions():
    prompts = {row.name: row for row in list_ready_sets("templates")}
    assert prompts["imagenet"].size == 80
    assert prompts["imagenet-7"].size == 7
    assert {
        "photo",
        "none",
        "product",
        "aerial",
        "medical",
        "wildlife",
        "defect",
        "document",
    } <= set(prompts)
    labels = {row.name: row for row in list_ready_sets("labels")}
    assert labels["imagenet"].size == 1000
    assert {"cifar10", "coco80", "products", "scenes", "waste"} <= set(labels)
    for row in [*prompts.values(), *labels.values()]:
        assert row.description
        assert "\n" not in row.description


@pytest.mark.parametrize("path", sorted((ROOT / "prompts").glob("*/*")), ids=lambda p: p.name)
def test_ready_files_say_what_they_are_and_where_they_are_from(path):
    first, second, *_ = path.read_text(encoding="utf-8").split("\n")
    assert first.startswith("# ")
    assert second.startswith("# Source: ")


@pytest.mark.slow
def test_imagenet_sets_equal_open_clips():
    import open_clip

    for name, templates in [
        ("imagenet", open_clip.OPENAI_IMAGENET_TEMPLATES),
        ("imagenet-7", open_clip.SIMPLE_IMAGENET_TEMPLATES),
    ]:
        assert read_prompts(name).fill("hot dog") == [template("hot dog") for template in templates]
    ours, theirs = make_labels("imagenet").names, open_clip.IMAGENET_CLASSNAMES
    assert [i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]] == [
        744,  # projectile: `missile` there, the name of 657
        836,  # sunglass: `sunglasses` there, the name of 837
    ]


def test_packaged_sets_win_over_the_checkouts(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "clipcls"
    (package / "_prompts" / "templates").mkdir(parents=True)
    (package / "_prompts" / "templates" / "only.txt").write_text("# One\n{}\n")
    monkeypatch.setattr(presets, "__file__", str(package / "labels" / "presets.py"))
    assert list_ready_sets("templates") == [("only", 1, "One")]


def test_reading_labels_and_prompts_imports_nothing_heavy():
    code = (
        "import sys; from clipcls.labels.prompts import list_ready_sets as ready; ready('labels'); "
        "heavy = {'torch', 'numpy', 'open_clip', 'PIL', 'faiss', 'csv'} "
        "& set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
