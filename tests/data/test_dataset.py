from __future__ import annotations

import gzip
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from clipcls.classification.labelled import meanings
from clipcls.classification.zero_shot import ZeroShotClassifier
from clipcls.data.dataset import make_dataset, read_dataset
from clipcls.data.matching import match_labels
from clipcls.errors import ImageError, InputError
from clipcls.organize.execute import file_results
from helpers.encoders import ColourEncoder
from helpers.predictions import predicted

Paint = Callable[..., str]


def test_folders_are_classes_and_what_is_none_is_told(paint: Paint, tmp_path: Path) -> None:
    red = paint("data/Dark_Red/a.png", "red")
    deep = paint("data/Dark_Red/more/b.png", "red")
    blue = paint("data/sky-blue/c.png", "blue")
    paint("data/other/d.png", "green")
    paint("data/loose.png", "green")
    paint("data/.hidden/e.png", "green")
    (tmp_path / "data" / "void").mkdir()
    data = read_dataset(tmp_path / "data")
    found = match_labels(data, ["Sky blue", "dark red", "yellow"])
    assert found.paths == (red, deep, blue)
    assert found.truth == ((1,), (1,), (0,))
    assert found.excluded.no_labels == {"other": 1, "void": 0}
    assert (found.excluded.left_out, found.excluded.beside) == (1, 1)


def test_in_nested_folders_the_deepest_that_names_a_label_decides(
    paint: Paint, tmp_path: Path
) -> None:
    pug = paint("data/animal/dog/Pug/a.png", "red")
    dog = paint("data/animal/dog/by me/b.png", "red")
    other = paint("data/animal/c.png", "red")
    split = paint("data/train/cat/d.png", "red")
    data = read_dataset(tmp_path / "data")
    found = match_labels(data, ["pug", "dog", "cat"])
    assert dict(zip(found.paths, found.truth, strict=True)) == {pug: (0,), dog: (1,), split: (2,)}
    assert found.excluded.no_labels == {"animal": 1}
    assert other not in found.paths
    # As before where folders further down are no labels.
    assert match_labels(data, ["animal", "train"]).truth == ((0,), (0,), (0,), (1,))


def test_a_name_of_two_labels_is_told_apart_by_the_folders_above(
    paint: Paint, tmp_path: Path
) -> None:
    paint("data/bird/crane/a.png", "red")
    paint("data/machine/crane/b.png", "red")
    data = read_dataset(tmp_path / "data")
    meanings = {"bird > crane": (0,), "machine > crane": (1,), "bird": (0,)}
    assert match_labels(data, ["crane", "crane"], meanings).truth == ((0,), (1,))
    # A folder further down whose name is doubtful is no label, the top one is an error.
    doubtful = ["Crane", "crane", "bird", "machine"]
    paint("deep/bird/CRANE/a.png", "red")
    assert match_labels(read_dataset(tmp_path / "deep"), doubtful).truth == ((2,),)
    paint("top/CRANE/a.png", "red")
    with pytest.raises(InputError, match="'CRANE' could be the label"):
        match_labels(read_dataset(tmp_path / "top"), doubtful)


def test_of_several_labels_an_image_foreign_ones_say_that_it_has_none() -> None:
    data = make_dataset(
        [
            *(("a", ["dog", "fox"]), ("b", ["fox"]), ("c", []), ("d", ["animal"])),
            *(("e", ["animal", "pug"]), ("f", ["ball", "animal"])),
        ],
        unlabelled=True,
    )
    above = {"animal": (0, 1), "pug": (0,), "dog": (1,), "ball": (2,)}
    found = match_labels(data, ["pug", "dog", "ball"], several=True, above=above)
    assert (found.paths, found.truth) == (("a", "b", "c", "e"), ((1,), (), (), (0,)))
    excluded = found.excluded
    assert excluded.no_labels == {"animal": 3, "fox": 2}
    # That an image shows an animal leaves open whether it is a dog.
    assert (excluded.as_none, excluded.left_out) == (1, 2)
    alone = match_labels(data, ["pug", "dog", "ball"])
    assert (alone.paths, alone.excluded.left_out) == (("a", "c", "e", "f"), 2)
    assert (alone.excluded.as_none, "as_none" in alone.excluded.record()) == (None, False)


