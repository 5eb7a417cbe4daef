from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipcls.classification.zero_shot import ZeroShotClassifier
from clipcls.errors import LabelsError
from clipcls.files.text import canonical, guard
from clipcls.labels.label_set import Label, LabelSet, make_labels, read_label_groups, read_labels
from clipcls.labels.names import join_levels
from clipcls.labels.presets import list_sets


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def fails(path: Path | str, line: int | None, *words: str) -> None:
    """`path` is refused with one line that names the file, the line and all words."""
    with pytest.raises(LabelsError) as error:
        read_labels(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: "), message
    for word in words:
        assert word in message


# What every format gives back


FORMS = {
    "l.txt": "# pets\ncat\n\n  hot dog \nC#\nroute #66\n\\#1 fan\n",
    "l": "cat\nhot dog\nC#\nroute #66\n\\#1 fan",
    "l.csv": 'label\ncat\n\nhot dog\n""\nC#\nroute #66\n#1 fan\n',
    "l.json": '["cat", "hot dog", "C#", "route #66", "#1 fan"]',
    "m.json": '{"cat": null, "hot dog": [], "C#": {}, "route #66": null, "#1 fan": null}',
    "l.yaml": "- cat\n- hot dog\n- C#\n- 'route #66'\n- '#1 fan'\n",
    "m.yml": "cat:\nhot dog: []\nC#: {}\n'route #66': ~\n'#1 fan': null\n",
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_formats_encodings_and_newlines_give_the_same_labels(write, name, encoding, newline):
    path = write(name, FORMS[name].replace("\n", newline).encode(encoding))
    labels = read_labels(path)
    assert labels.names == ("cat", "hot dog", "C#", "route #66", "#1 fan")
    assert labels.source == str(path)
    assert len(labels) == len(list(labels)) == 5
    assert not labels.warnings


RICH = {
    "l.csv": "Label,Prompt,Synonyms,\n"
    'cat,"a cat, asleep|my {}",kitten | tom cat,\ndog,,"puppy",\ncat,,pussy,\n',
    "semicolon.csv": "\nlabel;prompts;synonyms\n;;\n"
    "cat;a cat, asleep|my {};kitten|tom cat|pussy\ndog;;puppy\n",
    "tab.tsv": "synonyms\tlabel\tprompt\nkitten|tom cat|pussy\tcat\ta cat, asleep|my {}\n"
    "puppy\tdog\n",
    "l.json": '{"cat": {"prompts": ["a cat, asleep", "my {}"], "synonyms": ["kitten", "tom cat"]},'
    '"dog": {"synonym": "puppy"}, "cat": {"synonyms": "pussy"}}',
    "list.json": '[{"label": "cat", "prompt": ["a cat, asleep", "my {}"], "synonyms": '
    '["kitten", "tom cat", "pussy"]}, {"label": "dog", "synonyms": ["puppy"]}]',
    "l.yaml": "cat:\n  prompts: ['a cat, asleep', 'my {}']\n  synonyms: [kitten, tom cat, pussy]\n"
    "dog: {synonyms: puppy}\n",
}


@pytest.mark.parametrize("name", RICH)
def test_prompts_and_synonyms_belong_to_their_label_in_every_format(write, name):
    labels = read_labels(write(name, RICH[name]))
    cat = Label("cat", ("a cat, asleep", "my {}"), ("kitten", "tom cat", "pussy"))
    assert labels.labels == (cat, Label("dog", (), ("puppy",)))
    assert cat.words == ("cat", "kitten", "tom cat", "pussy")
    assert not labels.warnings


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.yaml", "[no, yes, 1, 1.50, 0o7, 2026-01-01, on, 'null']"),
        ("m.yaml", "no:\nyes:\n1:\n1.50:\n0o7:\n2026-01-01:\non:\nnull:\n"),
        ("l.json", '["no", "yes", 1, 1.50, "0o7", "2026-01-01", "on", "null"]'),
    ],
)
def test_words_and_numbers_come_back_as_written(write, name, content):
    expected = ("no", "yes", "1", "1.50", "0o7", "2026-01-01", "on", "null")
    assert read_labels(write(name, content)).names == expected


