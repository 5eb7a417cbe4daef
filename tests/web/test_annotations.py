"""Corrections are on the disk after every word, in a file that the other commands read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipcls.data.dataset import read_dataset
from clipcls.errors import InputError, OutputError
from clipcls.web.review.annotations import Corrections


def truth(path: Path) -> dict[str, str]:
    """The file as `fit`, `evaluate` and `calibrate` read it."""
    data = read_dataset(path)
    return {os.path.realpath(p): label for p, (label,) in zip(data.paths, data.labels, strict=True)}


def test_a_label_is_in_the_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    with Corrections(file) as corrections:
        corrections.set({str(tmp_path / "a.jpg"): "cat"})
        corrections.set({str(tmp_path / "b.jpg"): "dog", str(tmp_path / "c.jpg"): "dog"})
        rows = "a.jpg,cat,\nb.jpg,dog,\nc.jpg,dog,\n"
        assert file.read_text() == f"path,label,best\n{rows}"


def test_undo_and_redo_leave_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    a, b = (str(tmp_path / name) for name in ("a.jpg", "b.jpg"))
    with Corrections(file) as corrections:
        texts = [file.read_text()]
        for change in ({a: "cat"}, {a: "dog", b: "dog"}, {b: None}):
            assert corrections.set(change)
            texts.append(file.read_text())
        for text in texts[-2::-1]:
            assert corrections.undo()
            assert sorted(file.read_text().split("\n")) == sorted(text.split("\n"))
        assert corrections.undo() == []
        for text in texts[1:]:
            assert corrections.redo()
            assert sorted(file.read_text().split("\n")) == sorted(text.split("\n"))
        assert corrections.redo() == []
        corrections.undo()
        corrections.set({a: "bird"})
        assert not corrections.undone


def test_what_changes_nothing_is_no_action(tmp_path: Path) -> None:
    with Corrections(tmp_path / "corrections.csv") as corrections:
        corrections.set({"a.jpg": "cat"})
        assert corrections.set({"a.jpg": "cat", "b.jpg": None}) == []
        assert corrections.undo() == [os.path.realpath("a.jpg")]


names = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/|"), min_size=1
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)


@settings(max_examples=150, deadline=None)
@example({"'=.jpg": "'=x", "\ufeff": "+x"})
@given(st.dictionaries(names | st.just("two\nlines"), st.sampled_from(["cat", 'a "b", c', "=1+1"])))
def test_any_name_is_read_back(tmp_path_factory: pytest.TempPathFactory, given: dict) -> None:
    folder = tmp_path_factory.mktemp("any")
    expected = {os.path.join(folder, name): label for name, label in given.items()}
    with Corrections(folder / "corrections.csv") as corrections:
        corrections.set(expected)
        assert corrections.labels == expected
        if expected:
            assert truth(folder / "corrections.csv") == expected
    with Corrections(folder / "corrections.csv") as corrections:
        assert corrections.labels == expected


def test_no_path_is_a_formula(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    with Corrections(file) as corrections:
        corrections.set({str(tmp_path / "=cmd.jpg"): "cat"})
        assert file.read_text().split("\n")[1].startswith("'=cmd.jpg,")
        assert truth(file) == {str(tmp_path / "=cmd.jpg"): "cat"}


@pytest.mark.parametrize("label", ["a|b", "", " cat", "two\nlines", "\x1b[2J"])
def test_a_label_that_would_be_read_as_another_is_refused(tmp_path: Path, label: str) -> None:
    file = tmp_path / "corrections.csv"
    with Corrections(file) as corrections:
        with pytest.raises(InputError, match="label"):
            corrections.set({"a.jpg": "cat", "b.jpg": label})
        assert corrections.labels == {}
        assert file.read_text() == "path,label,best\n"


@pytest.mark.parametrize("name", ["b\udcff.jpg", "b\r.jpg"])
def test_a_name_that_a_csv_cannot_carry_is_refused(tmp_path: Path, name: str) -> None:
    corrections = Corrections(tmp_path / "corrections.csv")
    with corrections, pytest.raises(InputError, match="rename"):
        corrections.set({name: "cat"})


def test_paths_lead_to_the_images_from_wherever_the_file_is(tmp_path: Path) -> None:
    photos, other = tmp_path / "photos", tmp_path / "other/deep"
    photos.mkdir()
    other.mkdir(parents=True)
    (tmp_path / "link").symlink_to(other)
    (photos / "a.jpg").write_bytes(b"a")
    file = tmp_path / "link/corrections.csv"
    with Corrections(file) as corrections:
        corrections.set({str(photos / "a.jpg"): "cat"})
    (path,) = read_dataset(file).paths
    assert Path(path).read_bytes() == b"a"


def test_a_last_line_without_a_line_break_is_a_row_as_others(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    file.write_text("path,label\na.jpg,cat\nb.jpg,dog")
    with Corrections(file) as corrections:
        corrections.set({str(tmp_path / "c.jpg"): "cow"})
    assert list(truth(file).values()) == ["cat", "dog", "cow"]


def test_two_at_once_are_refused_even_after_the_file_was_replaced(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    with Corrections(file) as corrections:
        with pytest.raises(OutputError, match="another `clipcls review`"):
            Corrections(file)
        corrections.set({"a.jpg": "cat"})
        corrections.set({"a.jpg": "dog"})  # replaces the file
        with pytest.raises(OutputError, match="another `clipcls review`"):
            Corrections(file)
    with Corrections(file) as corrections:
        assert list(corrections.labels.values()) == ["dog"]


@pytest.mark.parametrize(
    "text",
    [
        "image,label\na.jpg,cat\n",
        "path;label;score\na.jpg;cat;1\n",
        "path,label,score\na.jpg,cat,1\n",
        "name,phone\nAnn,123\nBob,456",  # no line break at the end
        "one line",
    ],
)
def test_another_kind_of_file_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "corrections.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=r"corrections\.csv.*-o"):
        Corrections(file)
    assert file.read_text() == text


def test_a_quote_within_a_name_loses_no_row(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    file.write_text('path,label\n5" a.jpg,cat\nb.jpg,dog\n')
    with Corrections(file) as corrections:
        found = {os.path.basename(path): label for path, label in corrections.labels.items()}
    assert found == {'5" a.jpg': "cat", "b.jpg": "dog"}


def test_a_quote_that_is_not_closed_is_named_and_nothing_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    text = 'path,label\na.jpg,cat\n"b.jpg,dog\nc.jpg,dog\n'
    file.write_text(text)
    with pytest.raises(InputError, match=r"corrections\.csv:3: "):
        Corrections(file)
    assert file.read_text() == text


def test_a_header_alone_is_a_file_without_corrections(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    file.write_text("path,label")
    with Corrections(file) as corrections:
        corrections.set({str(tmp_path / "a.jpg"): "cat"})
    assert file.read_text() == "path,label,best\na.jpg,cat,\n"


def test_a_name_in_the_file_that_no_image_has_is_refused_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    file.write_text("path,label\na.jpg,cat\nb\0.jpg,dog\n")
    with pytest.raises(InputError, match=r"corrections\.csv:3: .*b\\x00\.jpg"):
        Corrections(file)


def test_several_labels_of_an_image_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    file.write_text("path,label\na.jpg,cat\na.jpg,dog\n")
    with pytest.raises(InputError, match="several labels"):
        Corrections(file)


def test_labelled_images_without_the_classifiers_answers_are_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "truth.csv"
    file.write_text("path,label\na.jpg,cat\n")
    with Corrections(file) as corrections:
        corrections.best[str(tmp_path / "b.jpg")] = "wolf, grey"
        corrections.set({str(tmp_path / "b.jpg"): "dog"})
    assert file.read_text() == 'path,label,best\na.jpg,cat,\nb.jpg,dog,"wolf, grey"\n'
    with Corrections(file) as corrections:
        assert corrections.best[str(tmp_path / "b.jpg")] == "wolf, grey"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_corrections_that_a_spreadsheet_saved_are_gone_on_with(
    tmp_path: Path, encoding: str
) -> None:
    file = tmp_path / "corrections.csv"
    text = "path;label;best\r\na.jpg;Bär;cat\r\n"
    file.write_bytes(text.encode(encoding))
    with Corrections(file) as corrections:
        assert corrections.labels == {str(tmp_path / "a.jpg"): "Bär"}
        assert corrections.best == {str(tmp_path / "a.jpg"): "cat"}
        assert file.read_bytes() == text.encode(encoding), "what is only read stays as it is"
        corrections.set({str(tmp_path / "b.jpg"): "dog"})
    assert file.read_text("utf-8") == "path,label,best\na.jpg,Bär,cat\nb.jpg,dog,\n"


def test_rows_of_images_elsewhere_stay(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    file.write_text("path,label\nelsewhere.jpg,cat\n")
    with Corrections(file) as corrections:
        corrections.set({str(tmp_path / "a.jpg"): "dog"})
        corrections.set({str(tmp_path / "a.jpg"): "cow"})
    assert sorted(map(os.path.basename, truth(file))) == ["a.jpg", "elsewhere.jpg"]


def test_a_file_without_rows_does_not_stay(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    with Corrections(file) as corrections:
        corrections.set({"a.jpg": "cat"})
        corrections.undo()
    assert not file.exists()


@pytest.mark.parametrize("by_rename", [True, False])
def test_what_another_program_saved_meanwhile_stays_and_nothing_is_said_to_be_kept(
    tmp_path: Path, by_rename: bool
) -> None:
    """As editors and sync clients do; a label must not go into a file that has no name any more."""
    file, saved = tmp_path / "corrections.csv", "path,label\na.jpg,lynx\n"

    def save() -> None:
        (tmp_path / "editor's").write_text(saved)
        if by_rename:
            os.replace(tmp_path / "editor's", file)
        else:
            file.write_text(saved)

    with Corrections(file) as corrections:
        corrections.set({"a.jpg": "cat"})
        labels = dict(corrections.labels)
        save()
        for change in ({"b.jpg": "dog"}, {"a.jpg": "dog"}, {"a.jpg": None}):
            with pytest.raises(OutputError, match="changed by another program; restart"):
                corrections.set(change)
        with pytest.raises(OutputError, match="changed by another program; restart"):
            corrections.undo()
        assert corrections.labels == labels
    assert file.read_text() == saved
    file.unlink()
    with Corrections(file):  # no label at all
        save()
    assert file.read_text() == saved


def test_links_that_lie_in_wait_are_not_followed(tmp_path: Path) -> None:
    """In a folder from elsewhere: at the name of a part, and of the corrections themselves."""
    victim, zeros = tmp_path / "victim", tmp_path / "disk.img"
    victim.write_text("mine")
    zeros.write_bytes(bytes(1000))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".c.csv.part").symlink_to(victim)
    (folder / "zeros.csv").symlink_to(zeros)
    with Corrections(folder / "c.csv") as corrections:
        corrections.set({str(folder / "a.jpg"): "cat"})
        corrections.set({str(folder / "a.jpg"): "dog"})
    assert (folder / "c.csv").read_text() == "path,label,best\na.jpg,dog,\n"
    with pytest.raises(InputError, match=r"disk\.img: corrections are a .csv file"):
        Corrections(folder / "zeros.csv")
    assert (victim.read_text(), zeros.read_bytes()) == ("mine", bytes(1000))


@pytest.mark.parametrize("text", ["path,label\n", "\ufeffpath,label,best\n"])
def test_a_file_without_rows_that_somebody_else_wrote_stays(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.csv"
    file.write_text(text)
    with Corrections(file):
        pass
    assert file.exists()


def test_a_file_that_was_deleted_meanwhile_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    with Corrections(file) as corrections:
        corrections.set({str(tmp_path / "a.jpg"): "cat"})
        file.unlink()
        corrections.set({str(tmp_path / "b.jpg"): "dog"})
        corrections.set({str(tmp_path / "c.jpg"): "dog"})
        rows = "a.jpg,cat,\nb.jpg,dog,\nc.jpg,dog,\n"
        assert file.read_text() == f"path,label,best\n{rows}"
        with pytest.raises(OutputError, match="another `clipcls review`"):
            Corrections(file)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_what_could_not_be_written_was_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "corrections.csv"
    with Corrections(file) as corrections:
        corrections.set({"a.jpg": "cat"})
        text = file.read_text()
        real = os.fsync

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        for change in ({"b.jpg": "dog"}, {"a.jpg": "dog"}):
            with pytest.raises(OutputError, match="no space left"):
                corrections.set(change)
        with pytest.raises(OutputError):
            corrections.undo()
        monkeypatch.setattr(os, "fsync", real)
        assert file.read_text() == text
        assert list(corrections.labels.values()) == ["cat"]
        assert [p.name for p in tmp_path.iterdir()] == ["corrections.csv"]
        corrections.set({"a.jpg": "dog"})
        assert "dog" in file.read_text()


WRITER = """
import sys
import time
from clipcls.web.review.annotations import Corrections
corrections = Corrections(sys.argv[1])
for number in range(10_000):
    path = f"{sys.argv[2]}/{number % 50}.jpg"
    corrections.set({path: f"label {number}"})  # from the 51st on a row is replaced
    print(number, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 49, 60, 111])
