from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from clipcls.embeddings import benchmark
from clipcls.errors import ImageError
from clipcls.models import openvino, registry, towers
from clipcls.models.backend import Backend
from helpers.checkpoints import CONFIGS, write_model


@pytest.mark.usefixtures("cache_folder")
def test_each_step_is_measured(tmp_path: Path) -> None:
    source = registry.resolve(str(write_model(tmp_path / "model", CONFIGS["clip"])))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(benchmark.sample_photo(200, 150))
    rows = list(
        benchmark.measure(source, [str(photo)], backend=Backend(batch_size=2), seconds=0.001)
    )
    assert all(row.seconds > 0 for row in rows)
    steps = [row.step for row in rows]
    for word in (
        "decode whole",
        "decode at",
        "resize",
        "torch fp32, 1 ",
        "torch fp32, 2 ",
        "match",
    ):
        assert any(word in step for step in steps), word
    assert any("openvino fp32" in step for step in steps) == openvino.is_supported()
    with pytest.raises(ImageError, match="gone"):
        list(benchmark.measure(source, [str(tmp_path / "gone.jpg")]))


def test_the_photo_is_a_whole_jpeg() -> None:
    image = Image.open(io.BytesIO(benchmark.sample_photo(200, 100)))
    image.load()
    assert (image.format, image.size) == ("JPEG", (200, 100))


@pytest.mark.usefixtures("cache_folder")
def test_a_backend_that_cannot_run_the_model_has_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise towers.GraphError("refused")

    monkeypatch.setattr(towers, "export_tower", refuse)
    source = registry.resolve(str(write_model(tmp_path / "model", CONFIGS["clip"])))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(benchmark.sample_photo(200, 150))
    measured = benchmark.measure(source, [str(photo)], backend=Backend(batch_size=2), seconds=0.001)
    steps = [row.step for row in measured]
    assert any("encode, torch" in step for step in steps)
    assert not any("openvino" in step for step in steps)