def plain(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    text = st.text(alphabet, min_size=1, max_size=20).map(canonical)
    return text.filter(lambda s: any(c.isprintable() and not c.isspace() for c in s))


NAMES = st.lists(
    plain(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn", "Co"])),
    min_size=1,
    unique=True,
)


@settings(deadline=None)
@given(NAMES)
@example([r"\#", r"\\#", "#", "\\", ">", "a >", "> a", "a > b", r"a \> b", r"a \\> > b"])
def test_any_labels_written_to_a_file_read_back(tmp_path_factory, names):
    folder = tmp_path_factory.getbasetemp()
    expected, names = tuple(names), [join_levels([name]) for name in names]
    (folder / "l.json").write_text(json.dumps(names), encoding="utf-8")
    (folder / "m.json").write_text(json.dumps(dict.fromkeys(names)), encoding="utf-8")
    (folder / "l.yaml").write_text(yaml.safe_dump(names), encoding="utf-8")
    quoted = ['"' + guard(name).replace('"', '""') + '"' for name in names]
    (folder / "l.csv").write_text("\n".join(["label", *quoted]), encoding="utf-8")
    lines = ["\\" + name if name.lstrip("\\").startswith("#") else name for name in names]
    (folder / "l.txt").write_text("\n".join(lines), encoding="utf-8")
    # What people and tools put around the labels of a text file is taken off.
    plain_lines = not re.search(r"[,;|\t'\"“„‘«\[\](){}\d*•=:-]", "".join(lines))
    for file in ("l.json", "m.json", "l.yaml", "l.csv", *["l.txt"] * plain_lines):
        assert read_labels(folder / file).names == expected, file


# Doubtful lists: warnings


def test_a_label_given_twice_is_dropped_with_its_line(write):
    path = write("l.txt", "café\ndog\n cafe\u0301 \n")  # composed, then decomposed
    labels = read_labels(path)
    assert labels.names == ("café", "dog")
    assert labels.warnings == (
        f"{path}:3: the label 'café' appears twice; one is dropped",
        f"{path}:3: 'cafe\\u0301' is read as 'café'",
    )


def test_warnings_are_logged_by_whoever_made_the_labels(encoder, caplog):
    """The server makes a request's labels and returns the warnings: they are not logged again."""
    labels = make_labels(["red"])
    assert len(labels.warnings) == 1
    assert ZeroShotClassifier(labels, encoder, cache=False).fit().classes_.tolist() == ["red"]
    assert not caplog.records
    ZeroShotClassifier(["red"], encoder, cache=False).fit()
    assert [(r.name, r.getMessage()) for r in caplog.records] == [("clipcls", *labels.warnings)]


def test_texts_that_look_like_others_are_those_and_it_is_said_once(write):
    path = write(
        "l.csv", "\ufefflabel,synonyms\n\ufeffcat\ufeff,kit\u200bten\nhot\u00a0dog\u202f,\n"
    )
    labels = read_labels(path)
    assert labels.labels == (Label("cat", (), ("kitten",)), Label("hot dog"))
    assert labels.warnings == (f"{path}:2: 'cat\\ufeff' is read as 'cat'; 2 more texts likewise",)


@pytest.mark.parametrize(
    ("content", "names", "words"),
    [
        ("Cat\ncat\ndog\n", ("Cat", "cat", "dog"), "l.txt:2: 'Cat' and 'cat' differ only in case"),
        ("a_b\nA b\n", ("a_b", "A b"), "'a_b' and 'A b' differ only in case or underscores"),
        ("cat\n", ("cat",), "'cat' is the only label; where one label per image is given, every"),
        ("cat\nunknown\n", ("cat", "unknown"), "'unknown' is also the answer"),
    ],
)
def test_doubtful_labels_are_kept_with_a_warning(write, content, names, words):
    labels = read_labels(write("l.txt", content))
    assert labels.names == names
    (warning,) = labels.warnings
    assert words in warning


def test_columns_that_mean_nothing_are_named(write):
    labels = read_labels(write("l.csv", "label,promt\ncat,x\ndog,y\n"))
    assert labels.names == ("cat", "dog")
    assert "l.csv:1: ignored columns: 'promt'" in labels.warnings[0]


# Lists of other tools, and lists pasted from elsewhere


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("data.yaml", "train: ../train\nval: x\nnc: 3\nnames: ['cat', 'cow', 'dog']\n", "'names'"),
        ("data.yaml", "path: x\nnames:\n  0: cat\n  1: cow\n  2: dog\ntrain: a/b\n", "'names'"),
        ("data.yaml", "names:\n- cat\n- cow\n- dog\nnc: 3\nroboflow: {version: 1}\n", "'names'"),
        ("data.txt", "train: ../train\nnc: 3\nnames: ['cat', 'cow', 'dog']\n", "'names'"),
        ("n.json", '{"10": "dog", "2": "cow", "1": "cat"}', "between numbers and names"),
        ("n.json", '{"0": ["n01440764", "cat"], "1": ["n01443537", "cow"], "2": ["n01484850", '
         '"dog"]}', "between numbers and names"),
        ("n.yaml", "0: cat\n1: cow\n2: dog\n", "between numbers and names"),
        ("n.json", '{"dog": 2, "cat": 0, "cow": 1}', "between numbers and names"),
        ("n.yaml", "dog: 3\ncat: 1\ncow: 2\n", "between numbers and names"),
        ("config.json", '{"model_type": "vit", "id2label": {"0": "cat", "1": "cow", "2": "dog"}, '
         '"label2id": {"cat": 0, "cow": 1, "dog": 2}, "image_size": 224}', "'id2label'"),
        ("c.json", '{"class_to_idx": {"cat": 0, "cow": 1, "dog": 2}, "epochs": 3}', "'class_to_"),
        ("coco.json", '{"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat", '
         '"supercategory": "animal"}, {"id": 3, "name": "cow"}, {"name": "dog"}]}', "'categories'"),
        ("roboflow.json", '{"info": {}, "categories": [{"id": 0, "name": "pets", "supercategory": '
         '"none"}, {"id": 1, "name": "cat", "supercategory": "pets"}, {"id": 2, "name": "cow", '
         '"supercategory": "pets"}, {"id": 3, "name": "dog", "supercategory": "pets"}]}', "'categ"),
        ("md.json", '{"images": [], "detection_categories": {"1": "cat", "2": "cow", "3": "dog"}}',
         "'detection_categories'"),
        ("cvat.json", '[{"name": "cat", "color": "#fff"}, {"name": "cow"}, {"name": "dog"}]',
         "a list of categories"),
        ("tm.json", '{"tfjsVersion": "1.3.1", "labels": ["cat", "cow", "dog"], "imageSize": 224}',
         "'labels'"),
        ("classnames.json", '{"mydata": ["cat", "cow", "dog"]}', "'mydata'"),
        ("l.txt", "'cat',\n'cow',\n'dog'\n", "commas at the ends and quotes"),
        ("l.txt", '"cat"\n"cow"\n"dog"\n', "quotes"),
        ("l.txt", "“cat”,\n“cow”,\n“dog”\n", "quotes"),
        ("l.txt", "['cat', 'cow',\n 'dog',]\n", "a list in code"),
        ("l.txt", "# mine\nCLASSES = (\n  'cat',  # 0\n  'cow',\n  'dog',\n)\n", "a list in code"),
        ("l.txt", "array(['cat', 'cow', 'dog'], dtype=object)", "a list in code"),
        ("l.txt", "'cat', 'cow',\n'dog'\n", "a list in code"),
        ("l.txt", "{'cat': 0, 'cow': 1, 'dog': 2}\n", "between numbers and names"),
        ("l.txt", "0: 'cat',\n1: 'cow',\n2: 'dog',\n", "numbers and quotes"),
        ("l.txt", '["cat", "cow", "dog"]', "JSON"),
        ("l.txt", "[cat, cow, dog]", ""),
        ("l.json", "['cat', 'cow', 'dog',]", "a list in code"),
        ("l.json", '["cat", "cow", "dog",]', "a list in code"),
        ("l.txt", "cat, cow, dog\n", "separators on one line"),
        ("l.txt", "cat;cow;dog", "separators on one line"),
        ("l.txt", "cat\tcow\tdog\n", "separators on one line"),
        ("l.txt", "cat,\ncow,\ndog,\n", "commas at the ends"),
        ("l.txt", "- cat\n- cow\n- dog\n", "bullets"),
        ("l.txt", "0 cat\n1 cow\n2 dog\n", "numbers"),
        ("l.txt", "1. cat\n2. cow\n3. dog\n", "numbers"),
        ("l.txt", "0: cat\n1: cow\n\n2: dog\n", "numbers"),
        ("l.txt", "0,cat\n1,cow\n2,dog\n", "numbers"),
        ("l.txt", "00\tcat\n01\tcow\n02\tdog\n", "numbers"),
        ("l.txt", "1 001.cat\n2 002.cow\n3 003.dog\n", "numbers"),
        ("l.txt", "cat: 0\ncow: 1\ndog: 2\n", "numbers"),
        ("l.txt", "cat\t0\ncow\t1\ndog\t2\n", "numbers"),
        ("l.txt", "cat;\ncow;\ndog;\n", "commas at the ends"),
        ("l.txt", "['cat',\u00a0'cow', 'dog']", "a list in code"),
        ("l.txt", "n02123045 cat\nn02403003 cow\nn02084071 dog\n", "WordNet ids"),
        ("l.txt", "label,synonyms\ncat,\ncow,\ndog,\n", "a table"),
        ("map.pbtxt", "item {\n  id: 1\n  name: 'cat'\n}\nitem {\n  id: 2\n  name: '/m/04c'\n  "
         "display_name: 'cow'\n}\nitem { id: 3 name: \"dog\" }\n", "TensorFlow"),
        ("l.csv", "sep=;\nlabel;synonyms\ncat;\ncow;\ndog\n", ""),
        ("coco.names", "cat\ncow\ndog\n", ""),
        ("_darknet.labels", "cat\ncow\ndog\n", ""),
        ("labelmap.txt", "# label:color_rgb:parts:actions\ncat:0,0,0::\ncow:128,0,0::\n"
         "dog:0,128,0::\n", "colours"),
        ("places.txt", "/c/cat 0\n/c/cow 1\n/d/dog 2\n", "numbers and first letters"),
        ("l.txt", "0 -> cat\n1 -> cow\n2 -> dog\n", "numbers"),
        ("l.txt", "cat => 0\ncow => 1\ndog => 2\n", "numbers"),
        ("l.txt", "0|cat\n1|cow\n2|dog\n", "numbers"),
        ("l.txt", "- [ ] cat\n- [x] cow\n- [ ] dog\n", "bullets"),
        ("l.txt", "Labels: cat, cow, dog", "one line"),
        ("l.txt", "const labels = ['cat', 'cow', 'dog'];\n", "a list in code"),
        ("l.txt", "export const L: string[] = [\n 'cat',\n 'cow',\n 'dog',\n];\n", "in code"),
        ("l.txt", 'std::vector<std::string> names{"cat", "cow", "dog"};', "a list in code"),
        ("l.txt", "(#3) ['cat','cow','dog']", "a list in code"),
        ("l.txt", "M = {'CLASSES': ('cat', 'cow', 'dog'), 'palette': [(1, 2)]}", "'CLASSES'"),
        ("keywords.txt", "cat\ncow\n\t{cattle}\ndog\n", "indented by tabs"),
        ("lvis.json", '{"categories": [{"id": 1, "name": "cat", "synonyms": ["cat", "kitty"]}, '
         '{"id": 2, "name": "cow"}, {"id": 3, "name": "dog"}]}', "'categories'"),
        ("meta.json", '{"classes": [{"title": "cat", "shape": "any"}, {"title": "cow"}, '
         '{"title": "dog"}]}', "'classes'"),
        ("l.json", '[{"id": 0, "label": "cat"}, {"id": 1, "label": "cow"}, '
         '{"id": 2, "label": "dog"}]', "a list of categories"),
        ("l.json", '{"0": {"name": "cat"}, "1": {"name": "cow"}, "2": {"name": "dog"}}', "numbers"),
        ("l.json", '{"-1": "cat", "0": "cow", "1": "dog"}', "numbers"),
        ("l.json", '{"LABEL_0": "cat", "LABEL_1": "cow", "LABEL_2": "dog"}', "numbers"),
        ("l.yaml", "classes:\n  cat: a cat\n  cow:\n  dog:\n", "what is under the key 'classes'"),
    ],
)  # fmt: skip
def test_lists_of_other_tools_are_what_they_are_and_it_is_said(write, name, content, what):
    path = write(name, content)
    labels = read_labels(path)
    assert labels.names == ("cat", "cow", "dog")
    said = [warning for warning in labels.warnings if warning.startswith("read ")]
    assert bool(said) == bool(what)
    for line in said:
        assert line.startswith(f"read {path} as ")
        assert what in line
        assert line.endswith(": 3 labels: cat, cow, dog")
    assert len(labels.warnings) == len(said)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.txt", "1 star\n2 stars\n3 stars"),
        ("l.txt", "0\n1\n2\n3"),
        ("l.txt", "1 cent\n2 cents\n5 cents"),
        ("l.txt", "2024 election\n2025 summit"),
        ("l.txt", "1st place\n2nd place"),
        ("l.txt", "tench, Tinca tinca\ngoldfish, Carassius auratus"),
        ("l.txt", "Washington, D.C.\nParis"),
        ("l.txt", "'tis the season\nit's a cat"),
        ("l.txt", '"Heroes" album\nLow'),
        ("l.txt", "[2024] trip\n[2025] trip"),
        ("l.txt", "C++\n{curly}\nx = 1"),
        ("l.txt", "bird: crane\nmachine: crane"),
        ("l.txt", "zone 0\nzone 1\nzone 2"),
        ("l.txt", 'hat ("fedora")\nsmile :('),
        ("l.txt", "7 of hearts\n7 of spades\n8 of hearts\n8 of spades"),
        ("l.txt", "names\ntrain\nlabel"),
        ("l.txt", "page: 1\npage: 2"),
        ("l.txt", "train/tram\nn/a"),
        ("l.yaml", "- train\n- names\n- nc"),
    ],
)
def test_labels_with_commas_digits_and_quotes_are_not_broken(write, name, content):
    lines = [line.removeprefix("- ") for line in content.split("\n")]
    labels = read_labels(write(name, content))
    assert labels.names == tuple(lines)
    assert not labels.warnings


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("l.txt", "cat|kitten\ndog|puppy", "for synonyms, write a csv"),
        ("l.txt", "cat: a small animal\ndog: an animal", "for `label: prompt`, write .yaml"),
        ("l.txt", "__ignore__\ncat\ndog", "'__ignore__' is read as a label"),
        ("l.txt", "[animals]\ncat\ndog", "'[animals]' is read as a label"),
        ("l.txt", "LABEL_0\nLABEL_1", "are placeholders, which mean nothing to a model"),
        ("l.yaml", "animals: [cat, dog]\nplants: [oak]", "write it as 'animals > cat'"),
        ("l.csv", "id,class_name\n0,cat\n1,dog", "are read from the column 'class_name'"),
    ],
)
def test_what_may_not_be_meant_as_a_label_is_said(write, name, content, words):
    warnings = read_labels(write(name, content)).warnings
    assert any(words in warning for warning in warnings), warnings


