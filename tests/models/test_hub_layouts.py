"""Models in the layouts of their hubs, with small towers: clipcls classifies as open_clip does."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from clipcls import ZeroShotClassifier
from clipcls.models import architectures, loading, openvino
from clipcls.models.backend import Backend
from clipcls.models.tokenizer import JsonTokenizer
from helpers.hub import FakeHub, asking
from helpers.tokenizer_files import write_kind

LABELS = ["cat", "dog", "Übergang & Höhe", "hot-dog", "un café", "猫", "word " * 90]
TEMPLATES = ["photo: {}.", "{}"]  # without an article, which clipcls would adapt
PHOTOS = sorted((Path(__file__).parents[2] / "examples/photos").glob("*.jpg"))[:3]
SIZE = 390, 290  # small, and PNG below: of a JPEG clipcls decodes only as many pixels as it needs
OPENAI = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)}
SIGLIP = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}

VIT = {"image_size": 64, "patch_size": 16, "width": 32, "head_width": 16, "layers": 2}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
TIMM = {"timm_model_name": "test_vit", "timm_model_pretrained": False}
SIGLIP_VISION = {**TIMM, "image_size": 160, "timm_pool": "map", "timm_proj": "none"}
SIGLIP_TEXT = {
    "context_length": 64,
    "vocab_size": 500,
    "width": 32,
    "heads": 2,
    "layers": 2,
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
}


@dataclass(frozen=True)
class Layout:
    """A repository: open_clip's `model_cfg` and the files next to it."""

    repo: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    weights: str = "open_clip_model.safetensors"
    tokenizer: tuple[str, str] | None = None  # its repository and kind
    text_tower: Any = None  # transformers' configuration, in the tokenizer's repository


LAYOUTS = {
    "PE-Core": Layout(
        "timm/PE-Core-T-16-384",
        {
            "embed_dim": 32,
            "vision_cfg": {
                "image_size": 96,
                "timm_model_name": "vit_pe_core_tiny_patch16_384",  # `shallow`
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": None,
            },
            "text_cfg": {**TEXT, "context_length": 32},
            "custom_text": True,
        },
        SIGLIP,
    ),
    "SigLIP 2": Layout(
        "timm/ViT-B-16-SigLIP2",
        {
            "embed_dim": 64,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": SIGLIP_VISION,
            "text_cfg": {
                **SIGLIP_TEXT,
                "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2",
                "act_kwargs": {"approximate": "tanh"},
            },
        },
        SIGLIP,
        tokenizer=("timm/ViT-B-16-SigLIP2", "gemma"),
    ),
    "marqo-fashionSigLIP": Layout(
        "Marqo/marqo-fashionSigLIP",
        {
            "embed_dim": 64,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": SIGLIP_VISION,
            "text_cfg": {**SIGLIP_TEXT, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP"},
        },
        SIGLIP,
        "open_clip_pytorch_model.bin",
        ("timm/ViT-B-16-SigLIP", "t5"),
    ),
    "BioCLIP": Layout(
        "imageomics/bioclip",
        {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT},
        OPENAI,
        "open_clip_pytorch_model.bin",
    ),
    "BioCLIP 2": Layout(
        "imageomics/bioclip-2",
        {"embed_dim": 24, "vision_cfg": {**VIT, "patch_size": 14}, "text_cfg": TEXT},
        {**OPENAI, "interpolation": "bicubic", "resize_mode": "shortest"},
    ),
    "CoCa": Layout(
        "laion/CoCa-ViT-B-32-laion2B-s13B-b90k",
        {
            "embed_dim": 16,
            "vision_cfg": {
                **VIT,
                "attentional_pool": True,
                "attn_pooler_heads": 2,
                "output_tokens": True,
            },
            "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": {**TEXT, "context_length": 76, "attn_pooler_heads": 2},
            "custom_text": True,
        },
        OPENAI,
        "open_clip_pytorch_model.bin",
    ),
    "CLIPA": Layout(
        "UCSC-VLAA/ViT-L-14-CLIPA-datacomp1B",
        {
            "embed_dim": 16,
            "vision_cfg": {
                **VIT,
                "no_ln_pre": True,
                "pool_type": "avg",
                "final_ln_after_pool": True,
            },
            "text_cfg": {
                **TEXT,
                "context_length": 32,
                "vocab_size": 400,
                "hf_tokenizer_name": "bert-base-uncased",
                "tokenizer_kwargs": {"strip_sep_token": True},
                "pool_type": "last",
                "no_causal_mask": True,
            },
        },
        OPENAI,
        tokenizer=("bert-base-uncased", "bert"),
    ),
    "BiomedCLIP": Layout(
        "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        {
            "embed_dim": 32,
            "vision_cfg": {**TIMM, "timm_pool": "", "timm_proj": "linear", "image_size": 160},
            "text_cfg": {
                "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
                "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
                "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler",
                "context_length": 256,
            },
        },
        OPENAI,
        "open_clip_pytorch_model.bin",
        ("microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", "bert, vocab.txt"),
        transformers.BertConfig(
            vocab_size=400,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
        ),
    ),
    "XLM-R": Layout(
        "laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k",
        {
            "embed_dim": 32,
            "vision_cfg": VIT,
            "text_cfg": {
                "hf_model_name": "xlm-roberta-base",
                "hf_tokenizer_name": "xlm-roberta-base",
                "hf_pooler_type": "mean_pooler",
            },
        },
        OPENAI,
        tokenizer=("xlm-roberta-base", "xlm-roberta"),
        text_tower=transformers.XLMRobertaConfig(
            vocab_size=400,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=514,
            type_vocab_size=1,
            pad_token_id=1,
        ),
    ),
}


