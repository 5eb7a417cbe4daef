"""How long each model takes for a folder: measured where it is here, else estimated."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from clipcls.embeddings import benchmark, forecast
from clipcls.errors import ImageError
from clipcls.models import openvino, registry
from clipcls.models.aliases import ALIASES
from clipcls.models.backend import Backend
from clipcls.models.registry import ModelSource
from helpers.checkpoints import CONFIGS, write_model

CPU = Backend(device="cpu", precision="fp32")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    monkeypatch.setattr(openvino, "default_folder", lambda: tmp_path / "graphs")
    return registry.resolve(str(write_model(tmp_path / "tiny", CONFIGS["clip"])))


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{number}.jpg" for number in range(40)]
    for path in paths:
        path.write_bytes(benchmark.sample_photo(100, 100))
    return list(map(str, paths))


def test_what_is_here_is_measured_and_the_rest_estimated(tiny, photos, monkeypatch) -> None:
    monkeypatch.setattr(forecast, "resolve", lambda alias, **_: _present(alias, tiny))
    times = iter([0.32, 0.08, 0.8, 1.6])  # decoding 32 images; 8 images by mini, base and tiny
    monkeypatch.setattr(forecast, "time_best", lambda work, _: (work(), next(times))[1])
    rows = {row.model: row for row in forecast.forecast(photos, tiny, backend=CPU)}
    assert rows.keys() == {*ALIASES, tiny.name}
    assert [name for name, row in rows.items() if row.is_measured] == ["mini", "base", tiny.name]
    assert rows["mini"].seconds == pytest.approx(0.01 + 0.01)
    assert rows["base"].seconds == pytest.approx(0.01 + 0.1)
    assert rows[tiny.name].seconds == pytest.approx(0.01 + 0.2)
    for alias in ("fast", "accurate", "biology"):  # by base, not by mini
        assert rows[alias].seconds == pytest.approx(0.01 + 0.1 / ALIASES[alias].speed)


def test_unreadable_images_are_left_out_of_the_sample(tiny, photos, monkeypatch) -> None:
    monkeypatch.setattr(forecast, "resolve", lambda alias, **_: _present(alias, tiny))
    Path(photos[0]).write_bytes(b"no image")
    assert all(row.seconds > 0 for row in forecast.forecast(photos, backend=CPU, seconds=0.001))
    with pytest.raises(ImageError, match=r"0\.jpg"):
        list(forecast.forecast(photos[:1], backend=CPU, seconds=0.001))


def _present(alias: str, tiny: ModelSource) -> ModelSource:
    if alias in ("mini", "base"):
        return dataclasses.replace(tiny, name=ALIASES[alias].name)
    return registry.resolve(alias, offline=True)
