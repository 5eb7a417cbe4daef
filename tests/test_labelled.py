from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clipcls.errors import ImageError, InputError
from clipcls.labelled import make_labelled, read_labelled

Paint = Callable[..., str]


def test_folders_are_classes_and_what_is_none_is_told(paint: Paint, tmp_path: Path) -> None:
    red = paint("data/Dark_Red/a.png", "red")
    deep = paint("data/Dark_Red/more/b.png", "red")
    blue = paint("data/sky-blue/c.png", "blue")
    paint("data/other/d.png", "green")
    paint("data/loose.png", "green")
    paint("data/.hidden/e.png", "green")
    (tmp_path / "data" / "void").mkdir()
    data = read_labelled(tmp_path / "data")
    found = data.match(["Sky blue", "dark red", "yellow"])
    assert found.paths == (red, deep, blue)
    assert found.truth == ((1,), (1,), (0,))
    assert found.set_aside.no_labels == {"other": 1, "void": 0}
    assert (found.set_aside.left_out, found.set_aside.beside) == (1, 1)


def test_in_nested_folders_the_deepest_that_names_a_label_decides(
    paint: Paint, tmp_path: Path
) -> None:
    pug = paint("data/animal/dog/Pug/a.png", "red")
    dog = paint("data/animal/dog/by me/b.png", "red")
    other = paint("data/animal/c.png", "red")
    split = paint("data/train/cat/d.png", "red")
    data = read_labelled(tmp_path / "data")
    found = data.match(["pug", "dog", "cat"])
    assert dict(zip(found.paths, found.truth, strict=True)) == {pug: (0,), dog: (1,), split: (2,)}
    assert found.set_aside.no_labels == {"animal": 1}
    assert other not in found.paths
    # As before where folders further down are no labels.
    assert data.match(["animal", "train"]).truth == ((0,), (0,), (0,), (1,))


def test_a_name_of_two_labels_is_told_apart_by_the_folders_above(
    paint: Paint, tmp_path: Path
) -> None:
    paint("data/bird/crane/a.png", "red")
    paint("data/machine/crane/b.png", "red")
    data = read_labelled(tmp_path / "data")
    meanings = {"bird > crane": (0,), "machine > crane": (1,), "bird": (0,)}
    assert data.match(["crane", "crane"], meanings).truth == ((0,), (1,))
    # A folder further down whose name is doubtful is no label, the top one is an error.
    doubtful = ["Crane", "crane", "bird", "machine"]
    paint("deep/bird/CRANE/a.png", "red")
    assert read_labelled(tmp_path / "deep").match(doubtful).truth == ((2,),)
    paint("top/CRANE/a.png", "red")
    with pytest.raises(InputError, match="'CRANE' could be the label"):
        read_labelled(tmp_path / "top").match(doubtful)


def test_of_several_labels_an_image_foreign_ones_say_that_it_has_none() -> None:
    data = make_labelled(
        [
            *(("a", ["dog", "fox"]), ("b", ["fox"]), ("c", []), ("d", ["animal"])),
            *(("e", ["animal", "pug"]), ("f", ["ball", "animal"])),
        ],
        unlabelled=True,
    )
    above = {"animal": (0, 1), "pug": (0,), "dog": (1,), "ball": (2,)}
    found = data.match(["pug", "dog", "ball"], several=True, above=above)
    assert (found.paths, found.truth) == (("a", "b", "c", "e"), ((1,), (), (), (0,)))
    aside = found.set_aside
    assert aside.no_labels == {"animal": 3, "fox": 2}
    # That an image shows an animal leaves open whether it is a dog.
    assert (aside.as_none, aside.left_out) == (1, 2)
    alone = data.match(["pug", "dog", "ball"])
    assert (alone.paths, alone.set_aside.left_out) == (("a", "c", "e", "f"), 2)
    assert (alone.set_aside.as_none, "as_none" in alone.set_aside.record()) == (None, False)


def test_csv_with_several_labels_in_a_cell_or_in_rows(tmp_path: Path) -> None:
    file = tmp_path / "truth.csv"
    file.write_text(
        '\ufeffpath;label;note\na.jpg;cat|dog;x\nsub/b.jpg;"dog";\n\na.jpg;fox|dog;\nc.jpg;owl;\n',
        "utf-8",
    )
    data = read_labelled(file)
    assert data.paths == tuple(str(tmp_path / name) for name in ("a.jpg", "sub/b.jpg", "c.jpg"))
    assert data.labels == (("cat", "dog", "fox"), ("dog",), ("owl",))
    found = data.match(["fox", "dog"])
    assert found.truth == ((1, 0), (1,))
    assert found.set_aside.no_labels == {"cat": 1, "owl": 1}
    assert found.set_aside.left_out == 1


def test_an_exact_name_wins_and_a_doubtful_one_is_an_error() -> None:
    data = make_labelled([("a.jpg", "polish"), ("b.jpg", ["Polish", "x"])])
    assert data.match(["Polish", "polish"]).truth == ((1,), (0,))
    with pytest.raises(InputError, match="'POLISH' could be the label 'Polish' or 'polish'"):
        make_labelled([("a.jpg", "POLISH")]).match(["Polish", "polish"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,label\na.jpg,cat\n", "columns path and label"),
        ("path,label\na.jpg,\n", "t.csv:2: the label is blank"),
        ("path,label\n,cat\n", "t.csv:2: the path is blank"),
        ("path,label\na.jpg,cat,dog\n", "t.csv:2: has 3 cells for 2 columns"),
        ('path,label\na.jpg,"cat\n', "t.csv:2: is not a csv line"),
        ("path,label\n", "no images in it"),
        ("", "no images in it"),
    ],
)
def test_a_csv_that_cannot_be_used_is_told_with_its_line(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_labelled(tmp_path / "t.csv")


def test_data_that_cannot_be_used(paint: Paint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_labelled(tmp_path / "none")
    with pytest.raises(InputError, match="columns path and label"):
        read_labelled(paint("a.png", "red"))
    with pytest.raises(InputError, match="make one per class"):
        read_labelled(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="no images in its folders"):
        read_labelled(tmp_path)
    with pytest.raises(InputError, match="it has 'cat', the labels are 'dog'"):
        make_labelled([("a.jpg", "cat")]).match(["dog"])
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff,cat\n")
    with pytest.raises(InputError, match="save the file as UTF-8"):
        read_labelled(tmp_path / "t.csv")


def test_a_folder_that_cannot_be_searched_is_told(paint: Paint, tmp_path: Path) -> None:
    paint("data/red/a.png", "red")
    (tmp_path / "data/red/locked").mkdir(mode=0)
    found = read_labelled(tmp_path / "data").match(["red"])
    if not found.set_aside.unreadable:
        pytest.skip("this user may read everything")
    assert isinstance(found.set_aside.unreadable[0], ImageError)
