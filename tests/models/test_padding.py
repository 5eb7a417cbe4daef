"""Leaving padding out changes nothing but rounding, and happens only where that is so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipcls.models import loading, registry
from clipcls.models.architectures import quiet
from clipcls.models.padding import can_leave_out, taking
from clipcls.models.tokenizer import count_tokens, open_tokenizer
from helpers.checkpoints import CONFIGS, TEXT, VISION, write_model, write_text_tower

TEXTS = ["a cat", "", "a photo of a dog on a beach, with a ball", "word " * 100]
KINDS = {
    **CONFIGS,
    "eos": {
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407},
        "custom_text": True,
    },
    "last": {
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "pool_type": "last"},
        "custom_text": True,
    },
}
SEES_PADDING = {"siglip", "coca", "last"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_alone_has_the_vector_it_has_at_full_length(kind: str, tmp_path: Path) -> None:
    source = registry.resolve(str(write_model(tmp_path / "model", KINDS[kind])))
    model = loading.load(source, tower="text")
    tokenizer = open_tokenizer(source)
    tokens = torch.from_numpy(tokenizer(TEXTS))
    lengths = count_tokens(tokens.numpy(), tokenizer.padding)
    assert can_leave_out(model.network, tokenizer.padding) == (kind not in SEES_PADDING)
    assert not can_leave_out(model.network, tokenizer.padding + 5)
    if kind in SEES_PADDING:
        lengths[:] = tokens.shape[1]
    with torch.inference_mode():
        whole = model.network.encode_text(tokens, normalize=False)
        for number, length in enumerate(lengths):
            alone = model.forward(tokens[number : number + 1, :length])
            torch.testing.assert_close(alone[0], whole[number], atol=2e-6, rtol=1e-5)
        some = model.forward(tokens[:3, : max(lengths[:3])])
        torch.testing.assert_close(some, whole[:3], atol=2e-6, rtol=1e-5)
        assert torch.equal(
            model.network.encode_text(tokens, normalize=False), whole
        )  # as it was before


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler"])
def test_hugging_face_towers(pooler: str, tmp_path: Path) -> None:
    write_text_tower(tmp_path / "words")
    text = {"hf_pooler_type": pooler, "hf_proj_type": "mlp", "context_length": 12}
    text |= {name: str(tmp_path / "words") for name in ("hf_model_name", "hf_tokenizer_name")}
    directory = write_model(tmp_path / "model", {"vision_cfg": VISION, "text_cfg": text})
    import open_clip

    with quiet():
        network = open_clip.create_model(f"local-dir:{directory}").eval()
    tokens = torch.tensor([[0, 4, 5, 2] + 8 * [1], [0, 4, 5, 6, 4, 2] + 6 * [1]])
    assert can_leave_out(network, padding=1)
    assert not can_leave_out(network, padding=0)
    with torch.inference_mode():
        whole = network.encode_text(tokens)
        with taking(network, 6):
            short = network.encode_text(tokens[:, :6])
        torch.testing.assert_close(short, whole, atol=2e-6, rtol=1e-5)
