"""Our class weights and vectors are open_clip's own."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.special import softmax

from clipcls import ZeroShotClassifier
from clipcls.errors import ModelError
from clipcls.labels.prompts import read_prompts
from clipcls.models import torch_model
from clipcls.models.backend import Backend
from clipcls.models.encoder import open_encoder
from clipcls.models.facts import ModelFacts
from clipcls.models.open_clip_encoder import OpenClipEncoder
from clipcls.models.registry import resolve
from clipcls.numerics import unit_rows

LABELS = ["cat", "dog", "much longer label of many words", "hot dog"]
TEMPLATES = list(read_prompts("photo").templates)
PHOTOS = sorted((Path(__file__).parents[2] / "examples/photos").glob("*.jpg"))[:5]


def random_weights(network: torch.nn.Module, file: Path) -> None:
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)


@pytest.fixture(scope="module")
def vit_b_32(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vit") / "weights.safetensors"
    random_weights(open_clip.create_model("ViT-B-32", load_weights=False), file)
    return {"model": "ViT-B-32", "checkpoint": str(file)}, "ViT-B-32"


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """ViT-B-16-SigLIP with two layers a tower and CLIP's tokenizer, which needs no hub."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("siglip")
    config = copy.deepcopy(open_clip.get_model_config("ViT-B-16-SigLIP"))
    config["text_cfg"] |= {"vocab_size": 49408, "layers": 2}
    for name in ("hf_tokenizer_name", "tokenizer_kwargs"):
        config["text_cfg"].pop(name, None)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    file = folder / "open_clip_config.json"
    file.write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    name = f"local-dir:{folder}"
    network = open_clip.create_model(name, load_weights=False)
    random_weights(network, folder / "open_clip_model.safetensors")
    return {"model": name}, name


@pytest.fixture
def mini() -> tuple[dict, str]:
    import clipcls

    return {"model": "mini"}, f"local-dir:{Path(clipcls.__file__).parent / 'mini'}"


@pytest.mark.slow
@pytest.mark.parametrize("which", ["mini", "vit_b_32", "siglip"])
def test_weights_and_scores_are_open_clips(which: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = request.getfixturevalue(which)
    classifier = ZeroShotClassifier(
        LABELS, **ours, prompts=TEMPLATES, backend=Backend(precision="fp32"), cache=False
    ).fit()
    network, _, transform = open_clip.create_model_and_transforms(
        theirs, pretrained=ours.get("checkpoint")
    )
    network.eval()
    weights = open_clip.build_zero_shot_classifier(
        network, open_clip.get_tokenizer(theirs), LABELS, TEMPLATES
    )
    np.testing.assert_allclose(classifier.weights_, weights.T.numpy(), atol=1e-5)
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.open(path)) for path in PHOTOS])
        images = network.encode_image(pixels, normalize=True)
        logits = network.logit_scale.exp() * images @ weights
        if network.logit_bias is not None:
            logits += network.logit_bias
    ours = classifier.head_.raw.logits(classifier.vectors(PHOTOS))
    np.testing.assert_allclose(softmax(ours, axis=1), logits.softmax(-1).numpy(), atol=1e-4)
    np.testing.assert_allclose(ours, logits.numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(
        classifier.decision_function(PHOTOS), ours / classifier.head_.temperature, rtol=1e-9
    )


@pytest.mark.slow
def test_a_vector_does_not_depend_on_its_batch() -> None:
    encoder = open_encoder("mini")
    pixels = [encoder.preprocess(Image.open(path).convert("RGB")) for path in PHOTOS]
    together = encoder.encode_images(pixels)
    for row, one in zip(together, pixels, strict=True):
        np.testing.assert_allclose(row, encoder.encode_images([one])[0], atol=1e-5)


@pytest.mark.slow
def test_where_memory_is_short_fewer_images_go_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is a GPU's, raised by hand here; tests/test_cuda.py has it for real."""
    encoder = open_encoder("mini", backend=Backend("torch", precision="fp32"))
    pixels = [encoder.preprocess(Image.open(path).convert("RGB")) for path in PHOTOS]
    expected = encoder.encode_images(pixels)
    encode, fits = torch_model.TorchModel.encode, 1

    def short(model: torch_model.TorchModel, images: list[np.ndarray]) -> torch.Tensor:
        if len(images) > fits:
            raise torch.cuda.OutOfMemoryError
        return encode(model, images)

    monkeypatch.setattr(torch_model.TorchModel, "encode", short)
    np.testing.assert_allclose(encoder.encode_images(pixels), expected, atol=1e-5)
    (line,) = caplog.messages  # one for all halvings
    assert "not enough memory on cpu for 5 images at a time" in line
    fits = 0
    with pytest.raises(ModelError, match="not enough memory on cpu for one image"):
        encoder.encode_images(pixels)


@pytest.mark.parametrize("device", ["cuda:", "cuda:x", "gpu", ""])
def test_no_such_device(device: str) -> None:
    with pytest.raises(ModelError, match="no such device"):
        Backend(device=device)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "float32"}, "precision 'float32': .* auto, fp32, bf16 or fp16"),
        ({"name": "onnx"}, "backend 'onnx': .* auto, openvino or torch"),
        ({"batch_size": 0}, "batch_size 0: give a whole number from 1"),
        ({"workers": 0}, "workers 0: give a whole number from 1"),
        ({"batch_size": 2.5}, "batch_size 2.5: give a whole number from 1"),
    ],
)
def test_settings_that_are_none(settings: dict, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Backend(**settings)


def test_threads_that_ask_a_new_encoder_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to Python 3.11 a cached_property has a lock of its own."""
    facts = ModelFacts(tmp_path / "facts")
    encoder = OpenClipEncoder(resolve("mini"), Backend(precision="fp32"), facts=facts)
    sides: list[int] = []
    one = threading.Thread(target=lambda: encoder.text_space, daemon=True)
    other = threading.Thread(target=lambda: sides.append(encoder.least_side), daemon=True)

    def precision(encoder: OpenClipEncoder) -> str:
        if threading.current_thread() is one:
            other.start()
            other.join(0.5)  # as far as it gets
        with encoder._loading:
            return "fp32"

    monkeypatch.setattr(OpenClipEncoder, "precision", property(precision))
    one.start()
    one.join(60)
    other.join(60)
    assert sides


def test_nothing_to_encode() -> None:
    encoder = open_encoder("mini")
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, 896)


def test_precision_is_part_of_the_spaces() -> None:
    one, other = open_encoder("mini"), open_encoder("mini", backend=Backend(precision="bf16"))
    assert one.weights == other.weights
    assert one.text_space != other.text_space
    assert one.image_space != other.image_space


def test_unit_rows_keeps_zeros() -> None:
    np.testing.assert_allclose(
        unit_rows(np.array([[3, 4], [0, 0]])), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6
    )
