"""Heat maps: of a tower whose evidence lies where a reader can see it, and of the bundled model."""

from __future__ import annotations

import errno
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from clipcls import ClipclsError, ImageError, Prediction, ZeroShotClassifier
from clipcls.classification.occlusion import Heatmaps, HiddenPlaces, make_masks, overlay
from clipcls.errors import LabelsError, OutputError
from clipcls.models.preprocess import Preprocess
from helpers.cli import Run
from helpers.encoders import ColourEncoder

PHOTOS = Path(__file__).parents[2] / "examples/photos"
GREY, WHITE = (100, 100, 100), (255, 255, 255)


class CornerEncoder(ColourEncoder):
    """An image is the more of a spot the lighter the lightest pixel of its top left quarter is."""

    weights = "e2" * 32
    text_space = "text corner"
    image_space = "image corner"
    side = 64
    least_side = 128

    def __init__(self) -> None:
        super().__init__()
        self._preprocess = Preprocess(self.side, self.side, (0.5,) * 3, (0.5,) * 3)

    def preprocess(self, image: Image.Image) -> NDArray[Any]:
        return self._preprocess(image)

    def seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        return self._preprocess.seen(size)

    def encode_images(self, pixels: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        assert len(pixels) <= self.batch_size
        half = self.side // 2
        lightest = [p[:half, :half].max() / 255 for p in pixels]
        return self._unit(np.array([(light, 0.5) for light in lightest]))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._unit(np.array([(1, 0) if "spot" in text else (0, 1) for text in texts]))


def corner(labels: Any = ("spot", "nothing"), **settings: Any) -> ZeroShotClassifier:
    classifier = ZeroShotClassifier(labels, CornerEncoder(), cache=False, **settings)
    return classifier.fit()


def spotted(size: tuple[int, int], *spots: tuple[int, int], radius: int = 4) -> Image.Image:
    image = Image.new("RGB", size, GREY)
    draw = ImageDraw.Draw(image)
    for x, y in spots:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), WHITE)
    return image


def hottest(heat: NDArray[np.float32]) -> tuple[int, int]:
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    return int(x), int(y)


def test_the_heat_lies_where_the_answer_comes_from() -> None:
    image = spotted((128, 128), (40, 24), (100, 100))  # of which the tower sees the first alone
    heat = corner().heatmap(image, "spot")
    assert heat.shape == (128, 128)
    assert heat.dtype == np.float32
    x, y = hottest(heat)
    assert abs(x - 40) < 10
    assert abs(y - 24) < 10
    hot = np.maximum(heat, 0)
    assert hot[:64, :64].sum() > 0.8 * hot.sum()
    assert abs(heat[90:110, 90:110]).max() < 0.01 * heat.max()
    # What speaks for one of two labels speaks as much against the other.
    np.testing.assert_allclose(corner().heatmap(image, "nothing"), -heat, atol=1e-5)
    np.testing.assert_array_equal(corner().heatmap(image), heat)  # its answer is "spot"


def test_the_heat_is_the_fall_of_the_log_odds_place_by_place() -> None:
    classifier = corner(["spot", "nothing", "void"])
    image = spotted((64, 64), (20, 12))
    pixels = np.asarray(image)
    masks = make_masks(64, 64)
    assert 0 < masks.max() <= 1

    def odds(view: NDArray[np.uint8]) -> float:
        (scores,) = classifier.predict_proba([Image.fromarray(view)])
        return float(np.log(scores[0] / (1 - scores[0])))

    total = np.zeros((64, 64))
    for mask in masks:
        view = np.round(pixels + mask[..., None] * (np.float64(hidden(pixels)) - pixels))
        total += mask * (odds(pixels) - odds(view.astype(np.uint8)))
    wanted = total / masks.sum(axis=0)
    np.testing.assert_allclose(classifier.heatmap(image, "spot"), wanted, atol=0.02)