def test_csv_with_several_labels_in_a_cell_or_in_rows(tmp_path: Path) -> None:
    file = tmp_path / "truth.csv"
    file.write_text(
        '\ufeffpath;label;note\na.jpg;cat|dog;x\nsub/b.jpg;"dog";\n\na.jpg;fox|dog;\nc.jpg;owl;\n',
        "utf-8",
    )
    data = read_dataset(file)
    assert data.paths == tuple(str(tmp_path / name) for name in ("a.jpg", "sub/b.jpg", "c.jpg"))
    assert data.labels == (("cat", "dog", "fox"), ("dog",), ("owl",))
    found = match_labels(data, ["fox", "dog"])
    assert found.truth == ((1, 0), (1,))
    assert found.excluded.no_labels == {"cat": 1, "owl": 1}
    assert found.excluded.left_out == 1


def test_an_exact_name_wins_and_a_doubtful_one_is_an_error() -> None:
    data = make_dataset([("a.jpg", "polish"), ("b.jpg", ["Polish", "x"])])
    assert match_labels(data, ["Polish", "polish"]).truth == ((1,), (0,))
    with pytest.raises(InputError, match="'POLISH' could be the label 'Polish' or 'polish'"):
        match_labels(make_dataset([("a.jpg", "POLISH")]), ["Polish", "polish"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("picture,label\na.jpg,cat\n", "t.csv:1: .*--image-column: 'picture', 'label'"),
        ("path,label\na.jpg,\n", "t.csv:2: the label is blank"),
        ("path,label\n,cat\n", "t.csv:2: the path is blank"),
        ("path,label\na.jpg,cat,dog\n", "t.csv:2: has 3 cells for 2 columns"),
        ('path,label\na.jpg,"cat\n', "t.csv:2: is not a csv line"),
        ("path,label\n", "contains no images"),
        ("", "contains no images"),
    ],
)
def test_a_csv_that_cannot_be_used_is_told_with_its_line(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_dataset(tmp_path / "t.csv")


def test_data_that_cannot_be_used(paint: Paint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_dataset(tmp_path / "none")
    with pytest.raises(InputError, match="columns path and label"):
        read_dataset(paint("a.png", "red"))
    with pytest.raises(InputError, match="make one per class"):
        read_dataset(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="its folders contain no images"):
        read_dataset(tmp_path)
    with pytest.raises(InputError, match="labels 'dog'; the labels of the data are 'cat'"):
        match_labels(make_dataset([("a.jpg", "cat")]), ["dog"])
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff,cat\n")
    with pytest.raises(InputError, match="save the file as UTF-8"):
        read_dataset(tmp_path / "t.csv")


def test_a_folder_that_cannot_be_searched_is_told(paint: Paint, tmp_path: Path) -> None:
    paint("data/red/a.png", "red")
    (tmp_path / "data/red/locked").mkdir(mode=0)
    found = match_labels(read_dataset(tmp_path / "data"), ["red"])
    if not found.excluded.unreadable:
        pytest.skip("this user may read everything")
    assert isinstance(found.excluded.unreadable[0], ImageError)


# What `clipcls sort` makes


AWKWARD = ("b/w", "c:d?", "etc.", ".hidden", "aux", "wei*rd", "x" * 300, "Käfer/Wanze", "plain")


def forget(target: Path) -> None:
    """Removes the journals."""
    for journal in target.glob("*.jsonl"):
        journal.unlink()


def sorted_into(target: Path, paint: Paint, labels: tuple[tuple[str, ...], ...]) -> list[str]:
    """One image per label, filed by `clipcls sort`; the images' names are the labels' numbers."""
    results = [predicted(paint(f"from/{n}.png", "red"), label) for n, label in enumerate(labels)]
    filed = file_results(results, target)
    assert filed.changed == len(labels)
    return [r.path for r in results]


@pytest.mark.parametrize("with_journal", [True, False])
def test_folders_of_awkward_labels_are_still_their_labels(
    paint: Paint, tmp_path: Path, with_journal: bool
) -> None:
    sorted_into(tmp_path / "out", paint, tuple((label,) for label in AWKWARD))
    if with_journal:  # so that `fit` needs no list of labels
        assert {*read_dataset(tmp_path / "out").labels} == {(label,) for label in AWKWARD}
    else:
        for file in (tmp_path / "out").iterdir():
            if file.is_dir():  # a Mac decomposes names
                file.rename(file.with_name(unicodedata.normalize("NFD", file.name)))
            else:
                file.unlink()
    found = match_labels(read_dataset(tmp_path / "out"), AWKWARD)
    assert found.truth == tuple((int(Path(p).stem),) for p in found.paths)
    assert len(found.paths) == len(AWKWARD)
    assert found.excluded.no_labels == {}


def test_folders_of_labels_that_would_be_one_are_told_apart(paint: Paint, tmp_path: Path) -> None:
    labels = ("a/b", "a:b", "a_b", "A_B", "polish", "Polish")
    sorted_into(tmp_path / "out", paint, tuple((label,) for label in labels))
    for step in (forget, shutil.rmtree):
        found = match_labels(read_dataset(tmp_path / "out"), labels)
        assert found.truth == tuple((int(Path(p).stem),) for p in found.paths)
        assert len(found.paths) == len(labels)
        step(tmp_path / "out")
    # With only one of two labels in the folder nothing says which, and the cure is named.
    paint("alone/x_y/0.png", "red")
    with pytest.raises(InputError, match=r"'x_y' could be of several.*'x_y~\w+' for 'x:y' or"):
        match_labels(read_dataset(tmp_path / "alone"), ["x:y", "x/y"])
    assert match_labels(read_dataset(tmp_path / "alone"), ["x:y", "x y"]).truth == ((0,),)
    assert match_labels(read_dataset(tmp_path / "alone"), ["z", "x y"]).truth == ((1,),)


def test_folders_of_a_hierarchy_are_still_its_labels(
    paint: Paint, tmp_path: Path, encoder: ColourEncoder
) -> None:
    labels = ["b/w > red?", "b/w > green:", "col. > blue*"]
    classifier = ZeroShotClassifier(labels, encoder, cache=False).fit()
    paths = tuple(tuple(label.split(" > ")) for label in labels)
    sorted_into(tmp_path / "out", paint, paths)
    for step in (forget, shutil.rmtree):
        found = match_labels(
            read_dataset(tmp_path / "out"), classifier.classes_.tolist(), meanings(classifier)
        )
        assert found.truth == tuple((int(Path(p).stem),) for p in found.paths)
        assert len(found.paths) == 3
        step(tmp_path / "out")


# Paths of other systems


def test_paths_are_found_under_the_names_that_the_disk_has(
    paint: Paint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = paint("site1/camA/IMG_1.png", "red")
    two = paint(unicodedata.normalize("NFD", "Käfer.png"), "red")
    file = tmp_path / "truth.tsv.gz"
    text = "path\tlabel\nsite1\\camA\\IMG_1.png\tcat\nK\u00e4fer.png\tdog\ngone.png\tdog\n"
    file.write_bytes(gzip.compress(text.encode("utf-16")))
    data = read_dataset(file)
    assert data.paths == (one, two, str(tmp_path / "gone.png"))
    assert "the disk spells 2 of 3 paths differently, such as" in caplog.text
    windows = tmp_path / "windows.csv"
    windows.write_text("path,label\nC:\\\\photos\\\\a.jpg,cat\n\\\\nas\\b.jpg,cat\n")
    read_dataset(windows)
    assert "2 of 2 paths are not on this disk, such as " in caplog.text
    assert "(no such file; it begins with a Windows drive)" in caplog.text
    cased = tmp_path / "cased.csv"
    cased.write_text("path,label\nSITE1/camA/IMG_1.png,cat\nsite1/camA/img_1.PNG,cat\n")
    read_dataset(cased)
    assert "img_1.PNG (no such file; the disk has 'IMG_1.png')" in caplog.text


def test_the_guard_against_formulas_is_taken_off(paint: Paint, tmp_path: Path) -> None:
    paint("=1.png", "red")
    (tmp_path / "t.csv").write_text("path,label\n'=1.png,'+cat\n")
    data = read_dataset(tmp_path / "t.csv")
    assert (data.paths, data.labels) == ((str(tmp_path / "=1.png"),), (("+cat",),))