@pytest.mark.parametrize(
    ("content", "names", "prompts"),
    [
        ('{"0": "a handwritten 0", "1": "a handwritten 1"}', ("0", "1"), "a handwritten 0"),
        ('{"0": "the digit zero", "1": "the digit one"}', ("0", "1"), "the digit zero"),
        ('{"0": ["the digit 0", "zero"], "1": "the digit {}"}', ("0", "1"), "the digit 0"),
        ('{"boxes": ["a box"], "labels": ["a label", "a sticker"]}', ("boxes", "labels"), "a box"),
        ('{"train": "a train on rails", "path": "a path"}', ("train", "path"), "a train on rails"),
        ('{"cat": ["a cat", "my cat asleep"]}', ("cat",), "a cat"),
    ],
)
def test_prompts_of_labels_are_not_taken_for_lists_of_other_tools(write, content, names, prompts):
    labels = read_labels(write("l.json", content))
    assert labels.names == names
    assert labels.labels[0].prompts[0] == prompts


@pytest.mark.parametrize(
    ("name", "content", "line", "words"),
    [
        (
            "l.yaml",
            "epochs: 10\nbatch: 32\n",
            1,
            ["epochs: 10", "plain list"],
        ),
        ("l.json", '{"cat": 120, "dog": 80}', 1, ["cat: 120", "plain list"]),
        (
            "l.yaml",
            "cats: ../cats\ndogs: ../dogs\n",
            1,
            ["cats: ../cats", "setting"],
        ),
        ("l.yaml", "model_type: vit\nclass: b\n", 1, ["model_type: vit", "setting"]),
        ("l.json", '{"0": ["cat", "feline"], "1": ["dog"]}', 1, ["'0'", "plain list"]),
        (
            "l.json",
            '{"cifar10": ["cat"], "imagenet1k": ["tench"]}',
            1,
            ["'cifar10'", "'imagenet1k'"],
        ),
        ("l.json", '{"imagenet1k": ["a photo of a {c}.", "a {c}"]}', 1, ["use --prompts"]),
        ("l.txt", "['cat' 'cow'\n 'dog']", 1, ["a comma is missing between 'cat' and 'cow'"]),
        ("l.txt", "['cat', 'cow'\n", None, ["begins like a list in code or JSON"]),
        ("l.csv", 'label,synonyms\ncat,"kitten, tom cat"\n', 2, ["'kitten | tom cat'", "for one"]),
        ("l.csv", "label,synonyms\ncat,kitten;tom cat\n", 2, ["'kitten | tom cat'"]),
        ("l.csv", 'label,prompts\ncat,"a cat, my cat"\n', 2, ["'a cat | my cat'"]),
        ("l.yaml", "cat: {synonyms: 'kitten, tom cat'}\n", 1, ["'kitten | tom cat'"]),
        ("l.csv", "label,use_templates\ncat,no\n", 2, ["needs prompts of its own"]),
        ("l.csv", "label,use_templates\ncat,maybe\n", 2, ["yes or no, not 'maybe'"]),
        ("l.csv", "Klasse;Prompt\nKatze;\n", 1, ["the first line has 'klasse', 'prompt'"]),
        ("l.txt", "a/1.jpg\na/2.PNG\n", None, ["paths of images, not labels", "`- < FILE`"]),
        ("l.txt", "#cat\n#dog\n", None, ["contains no labels", "begins with # is a comment"]),
        ("l.txt", "{\\rtf1\\ansi cat}", None, ["rich text (RTF); save it as plain text"]),
        ("l.txt", "\n<!DOCTYPE html><html>", None, ["is a web page", "download the raw file"]),
        ("l.csv", "version https://git-lfs.github.com/spec/v1\n", None, ["`git lfs pull`"]),
        ("l.json", '{"cat": "#ff0000", "dog": "#0f0"}', 1, ["cat: #ff0000"]),
        ("l.json", '{"cat": [255, 0, 0], "dog": [0, 0, 0]}', 1, ["255", "plain list"]),
        ("l.yaml", "a: {names: [x, y]}\nb: {names: [u, v]}\n", 1, ["'names' is unknown"]),
    ],
)
def test_what_may_not_be_labels_is_refused_with_the_cure(write, name, content, line, words):
    fails(write(name, content), line, *words)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.csv", "label;prompts;use_templates\nempty;a forest, nothing else|trees;no\ncat;;\n"),
        ("l.yaml", "empty: {prompts: ['a forest, nothing else', trees], use_templates: no}\n"
         "cat:\n"),
        ("l.json", '[{"label": "empty", "prompts": ["a forest, nothing else", "trees"], '
         '"use_templates": false}, "cat"]'),
    ],
)  # fmt: skip
def test_a_label_can_have_prompts_of_its_own_alone(write, name, content):
    from clipcls.labels.prompts import make_prompts, make_texts

    labels = read_labels(write(name, content))
    texts = make_texts(labels, make_prompts(["a camera trap photo of a {}."]))
    assert texts == [("a forest, nothing else", "trees"), ("a camera trap photo of a cat.",)]
    assert make_labels(labels.labels).labels == labels.labels
    assert not labels.warnings