def hidden(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.full_like(pixels, pixels.reshape(-1, 3).mean(axis=0).round())


def test_a_node_of_a_hierarchy_and_a_lone_label_have_maps() -> None:
    image = spotted((64, 64), (20, 12))
    tree = corner(["spot > round spot", "spot > square spot", "nothing"])
    plain = corner(["round spot", "square spot", "nothing"])
    both = HiddenPlaces(plain.encoder_, image).measure(plain.head_, (0, 1))
    np.testing.assert_allclose(tree.heatmap(image, "spot"), both, atol=1e-6)
    assert hottest(tree.heatmap(image, "spot")) == hottest(corner().heatmap(image))
    x, y = hottest(corner(["spot"]).heatmap(image))
    assert abs(x - 20) < 4
    assert abs(y - 12) < 4
    with pytest.raises(LabelsError, match="'dog' is none of the labels"):
        plain.heatmap(image, "dog")


def test_a_photo_that_lies_on_its_side_gets_an_upright_map(tmp_path: Path) -> None:
    upright = spotted((96, 64), (36, 14))  # the model sees x from 16 to 80
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it
    path = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    heat = corner().heatmap(path)
    assert heat.shape == (64, 96)
    np.testing.assert_array_equal(heat, corner().heatmap(upright))
    x, y = hottest(heat)
    assert abs(x - 36) < 6
    assert abs(y - 14) < 6
    assert not heat[:, :15].any()
    assert not heat[:, 81:].any()


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("target", [(64, 64), (48, 80)])
@pytest.mark.parametrize("size", [(200, 100), (100, 201), (128, 128), (30, 40), (900, 20)])
def test_the_part_that_is_seen(mode: str, target: tuple[int, int], size: tuple[int, int]) -> None:
    preprocess = Preprocess(*target, (0.5,) * 3, (0.5,) * 3, resize_mode=mode)
    x, y = (np.linspace(50, 250, n) for n in size)
    ramps = np.stack([*np.broadcast_arrays(x[None], y[:, None], 50.0)], axis=-1)
    found = preprocess(Image.fromarray(np.round(ramps).astype(np.uint8))).astype(float)
    left, top, right, bottom = preprocess.seen(size)
    at_x = left + (np.arange(target[1]) + 0.5) * (right - left) / target[1]
    at_y = top + (np.arange(target[0]) + 0.5) * (bottom - top) / target[0]
    inside = ((at_y > 0) & (at_y < size[1]))[:, None] & ((at_x > 0) & (at_x < size[0]))
    # A model's pixel has the value of the image where `seen` says that it lies.
    wanted = [np.interp(at, np.arange(n) + 0.5, ramp) for at, n, ramp in
              zip((at_x, at_y), size, (x, y), strict=True)]  # fmt: skip
    slope = 200 / (min(size) - 1)
    for channel, values in ((0, wanted[0][None]), (1, wanted[1][:, None])):
        off = abs(found[..., channel] - values)[inside]
        assert np.quantile(off, 0.95) <= 1.5 + slope / 2


def test_other_encoders_are_refused_before_any_work(encoder: ColourEncoder, tmp_path: Path) -> None:
    classifier = ZeroShotClassifier(["red", "green"], encoder, cache=False).fit()
    image = Image.new("RGB", (8, 8), "red")
    with pytest.raises(ClipclsError, match="OpenCLIP's models only"):
        classifier.heatmap(image)
    with pytest.raises(ClipclsError, match="OpenCLIP's models only"):
        classifier.classify([image], heatmaps=tmp_path / "heat")
    assert encoder.images == 0
    assert not (tmp_path / "heat").exists()


def test_pictures_lie_as_the_images_do_and_overwrite_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = spotted((64, 64), (20, 12))
    names = ["a.png", "b/a.png", "b/a.jpg", "../outside.png", "n" * 245 + ".png"]
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        image.save(name)
    Path("heat").mkdir()
    Path("heat/a.png.heat.jpg").write_text("mine")
    gone = ImageError("gone.png", "no such file")
    images: list[str | ImageError] = [*names, str(tmp_path / "a.png"), gone, "a.png"]
    results = list(corner().classify(images, heatmaps="heat"))
    assert results[6] is gone
    pictures = [r.heatmap for r in results if isinstance(r, Prediction)]
    assert pictures[:4] == [
        "heat/a.png.heat (2).jpg",
        "heat/b/a.png.heat.jpg",
        "heat/b/a.jpg.heat.jpg",
        "heat/outside.png.heat.jpg",
    ]
    assert pictures[5] == "heat" + os.path.splitdrive(tmp_path)[1] + "/a.png.heat.jpg"
    assert pictures[6] == "heat/a.png.heat (3).jpg"
    assert len(set(pictures)) == 7
    for picture in pictures:
        assert picture is not None
        assert Image.open(picture).size == (64, 64)
    assert Path("heat/a.png.heat.jpg").read_text() == "mine"


def test_a_link_leads_no_picture_out_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("here", "elsewhere", "heat"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    spotted((64, 64), (20, 12)).save("here/a.png")
    Path("heat/here").symlink_to("../elsewhere")
    with pytest.raises(OutputError, match="heat/here: is a link to outside heat"):
        list(corner().classify(["here/a.png"], heatmaps="heat"))
    assert os.listdir("elsewhere") == []


def test_what_cannot_be_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.png"
    spotted((64, 64), (20, 12)).save(path)
    classifier = corner()
    results = classifier.classify([path], heatmaps=tmp_path / "heat")
    (prediction,) = list(classifier.classify([path]))
    assert isinstance(prediction, Prediction)
    path.unlink()  # classified out of the cache, say, and then gone
    (left,) = Heatmaps({"": classifier}, tmp_path / "heat").draw_each([prediction])
    assert left == prediction
    assert "no heat map (no such file)" in caplog.text
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        Heatmaps({"": classifier}, tmp_path / "file")
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(OutputError, match="would lie among the images"):
        list(classifier.classify([path], heatmaps=os.path.splitdrive(path)[0] + os.sep))
    assert sorted(os.listdir(tmp_path)) == ["a.png", "file", "heat"]
    with pytest.raises(ValueError, match="files"):
        list(classifier.classify([spotted((64, 64))], heatmaps=tmp_path / "heat"))
    assert next(iter(results))  # nor is anything done before it is asked for


def test_a_full_disk_leaves_no_broken_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    spotted((64, 64), (20, 12)).save(path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clipcls.files.atomic.os.fsync", full)
    with pytest.raises(OutputError, match="no space left"):
        list(corner().classify([path], heatmaps=tmp_path / "heat"))
    assert list((tmp_path / "heat").rglob("*.jpg")) == []


def test_colours_show_the_heat_and_what_is_not_seen() -> None:
    heat = np.zeros((20, 40), np.float32)
    heat[:, 10:30] = np.linspace(-1, 4, 20)
    image = Image.new("RGB", (40, 20), GREY)
    shown = np.asarray(overlay(image, heat, (10, 0, 30, 20))).astype(float)
    assert (shown[:, :10] == 30).all()
    assert (shown[:, 30:] == 30).all()
    row = shown[10, 10:30] / 255
    linear = np.where(row <= 0.04045, row / 12.92, ((row + 0.055) / 1.055) ** 2.4)
    light = linear @ [0.2126, 0.7152, 0.0722]
    assert (row[0] == row[3]).all()  # below 0 is as 0
    assert (np.diff(light[4:]) > 0).all()
    # Of an image without any heat nothing stands out.
    flat = np.asarray(overlay(image, np.zeros((20, 40), np.float32), (0, 0, 40, 20)))
    assert (flat == flat[0, 0]).all()


def collage(left: str, right: str) -> Image.Image:
    canvas = Image.new("RGB", (600, 300))
    for x, name in ((0, left), (300, right)):
        photo = Image.open(PHOTOS / f"{name}.jpg").convert("RGB")
        side = min(photo.size)
        x0, y0 = (photo.width - side) // 2, (photo.height - side) // 2
        photo = photo.crop((x0, y0, x0 + side, y0 + side))
        canvas.paste(photo.resize((300, 300)), (x, 0))
    return canvas.resize((300, 300))


def test_the_bundled_model_finds_each_photo_of_a_collage() -> None:
    classifier = ZeroShotClassifier(["cat", "cow"], "mini", cache=False).fit()
    image = collage("chelsea", "pasture")
    half = np.arange(300) < 150
    heat = classifier.heatmap(image, "cat")
    assert np.maximum(heat[:, half], 0).sum() > 0.7 * np.maximum(heat, 0).sum()
    assert hottest(heat)[0] < 150
    assert np.maximum(-heat[:, ~half], 0).sum() > 0.7 * np.maximum(-heat, 0).sum()


@pytest.fixture
def draw(run_real: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `clipcls classify` with the bundled model in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(run_real, "classify", "-m", "mini", "-l", "cat", "-l", "cow")


def test_the_command_draws_and_names_each_picture(tmp_path: Path, draw: Run) -> None:
    for folder in ("in/one", "in/two"):
        (tmp_path / folder).mkdir(parents=True)
        Image.open(PHOTOS / "chelsea.jpg").resize((90, 60)).save(tmp_path / folder / "cat.png")
    (tmp_path / "in/cut.jpg").write_bytes((PHOTOS / "chelsea.jpg").read_bytes()[:3000])
    status, out, said = draw("--heatmap", "heat", "--explain", "-f", "jsonl", "in")
    assert status == 1, said  # one could not be read
    records = {r["path"]: r for r in map(json.loads, out.splitlines())}
    assert records.pop("in/cut.jpg")["error"]
    pictures = {path: record["heatmap"] for path, record in records.items()}
    assert pictures == {f"in/{n}/cat.png": f"heat/in/{n}/cat.png.heat.jpg" for n in ("one", "two")}
    before = {p: (tmp_path / p).read_bytes() for p in pictures.values()}
    status, out, said = draw("--heatmap", "heat", "-f", "csv", "in/one")  # from the cache
    assert status == 0, said
    header, row = out.splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["heatmap"] == (
        "heat/in/one/cat.png.heat (2).jpg"
    )
    assert all((tmp_path / p).read_bytes() == data for p, data in before.items())
    _, out, _ = draw("--heatmap", "heat", "-f", "table", "in/one")
    assert "    heatmap  heat/in/one/cat.png.heat (3).jpg\n" in out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--heatmap", "heat", "."], "would lie among the images of ."),
        (["--heatmap", "in/heat", "in"], "would lie among the images of in"),
        (["--heatmap", "in/heat", "in/**/*.png"], "would lie among the images of in"),
        (["--heatmap", "in/heat", "i*"], "would lie among the images of in"),
        (["--heatmap", ".", "in"], "would lie among the images of in"),
        (["--heatmap", "in/..", "in/a.png"], "would lie among the images of in"),
        (["--heatmap", ".", "in/*.png"], "would lie among the images of in"),
        (["--heatmap", "in/a.png", "in/a.png"], "is a file"),
    ],
)
def test_what_the_command_refuses(
    tmp_path: Path, draw: Run, arguments: list[str], reason: str
) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in/a.png")
    status, _, said = draw(*arguments)
    assert status == 2
    assert reason in said
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.png", "in"]
