"""Keywords in the images themselves, read back by exiftool."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lxml", reason="needs lxml")
pytest.importorskip("exiftool", reason="needs PyExifTool")
if not shutil.which("exiftool"):
    pytest.skip("needs exiftool", allow_module_level=True)

from clipcls.errors import InputError, install_command
from clipcls.organize.keywords import write_keywords
from clipcls.organize.report import Report
from clipcls.predictions import Prediction
from helpers.predictions import predicted

OLD = 1_600_000_000_123_456_789


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "described"
    more: dict[str, Any] = {} if path.suffix == ".tif" else {"exif": exif}
    Image.fromarray(noise).save(path, **more)
    path.chmod(0o640)
    os.utime(path, ns=(OLD, OLD))
    return path


def told(path: Path) -> dict:
    """All that exiftool says but what it says of the file itself."""
    done = subprocess.run(["exiftool", "-j", "-G1", "-b", path], capture_output=True, check=True)
    groups = ("System", "ExifTool", "Composite", "SourceFile")
    return {k: v for k, v in json.loads(done.stdout)[0].items() if not k.startswith(groups)}


def keywords(path: Path) -> tuple[object, object]:
    found = told(path)
    return found.get("XMP-dc:Subject"), found.get("XMP-lr:HierarchicalSubject")


def embed_keywords(results: list[Prediction], *, remove: bool = False) -> Report:
    return write_keywords(results, embed=True, remove=remove)


def result(path: Path, *labels: tuple[str, ...]) -> Prediction:
    return predicted(str(path), *labels)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_only_keywords_change(tmp_path: Path, kind: str) -> None:
    path = picture(tmp_path / f"a.{kind}")
    pixels, before = np.asarray(Image.open(path)), told(path)
    done = embed_keywords([result(path, ("animal", "dög"), ("<b>",))])
    assert (done.changed, done.failed) == (1, [])
    assert keywords(path) == (["animal", "dög", "<b>"], ["animal|dög", "<b>"])
    assert (np.asarray(Image.open(path)) == pixels).all()
    after = {key: value for key, value in told(path).items() if not key.startswith("XMP")}
    layout = ("IFD0:StripOffsets", "File:", "RIFF:")  # of the file, not of the image
    assert {k: v for k, v in before.items() if not k.startswith(layout)} == {
        k: v for k, v in after.items() if not k.startswith(layout)
    }
    assert path.stat().st_mtime_ns == OLD
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == [path.name]


def test_new_labels_take_the_place_of_our_own_and_of_no_others(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg")
    subprocess.run(
        ["exiftool", "-q", "-overwrite_original", "-XMP-dc:Subject=holiday", "-XMP:Rating=4", path],
        check=True,
    )
    embed_keywords([result(path, ("cat",))])
    assert keywords(path) == (["holiday", "cat"], ["holiday", "cat"])
    data = path.read_bytes()
    done = embed_keywords([result(path, ("cat",))])
    assert (done.changed, done.unchanged) == (0, 1)
    assert path.read_bytes() == data
    embed_keywords([result(path, ("dog",))])
    assert keywords(path) == (["holiday", "dog"], ["holiday", "dog"])
    embed_keywords([result(path, ("dog",))], remove=True)
    assert keywords(path)[0] == "holiday"
    assert told(path)["XMP-xmp:Rating"] == 4


def test_taken_out_again_the_file_is_what_it_was(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg")
    before = path.read_bytes()
    embed_keywords([result(path, ("cat",))])
    assert path.read_bytes() != before
    embed_keywords([result(path)])
    assert path.read_bytes() == before


def test_names_that_exiftool_could_mistake(tmp_path: Path) -> None:
    names = ["-o x.jpg", "%d%f.jpg", "#a.jpg", "a b*.jpg", "ü.jpg", os.fsdecode(b"caf\xe9.jpg")]
    paths = [picture(tmp_path / "100%e" / name) for name in names]
    paths.append(picture(tmp_path / "line\nbreak.jpg"))
    (tmp_path / "link.jpg").symlink_to(paths[0])
    done = embed_keywords([result(path, ("cat",)) for path in (*paths, tmp_path / "link.jpg")])
    assert (done.changed, done.unchanged) == (len(names), 1)
    assert [error.path for error in done.failed] == [str(paths[-1])]
    assert sorted(os.listdir(tmp_path / "100%e")) == sorted(names)
    assert all(b"<rdf:li>cat</rdf:li>" in path.read_bytes() for path in paths[:-1])


def test_links_that_lie_in_wait_are_not_followed(tmp_path: Path) -> None:
    """In a folder from elsewhere: at an image's name, and at that of a part."""
    mine, path = picture(tmp_path / "mine.jpg"), picture(tmp_path / "folder/a.jpg")
    before = mine.read_bytes()
    (tmp_path / "folder/link.jpg").symlink_to(mine)
    (tmp_path / "folder/.a.clipcls-part.jpg").symlink_to(mine)
    (tmp_path / "folder/.a.clipcls-part.jpg_exiftool_tmp").symlink_to(mine)
    done = embed_keywords([result(path, ("cat",)), result(path.with_name("link.jpg"), ("cat",))])
    assert done.changed == 1
    assert [e.reason for e in done.failed] == [
        f"is a link out of its folder, to {mine}; name that file"
    ]
    assert keywords(path)[0] == "cat"
    assert mine.read_bytes() == before