def test_a_cell_that_ends_with_a_bar_holds_one_text(write):
    labels = read_labels(write("l.csv", 'label,synonyms\ntench,"Tinca, a fish|"\n'))
    assert labels.labels[0].synonyms == ("Tinca, a fish",)


def test_a_class_index_of_torchvision_is_read_as_it_comes():
    labels = make_labels({"dog": 1, "cat": 0})
    assert labels.names == ("cat", "dog")
    assert "read labels as a mapping between numbers and names" in labels.warnings[0]


def test_labels_on_standard_input(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO("cat\r\ncow\r\n".encode("utf-16")))
    monkeypatch.setattr("sys.stdin", stdin)
    labels = read_labels("-")
    assert (labels.names, labels.source) == (("cat", "cow"), "standard input")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("label\ncat\ndog", "l.txt:1: 'label' is read as a label; is it a header?"),
        ("cat; kitten\ndog; puppy", "l.txt:1: 'cat; kitten' is read as one label"),
        ("dog\n'cat'\ncow", """l.txt:2: "'cat'" keeps its quotes"""),
        ("n02123045\nn02403003", "l.txt: the labels are WordNet ids"),
    ],
)
def test_lines_that_may_not_be_meant_so_are_kept_and_named(write, content, words):
    labels = read_labels(write("l.txt", content))
    assert labels.names == tuple(content.split("\n"))
    (warning,) = labels.warnings
    assert words in warning


