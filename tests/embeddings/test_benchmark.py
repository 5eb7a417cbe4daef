from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from clipcls.embeddings import benchmark
from clipcls.errors import ImageError
from clipcls.models import openvino, registry
from clipcls.models.backend import Backend
from helpers.checkpoints import CONFIGS, write_model


def test_each_step_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "default_folder", lambda: tmp_path / "graphs")
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
    assert {row.share is not None for row in rows if "encode" in row.step} == {True}
    with pytest.raises(ImageError, match="gone"):
        list(benchmark.measure(source, [str(tmp_path / "gone.jpg")]))


def test_operations_are_counted_as_by_hand(tmp_path: Path) -> None:
    source = registry.resolve(str(write_model(tmp_path / "model", CONFIGS["clip"])))
    width, patches, tokens = 32, 4, 5
    by_hand = 2 * patches * 3 * 16 * 16 * width  # patches to tokens
    by_hand += 2 * tokens * width * 3 * width + 2 * tokens * width * width  # attention's matrices
    by_hand += 2 * tokens * width * 4 * width * 2  # MLP
    by_hand += 2 * width * 16  # projection
    attention = 2 * 2 * tokens * tokens * width
    assert benchmark._flops(source) - by_hand in (0, attention)


def test_the_photo_is_a_whole_jpeg() -> None:
    image = Image.open(io.BytesIO(benchmark.sample_photo(200, 100)))
    image.load()
    assert (image.format, image.size) == ("JPEG", (200, 100))


def test_an_backend_that_cannot_run_the_model_has_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise openvino.GraphError("refused")

    monkeypatch.setattr(openvino, "default_folder", lambda: tmp_path / "graphs")
    monkeypatch.setattr(openvino, "export", refuse)
    source = registry.resolve(str(write_model(tmp_path / "model", CONFIGS["clip"])))
    steps = [
        row.step for row in benchmark.measure(source, backend=Backend(batch_size=2), seconds=0.001)
    ]
    assert any("encode, torch" in step for step in steps)
    assert not any("openvino" in step for step in steps)