def test_kill_9_loses_nothing_that_was_said(tmp_path: Path, lines: int) -> None:
    file = tmp_path / "corrections.csv"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(lines):
        last = int(process.stdout.readline())
    process.kill()
    process.wait()
    last = max([last, *map(int, process.stdout.read().split())])
    process.stdout.close()
    with Corrections(file) as corrections:
        found = {os.path.basename(path): label for path, label in corrections.labels.items()}
    said = {f"{number % 50}.jpg": f"label {number}" for number in range(last + 1)}
    extra = {f"{(last + 1) % 50}.jpg": f"label {last + 1}"}  # done, but not told of any more
    assert found in (said, said | extra)


def test_an_action_among_many_corrections_is_quick(tmp_path: Path) -> None:
    def measure(labels: dict[str, str | None]) -> float:
        start = time.perf_counter()
        corrections.set(labels)
        return time.perf_counter() - start

    names = [str(tmp_path / f"{number}.jpg") for number in range(20_000)]
    with Corrections(tmp_path / "corrections.csv") as corrections:
        first = measure(dict.fromkeys(names, "cat"))
        assert min(measure({name: "dog"}) for name in names[:5]) < first / 5
        corrections.best[os.path.realpath(names[0])] = "dog"
        corrections.set({names[1]: "cat"})
    assert "\n0.jpg,dog,dog\n" in (tmp_path / "corrections.csv").read_text()