# Doubtful lists: errors


@pytest.mark.parametrize(
    ("name", "content", "line", "words"),
    [
        ("l.txt", "", None, ["no labels"]),
        ("l.txt", "\n# only comments\n\n", None, ["no labels"]),
        ("l.csv", "", None, ["no labels"]),
        ("l.csv", "label\n", None, ["no labels"]),
        ("l.json", " \n", None, ["no labels"]),
        ("l.json", "[]", None, ["no labels"]),
        ("l.json", "{}", None, ["no labels"]),
        ("l.yaml", "# nothing\n", None, ["no labels"]),
        # blank
        ("l.txt", "cat\n\u200b\n", 2, ["label is blank"]),
        ("l.csv", "label,prompt\ncat,\n,a dog\n", 3, ["label is blank"]),
        ("l.json", '["cat",\n "dog",\n " "]', 3, ["label is blank"]),
        ("l.json", '{"cat": null,\n "": null}', 2, ["label is blank"]),
        ("l.json", '{"cat":\n  ["a cat", ""]}', 1, ["prompt is blank"]),
        ("l.yaml", "- cat\n- ''\n", 2, ["label is blank"]),
        ("l.yaml", "cat:\n  synonyms: [kitten, ' ']\n", 1, ["synonym is blank"]),
        # control characters
        ("l.txt", "cat\nhot\tdog\n", 2, ["control character", "'\\t'"]),
        ("l.txt", "cat\x00\ndog\n", 1, ["control character"]),
        ("l.csv", 'label\ncat\n"hot\ndog"\nbird\n', 3, ["control character", "'\\n'"]),
        ("l.json", '["cat", "hot\\ndog"]', 1, ["control character"]),
        ("l.json", '["cat", "\\ud83d"]', 1, ["control character"]),
        ("l.yaml", "- cat\n- |\n  hot\n  dog\n", 2, ["control character"]),
        ("l.yaml", "- cat\n- d\x07og\n", 2, ["character", "'\\x07'"]),
        # not text
        ("l.txt", b"cat\ncaf\xe9\n", 2, ["not UTF-8"]),
        ("l.txt", b"\xff\xfec\x00a", 1, ["not UTF-16"]),
        ("l.json", '["cat", null]', 1, ["must be a text, not nothing"]),
        ("l.json", '["cat",\n true]', 2, ["must be a text, not True"]),
        ("l.json", '["cat", ["dog"]]', 1, ["must be a text"]),
        ("l.yaml", "cat: [[[a cat]]]\n", 1, ["must be a text"]),
        ("l.yaml", "? [cat, dog]\n: a cat\n", 1, ["must be a text"]),
        # csv
        ("l.csv", "cat\ndog\n", 1, ["the first line has 'cat'", ".txt file"]),
        ("l.csv", "label\nhot dog, plain\n", 2, ["2 cells for 1 columns"]),
        ("l.csv", "label,label\ncat,dog\n", 1, ["twice"]),
        ("l.csv", 'label\ncat\n"dog\n', 3, ["csv"]),
        # json
        ("l.json", '["cat",\n "dog"', 2, ["not JSON", "column"]),
        ("l.json", '["cat"] x', 1, ["not JSON"]),
        ("l.json", '"cat"', None, ["must be a list"]),
        ("l.json", "[" * 100_000, None, ["nested"]),
        ("l.json", '{"cat": {"prompts": "a",\n"prompts": "b"}}', 1, ["twice"]),
        ("l.json", '{"cat": {},\n "dog": {"promt": "a dog"}}', 2, ["'promt'", "unknown"]),
        ("l.json", '[{"cat": "a cat"}]', 1, ["'cat'"]),
        ("l.json", '[{"prompt": "a cat"}]', 1, ["needs the key `label`"]),
        ("l.json", '{"cat": {"label": "dog"}}', 1, ["leave one out"]),
        ("l.json", '{"cat": "a {} and a {}"}', 1, ["more than once"]),
        # yaml
        ("l.yaml", "cat: [a\ndog: b\n", 2, ["not YAML"]),
        ("l.yaml", "cat\n", 1, ["must be a list"]),
        ("l.yaml", "- cat\n---\n- dog\n", 2, ["not YAML"]),
        ("l.yaml", "cat: {prompts: a,\n  prompts: b}\n", 1, ["twice"]),
        ("l.yaml", "a: &a [x, x]\nb: *a\n", 2, ["aliases"]),
        ("l.yaml", "[" * 100_000, 1, ["nested"]),
        # formats
        ("l.docx", "cat\n", None, [".docx is not a format", ".txt", ".yaml"]),
    ],
)
def test_lists_that_cannot_be_used_are_refused_with_file_and_line(
    write, name, content, line, words
):
    fails(write(name, content), line, *words)