@pytest.fixture
def hub(tmp_path: Path, cache_folder: Path) -> Iterator[FakeHub]:
    fake = FakeHub(tmp_path / "repos")
    with asking(HF_ENDPOINT=fake.url, HF_HOME=str(tmp_path)):
        yield fake
    fake.server.shutdown()
    fake.server.server_close()


def write(layout: Layout, repos: Path) -> None:
    """The repositories of a model, with random weights."""
    directory = repos / layout.repo
    directory.mkdir(parents=True)
    if layout.tokenizer:
        write_kind(layout.tokenizer[1], repos / layout.tokenizer[0])
    if layout.text_tower and layout.tokenizer:
        layout.text_tower.save_pretrained(repos / layout.tokenizer[0])
    content = {"model_cfg": layout.config, "preprocess_cfg": layout.preprocess}
    (directory / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    with architectures.quiet():
        network = open_clip.create_model(
            f"hf-hub:{layout.repo}", load_weights=False, pretrained_hf=False
        )
    state = {key: value.clone() for key, value in network.state_dict().items()}
    for value in state.values():  # so that no bias is a default that goes unnoticed
        if value.is_floating_point() and value.ndim == 1:
            value += 0.05 * torch.rand_like(value)
    if layout.weights.endswith("safetensors"):
        save_file(state, directory / layout.weights)
    else:
        torch.save(state, directory / layout.weights)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{photo.stem}.png" for photo in PHOTOS]
    for photo, file in zip(PHOTOS, files, strict=True):
        Image.open(photo).convert("RGB").resize(SIZE).save(file)
    return files


def open_clips_scores(repo: str, photos: list[Path]) -> np.ndarray:
    with architectures.quiet():
        network, _, transform = open_clip.create_model_and_transforms(f"hf-hub:{repo}")
        tokenizer = open_clip.get_tokenizer(f"hf-hub:{repo}")
        weights = open_clip.build_zero_shot_classifier(
            network.eval(), tokenizer, LABELS, [lambda c, t=t: t.format(c) for t in TEMPLATES]
        )
        with torch.inference_mode():
            pixels = torch.stack([transform(Image.open(path)) for path in photos])
            logits = network.logit_scale.exp() * network.encode_image(pixels, True) @ weights
            if network.logit_bias is not None:
                logits += network.logit_bias
            return logits.softmax(-1).numpy()


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """PE Core's image tower with 2 of its 12 layers, for images of 96 x 96 pixels."""
    entries = getattr(timm.models, "_registry")._model_entrypoints  # noqa: B009
    name = "vit_pe_core_tiny_patch16_384"
    make = functools.partial(entries[name], depth=2, img_size=96)
    monkeypatch.setitem(entries, name, make)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", LAYOUTS)
def test_scores_are_open_clips(
    name: str, hub: FakeHub, photos: list[Path], tmp_path: Path, monkeypatch, caplog
) -> None:
    layout = LAYOUTS[name]
    write(layout, hub.repos)

    def scores(backend: Literal["openvino", "torch"]) -> np.ndarray:
        classifier = ZeroShotClassifier(
            LABELS,
            f"hf-hub:{layout.repo}",
            prompts=TEMPLATES,
            backend=Backend(backend, precision="fp32"),
            cache=False,
        ).fit()
        tokenizer = getattr(classifier.encoder_, "_tokenizer")  # noqa: B009
        assert isinstance(tokenizer, JsonTokenizer) == bool(layout.tokenizer)
        return classifier.predict_proba(photos)

    found = scores("torch")
    # All files are here now. transformers would ask the hub for more than files.
    with asking(HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1"):
        expected = open_clips_scores(layout.repo, photos)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if not openvino.is_supported():
        return
    np.testing.assert_allclose(scores("openvino"), expected, atol=1e-5)
    assert "torch" not in caplog.text
    assert len(openvino.stored_sizes()) == 2
    monkeypatch.setattr(loading, "load", None)  # from here on both towers are graphs
    np.testing.assert_allclose(scores("openvino"), expected, atol=1e-5)


@pytest.mark.skipif(not openvino.is_supported(), reason="OpenVINO is not installed")
@pytest.mark.parametrize("name", ["SigLIP 2", "BiomedCLIP"])
def test_the_next_process_needs_its_graphs_alone(
    name: str, hub: FakeHub, photos: list[Path], tmp_path: Path
) -> None:
    layout = LAYOUTS[name]
    write(layout, hub.repos)
    classifier = ZeroShotClassifier(
        ["cat", "dog"], f"hf-hub:{layout.repo}", backend=Backend(precision="fp32"), cache=False
    ).fit()
    expected = classifier.predict(photos)
    script = (
        "import sys\n"
        "names = ('torch', 'torchvision', 'timm', 'transformers', 'sentencepiece')\n"
        "sys.modules.update(dict.fromkeys(names))\n"
        "from clipcls.cli import main; main()"
    )
    options = ["--precision", "fp32", "--no-cache", "-f", "csv", "-l", "cat", "-l", "dog"]
    done = subprocess.run(
        [sys.executable, "-c", script, "classify", "-m", layout.repo, *options, *map(str, photos)],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(",")[1] for line in done.stdout.splitlines()[1:]] == list(expected)
