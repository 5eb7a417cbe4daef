"""`--boxes`: what a detector or a person drew a box around, one answer per box."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipcls.data.box_files import Box
from clipcls.data.boxes import Boxes
from clipcls.data.inputs import NamedImage, open_input
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embed import embed_array
from clipcls.errors import EmptyError, ImageError, InputError
from helpers.cli import Run
from helpers.encoders import ColourEncoder

LABELS = ("-l", "red", "-l", "green", "-l", "blue")


def quarters(path: Path, **options: Any) -> str:
    """A photo of 400 x 200: red, green, and below them blue, yellow."""
    image = Image.new("RGB", (400, 200))
    for n, colour in enumerate(("red", "lime", "blue", "yellow")):
        image.paste(colour, (n % 2 * 200, n // 2 * 100, n % 2 * 200 + 200, n // 2 * 100 + 100))
    path.parent.mkdir(exist_ok=True)
    image.save(path, **options)
    return str(path)


def write_json(name: str, found: object) -> str:
    Path(name).write_text(json.dumps(found))
    return name


def detections(*boxes: tuple[str, float, tuple[float, ...]]) -> list[dict[str, Any]]:
    return [{"category": c, "conf": conf, "bbox": list(box)} for c, conf, box in boxes]


RED, GREEN, BLUE = (0.0, 0.0, 0.25, 0.5), (0.5, 0.0, 0.25, 0.5), (0.0, 0.5, 0.25, 0.5)


@pytest.fixture
def detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MegaDetector's file on three photos, one of them without an animal."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "c.png"):
        quarters(Path("photos") / name)
    images = [
        {"file": "a.png", "detections": detections(("1", 0.9, BLUE), ("1", 0.1, GREEN))},
        {"file": "b.png", "detections": detections(("2", 0.8, GREEN), ("1", 0.3, RED))},
        {"file": "c.png", "detections": []},
    ]
    names = {"1": "animal", "2": "person"}
    return write_json("found.json", {"images": images, "detection_categories": names})


def answers(run: Run, *arguments: str, status: int = 0) -> dict[str, str]:
    code, out, err = run("classify", *LABELS, "photos", "--format", "csv", *arguments)
    assert code == status, err
    return {row["path"]: row["label"] for row in csv.DictReader(out.splitlines())}


def test_each_box_is_answered_and_an_image_without_one_is_empty(detected: str, run: Run) -> None:
    assert answers(run, "--boxes", detected, "--box-margin", "0") == {
        "photos/a.png#1": "blue",
        "photos/b.png#1": "green",
        "photos/b.png#2": "red",
        "photos/c.png": "empty",
    }
    assert answers(
        *(run, "--boxes", detected, "--box-margin", "0", "--box-category", "animal"),
        *("--box-confidence", "0.5", "--empty", "nothing"),
    ) == {"photos/a.png#1": "blue", "photos/b.png": "nothing", "photos/c.png": "nothing"}


def test_the_other_commands(detected: str, run: Run) -> None:
    code, out, _ = run("tag", *LABELS, "photos", "--boxes", detected, "--format", "jsonl")
    records = {
        r["path"]: [x["label"] for x in r["labels"]] for r in map(json.loads, out.split("\n")[:-1])
    }
    assert (code, records["photos/c.png"], len(records)) == (0, ["empty"], 4)
    code, out, _ = run(
        "search", "blue", "photos", "--boxes", detected, "-k", "1", "--format", "csv"
    )
    assert (code, out.splitlines()[1].split(",")[1]) == (0, "photos/a.png#1")
    assert run("embed", "photos", "--boxes", detected, "-o", "v.parquet")[0] == 0
    code, out, _ = run("classify", *LABELS, "v.parquet", "--format", "csv", "--columns", "path")
    assert out.split()[1:] == ["photos/a.png#1", "photos/b.png#1", "photos/b.png#2"]


def test_results_of_crops_are_read_again(detected: str, run: Run) -> None:
    assert run("classify", *LABELS, "photos", "--boxes", detected, "-o", "r.csv")[0] == 0
    assert run("report", "r.csv", "-o", "r.html")[0] == 0
    assert "photos/a.png#1" in Path("r.html").read_text()


COCO = {
    "images": [{"id": 7, "file_name": "photos/a.png", "width": 800, "height": 400}],  # twice as big
    "annotations": [{"image_id": 7, "category_id": 1, "bbox": [400, 0, 200, 200]}],
    "categories": [{"id": 1, "name": "leaf"}],
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("coco.json", json.dumps(COCO)),
        ("pixels.csv", "path,x,y,w,h\nphotos/a.png,200,0,100,100\n"),
        ("shares.csv", "file;left;top;width;height;score\na.png;0,5;0;0,25;0,5;0,9\n"),
        ("windows.csv", 'path,x,y,w,h\n"photos\\a.png",200,0,100,100\n'),
    ],
)
def test_forms_of_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    quarters(Path("photos/a.png"))
    Path(name).write_text(text)
    (crop,) = Boxes(name, margin=0).crop_each(["photos/a.png"])
    assert isinstance(crop, NamedImage)
    assert (crop.name, open_input(crop).getpixel((50, 50))) == ("photos/a.png#1", (0, 255, 0))


def test_boxes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: the left half is on top
    path = quarters(tmp_path / "p/a.jpg", exif=exif, quality=100, subsampling=0)
    boxes = write_json(
        str(tmp_path / "b.json"),
        {"images": [{"file": "a.jpg", "detections": detections(("1", 1, (0.5, 0.0, 0.5, 0.25)))}]},
    )
    (crop,) = Boxes(boxes, margin=0).crop_each([path])
    red, green, blue = open_input(crop).resize((1, 1)).getpixel((0, 0))  # type: ignore
    assert (round(red / 255), round(green / 255), round(blue / 255)) == (1, 0, 0)


def test_a_crop_is_a_square_that_shows_the_whole_box_within_the_image(tmp_path: Path) -> None:
    path = quarters(tmp_path / "p/a.png")
    Path(tmp_path / "b.csv").write_text(
        f"path,x,y,w,h\n{path},0,0,200,40\n{path},390,190,10,10\n{path},100,50,20,20\n"
    )
    crops: Any = Boxes(tmp_path / "b.csv", margin=0.5).crop_each([path])
    sizes = [open_input(crop).size for crop in crops]
    assert sizes == [(400, 200), (20, 20), (40, 40)]


def test_a_photo_is_decoded_once_and_a_known_crop_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipcls.data import images

    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", 0)
    path = quarters(tmp_path / "p/a.png")
    rows = "path,x,y,w,h", f"{path},0,0,100,100", f"{path},200,0,100,100"
    Path(tmp_path / "b.csv").write_text("\n".join(rows))
    opened: list[str] = []
    decode = images.decode_image

    def count(data: bytes, name: str, **options: Any) -> Image.Image:
        opened.append(name)
        return decode(data, name, **options)

    monkeypatch.setattr("clipcls.data.sources.decode_image", count)
    encoder = ColourEncoder()
    with EmbeddingCache(tmp_path / "s.db") as cache:
        for margin, decoded in ((0.0, 1), (0.0, 1), (0.1, 2)):
            crops = Boxes(tmp_path / "b.csv", margin=margin).crop_each([path])
            vectors = embed_array(encoder, crops, cache)
            assert vectors.argmax(axis=1).tolist() == [0, 1]
            assert len(opened) == decoded


def test_boxes_that_show_nothing_and_photos_that_cannot_be_read(detected: str, run: Run) -> None:
    boxes = detections(("1", 1, BLUE), ("1", 1, (2, 0, 0.1, 0.1)), ("1", 1, (0.5, 0.5, 0, 0.1)))
    Path("photos/b.png").write_bytes(b"no photo")
    images = [
        {"file": "a.png", "detections": boxes},
        {"file": "b.png", "detections": detections(("1", 1, RED))},
        {"file": "c.png", "detections": None, "failure": "Image could not be opened"},
    ]
    code, out, _ = run(
        *("classify", *LABELS, "photos", "--format", "csv", "--columns", "path,label,error"),
        *("--boxes", write_json("found.json", {"images": images})),
    )
    assert code == 1
    rows = out.splitlines()[1:]
    assert rows[:3] == [
        "photos/a.png#1,blue,",
        "photos/a.png#2,,its box lies outside the image",
        "photos/a.png#3,,its box has no area",
    ]
    assert rows[3].startswith("photos/b.png#1,,not an image")
    assert rows[4] == "photos/c.png,,the detector failed on it (Image could not be opened)"


NONE: list[Any] = []
TWICE = json.dumps({"images": [{"file": f, "detections": NONE} for f in ("a.png", "./a.png")]})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ('{"info": {}}', "has no boxes; give MegaDetector's or COCO's JSON"),
        ('{"images": [{"file": "a.png", "detections": [{"conf": 1}]}]}', "'bbox'"),
        ("path,label\na.png,cat\n", "has no column 'x'; boxes need a header: path, x, y"),
        ("path,x,y,w,h\na.png,1,2,three,4\n", "boxes.txt:2: "),
        ("path,x,y,w,h\na.png,1,2,3,4\na.png,1,2,nan,4\n", "boxes.txt:3: a box is not four finite"),
        ("path,x,y,w,h\na.png,1,2,1e999,4\n", "boxes.txt:2: a box is not four finite"),
        ('{"images": [{"file": "a.png", "detections": [{"bbox": [1]}]}]}', "four finite numbers)"),
        ("", "is empty"),
        ("a.png,1,2,3,4\n", "has no column 'path'; boxes need a header"),
        ("path,x,y,w,h\na.png,1,2,,4\n", "boxes.txt:2: a box is not four finite"),
        ("path,x,y,w,h\na.png,1,2,3,4\na.png,.1,.2,.3,.4\n", "in pixels and in shares"),
        ('{"images": []}', "has no boxes"),
        ("[]", "has no boxes"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "COCO's results have no paths"),
        (
            '{"images": [{"file": "a.png", "detections": [{"conf": 1, "bbox": [1, 2, 30, 4]}]}]}',
            "is in pixels, not in shares",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 2}]}',
            "the image 2 of an annotation is missing",
        ),
        ('{"images": [{"file": "c.mp4", "detections": []}]}', "in frames of videos are not read"),
        ('{"images": [{"file": "z.png", "detections": []}]}', "knows none of the images"),
        (TWICE, "has ./a.png twice"),
    ],
)
def test_bad_boxes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, text: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    quarters(Path("photos/a.png"))
    Path("boxes.txt").write_text(text)
    code, _, err = run("classify", *LABELS, "photos/a.png", "--boxes", "boxes.txt")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "boxes.txt" in err
    assert reason in err


def test_an_image_that_may_be_one_of_two(tmp_path: Path) -> None:
    images = [{"file": f, "detections": NONE} for f in ("b/a.png", "c/a.png", "b/d.png")]
    boxes = Boxes(write_json(str(tmp_path / "b.json"), {"images": images}))
    assert [str(e) for e in boxes.crop_each(["x/c/a.png", "d.png"])] == [
        "x/c/a.png: has no boxes",
        "d.png: has no boxes",
    ]
    with pytest.raises(InputError, match=r"a\.png may be b/a\.png or"):
        list(boxes.crop_each(["a.png"]))


def test_a_category_that_no_box_has(detected: str) -> None:
    with pytest.raises(InputError, match="no box has the category 'cat'; it has animal, person"):
        Boxes(detected, categories=["cat"])


def test_an_image_that_the_file_does_not_know_is_an_error_of_its_own(detected: str) -> None:
    quarters(Path("photos/new.png"))
    found = list(Boxes(detected).crop_each(["photos/new.png", "photos/c.png"]))
    assert [type(each) for each in found] == [ImageError, EmptyError]
    assert str(found[0]) == f"photos/new.png: is not in {detected}; run the detector on it"


def test_shares_and_pixels_of_a_box() -> None:
    assert Box(1, 0.5, 0, 0.5, 0.5).relative((400, 200)) == (0.5, 0, 1, 0.5)
    assert Box(1, 200, 0, 200, 100, (0, 0)).relative((400, 200)) == (0.5, 0, 1, 0.5)
    assert Box(1, 400, 0, 400, 200, (800, 400)).relative((400, 200)) == (0.5, 0, 1, 0.5)


def test_annotations_without_a_box_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    quarters(Path("a.png"))
    annotations = [{"image_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 1}, {"image_id": 1}]
    found = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": annotations}
    Path("boxes.json").write_text(json.dumps(found))
    code, out, err = run("classify", *LABELS, "a.png", "--boxes", "boxes.json")
    assert (code, out.count("a.png#")) == (0, 1)
    assert "1 annotation of COCO without a box left out" in err


@pytest.mark.parametrize(
    "option",
    [
        ("--empty", "none"),
        ("--box-confidence", "0.5"),
        ("--box-category", "animal"),
        ("--box-margin", "0"),
    ],
)
def test_options_on_boxes_need_boxes(run: Run, option: tuple[str, str]) -> None:
    code, _, err = run("classify", *LABELS, "a.png", *option)
    assert code == 2
    assert f"{option[0]} needs --boxes FILE" in err