def test_a_billion_laughs_do_not_hang(write):
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    fails(write("l.yaml", "\n".join(lines)), 2, "aliases")


# Names and files


def test_missing_files_and_folders_are_named(tmp_path):
    fails(tmp_path / "none.txt", None, "no such file")
    fails(str(tmp_path / "none.txt"), None, "no such file")
    fails(tmp_path, None, "folder")


def test_unknown_sets_come_with_what_is_close():
    with pytest.raises(LabelsError, match=r"did you mean .*cifar10.* Ready sets: .*coco80"):
        read_labels("cifra10")
    with pytest.raises(LabelsError, match="not joined by commas"):
        read_labels("cat,dog")


def test_a_file_wins_over_a_ready_set_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cifar10").mkdir()
    assert read_labels("cifar10").source == "cifar10"
    assert len(read_labels("cifar10")) == 10
    Path("coco80").write_text("cat\ndog\n")
    assert read_labels("coco80").names == ("cat", "dog")


@pytest.mark.parametrize("name", list_sets("labels"))
def test_ready_sets_load_without_a_warning(name):
    labels = read_labels(name)
    assert labels.source == name
    assert len(labels) >= 5
    assert not labels.warnings


def test_ready_sets_are_whole():
    assert len(read_labels("imagenet")) == 1000
    assert len(read_labels("cifar10")) == 10
    assert len(read_labels("cifar100")) == 100
    assert len(read_labels("coco80")) == 80
    assert read_labels("imagenet").names[281:283] == ("tabby cat", "tiger cat")


