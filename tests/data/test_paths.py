"""What find_images yields for what a user can name."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipcls.data import file_kinds, image_formats, images
from clipcls.data.file_kinds import SUFFIXES, LeftOut
from clipcls.data.paths import find_images
from clipcls.errors import ImageError, InputError, install_command

posix = pytest.mark.skipif(os.name == "nt", reason="a POSIX file system is needed")


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(*inputs: str, stdin: bytes | None = None, null: bool = False) -> list[str]:
    """Paths, and 'path: reason' for what cannot be read."""
    stream = None if stdin is None else io.BytesIO(stdin)
    return [str(item) for item in find_images(inputs, stdin=stream, null=null)]


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything; step down for a moment."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError as error:
        pytest.skip(f"root without the right to become another user: {error}")
    try:
        yield
    finally:
        os.seteuid(0)


def test_folder_is_sorted_recursive_and_filtered() -> None:
    touch("p/b.jpg", "p/a/2.PNG", "p/a/10.png", "p/c.txt", "p/Z.Jpeg", "p/noext", "p/d.heic")
    assert found("p") == ["p/Z.Jpeg", "p/a/10.png", "p/a/2.PNG", "p/b.jpg", "p/d.heic"]
    assert found("p/") == ["p/Z.Jpeg", "p/a/10.png", "p/a/2.PNG", "p/b.jpg", "p/d.heic"]


def test_paths_stay_as_named(tmp_path: Path) -> None:
    touch("p/a.jpg")
    assert found("./p") == ["./p/a.jpg"]
    assert found(".") == ["./p/a.jpg"]
    assert found(str(tmp_path)) == [str(tmp_path / "p/a.jpg")]
    assert list(find_images([Path("p")])) == ["p/a.jpg"]


def test_each_input_without_images_next_to_others_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    touch("void/a.txt", "p/a.jpg", "p/b.jpg")
    zipfile.ZipFile("void.zip", "w").close()
    tarfile.open("void.tar", "w").close()
    tarfile.open("void.tar.gz", "w:gz").close()
    Path("void.csv").write_text("path,label\n")
    pq.write_table(pa.table({"path": pa.array([], pa.string())}), "void.parquet")
    fsspec.filesystem("memory").pipe("/void/a.txt", b"x")
    empty = ["void", "void.zip", "void.tar", "void.tar.gz", "void.csv", "void.parquet"]
    empty += ["memory://void/", "voi[d]"]
    for _ in range(2):  # counted, then read
        assert found(*empty[:4], "p", *empty[4:], "p/b.jpg") == ["p/a.jpg", "p/b.jpg", "p/b.jpg"]
    assert [r.getMessage() for r in caplog.records] == [f"no images in {name}" for name in empty]
    caplog.clear()
    with pytest.raises(InputError, match="no images in void"):
        found(*empty)
    assert not caplog.records


def test_hidden_and_system_files_only_when_named() -> None:
    touch("p/.h.jpg", "p/._a.jpg", "p/a.jpg", "p/.git/x.png", "p/@eaDir/t.jpg", "p/__MACOSX/m.jpg")
    assert found("p") == ["p/a.jpg"]
    assert found("p/.h.jpg", "p/.git", "p/@eaDir") == ["p/.h.jpg", "p/.git/x.png", "p/@eaDir/t.jpg"]


def test_named_file_is_taken_whatever_its_suffix() -> None:
    touch("notes.txt")
    assert found("notes.txt") == ["notes.txt"]


@pytest.mark.parametrize(
    "name",
    [
        "#recycle",
        "@Recycle",
        "$Recycle.Bin",
        ".Trash-1000",
        "lost+found",
        "System Volume Information",
        "RECYCLER",
    ],
)
def test_trash_and_copies_that_systems_make_are_searched_only_when_named(name: str) -> None:
    touch("p/a.jpg", f"p/{name}/old.jpg", f"p/sub/{name}/deep/old.jpg")
    assert found("p") == found("p/**/*.jpg") == ["p/a.jpg"]
    assert found(f"p/{name}") == [f"p/{name}/old.jpg"]


def test_a_folder_of_recycled_things_is_no_trash() -> None:
    touch("p/recycled/a.jpg")
    assert found("p") == ["p/recycled/a.jpg"]


def without_rawpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_kinds, "reads_raw", lambda: False)


def test_what_a_folder_holds_besides_is_counted_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    without_rawpy(monkeypatch)
    touch("p/a.jpg", "p/1.NEF", "p/2.nef", "p/s/3.CR3", "p/clip.MP4", "p/README", "p/a.xmp")
    touch("p/.hidden", "p/@eaDir/t.jpg", "p/scan.pdf", "p/logo.svg", "p/b.jxl", "p/.c.jpg.icloud")
    left_out = LeftOut()
    assert list(find_images(["p"], left_out=left_out)) == ["p/a.jpg"]
    assert str(left_out) == (
        "3 raw files (.nef, .cr3), 1 video (.mp4), 1 document (.pdf), 1 drawing (.svg), "
        "1 image file of another format (.jxl), 1 other file (.xmp), "
        "1 file not downloaded from iCloud, 1 file without a suffix, "
        "1 system folder (@eaDir) left out; to read videos, name them or a pattern like *.mp4; "
        f"to read raw files: {install_command('raw')}"
    )
    assert left_out.may_be_images


def test_data_beside_images_is_nothing_to_mention(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("p/a.jpg", "p/a.txt", "p/a.jpg.xmp", "p/#recycle/x.jpg")
    left_out = LeftOut()
    list(find_images(["p", "p/a.txt"], left_out=left_out))
    assert not left_out.may_be_images
    assert not LeftOut().may_be_images


def test_a_folder_without_images_says_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    without_rawpy(monkeypatch)
    touch("p/1.cr3", "p/2.cr3")
    with pytest.raises(InputError) as error:
        found("p")
    assert str(error.value) == (
        f"no images in p: 2 raw files (.cr3) left out; to read raw files: {install_command('raw')}"
    )


def test_raw_files_are_images_where_they_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_kinds, "reads_raw", lambda: True)
    touch("p/1.CR3", "p/1.jpg")
    assert found("p") == ["p/1.CR3", "p/1.jpg"]


def test_unknown_suffixes_are_looked_into(tmp_path: Path) -> None:
    Path("p").mkdir()
    square = Image.new("RGB", (8, 8))
    for name, kind in (
        ("noext", "JPEG"),
        ("dl.jpg?w=300", "JPEG"),
        ("photo.jpg.1", "PNG"),
        ("x.jpg_large", "WEBP"),
        ("y.dat", "BMP"),
        ("z.dat", "TIFF"),
        ("backup.jpg~", "JPEG"),
        ("edited.jpg_original", "JPEG"),
        ("half.jpg.part", "JPEG"),
    ):
        square.save(Path("p", name), kind)
    touch("p/Makefile", "p/BM.note", "p/empty.dat")
    Path("p/empty.dat").write_bytes(b"")
    left_out = LeftOut()
    names = ["dl.jpg?w=300", "noext", "photo.jpg.1", "x.jpg_large", "y.dat", "z.dat"]
    assert list(find_images(["p"], left_out=left_out)) == [f"p/{name}" for name in names]
    assert sum(map(sum, (kind.values() for kind in left_out.counts.values()))) == 6


@posix
def test_a_pipe_without_a_suffix_is_not_opened() -> None:
    touch("p/a.jpg")
    os.mkfifo("p/pipe")
    assert found("p") == ["p/a.jpg"]


def test_folder_with_an_image_name_is_a_folder() -> None:
    touch("p/x.jpg/inner.png")
    assert found("p") == ["p/x.jpg/inner.png"]
    assert found("p/x.jpg") == ["p/x.jpg/inner.png"]


def test_order_is_that_of_the_inputs_and_repeats_stay() -> None:
    touch("p/a.jpg", "q.jpg")
    assert found("q.jpg", "p", "p/a.jpg", "q.jpg") == ["q.jpg", "p/a.jpg", "p/a.jpg", "q.jpg"]


def test_missing_input_is_an_item_not_the_end() -> None:
    touch("a.jpg")
    items = list(find_images(["gone.jpg", "a.jpg", ""]))
    assert [type(item) for item in items] == [ImageError, str, ImageError]
    assert isinstance(items[0], ImageError)
    assert (items[0].path, items[0].reason) == ("gone.jpg", "no such file")
    assert found("a.jpg/b.jpg") == ["a.jpg/b.jpg: no such file"]
    assert found("nul\0byte.jpg") == [r"nul\x00byte.jpg: not a valid file name"]
    assert found("n" * 5000) == ["n" * 5000 + ": file name too long"]


def test_nothing_found_is_an_error() -> None:
    Path("empty").mkdir()
    touch("texts/a.txt")
    with pytest.raises(InputError, match=r"^no images in empty, texts: 1 other file"):
        found("empty", "texts")
    with pytest.raises(InputError, match="no images"):
        found()
    with pytest.raises(InputError, match="no images in the list on standard input"):
        found("-", stdin=b"\n")


@posix
def test_symlink_loops_end() -> None:
    touch("p/a/1.jpg", "p/b/2.jpg")
    os.symlink("..", "p/a/up")  # to an ancestor
    os.symlink(".", "p/self")
    os.symlink("../b", "p/a/b")  # two folders that link to each other
    os.symlink("../a", "p/b/a")
    os.symlink("knot", "p/knot")
    names = found("p")
    assert {os.path.realpath(name) for name in names} == {
        os.path.realpath("p/a/1.jpg"),
        os.path.realpath("p/b/2.jpg"),
    }
    assert len(names) <= 6
    assert set(found("p/**/*.jpg")) >= {"p/a/1.jpg", "p/b/2.jpg"}
    assert len(found("p/**/*.jpg")) <= 6


@posix
def test_links_do_not_multiply() -> None:
    # Each level links twice to the next: 2**20 ways down if every link were followed.
    for level in range(20):
        Path(f"f/{level}").mkdir(parents=True)
        if level < 19:
            os.symlink(f"../{level + 1}", f"f/{level}/x")
            os.symlink(f"../{level + 1}", f"f/{level}/y")
    touch("f/19/z.jpg")
    assert 1 <= len(found("f/0")) <= 2
    assert 1 <= len(found("f/0/**")) <= 2


@posix
def test_links_to_files_and_folders_are_followed() -> None:
    touch("real/1.jpg", "elsewhere/x.bin")
    Path("p").mkdir()
    os.symlink("../real", "p/album")
    os.symlink("../elsewhere/x.bin", "p/x.jpg")
    os.symlink("nowhere", "p/broken.jpg")  # comes, so that reading it says why it fails
    assert found("p") == ["p/album/1.jpg", "p/broken.jpg", "p/x.jpg"]
    os.symlink("p", "q")
    assert found("q") == ["q/album/1.jpg", "q/broken.jpg", "q/x.jpg"]


@posix
def test_very_deep_folders() -> None:
    # Deeper than Python's recursion limit; made and removed level by level for the same reason.
    levels = ["/".join(["d"] * depth) for depth in range(1, 1101)]
    for level in levels:
        os.mkdir(level)
    image = levels[-1] + "/a.jpg"
    touch(image)
    try:
        assert found("d") == [image]
        assert found("d/**/*.jpg") == [image]
    finally:
        os.remove(image)
        for level in reversed(levels):
            os.rmdir(level)


@posix
def test_unreadable_folder_is_named_and_the_rest_found(monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all = tempfile.TemporaryDirectory()  # pytest's own folders are closed to other users
    os.chmod(open_to_all.name, 0o755)
    monkeypatch.chdir(open_to_all.name)
    touch("p/1.jpg", "p/locked/2.jpg", "p/z.jpg")
    os.chmod("p/locked", 0)
    try:
        with unprivileged():
            assert found("p") == ["p/1.jpg", "p/locked: permission denied", "p/z.jpg"]
            assert found("p/locked") == ["p/locked: permission denied"]
            assert found("p/locked/2.jpg") == ["p/locked/2.jpg: permission denied"]
            assert found("p/locked/*.jpg") == ["p/locked/*.jpg: no file matches this pattern"]
    finally:
        os.chmod("p/locked", 0o755)
        open_to_all.cleanup()


def test_patterns() -> None:
    touch("a1.jpg", "a2.jpg", "b1.JPG", "n.txt", ".h.jpg", "s/a3.jpg", "s/t/a4.jpg", "s/.h/a5.jpg")
    assert found("a*.jpg") == ["a1.jpg", "a2.jpg"]
    assert found("./a?.jpg") == ["./a1.jpg", "./a2.jpg"]
    assert found("[ab]1.*") == ["a1.jpg", "b1.JPG"]
    assert found("*.txt") == ["n.txt"]  # as if a shell had put it there: named, so taken
    assert found(".*.jpg") == [".h.jpg"]
    assert found("s/*/*.jpg") == ["s/t/a4.jpg"]
    assert found("s*") == ["s/a3.jpg", "s/t/a4.jpg"]  # a folder that matches is searched
    assert found("**/*.jpg") == ["a1.jpg", "a2.jpg", "s/a3.jpg", "s/t/a4.jpg"]
    assert found("s/**") == found("s/**/*") == ["s/a3.jpg", "s/t/a4.jpg"]
    assert found("**/t/**/*.jpg") == ["s/t/a4.jpg"]
    assert found(os.path.join(os.getcwd(), "a1*")) == [os.path.join(os.getcwd(), "a1.jpg")]
    assert found("z*.jpg", "a1.jpg") == ["z*.jpg: no file matches this pattern", "a1.jpg"]


@posix
def test_a_file_wins_over_the_pattern_of_its_name() -> None:
    touch("photo[1].jpg", "photo1.jpg", "what*.jpg", "whatever.jpg", "d[x]/a.jpg")
    assert found("photo[1].jpg") == ["photo[1].jpg"]
    assert found("what*.jpg") == ["what*.jpg"]
    assert found("d[x]") == ["d[x]/a.jpg"]
    Path("photo[1].jpg").unlink()
    assert found("photo[1].jpg") == ["photo1.jpg"]


@posix
def test_a_part_of_a_pattern_that_exists_is_no_pattern(tmp_path: Path) -> None:
    touch(
        "[2024] Trip/a.jpg",
        "[2024] Trip/[x] y/b.jpg",
        "2 Trip/no.jpg",
        "what?/c.jpg",
        "whats/d.jpg",
    )
    assert found("[2024] Trip/*.jpg") == ["[2024] Trip/a.jpg"]
    assert found("[2024] Trip/[x] y/?.jpg") == ["[2024] Trip/[x] y/b.jpg"]
    assert found("[2024] Trip/[x]*/*.jpg") == ["[2024] Trip/[x] y/b.jpg"]
    assert found("[[]2024] Trip/[x] y/*") == ["[2024] Trip/[x] y/b.jpg"]
    assert found("[2024] Trip/**/*.jpg") == ["[2024] Trip/a.jpg", "[2024] Trip/[x] y/b.jpg"]
    assert found("*/[x] y/*.jpg") == ["[2024] Trip/[x] y/b.jpg"]
    assert found(f"{tmp_path}/[2024] Trip/*.jpg") == [f"{tmp_path}/[2024] Trip/a.jpg"]
    assert found("what?/*.jpg") == ["what?/c.jpg"]
    assert found("what[?s]/*.jpg") == ["what?/c.jpg", "whats/d.jpg"]
    assert found("[12] Trip/*.jpg") == ["2 Trip/no.jpg"]
    listed = found("-", stdin=b"[2024] Trip/*.jpg\n[2024] Trip/a.jpg\n")
    assert listed == ["[2024] Trip/*.jpg: no such file", "[2024] Trip/a.jpg"]


def test_paths_on_stdin() -> None:
    touch("a.jpg", "p/b.jpg", "with space.jpg", "*.txt")
    assert found("-", stdin=b"a.jpg\np\n\nwith space.jpg\n*.txt") == [
        "a.jpg",
        "p/b.jpg",
        "with space.jpg",
        "*.txt",
    ]
    assert found("-", stdin=b"\xef\xbb\xbfa.jpg\r\np\r\n") == ["a.jpg", "p/b.jpg"]
    assert found("-", stdin=b"*.jpg\n") == ["*.jpg: no such file"]  # names, not patterns
    assert found("p", "-", "a.jpg", stdin=b"a.jpg\n") == ["p/b.jpg", "a.jpg", "a.jpg"]


@posix
def test_nul_separated_stdin() -> None:
    touch("a.jpg", "new\nline.jpg", "cr.jpg\r")
    assert found("-", stdin=b"a.jpg\0new\nline.jpg\0", null=True) == ["a.jpg", "new\nline.jpg"]
    assert found("-", stdin=b"a.jpg\0a.jpg", null=True) == ["a.jpg", "a.jpg"]
    assert found("-", stdin=b"cr.jpg\r\n") == ["cr.jpg\r"]  # exists, so it is its name
    many = [f"f{i}.jpg" for i in range(20_000)]  # names cut by the buffer's end
    stdin = "\0".join(many).encode()
    assert found("-", stdin=stdin, null=True) == [f"{name}: no such file" for name in many]
    with pytest.raises(InputError, match="add -0"):
        found("-", stdin=b"a.jpg\0b.jpg\0")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_utf16_list_as_powershell_writes_it(encoding: str) -> None:
    touch("a.jpg", "p/Käfer.jpg")
    stdin = "a.jpg\r\np/Käfer.jpg\r\n".encode(encoding)
    assert found("-", stdin=stdin) == ["a.jpg", "p/Käfer.jpg"]
    assert found("-", stdin="a.jpg".encode(encoding)) == ["a.jpg"]
    with pytest.raises(InputError, match="UTF-16 text with one path per line: leave out -0"):
        found("-", stdin=stdin, null=True)


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_an_image_on_stdin_is_no_list_of_paths(form: str, null: bool) -> None:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(data, form)
    with pytest.raises(InputError, match=r"binary data, not a list of paths.* name its file"):
        found("-", stdin=data.getvalue(), null=null)


@posix
def test_short_names_that_end_with_nul_are_not_taken_for_utf16() -> None:
    touch("abc", "def", "g")
    assert found("-", stdin=b"abc\0def\0", null=True) == ["abc", "def"]
    assert found("-", stdin=b"g\0g\0", null=True) == ["g", "g"]
    with pytest.raises(InputError, match="add -0"):
        found("-", stdin=b"abc\0def\0")
    touch("odd\x01.jpg")
    assert found("-", stdin=b"odd\x01.jpg\nabc\n") == ["odd\x01.jpg", "abc"]


@posix
def test_a_listed_path_that_looks_like_one_on_the_disk_is_that(caplog) -> None:
    touch("p/cafe\u0301.jpg", "Shot\u202fAM.jpg", "b.jpg")
    names = ["p/caf\u00e9.jpg", "Shot AM.jpg", "\u202ab.jpg", "p\\cafe\u0301.jpg", "b.jpg"]
    assert found("-", stdin="\n".join([*names, "x.jpg"]).encode()) == [
        "p/cafe\u0301.jpg",
        "Shot\u202fAM.jpg",
        "b.jpg",
        "p/cafe\u0301.jpg",
        "b.jpg",
        "x.jpg: no such file",
    ]
    (record,) = caplog.records
    assert "'p/caf\u00e9.jpg' is spelled with other Unicode characters" in record.getMessage()
    assert found("\u202ap/caf\u00e9.jpg", "\u202ap") == ["p/cafe\u0301.jpg"] * 2
    touch("caf\u00e9.jpg", "cafe\u0301.jpg")  # both exist: each is itself, a third is neither
    names = ["caf\u00e9.jpg", "cafe\u0301.jpg", "caf\u00e9\u200b.jpg"]
    assert found("-", stdin="\n".join(names).encode())[:2] == names[:2]


@posix
def test_paths_as_file_managers_copy_them_are_found(caplog) -> None:
    touch("a b/c,d.jpg", "it's.jpg")
    url = (Path.cwd() / "a b/c,d.jpg").as_uri()
    listed = ['"a b/c,d.jpg"', "'it's.jpg'", url]
    there = ["a b/c,d.jpg", "it's.jpg", str(Path.cwd() / "a b/c,d.jpg")]
    assert found("-", stdin="\r\n".join(listed).encode()) == there
    assert "'\"a b/c,d.jpg\"' is not on this disk; 'a b/c,d.jpg' is read" in caplog.text


@posix
def test_a_missing_path_comes_with_its_likely_cause() -> None:
    touch("IMG_1.JPG")
    listed = ["img_1.jpg", "C:\\photos\\a.jpg", "C:/a.jpg", "\\\\nas\\a.jpg"]
    reasons = [
        item.split("no such file; ")[-1] for item in found("-", stdin="\n".join(listed).encode())
    ]
    windows = "it begins with a Windows drive"
    assert reasons == ["the disk has 'IMG_1.JPG'", windows, windows, windows]
    assert "save the list as UTF-8" in found("-", stdin="Mü.jpg".encode("cp1252"))[0]


def test_stdin_is_read_as_it_comes() -> None:
    touch("a.jpg")
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream, os.fdopen(writer, "wb", buffering=0) as pipe:
        pipe.write(b"a.jpg\n")
        names = find_images(["-"], stdin=stream)
        assert next(names) == "a.jpg"  # while the other end is still open
        pipe.write(b"gone.jpg\n")
        pipe.close()
        assert [str(name) for name in names] == ["gone.jpg: no such file"]


def test_no_stdin() -> None:
    with pytest.raises(InputError, match="no standard input"):
        found("-")
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(InputError, match="cannot be read"):
        list(find_images(["-"], stdin=closed))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8() -> None:
    name = b"p/caf\xe9.jpg"
    Path("p").mkdir()
    with open(name, "wb") as file:
        Image.new("RGB", (8, 8), "red").save(file, "JPEG")
    path = os.fsdecode(name)
    assert found("p") == found("p/*") == found("-", stdin=name + b"\n") == [path]
    assert os.fsencode(path) == name
    assert Image.open(io.BytesIO(images.read_bytes(path))).size == (8, 8)


def test_folder_that_vanishes_during_the_walk() -> None:
    touch("p/a.jpg", "p/b/1.jpg", "p/c.jpg")
    names = find_images(["p"])
    assert next(names) == "p/a.jpg"
    Path("p/b/1.jpg").unlink()
    Path("p/b").rmdir()
    Path("p/c.jpg").unlink()
    assert [str(name) for name in names] == ["p/b: no such file", "p/c.jpg"]
    with pytest.raises(ImageError, match="no such file"):
        images.read_bytes("p/c.jpg")


def test_suffixes_are_those_of_the_formats_that_are_decoded() -> None:
    Image.init()
    formats = {*image_formats._COMMON, *image_formats._OTHERS, "TGA"}
    of_pillow = {s for s, kind in Image.registered_extensions().items() if kind in formats}
    of_pillow -= {".fit"}  # mostly a sport watch's
    of_pillow |= {".avif", ".avifs"}  # Pillow 11.3 and newer
    assert of_pillow | {".mpo", ".heic", ".heif", ".hif"} == SUFFIXES  # other plugins
