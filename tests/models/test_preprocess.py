"""Pixels are those of open_clip's own transform."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipcls.data.images import decode_image, find_whole
from clipcls.models.preprocess import Preprocess

PHOTOS = sorted((Path(__file__).parents[2] / "examples/photos").glob("*.jpg"))
CONFIG: dict[str, Any] = {"mean": [0.48, 0.45, 0.4], "std": [0.27, 0.26, 0.25], "fill_color": 0}


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [224, (64, 64), (96, 160), (161, 97)])
def test_pixels_are_open_clips(mode: str, interpolation: str, size: int | tuple[int, int]) -> None:
    config = CONFIG | {"size": size, "interpolation": interpolation, "resize_mode": mode}
    theirs = image_transform_v2(PreprocessCfg(**config), is_train=False)
    ours = Preprocess.from_config(config)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 333, 3), np.uint8)
    images: list[Image.Image] = [Image.open(path) for path in PHOTOS[:3]]
    images += [Image.fromarray(pixels), Image.fromarray(pixels.transpose(1, 0, 2))]
    images += [Image.new("RGB", (1, 1), "red"), Image.new("RGB", (224, 224), "blue")]
    for image in images:
        found = ours(image)
        assert found.dtype == np.uint8
        normal = (found / 255 - CONFIG["mean"]) / CONFIG["std"]
        np.testing.assert_allclose(normal.transpose(2, 0, 1), theirs(image).numpy(), atol=1e-5)


def test_a_strip_does_not_fill_the_memory() -> None:
    ours = Preprocess.from_config(CONFIG | {"size": 224})
    strip = Image.linear_gradient("L").convert("RGB").resize((100_000, 2))
    assert ours(strip).shape == (224, 224, 3)
    assert abs(int(ours(strip).mean()) - 127) < 3
    longest = Preprocess.from_config(CONFIG | {"size": 224, "resize_mode": "longest"})
    assert longest(strip).shape == (224, 224, 3)


@pytest.mark.parametrize(("mode", "bound"), [("shortest", 1.5), ("longest", 0.25), ("squash", 0.9)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_decoded_at_a_reduced_scale_is_fitted_as_it_is_whole(
    mode: str, bound: float, orientation: int
) -> None:
    """Its sides are not divisible: fitted by the reduced size alone it would be a pixel longer."""
    ours = Preprocess.from_config(CONFIG | {"size": 64, "resize_mode": mode})
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = Image.open(PHOTOS[0]).convert("RGB").resize((1101, 521), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    reduced = decode_image(file.getvalue(), least_side=ours.least_side)
    whole = decode_image(file.getvalue())
    assert max(reduced.size) == 276
    assert max(whole.size) == 1101
    assert find_whole(reduced)[0] == find_whole(whole)[0] == whole.size
    difference = np.abs(ours(reduced).astype(int) - ours(whole))
    assert difference.mean() < bound


def test_what_is_cut_out_of_a_reduced_photo_is_taken_as_it_is() -> None:
    file = io.BytesIO()
    Image.open(PHOTOS[0]).convert("RGB").resize((1101, 521)).save(file, "JPEG")
    reduced = decode_image(file.getvalue(), least_side=128)
    part = reduced.crop((100, 20, 170, 120))
    assert find_whole(part) == ((70, 100), (0, 0, 70, 100))