def test_the_example_has_more_labels_than_photos_need():
    import csv

    examples = Path(__file__).parents[2] / "examples"
    names = read_labels(examples / "labels.txt").names
    with (examples / "truth.csv").open(newline="") as file:
        truth = {row["path"]: row["label"] for row in csv.DictReader(file)}
    photos = {f"photos/{path.name}" for path in (examples / "photos").iterdir()}
    assert set(truth) == photos
    assert set(truth.values()) < set(names)
    readme = (examples / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{photo}` |" in readme for photo in photos)


# Python objects


def test_python_objects_become_labels():
    assert make_labels(["cat", " dog "]).names == ("cat", "dog")
    assert make_labels(f"{word}s" for word in ("cat", "dog")).names == ("cats", "dogs")
    assert make_labels({"b", "c", "a"}).names == ("a", "b", "c")
    assert make_labels("cifar10") == read_labels("cifar10")
    labels = make_labels({"cat": None, "dog": "a {}", "bird": {"synonyms": ["finch"]}})
    assert labels.labels == (Label("cat"), Label("dog", ("a {}",)), Label("bird", (), ("finch",)))
    assert make_labels(labels) is labels
    assert make_labels(labels.labels) == LabelSet(labels.labels)
    assert make_labels([Label("cat"), {"label": "dog", "prompt": "my dog"}]).labels[1].prompts == (
        "my dog",
    )


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "no labels"),
        (["cat", ""], "label 2: the label is blank"),
        (["cat", 3], "label 2: a label must be a text, not 3"),
        (["cat", "a\nb"], "label 2"),
        ({"cat": "", "dog": None}, "label 'cat': the prompt is blank"),
        ({"cat": 3}, "cat: 3"),
        (b"cat", "expected a list"),
        (3, "expected a list"),
        (None, "expected a list"),
    ],
)
def test_python_objects_that_cannot_be_used_are_refused(labels, words):
    with pytest.raises(LabelsError, match=words):
        make_labels(labels)


def test_a_supercategory_that_is_no_text_groups_nothing(write):
    content = '[{"name": "cat", "supercategory": ["a"]}, {"name": "dog", "supercategory": "cat"}]'
    assert read_labels(write("l.json", content)).names == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "group,label,synonyms\nkind,shirt,\nkind,hat,cap\ncolour,red,\ncolour,white,\n"),
        ("l.txt", "label;group\nshirt;kind\nhat;kind\nred;colour\nwhite;colour\n"),
        ("l.yaml", "- {label: shirt, group: kind}\n- {label: hat, group: kind}\n"
                   "- {label: red, group: colour}\n- {label: white, group: colour}\n"),
    ],
)  # fmt: skip
def test_labels_in_groups_are_the_answers_to_several_questions(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    groups = read_label_groups(tmp_path / name)
    assert {group: labels.names for group, labels in groups.items()} == {
        "kind": ("shirt", "hat"),
        "colour": ("red", "white"),
    }
    with pytest.raises(LabelsError, match="'kind', 'colour'"):
        read_labels(tmp_path / name)


def test_one_label_may_be_in_two_groups_and_none_in_no_group(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("label,group\nwhite,wine\nred,wine\nwhite,colour\n")
    assert [labels.names for labels in read_label_groups(path).values()] == [
        ("white", "red"),
        ("white",),
    ]
    path.write_text("label,group\nwhite,wine\nred,wine\n")
    assert list(read_label_groups(path)) == ["wine"]
    assert read_labels(path).names == ("white", "red")
    path.write_text("label,group\nwhite,wine\nred,\n")
    with pytest.raises(LabelsError, match=r"l\.csv:3: the label has no group"):
        read_label_groups(path)
