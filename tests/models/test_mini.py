"""The bundled model's graphs, built without torch, give torch's vectors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipcls.models import mini, openvino, registry, towers
from clipcls.models.aliases import MINI
from clipcls.models.backend import Backend
from clipcls.models.facts import ModelFacts
from clipcls.models.open_clip_encoder import OpenClipEncoder
from clipcls.models.tokenizer import ClipTokenizer

if not openvino.is_supported():
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

PHOTOS = sorted((Path(__file__).parents[2] / "examples/photos").glob("*.jpg"))[:5]
TEXTS = ["a cat", "", "a photo of a dog on a beach, with a ball", "word " * 74, "naïve 猫"]


@pytest.fixture
def encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[OpenClipEncoder, OpenClipEncoder]:
    """The built towers, and torch's."""
    monkeypatch.setattr(openvino, "default_folder", lambda: tmp_path / "graphs")
    ours, theirs = (
        OpenClipEncoder(
            registry.resolve("mini"),
            Backend(name, precision="fp32"),
            facts=ModelFacts(tmp_path / name),
        )
        for name in ("openvino", "torch")
    )
    return ours, theirs


def test_vectors_and_settings_are_torchs(
    encoders: tuple[OpenClipEncoder, OpenClipEncoder], caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = encoders
    pixels = [ours.preprocess(Image.open(path).convert("RGB")) for path in PHOTOS]
    expected = theirs.encode_images(pixels)
    np.testing.assert_allclose(ours.encode_images(pixels), expected, atol=1e-5)
    np.testing.assert_allclose(ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS), atol=1e-5)
    assert ours.logit_scale == theirs.logit_scale
    assert ours.logit_bias == theirs.logit_bias
    for path in PHOTOS:
        image = Image.open(path).convert("RGB")
        np.testing.assert_array_equal(ours.preprocess(image), theirs.preprocess(image))
    assert not ours._towers, "torch has loaded a tower"
    assert caplog.text == ""


def test_the_expected_vectors_are_those_of_these_weights(
    encoders: tuple[OpenClipEncoder, OpenClipEncoder],
) -> None:
    """`training/probe.py` writes them."""
    _, torchs = encoders
    images = torchs._load("image")(list(towers.image_probe(torchs._preprocess)))
    np.testing.assert_allclose(mini.read_expected("image"), images, rtol=1e-4, atol=1e-4)
    tower = torchs._load("text")
    short, both = towers.text_probe(ClipTokenizer())
    padded = np.pad(short, ((0, 0), (0, both.shape[1] - short.shape[1])))
    texts = tower(np.concatenate([padded, both]))
    np.testing.assert_allclose(mini.read_expected("text"), texts, rtol=1e-4, atol=1e-4)


def test_a_new_machine_needs_no_torch_and_little_space(tmp_path: Path) -> None:
    program = "import sys\nsys.modules['torch'] = None\nfrom clipcls.cli import main\nmain()\n"
    arguments = ["classify", "-m", "mini", "-l", "cat", "-l", "dog", str(PHOTOS[0]), "-f", "csv"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    assert str(PHOTOS[0]) in run.stdout
    assert "preparing" not in run.stderr
    stored = sum(file.stat().st_size for file in (tmp_path / "clipcls/graphs").iterdir())
    weights = (MINI / "open_clip_model.safetensors").stat().st_size
    assert 0 < stored < 1.5 * weights
