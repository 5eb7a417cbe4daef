from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipcls.data.thumbnails import make_data_uri, make_thumbnail, make_thumbnails
from clipcls.errors import ImageError

Paint = Callable[..., str]


def opened(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg))
    assert image.format == "JPEG"
    return image


def test_a_thumbnail_is_small_upright_and_has_no_metadata(tmp_path: Path) -> None:
    image = Image.new("RGB", (400, 200), "red")
    image.paste("blue", (200, 0, 400, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter clockwise to be upright
    exif[0x010E] = "a secret"
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image.save(tmp_path / "b.jpg", comment="a secret")
    assert b"secret" not in make_thumbnail(tmp_path / "b.jpg", 100)
    jpeg = make_thumbnail(tmp_path / "a.jpg", 100)
    small = opened(jpeg)
    assert (small.size, small.mode) == ((50, 100), "RGB")
    top, bottom = np.asarray(small)[[10, 90], 25]
    assert top[0] > 200 > 50 > top[2]
    assert bottom[2] > 200 > 50 > bottom[0]
    assert b"secret" not in jpeg
    assert not small.getexif()
    uri = make_data_uri(jpeg)
    assert base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")) == jpeg


def test_small_and_narrow_images(tmp_path: Path) -> None:
    for name, size, expected in (("dot", (1, 1), (1, 1)), ("line", (5000, 1), (64, 1))):
        Image.new("RGBA", size, (0, 0, 0, 0)).save(tmp_path / f"{name}.png")
        small = opened(make_thumbnail(tmp_path / f"{name}.png", 64))
        assert small.size == expected
        assert small.getpixel((0, 0)) == (255, 255, 255)


def test_many_come_in_their_order_with_the_bad_ones_in_place(paint: Paint, tmp_path: Path) -> None:
    colours = ["red", "green", "blue", "yellow"] * 10
    paths = [paint(f"{n}.png", colour) for n, colour in enumerate(colours)]
    paths[7:7] = [str(tmp_path / "gone.png")]
    (tmp_path / "text.png").write_text("no image")
    paths.append(str(tmp_path / "text.png"))
    made = list(make_thumbnails(paths, 16))
    assert [str(e) for e in made if isinstance(e, ImageError)] == [
        f"{paths[7]}: no such file",
        f"{paths[-1]}: not an image",
    ]
    one_by_one = [make_thumbnail(path, 16) for n, path in enumerate(paths[:-1]) if n != 7]
    assert [m for m in made if not isinstance(m, ImageError)] == one_by_one


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        make_thumbnail(tmp_path / "gone.jpg", 8)


def test_a_crop_is_shown_by_its_photo(paint: Paint) -> None:
    photo = paint("a.png", "red")
    assert make_thumbnail(f"{photo}#3", 8) == make_thumbnail(photo, 8)
    Path(paint("b.png", "blue")).rename(f"{photo}#3")
    assert make_thumbnail(f"{photo}#3", 8) != make_thumbnail(photo, 8)


def test_a_row_of_a_parquet_table_is_shown(paint: Paint, tmp_path: Path) -> None:
    photo, table = Path(paint("a.png", "red")), f"{tmp_path}/t.parquet"
    pq.write_table(pa.table({"image": [photo.read_bytes()]}), table)
    for name in (f"{table}#0", f"{table}#0#1"):
        assert make_thumbnail(name, 8) == make_thumbnail(photo, 8)