def test_what_cannot_be_written_stays_as_it_is(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.bmp")
    split = picture(tmp_path / "split.jpg")
    (tmp_path / "note.xmp").write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/"'
        ' xmpNote:HasExtendedXMP="0123456789abcdef0123456789abcdef"/></rdf:RDF></x:xmpmeta>'
    )
    block = f"-XMP<={tmp_path}/note.xmp"
    subprocess.run(["exiftool", "-q", "-overwrite_original", block, split], check=True)
    (tmp_path / "note.xmp").unlink()
    paths = [tmp_path / name for name in ("text.jpg", "a.bmp", "split.jpg", "gone.jpg")]
    before = [path.read_bytes() for path in paths[:3]]
    done = embed_keywords([result(path, ("cat",)) for path in (*paths, good)])
    assert done.changed == 1
    assert [error.reason.split()[0] for error in done.failed] == [
        "exiftool:",
        "exiftool:",
        "its",
        "no",
    ]
    assert done.exit_code == 1
    assert [path.read_bytes() for path in paths[:3]] == before
    assert len(os.listdir(tmp_path)) == 4


def test_a_raw_file_stays_as_the_camera_wrote_it(tmp_path: Path) -> None:
    raw = tmp_path / "a.NEF"
    raw.write_bytes(picture(tmp_path / "a.jpg").read_bytes())
    before = raw.read_bytes()
    done = embed_keywords([result(raw, ("cat",))])
    assert "raw file" in done.failed[0].reason
    assert raw.read_bytes() == before


def test_interrupted_it_leaves_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.jpg")
    before = path.read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(os, "replace", stop)
        embed_keywords([result(path, ("cat",))])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.jpg"]


def test_a_missing_exiftool_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.jpg")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs exiftool on the PATH"):
        embed_keywords([result(path, ("cat",))])
    monkeypatch.setitem(sys.modules, "exiftool", None)
    with pytest.raises(InputError, match=re.escape(install_command("xmp"))):
        embed_keywords([result(path, ("cat",))])


def test_the_command(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "r.jsonl").write_text('{"path": "a.jpg", "label": "cat"}\n')
    sort = [sys.executable, "-m", "clipcls", "sort", "r.jsonl", "--embed-xmp"]
    for more, status, message in [
        ([], 0, "clipcls: 1 written into images\n"),
        ([], 0, "clipcls: 0 written into images; 1 already done\n"),
        (["--xmp-remove"], 0, "clipcls: 1 removed from images\n"),
        (["--xmp"], 2, "exclude each other"),
        (["--into", "out"], 2, "exclude each other"),
    ]:
        done = subprocess.run([*sort, *more], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, message in done.stderr) == (status, True), done.stderr
