"""Keywords in XMP sidecars, checked with exiftool where it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipcls.errors import ImageError, InputError, SidecarError
from clipcls.organize.execute import file_results
from clipcls.organize.keywords import write_keywords
from clipcls.organize.xmp_sidecar import update_sidecar
from clipcls.predictions import Result
from helpers.sorting import put, results, sort

pytest.importorskip("lxml")
needs_exiftool = pytest.mark.skipif(not shutil.which("exiftool"), reason="needs exiftool")

# As exiv2 (digiKam, darktable) and Adobe write them: attributes, several descriptions, Seq.
FOREIGN = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<!-- a remark -->
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable="http://darktable.sf.net/" xmp:Rating="4" darktable:xmp_version="5">
   <darktable:history><rdf:Seq><rdf:li darktable:num="0" darktable:params="gz11"/></rdf:Seq>
   </darktable:history>
  </rdf:Description>
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:digiKam="http://www.digikam.org/ns/1.0/">
   <dc:subject><rdf:Seq><rdf:li>holiday</rdf:li><rdf:li>Dog</rdf:li></rdf:Seq></dc:subject>
   <digiKam:TagsList><rdf:Seq><rdf:li>holiday</rdf:li></rdf:Seq></digiKam:TagsList>
   <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Title &amp; more</rdf:li></rdf:Alt></dc:title>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


def read(sidecar: Path) -> dict[str, object]:
    """What exiftool finds: lists as lists."""
    done = subprocess.run(
        ["exiftool", "-j", "-struct", "-XMP:all", str(sidecar)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert "Warning" not in found, found
    for key in ("Subject", "HierarchicalSubject", "TagsList"):
        if key in found and not isinstance(found[key], list):
            found[key] = [found[key]]
    del found["SourceFile"]
    return found


@needs_exiftool
def test_labels_become_keywords_that_exiftool_reads(tmp_path: Path) -> None:
    sidecar = tmp_path / "a.xmp"
    assert update_sidecar(sidecar, [("animal", "dog", "pug"), ("Kölner Dom & <b>",)])
    found = read(sidecar)
    assert found["Subject"] == ["animal", "dog", "pug", "Kölner Dom & <b>"]
    assert found["HierarchicalSubject"] == ["animal|dog|pug", "Kölner Dom & <b>"]
    assert "TagsList" not in found
    before = sidecar.stat()
    assert not update_sidecar(sidecar, [("animal", "dog", "pug"), ("Kölner Dom & <b>",)])
    assert sidecar.stat() == before
    assert os.listdir(tmp_path) == ["a.xmp"]


@needs_exiftool
def test_others_properties_stay_and_ours_are_replaced(tmp_path: Path) -> None:
    sidecar = tmp_path / "a.xmp"
    sidecar.write_text(FOREIGN)
    sidecar.chmod(0o640)
    before = read(sidecar)
    assert update_sidecar(sidecar, [("animal", "dog", "pug")])
    found = read(sidecar)
    assert found["Subject"] == ["holiday", "Dog", "animal", "pug"], "Dog is there: no dog"
    assert found["HierarchicalSubject"] == ["holiday", "Dog", "animal|dog|pug"]
    assert found["TagsList"] == ["holiday", "animal/dog/pug"]
    assert sidecar.stat().st_mode & 0o777 == 0o640
    lines = sidecar.read_text().splitlines()
    assert [*lines[:2], lines[-1]] == [*FOREIGN.splitlines()[:2], '<?xpacket end="w"?>']
    for kept in ("Rating", "Title", "History", "XMPToolkit"):
        assert found.get(kept) == before.get(kept)
    assert found["Rating"] == 4
    assert found["Title"] == "Title & more"

    assert update_sidecar(sidecar, [("cat",)])
    found = read(sidecar)
    assert found["Subject"] == ["holiday", "Dog", "cat"]
    assert found["HierarchicalSubject"] == ["holiday", "Dog", "cat"]
    assert found["TagsList"] == ["holiday", "cat"]

    assert update_sidecar(sidecar, [("HOLIDAY",)])
    assert read(sidecar)["Subject"] == ["holiday", "Dog"]

    assert update_sidecar(sidecar, [])
    assert read(sidecar) == before


def test_a_keyword_of_others_stays_where_a_program_looks_for_it(tmp_path: Path) -> None:
    """Also after somebody added one to those that were copied there."""
    from lxml import etree

    sidecar = tmp_path / "a.xmp"
    sidecar.write_text(FOREIGN)
    lr = "http://ns.adobe.com/lightroom/1.0/"

    def hierarchical() -> list[str]:
        tree = etree.parse(str(sidecar))
        return [i.text for e in tree.iter(f"{{{lr}}}hierarchicalSubject") for i in e.iter("{*}li")]

    update_sidecar(sidecar, [("cat",)])
    assert hierarchical() == ["holiday", "Dog", "cat"]
    text, added = re.subn(
        r"<lr:hierarchicalSubject[^>]*>\s*<rdf:Bag>",
        r"\g<0><rdf:li>places|Rome</rdf:li>",
        sidecar.read_text(),
    )
    assert added == 1
    sidecar.write_text(text)

    assert update_sidecar(sidecar, [("bird",)])
    assert hierarchical() == ["places|Rome", "holiday", "Dog", "bird"]
    assert not update_sidecar(sidecar, [("bird",)])
    assert update_sidecar(sidecar, [])
    assert hierarchical() == ["places|Rome", "holiday", "Dog"]
    assert not update_sidecar(sidecar, [])
    sidecar.write_text(sidecar.read_text().replace("<rdf:li>places|Rome</rdf:li>", ""))
    assert update_sidecar(sidecar, [])
    assert hierarchical() == [], "as it was before"


@needs_exiftool
def test_another_program_rewrites_it_and_ours_are_still_known(tmp_path: Path) -> None:
    sidecar = tmp_path / "a.xmp"
    update_sidecar(sidecar, [("animal", "dog")])
    args = ["-overwrite_original", "-Subject+=mine", "-HierarchicalSubject+=mine", "-Rating=3"]
    subprocess.run(["exiftool", "-q", *args, str(sidecar)], check=True)
    assert update_sidecar(sidecar, [("cat",)])
    found = read(sidecar)
    assert (found["HierarchicalSubject"], found["Rating"]) == (["mine", "cat"], 3)
    assert found["Subject"] == ["mine", "cat"]


@pytest.mark.skipif(not shutil.which("exiv2"), reason="needs exiv2")
def test_exiv2_which_digikam_and_darktable_read_with(tmp_path: Path) -> None:
    (tmp_path / "a.xmp").write_text(FOREIGN)
    update_sidecar(tmp_path / "a.xmp", [("animal", "pug")])
    done = subprocess.run(["exiv2", "-px", str(tmp_path / "a.xmp")], capture_output=True, text=True)
    rows = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    found = {row[0]: row[-1] for row in rows}
    assert found["Xmp.dc.subject"] == "holiday, Dog, animal, pug"
    assert found["Xmp.lr.hierarchicalSubject"] == "holiday, Dog, animal|pug"
    assert found["Xmp.digiKam.TagsList"] == "holiday, animal/pug"
    assert found["Xmp.xmp.Rating"] == "4"


def test_what_is_ours_alone_goes_with_its_keywords(tmp_path: Path) -> None:
    sidecar = tmp_path / "a.xmp"
    assert not update_sidecar(sidecar, [])
    assert update_sidecar(sidecar, [("cat",)])
    assert update_sidecar(sidecar, [])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not xml", "is not XML"),
        ("<html/>", "is not XMP"),
        (
            '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + FOREIGN.split("\n", 2)[2],
            "XM",
        ),
        (
            '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
            + "".join(f'<!ENTITY a{n} "{f"&a{n - 1 if n else str()};" * 10}">' for n in range(12))
            + "]><a>&a11;</a>",
            "XM",
        ),
    ],
)
def test_a_sidecar_that_is_none_is_left_alone(tmp_path: Path, text: str, message: str) -> None:
    sidecar = tmp_path / "a.xmp"
    sidecar.write_text(text)
    with pytest.raises(SidecarError, match=f"a.xmp: .*{message}"):
        update_sidecar(sidecar, [("cat",)])
    assert sidecar.read_text() == text
    assert os.listdir(tmp_path) == ["a.xmp"]


def test_a_sidecar_that_another_program_saves_meanwhile_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = tmp_path / "a.xmp"
    for before in ("", FOREIGN):
        if before:
            sidecar.write_text(before)
        monkeypatch.setattr(os, "fsync", lambda file: sidecar.write_text("saved just now"))
        with pytest.raises((SidecarError, FileExistsError)):
            update_sidecar(sidecar, [("cat",)])
        assert sidecar.read_text() == "saved just now"
        assert os.listdir(tmp_path) == ["a.xmp"]


def test_labels_that_xml_cannot_hold(tmp_path: Path) -> None:
    update_sidecar(tmp_path / "a.xmp", [("a\0b\ud800|c",)])
    assert not update_sidecar(tmp_path / "a.xmp", [("a\0b\ud800|c",)])


def test_a_run_over_results(tmp_path: Path) -> None:
    photos = put(
        tmp_path / "p",
        {
            "a.jpg": "",
            "a.CR2": "",
            "b.jpg": "",
            "b.png": "",
            "c.jpg": "",
            "d.jpg": "",
            "d.XMP": "?",
        },
    )
    rows: list[Result] = [
        *results(("a.jpg", "cat"), ("b.jpg", "cat"), ("b.png", "dog"), ("c.jpg", ""))
    ]
    rows += [*results(("x.jpg", "cat"), ("d.jpg", "cat")), ImageError("e.jpg", "truncated")]
    done = write_keywords(rows, root=photos)
    assert {e.path: e.reason for e in done.failed} == {
        "x.jpg": "no such file",
        "d.jpg": done.failed[-1].reason,
    }
    assert "d.XMP: is not XML" in done.failed[-1].reason
    assert (done.changed, done.unchanged, done.unread) == (3, 1, 1)
    written = {"a.jpg.xmp", "b.jpg.xmp", "b.png.xmp"}
    assert {p.name for p in photos.glob("*.xmp")} == written
    assert write_keywords(rows[:3], root=photos, full_name=True).unchanged == 3
    write_keywords(results(("c.jpg", "cat")), root=photos)
    write_keywords(results(("c.jpg", "cat")), root=photos, full_name=True)
    assert {p.name for p in photos.glob("*.xmp")} == {*written, "c.xmp", "c.jpg.xmp"}
    write_keywords(rows[:4], root=photos, remove=True)
    assert {p.name for p in photos.glob("*.xmp")} == set()
    with pytest.raises(InputError, match="--root"):
        write_keywords(rows, root=tmp_path)


def subjects(sidecar: Path) -> list[str]:
    """The keywords in a sidecar."""
    text = re.split("</?dc:subject.*?>", sidecar.read_text())[1]
    return re.findall("<rdf:li>(.*?)</rdf:li>", text)


def test_of_a_raw_and_a_jpeg_each_has_its_own_sidecar_and_takes_it_along(tmp_path: Path) -> None:
    photos = put(tmp_path / "p", {"a.JPG": "jpeg", "a.NEF": "raw", "c.jpg": "c"})
    update_sidecar(photos / "a.xmp", [("the raw's",)])
    before = (photos / "a.xmp").read_bytes()
    rows = results(("a.JPG", "cat"), ("c.jpg", "dog"))
    assert write_keywords(rows, root=photos).failed == []
    assert subjects(photos / "a.JPG.xmp") == ["cat"]
    assert subjects(photos / "c.xmp") == ["dog"]
    assert (photos / "a.xmp").read_bytes() == before
    file_results(rows, tmp_path / "out", "move", root=photos)
    assert {p.name for p in photos.iterdir()} == {"a.NEF", "a.xmp"}
    assert {p.name for p in (tmp_path / "out/cat").iterdir()} == {"a.JPG", "a.JPG.xmp"}
    assert {p.name for p in (tmp_path / "out/dog").iterdir()} == {"c.jpg", "c.xmp"}


def test_the_short_sidecar_goes_with_the_raw_file(tmp_path: Path) -> None:
    photos = put(tmp_path / "p", {"a.jpg": "jpeg", "A.nef": "raw"})
    rows = results(("a.jpg", "cat"), ("A.nef", "dog"))
    write_keywords(rows, root=photos)
    assert subjects(photos / "A.xmp") == ["dog"]
    assert subjects(photos / "a.jpg.xmp") == ["cat"]
    file_results(rows, tmp_path / "out", "move", root=photos)
    assert list(photos.iterdir()) == []
    assert {p.name for p in (tmp_path / "out/dog").iterdir()} == {"A.nef", "A.xmp"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that differ in case alone")
@pytest.mark.parametrize("full_name", [False, True])
def test_names_that_differ_in_case_have_sidecars_of_their_own(
    tmp_path: Path, full_name: bool
) -> None:
    photos = put(tmp_path / "p", {"X.JPG": "1", "X.jpg": "2", "x.Jpg": "3"})
    rows = results(("X.JPG", "cat"), ("X.jpg", "cow"), ("x.Jpg", "dog"))
    done = write_keywords(rows, root=photos, full_name=full_name)
    assert (done.failed, done.changed) == ([], 3)
    assert subjects(photos / "X.JPG.xmp") == ["cat"]
    assert subjects(photos / "X.jpg.xmp") == ["cow"]
    assert subjects(photos / "x.Jpg.xmp") == ["dog"]
    file_results(rows, tmp_path / "out", "move", root=photos)
    assert subjects(tmp_path / "out/cow/X.jpg.xmp") == ["cow"]
    assert list(photos.iterdir()) == []


def test_text_beside_an_image_takes_no_sidecar_from_it(tmp_path: Path) -> None:
    photos = put(tmp_path / "p", {"a.jpg": "", "a.txt": "", "b.jpg": "", "b.jpg.png": ""})
    rows = results(("a.jpg", "cat"), ("b.jpg", "cow"), ("b.jpg.png", "dog"))
    write_keywords(rows, root=photos)
    names = {"a.xmp", "b.xmp", "b.jpg.png.xmp"}  # b.jpg.xmp would be that of b.jpg
    assert {p.name for p in photos.glob("*.xmp")} == names
    file_results(rows[:1], tmp_path / "out", "move", root=photos)
    assert {p.name for p in (tmp_path / "out/cat").iterdir()} == {"a.jpg", "a.xmp"}


def test_an_image_that_is_named_twice_is_one(tmp_path: Path) -> None:
    photos = put(tmp_path / "p", {"a.jpg": ""})
    rows = results(("a.jpg", "cat"), (str(photos / "a.jpg"), "cat"))
    done = write_keywords(rows, root=photos)
    assert (done.failed, done.changed, done.unchanged) == ([], 1, 1)


def test_the_command_then_a_move_takes_the_sidecars_along(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": "a", "r.jsonl": '{"path": "a.jpg", "label": "cat"}\n'})
    done = sort("r.jsonl", "--xmp", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "clipcls: 1 written into sidecars\n")
    done = sort("r.jsonl", "--xmp", cwd=tmp_path)
    assert done.stderr == "clipcls: 0 written into sidecars; 1 already done\n"
    assert sort("r.jsonl", "--into", "out", "--move", cwd=tmp_path).returncode == 0
    assert {p.name for p in (tmp_path / "out/cat").iterdir()} == {"a.jpg", "a.xmp"}
    assert sort("r.jsonl", "--xmp", "--into", "out", cwd=tmp_path).returncode == 2


def test_an_empty_sidecar_is_named_and_left(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": "a", "a.xmp": ""})
    done = write_keywords(results(("a.jpg", "cat")), root=tmp_path)
    assert [str(error) for error in done.failed] == ["a.jpg: a.xmp: is empty; delete it"]
    assert (tmp_path / "a.xmp").read_bytes() == b""


def test_a_link_out_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    """A folder from elsewhere can hold links to any of its user's files, or to where none is."""
    photos = put(tmp_path / "photos", {n: n for n in ("a.jpg", "b.jpg", "c.jpg", "sub/c.xmp")})
    rows = results(("a.jpg", "cat"), ("b.jpg", "cat"), ("c.jpg", "cat"))
    update_sidecar(tmp_path / "mine.xmp", [("cat",)])
    before = (tmp_path / "mine.xmp").read_bytes()
    (photos / "a.xmp").symlink_to("../mine.xmp")
    (photos / "b.xmp").symlink_to(tmp_path / "autostart")
    update_sidecar(photos / "sub/c.xmp.new", [("dog",)])
    (photos / "sub/c.xmp.new").rename(photos / "sub/c.xmp")
    (photos / "c.xmp").symlink_to("sub/c.xmp")
    for remove in (False, True):
        done = write_keywords(rows, root=photos, remove=remove)
        assert [e.reason.partition(",")[0] for e in done.failed][:1] == [
            "a.xmp: is a link out of its folder"
        ]
        assert (done.changed, len(done.failed)) == (1, 2)
    assert (tmp_path / "mine.xmp").read_bytes() == before
    assert not (tmp_path / "autostart").exists()
    assert not (photos / "sub/c.xmp").exists()
