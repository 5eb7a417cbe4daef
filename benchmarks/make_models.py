"""Makes the models that the benchmarks use, all with random weights; run in the environment tools.

    make_models.py FOLDER

Throughput does not depend on what the weights are. The same weights are written in every form that
a program takes, and the forms are checked to give the same vectors:

    ViT-B-32.safetensors          OpenCLIP's ViT-B-32
    ViT-B-32-hf/                  the same as transformers' CLIPModel with its tokenizer
    ViT-B-32-256.safetensors      OpenCLIP's ViT-B-32-256
    rclip/                        the same as rclip's data folder: two ONNX files and a vocabulary
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel


def random_model(architecture: str) -> Any:
    """An OpenCLIP model with random weights, always the same ones."""
    torch.manual_seed(0)
    return open_clip.create_model(architecture, pretrained=None).eval()


def write_hf(model: Any, folder: Path) -> None:
    """Writes OpenCLIP's ViT-B-32 as a folder that transformers' pipelines load."""
    config = CLIPConfig()  # its defaults are ViT-B/32
    config.vision_config.hidden_act = config.text_config.hidden_act = "gelu"  # as in OpenCLIP's
    config.text_config.bos_token_id, config.text_config.eos_token_id = 49406, 49407
    hf = CLIPModel(config).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        state.update(_renamed(name, tensor))
    missing, unexpected = hf.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing or unexpected:
        sys.exit(f"make_models: this transformers names weights otherwise: {missing[:3]}")
    pixels = torch.rand(2, 3, 224, 224)
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a photo of a cat.", "dogs"])
    with torch.no_grad():
        # Token 0 pads in OpenCLIP; the last token's place is all that counts in both.
        hf_out = hf(input_ids=tokens, pixel_values=pixels)
        pairs = (
            (hf_out.image_embeds, model.encode_image(pixels, normalize=True)),
            (hf_out.text_embeds, model.encode_text(tokens, normalize=True)),
        )
        for theirs, ours in pairs:
            if not torch.allclose(theirs, ours, atol=1e-4):
                sys.exit("make_models: transformers computes something else than OpenCLIP")
    hf.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    words = SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {special.get(word, word): number for word, number in words.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = [" ".join(pair) for pair, _ in sorted(words.bpe_ranks.items(), key=lambda x: x[1])]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )


def _renamed(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """One of OpenCLIP's weights -> transformers' names for it."""
    if name == "logit_scale":
        return {name: tensor}
    if name in ("visual.proj", "text_projection"):
        tower = "visual" if name == "visual.proj" else "text"
        return {f"{tower}_projection.weight": tensor.T.contiguous()}
    if name == "attn_mask":
        return {}
    top = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    }
    if name in top:
        return {top[name]: tensor}
    tower = "vision_model" if name.startswith("visual.") else "text_model"
    name = name.removeprefix("visual.")
    for theirs, ours in (
        ("ln_pre.", "pre_layrnorm."),
        ("ln_post.", "post_layernorm."),
        ("ln_final.", "final_layer_norm."),
    ):
        if name.startswith(theirs):
            return {f"{tower}.{ours}{name.removeprefix(theirs)}": tensor}
    _, _, layer, rest = name.split(".", 3)
    layer = f"{tower}.encoder.layers.{layer}"
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        return {
            f"{layer}.self_attn.{part}_proj.{kind}": third.clone()
            for part, third in zip("qkv", tensor.chunk(3), strict=True)
        }
    for theirs, ours in (
        ("attn.", "self_attn."),
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ):
        rest = rest.replace(theirs, ours)
    return {f"{layer}.{rest}": tensor}


class _Tower(torch.nn.Module):
    def __init__(self, encode: Any, model: Any) -> None:
        super().__init__()
        self.model, self.encode = model, encode

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.encode(input)


def write_rclip(model: Any, folder: Path) -> None:
    """Writes OpenCLIP's ViT-B-32-256 where and as rclip looks for its downloaded model."""
    place = folder / "ViT-B-32-256-datacomp_s34b_b86k"
    place.mkdir(parents=True, exist_ok=True)
    inputs = {
        "visual": (model.encode_image, torch.rand(2, 3, 256, 256)),
        "textual": (model.encode_text, open_clip.get_tokenizer("ViT-B-32-256")(["a", "b"])),
    }
    for name, (encode, example) in inputs.items():
        torch.onnx.export(
            _Tower(encode, model).eval(),
            (example,),
            str(place / f"{name}.onnx"),
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes={"input": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
        )
        session = onnxruntime.InferenceSession(place / f"{name}.onnx")
        three = torch.cat([example, example[:1]])
        (theirs,) = session.run(None, {"input": three.numpy()})
        with torch.no_grad():
            if not torch.allclose(torch.from_numpy(theirs), encode(three), atol=1e-3):
                sys.exit("make_models: the ONNX files compute something else than OpenCLIP")
    (folder / "tokenizer").mkdir(exist_ok=True)
    shutil.copy(default_bpe(), folder / "tokenizer" / "bpe_simple_vocab_16e6.txt.gz")


def main() -> None:
    """The command."""
    if len(sys.argv) != 2:
        sys.exit("usage: make_models.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for architecture in ("ViT-B-32", "ViT-B-32-256"):
        if not (folder / f"{architecture}.safetensors").exists():
            save_file(
                {k: v.contiguous() for k, v in random_model(architecture).state_dict().items()},
                folder / f"{architecture}.safetensors",
            )
    for name, architecture, write in (
        ("ViT-B-32-hf", "ViT-B-32", write_hf),
        ("rclip", "ViT-B-32-256", write_rclip),
    ):
        if not (folder / name).exists():
            made = folder / f"{name}.part"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            write(random_model(architecture), made)
            made.rename(folder / name)


if __name__ == "__main__":
    main()
