from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file

from clipcls.errors import ModelError, ModelUnavailableError, UnknownModelError, install_command
from clipcls.models import (
    aliases,
    architectures,
    config,
    hub,
    licences,
    loading,
    registry,
    torch_model,
)
from clipcls.models.architectures import quiet
from clipcls.models.open_clip_encoder import OpenClipEncoder
from clipcls.models.registry import ModelSource
from clipcls.models.tokenizer import open_tokenizer
from clipcls.predictions import Provenance
from helpers.checkpoints import CONFIGS, PREPROCESS, TEXT, VISION, write_model, write_text_tower
from helpers.hub import FakeHub, asking
from helpers.tokenizer_files import write_kind

ROOT = Path(__file__).parents[2]
TEXTS = ["a photo of a cat", "a dog"]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal but for what another order of additions makes of it."""
    assert ours.dtype == theirs.dtype
    tolerance = 1e-5 if ours.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    return Image.fromarray(pixels)


def builtin(architecture: str, weights: Path) -> ModelSource:
    """As resolve makes it, for architectures whose tokenizer cannot be downloaded here."""
    config = architectures.read_architecture(architecture)
    gelu = config.get("quick_gelu", False)
    return ModelSource("random", architecture, config, None, gelu, weights)


# -- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "precision"),
    # A CPU without bf16 takes minutes for EfficientNet's convolutions in it; siglip's tower is
    # timm's too.
    [(kind, p) for kind in CONFIGS for p in ("fp32", "bf16") if p == "fp32" or "timm" not in kind],
)
def test_towers_are_open_clips_own(kind, precision, tmp_path) -> None:
    directory = write_model(tmp_path / "model", CONFIGS[kind])
    source = registry.resolve(f"local-dir:{directory}")
    with quiet():
        # open_clip's mixed precision fails for these.
        pure = "pure_" if kind in ("siglip", "coca") and precision == "bf16" else ""
        theirs, _, transform = open_clip.create_model_and_transforms(
            source.architecture, precision=pure + precision
        )
        tokenizer = open_clip.get_tokenizer(source.architecture)
    theirs.eval()
    pixels = transform(photo())[None]
    tokens = tokenizer(TEXTS)
    with torch.inference_mode():
        image = theirs.encode_image(pixels.to(torch_model.dtype(precision)), normalize=False)
        text = theirs.encode_text(tokens, normalize=False)

    for tower in ("image", "text"):
        model = loading.load(source, precision=precision, tower=tower)
        with torch.inference_mode():
            if tower == "image":
                close(model.encode([model.preprocess(photo())]), image)
            else:
                assert open_tokenizer(source)(TEXTS).tolist() == tokens.tolist()
                close(model.encode(tokens.numpy()), text)
        assert source.config["embed_dim"] == image.shape[1]
        assert source.context_length == tokens.shape[1]
        assert model.settings["logit_scale"] == pytest.approx(
            theirs.logit_scale.exp().item(), rel=2e-2
        )
        assert (model.settings["logit_bias"] is None) == (kind != "siglip")


def test_a_tower_is_read_alone(tmp_path, monkeypatch) -> None:
    source = registry.resolve(str(write_model(tmp_path / "model", CONFIGS["timm"])))
    monkeypatch.setattr(open_clip, "load_checkpoint", None)
    sizes = []
    for tower in ("image", "text"):
        network = loading.load(source, tower=tower).network
        sizes.append(sum(p.numel() for p in network.parameters()))
    assert 3_000_000 < sizes[0] < 6_000_000
    assert 49408 * 16 < sizes[1] < 49408 * 16 + 50_000


def test_scale_and_bias_stay_float32(tmp_path) -> None:
    source = registry.resolve(str(write_model(tmp_path / "model", CONFIGS["timm"])))
    full, half = (
        loading.load(source, precision=p, tower="text").settings["logit_scale"]
        for p in ("fp32", "bf16")
    )
    assert full == half


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("form", ["bin", "pth", "old text keys", "scalar scale", "trainer"])
def test_forms_that_open_clip_converts(form, tower, tmp_path) -> None:
    directory = write_model(tmp_path / "model", CONFIGS["timm"])
    whole = loading.load(registry.resolve(str(directory)), tower=tower)
    state = load_file(directory / "open_clip_model.safetensors")
    (directory / "open_clip_model.safetensors").unlink()
    if form == "old text keys":
        state = {key.removeprefix("text."): value for key, value in state.items()}
        save_file(state, directory / "open_clip_model.safetensors")
    elif form == "scalar scale":
        state["logit_scale"] = state["logit_scale"].reshape(1)
        save_file(state, directory / "open_clip_model.safetensors")
    elif form == "trainer":
        state = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 3, "state_dict": state}, directory / "epoch_3.pth")
    else:
        torch.save(state, directory / f"open_clip_pytorch_model.{form}")
    half = loading.load(registry.resolve(str(directory)), tower=tower)
    with torch.inference_mode():
        if tower == "image":
            pixels = [whole.preprocess(photo())]
            close(half.encode(pixels), whole.encode(pixels))
        else:
            tokens = open_clip.tokenize(["a cat"]).numpy()
            close(half.encode(tokens), whole.encode(tokens))
    assert half.settings["logit_scale"] == whole.settings["logit_scale"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["ViT-B-32", "coca_ViT-B-32", "ViT-B-16-SigLIP"])
def test_built_in_architectures(architecture, tmp_path) -> None:
    with quiet():
        theirs = open_clip.create_model(architecture, pretrained_text=False).eval()
    file = tmp_path / "random.safetensors"
    save_file(theirs.state_dict(), file)
    siglip = "SigLIP" in architecture
    source = builtin(architecture, file)
    image, text = loading.load(source, tower="image"), loading.load(source, tower="text")
    pixels = [image.preprocess(photo())]
    preprocess = image_transform_v2(PreprocessCfg(**image.settings["preprocess"]), is_train=False)
    tokens = torch.randint(1, 30_000, (2, source.context_length))
    with torch.inference_mode():
        theirs_image = theirs.encode_image(preprocess(photo())[None], normalize=False)
        close(image.encode(pixels), theirs_image)
        close(text.encode(tokens.numpy()), theirs.encode_text(tokens, normalize=False))
    config = image.settings["preprocess"]
    assert config["size"] == (224, 224)
    assert config["resize_mode"] == ("squash" if siglip else "shortest")
    mean = 0.5 if siglip else open_clip.OPENAI_DATASET_MEAN[0]
    assert config["mean"][0] == mean
    assert image.settings["logit_bias"] == (-10 if siglip else None)
    assert theirs_image.shape[1] == source.config["embed_dim"]


def test_quick_gelu_follows_the_weights(tmp_path, caplog) -> None:
    file = tmp_path / "random.safetensors"
    with quiet():
        theirs = open_clip.create_model("ViT-S-32-alt")
    save_file(theirs.state_dict(), file)
    source = builtin("ViT-S-32-alt", file)
    quick = loading.load(dataclasses.replace(source, quick_gelu=True), tower="image").network
    plain = loading.load(source, tower="image").network
    kinds = [str(network.visual.transformer.resblocks[0].mlp) for network in (quick, plain)]
    assert ["QuickGELU" in kind for kind in kinds] == [True, False]

    assert registry._find_pretrained("ViT-B-32/openai").quick_gelu
    assert registry._find_pretrained("ViT-B-32:metaclip_400m").quick_gelu
    assert registry._find_pretrained("ViT-B-32-quickgelu/openai").quick_gelu
    assert not registry._find_pretrained("ViT-B/32/laion2b_s34b_b79k").quick_gelu
    # This architecture was trained with QuickGELU, and its tag does not repeat it.
    assert registry._find_pretrained("roberta-ViT-B-32/laion2b_s12b_b32k").quick_gelu

    assert registry.resolve("ViT-B-32", file).quick_gelu is False
    assert "ViT-B-32-quickgelu" in caplog.text
    caplog.clear()
    assert registry.resolve("ViT-B-32-quickgelu", file).quick_gelu is True
    assert registry.resolve("ViT-S-32", file).quick_gelu is False
    assert caplog.text == ""


def test_loading_is_silent_and_changes_nothing(tmp_path) -> None:
    directory = write_model(tmp_path / "model", CONFIGS["clip"])
    program = f"""
import logging, sys, warnings
before = list(warnings.filters)
from clipcls.models import loading, registry
import torch
loaded = loading.load(registry.resolve({str(directory)!r}), tower="text")
root = logging.getLogger()
assert root.handlers == [] and root.filters == [] and root.level == logging.WARNING
assert [f for f in before if f not in warnings.filters] == []
logging.getLogger("theirs").warning("heard")
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "heard\n")


def test_a_programs_own_log_is_kept(tmp_path, caplog) -> None:
    directory = write_model(tmp_path / "model", CONFIGS["clip"])
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loading.load(registry.resolve(str(directory)), tower="image")
        logging.info("mine")
    assert [r.getMessage() for r in caplog.records if r.name == "root"] == ["mine"]


# -- what can be wrong with a model --------------------------------------------------------------


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("tower", ["text", "image"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "cannot be loaded"),
        ("empty", "cannot be loaded"),
        ("code", "contains code"),
        ("raw code", "not a file of weights"),
        ("jit", "contains code"),
        ("text", "cannot be loaded"),
        ("other", "does not fit"),
        ("nothing", "cannot be loaded"),
    ],
)
def test_bad_checkpoints(damage, message, tower, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = write_model(tmp_path / "model", CONFIGS["clip"])
    good = directory / "open_clip_model.safetensors"
    bad = directory / "open_clip_pytorch_model.bin"
    if damage == "truncated":
        good.write_bytes(good.read_bytes()[:-100])
    elif damage == "empty":
        good.write_bytes(b"")
    elif damage == "other":
        deeper = {"vision_cfg": {**VISION, "layers": 2}, "text_cfg": {**TEXT, "layers": 2}}
        other = write_model(tmp_path / "other", deeper)
        shutil.copy(other / good.name, good)
    else:
        good.unlink()
        if damage == "code":
            torch.save({"state_dict": Evil()}, bad)
        elif damage == "raw code":
            bad.write_bytes(pickle.dumps({"state_dict": Evil()}))
        elif damage == "jit":
            torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), bad)
        elif damage == "text":
            bad.write_text("<html>Not found</html>")
        else:
            torch.save({}, bad)
    with pytest.raises(ModelError) as caught:
        loading.load(registry.resolve(str(directory)), tower=tower)
    text = str(caught.value)
    assert message in text
    assert str(directory) in text
    assert "\n" not in text
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no open_clip_config.json"),
        ("{", "is not JSON"),
        ("[]", "needs a model_cfg"),
        ('{"model_cfg": {"embed_dim": 4}}', "needs a model_cfg"),
        (
            '{"model_cfg": {"embed_dim": 4, "vision_cfg": {}, "text_cfg": {"tokenizer_kwargs": 1}}'
            "}",
            "`tokenizer_kwargs` is not an object",
        ),
    ],
)
def test_bad_directories(config, message, tmp_path) -> None:
    if config is not None:
        (tmp_path / "open_clip_config.json").write_text(config)
    with pytest.raises(ModelError, match=message):
        registry.resolve(f"local-dir:{tmp_path}")


def test_directory_without_weights(tmp_path) -> None:
    directory = write_model(tmp_path / "model", CONFIGS["clip"])
    (directory / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        registry.resolve(str(directory))
    with pytest.raises(ModelError, match="no such model directory"):
        registry.resolve("local-dir:/nowhere")


def test_no_transformers(tmp_path, monkeypatch) -> None:
    source = registry.resolve(str(write_model(tmp_path / "model", CONFIGS["clip"])))
    source = dataclasses.replace(source, text_config=tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    loading.load(source, tower="image")
    with pytest.raises(ModelError, match=re.escape(install_command("hf"))):
        loading.load(source, tower="text")


def test_out_of_memory(tmp_path) -> None:
    source = registry.resolve(str(write_model(tmp_path / "model", CONFIGS["clip"])))
    huge = {**source.config, "text_cfg": {**TEXT, "vocab_size": 1 << 50}}
    with pytest.raises(ModelError, match="not enough memory"):
        loading.load(dataclasses.replace(source, config=huge), tower="text")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bsae", "did you mean base"),
        ("ViT-B-33/openai", "did you mean ViT-B-32/openai"),
        ("bioclip", "did you mean biology"),
        (str(ROOT / "LICENSE"), "is the --checkpoint of an architecture"),
        (str(ROOT), "has no open_clip_config.json"),
        ("ViT-B-32/openia", "it has openai, laion400m_e31"),
        ("ViT-B-32", "ViT-B-32/TAG"),
        ("ViT-S-32-alt", "it has none"),
        ("", "no such model"),
        ("\0", "no such model"),
        ("~nobody/here", "no such model"),
        ("./model", "no such model"),
    ],
)
def test_unknown_names(name, message) -> None:
    with pytest.raises(UnknownModelError, match=message):
        registry.resolve(name)


def test_checkpoint_goes_with_an_architecture_only(tmp_path) -> None:
    file = tmp_path / "x.pt"
    with pytest.raises(ModelError, match="no such checkpoint"):
        registry.resolve("ViT-B-32", file)
    file.touch()
    for name in ("mini", "base", "auto", "hf-hub:a/b", "ViT-B-32/openai"):
        with pytest.raises(ModelError, match="has weights"):
            registry.resolve(name, file)
    directory = write_model(tmp_path / "model", CONFIGS["clip"])
    assert registry.resolve(str(directory), file).weights == file


# -- names and keys -------------------------------------------------------------------------------


def test_aliases_are_what_open_clip_says() -> None:
    for name, ours in aliases.PRETRAINED.items():
        theirs = open_clip.get_pretrained_cfg(ours.architecture, ours.tag)
        assert theirs["hf_hub"] == f"{ours.repo}/"
        assert {key: theirs[key] for key in ours.preprocess} == ours.preprocess
        config = open_clip.get_model_config(ours.architecture)
        assert ours.quick_gelu == theirs.get("quick_gelu", config.get("quick_gelu", False))
        alias = next(alias for alias in aliases.ALIASES.values() if alias.name == name)
        assert (alias.extra == "hf") == ("hf_model_name" in config["text_cfg"])
        assert alias.image_size == config["vision_cfg"]["image_size"]
        assert alias.licence == licences.find_licence(ours.repo)
    # All that open_clip lists can be asked for.
    for architecture, tag in open_clip.list_pretrained():
        found = registry._find_pretrained(f"{architecture}/{tag}")
        assert found.repo.count("/") == 1
        assert all(found.files)


def test_files_are_open_clips_choice(tmp_path) -> None:
    from open_clip.factory import _find_checkpoint_in_dir

    for names in (["b.bin", "a.pth"], ["model.pth", "z.safetensors"], ["b.safetensors", "a.bin"]):
        directory = tmp_path / names[0]
        directory.mkdir()
        for name in names:
            (directory / name).touch()
        with quiet():
            theirs = _find_checkpoint_in_dir(directory)
        assert str(config.find_weights(directory)) == theirs


def test_key(tmp_path) -> None:
    directory = write_model(tmp_path / "model", CONFIGS["clip"])
    source = registry.resolve(str(directory))
    moved = registry.resolve(f"local-dir:{shutil.move(directory, tmp_path / 'moved')}")
    assert source.key() == moved.key()
    for change in (
        {"preprocess": {**PREPROCESS, "resize_mode": "shortest"}},
        {"config": {**source.config, "embed_dim": 17}},
        {"quick_gelu": True},
        {"tokenizer": moved.weights.parent},
    ):
        assert dataclasses.replace(source, **change).key() != source.key()


def test_table() -> None:
    rows = {row.alias: row for row in aliases.list_models()}
    fields = {"biology", "fashion", "medical", "remote-sensing"}
    assert rows.keys() == {"mini", "fast", "base", "accurate", "best", "multilingual", *fields}
    for row in rows.values():
        assert row.licence
        assert not licences.is_restricted(row.licence), "no alias has restricted weights"
        assert row.megabytes == pytest.approx(4 * row.parameters, rel=0.01) or row.alias == "mini"
        if row.name.startswith("hf-hub:"):
            assert row.licence == licences.find_licence(row.name.removeprefix("hf-hub:"))
    by_accuracy = [rows[name] for name in ("fast", "base", "accurate", "best")]
    assert sorted(by_accuracy, key=lambda row: row.imagenet or 0) == by_accuracy
    assert sorted(by_accuracy, key=lambda row: -row.speed) == by_accuracy
    assert rows["base"].speed == 1
    assert {row.alias for row in rows.values() if row.extra} == {"medical", "remote-sensing"}


# -- licences -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "licence", "restricted"),
    [
        ("license: mit", "MIT", False),
        ("license:\n- apache-2.0\ntags:\n- clip", "Apache-2.0", False),
        ("tags: [a]\nlicense: [mit, cc-by-nc-4.0]", "MIT, CC-BY-NC-4.0", True),
        ('license: "cc-by-nc-sa-4.0"', "CC-BY-NC-SA-4.0", True),
        ("license: other\nlicense_name: apple-amlr\nlicense_link: LICENSE", "apple-amlr", True),
        ("license: apple-amlr\nlicense_name: apple-ascl", "apple-amlr", True),
        ("license: other\nlicense_name: my-non-commercial-licence", None, True),
        ("license: other\nlicense_name: fair-noncommercial-research-license", None, True),
        ("license: openrail", "openrail", False),
        ("license: cc-by-4.0", "CC-BY-4.0", False),
        ("license: other", "", False),
        ("license:", "", False),
        ("tags:\n- license: mit", "", False),
        ("license: \udc80\x00", None, False),
    ],
)
def test_licence_of_a_card(front, licence, restricted, tmp_path) -> None:
    card = tmp_path / "README.md"
    card.write_bytes(f"---\n{front}\n---\nlicense: gpl\n".encode(errors="surrogateescape"))
    found = licences.read_card(card)
    assert licence is None or found == licence
    assert licences.is_restricted(found) == restricted
    card.write_text(f"# Model\n{front[:5]}")
    assert licences.read_card(card) == ""
    assert licences.read_card(tmp_path) == ""


def test_licences_of_open_clips_families() -> None:
    for name, restricted in {
        "ViT-H-14-378-quickgelu/dfn5b": True,
        "MobileCLIP-S1/datacompdr": True,
        "MobileCLIP2-S0/dfndr2b": True,
        "nllb-clip-base/v1": True,
        "ViT-B-32-quickgelu/metaclip_400m": True,
        "ViT-H-14-worldwide/metaclip2_worldwide": True,
        "ViT-B-32/openai": False,
        "RN50x16/openai": False,
        "ViT-H-14/laion2b_s32b_b79k": False,
        "ViT-SO400M-14-SigLIP-384/webli": False,
        "ViT-L-14-CLIPA/datacomp1b": False,
        "PE-Core-bigG-14-448/meta": False,
    }.items():
        licence = licences.find_licence(registry._find_pretrained(name).repo)
        assert licence
        assert licences.is_restricted(licence) == restricted
    # An unknown one is not guessed.
    assert licences.find_licence("timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k") == ""


def test_restricted_weights_are_warned_of_once(fake_hub, tmp_path) -> None:
    directory = write_model(fake_hub.repos / "acme" / "tiny", CONFIGS["clip"])
    env = {"HF_ENDPOINT": fake_hub.url, "HF_HOME": str(tmp_path / "home")}
    (directory / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Tiny\n")
    warning = (
        "WARNING hf-hub:acme/tiny: its licence (CC-BY-NC-4.0) allows research or non-commercial "
        "use only"
    )
    for _ in range(2):  # the second time from this machine
        out, log = resolve("acme/tiny", **env)
        assert out.startswith("hf-hub:acme/tiny ")
        assert log == warning
    fake_hub.requests.clear()
    assert resolve("acme/tiny", **env)[1] == warning
    assert fake_hub.requests == []
    encoder = OpenClipEncoder(registry.resolve(str(directory)))
    assert encoder.licence == "CC-BY-NC-4.0"
    made = Provenance(encoder.name, "w", "fp32", "photo", licence=encoder.licence)
    assert made.to_dict()["licence"] == "CC-BY-NC-4.0"
    # Without a card, and for weights that were here before: unknown, and no request.
    write_model(fake_hub.repos / "acme" / "plain", CONFIGS["clip"])
    assert resolve("acme/plain", **env)[1] == ""
    assert "GET /acme/plain/resolve/main/README.md" not in fake_hub.requests
    fake_hub.requests.clear()
    assert resolve("acme/plain", **env)[1] == ""
    assert fake_hub.requests == []


# -- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def fake_hub(tmp_path) -> Iterator[FakeHub]:
    fake = FakeHub(tmp_path / "repos")
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def run(program: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in an interpreter of its own: the hub's settings are read at import."""
    clean = {k: v for k, v in os.environ.items() if k[:3] != "HF_" and "proxy" not in k.lower()}
    env = {**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)


def resolve(*names: str, **env: str) -> tuple[str, str]:
    """What resolving names gives (a model and file, or the error, per line), and what it logs."""
    found, log = [], io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    with asking(**env), pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [handler])
        for name in names:
            try:
                source = registry.resolve(name)
                found.append(f"{source.name} {source.weights}")
            except ModelError as error:
                found.append(f"{type(error).__name__} {error}")
    return "\n".join(found), log.getvalue().strip()


@pytest.fixture
def mini(tmp_path, monkeypatch) -> Path:
    return write_model(tmp_path / "mini", CONFIGS["clip"])


def test_download_once(fake_hub, tmp_path) -> None:
    write_model(fake_hub.repos / "acme" / "tiny", CONFIGS["clip"])
    env = {"HF_ENDPOINT": fake_hub.url, "HF_HOME": str(tmp_path / "home")}
    out, log = resolve("hf-hub:acme/tiny", **env)
    assert out.startswith("hf-hub:acme/tiny ")
    assert out.endswith("open_clip_model.safetensors")
    assert log == ""
    fake_hub.requests.clear()
    assert resolve("hf-hub:acme/tiny", **env) == (out, "")
    assert fake_hub.requests == []
    assert resolve("hf-hub:acme/tiny", HF_HOME=env["HF_HOME"], HF_HUB_OFFLINE="1") == (out, "")
    # In a process of its own, from nothing and again, none of what runs a model is imported.
    program = """
import sys
from clipcls.models.registry import resolve
print("hf-hub:acme/tiny", resolve("hf-hub:acme/tiny").weights)
assert not {"torch", "open_clip", "transformers"} & sys.modules.keys()
"""
    for _ in range(2):
        done = run(program, HF_ENDPOINT=fake_hub.url, HF_HOME=str(tmp_path / "new"))
        assert (done.stdout.strip(), done.stderr) == (out.replace("home", "new", 1), "")


def test_a_repository_by_the_name_that_the_hub_shows(fake_hub, tmp_path) -> None:
    write_model(fake_hub.repos / "acme" / "tiny", CONFIGS["clip"])
    env = {"HF_ENDPOINT": fake_hub.url, "HF_HOME": str(tmp_path / "home")}
    for name in ("acme/tiny", "acme/tiny/", "https://huggingface.co/acme/tiny"):
        assert resolve(name, **env)[0].startswith("hf-hub:acme/tiny ")
    (fake_hub.repos / "acme" / "bert").mkdir()
    assert "bert: has no open_clip_config.json" in resolve("acme/bert", **env)[0]
    assert registry._find_repository("ViT-B-33/openai") is None, "a mistake costs no request"


def test_one_tag_needs_no_name_and_twins_are_known(fake_hub, tmp_path) -> None:
    env = {"HF_ENDPOINT": fake_hub.url, "HF_HOME": str(tmp_path / "home")}
    repo = fake_hub.repos / "timm" / "PE-Core-B-16"
    repo.mkdir(parents=True)
    (repo / "open_clip_model.safetensors").write_bytes(b"weights")
    names = "PE-Core-B-16", "facebook/PE-Core-B16-224"
    out, _ = resolve(*names, **env)
    assert out.count("PE-Core-B-16/meta ") == 2


@pytest.mark.parametrize(
    ("spelt", "found"),
    [
        ("MINI", "mini"),
        ("Remote_Sensing", "hf-hub:joaodaniel/RS-M-CLIP"),
        ("vit_b_32:OpenAI", "ViT-B-32/openai"),
        ("ViT-B/32 laion2b_s34b_b79k", "ViT-B-32/laion2b_s34b_b79k"),
        ("ViT-L/14@336px", "ViT-L-14-336/openai"),
        ("pe-core-b-16", "PE-Core-B-16/meta"),
        ("OpenAI/CLIP-ViT-Base-Patch32", "ViT-B-32-quickgelu/openai"),
        ("hf-hub:google/siglip2-base-patch16-224", "ViT-B-16-SigLIP2/webli"),
        ("hf://imageomics/bioclip-2", "hf-hub:imageomics/bioclip-2"),
        (
            "https://huggingface.co/imageomics/bioclip-2/tree/main",
            "hf-hub:imageomics/bioclip-2",
        ),
        ("facebook/metaclip-b32-400m", "ViT-B-32-quickgelu/metaclip_400m"),
        ("apple/mobileclip_b_lt", "MobileCLIP-B/datacompdr_lt"),
    ],
)
def test_names_as_people_write_them(spelt, found, monkeypatch) -> None:
    monkeypatch.setattr(registry, "_from_repository", lambda repo, _: f"hf-hub:{repo}")
    monkeypatch.setattr(registry, "_from_pretrained", lambda pretrained, _: pretrained.name)

    def fetch_nothing(*_: object) -> None:
        raise AssertionError("no file is needed")

    source: Any = registry._resolve(spelt, fetch_nothing)
    assert getattr(source, "name", source) == found


def test_all_models_are_searched_by_any_of_their_names() -> None:
    for search, name in {
        "bioclip": "hf-hub:imageomics/bioclip-2",
        "ViT-B/32": "ViT-B-32/openai",
        "openai/clip-vit-base-patch32": "ViT-B-32-quickgelu/openai",
        "timm/pe-core": "PE-Core-B-16/meta",
    }.items():
        assert name in [each.name for each in aliases.list_pretrained(search)]
    assert aliases.list_pretrained("no such model") == []


def test_weights_in_a_file_of_their_own_name_are_found_on_this_machine(tmp_path) -> None:
    folder = tmp_path / "hub" / "models--jienengchen--ViTamin-S"
    snapshot = folder / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "pytorch_model.bin").touch()
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c" * 40)
    with asking(HF_HOME=str(tmp_path)):
        found = {each.name: each.present for each in aliases.list_pretrained("ViTamin-S")}
    assert found == {"ViTamin-S/datacomp1b": True, "ViTamin-S-LTT/datacomp1b": False}


def test_twins_exist() -> None:
    for repo, name in aliases.read_twins().items():
        config = architectures.read_architecture(name.partition("/")[0])
        assert registry._find_pretrained(name).name == name
        # Their names tell the image size, but for SigLIP 2's 378, which the hub calls 384.
        size = re.search(r"-(\d{3})\b", repo.partition("-")[2])
        if size:
            assert config["vision_cfg"]["image_size"] in (int(size[1]), int(size[1]) - 6)


def test_a_model_is_fetched_for_later(fake_hub, tmp_path) -> None:
    write_model(fake_hub.repos / "acme" / "tiny", CONFIGS["clip"])
    home = {"HF_HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path)}

    def models(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        program = f"import sys; sys.argv[1:] = ['models', *{arguments}]\n"
        return run(f"{program}from clipcls.cli import main; main()", **home, **env)

    before = models("path", "acme/tiny", HF_ENDPOINT=fake_hub.url)
    assert before.returncode == 2
    assert "clipcls models get" in before.stderr
    assert fake_hub.requests == []
    assert models("get", "acme/tiny", HF_ENDPOINT=fake_hub.url).returncode == 0
    after = models("path", "acme/tiny", HF_HUB_OFFLINE="1")
    assert Path(after.stdout.strip()).is_file()


def test_older_weights_where_there_are_no_safetensors(fake_hub, tmp_path) -> None:
    write_model(fake_hub.repos / "acme" / "old", CONFIGS["clip"], "bin")
    env = {"HF_ENDPOINT": fake_hub.url, "HF_HOME": str(tmp_path / "home")}
    assert resolve("hf-hub:acme/old", **env)[0].endswith("open_clip_pytorch_model.bin")


def test_broken_download_goes_on(fake_hub, tmp_path, monkeypatch) -> None:
    wait = time.sleep  # a second before each of huggingface_hub's attempts
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.02)))
    remote = write_model(fake_hub.repos / "acme" / "tiny", CONFIGS["clip"])
    env = {"HF_ENDPOINT": fake_hub.url, "HF_HOME": str(tmp_path / "home")}
    fake_hub.cut = 1000
    out, _ = resolve("hf-hub:acme/tiny", **env)
    assert out.startswith("ModelUnavailableError")
    assert "run the command again" in out
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    fake_hub.cut = 0
    out, _ = resolve("hf-hub:acme/tiny", **env)
    file = Path(out.split(" ", 1)[1])
    assert file.read_bytes() == (remote / file.name).read_bytes()


def test_alias_from_the_hub(fake_hub, tmp_path) -> None:
    repo = fake_hub.repos / "timm" / "ViT-B-16-SigLIP2-256"
    write_kind("gemma", repo)
    (repo / "open_clip_model.safetensors").write_bytes(b"weights")
    env = {"HF_ENDPOINT": fake_hub.url, "HF_HOME": str(tmp_path / "home")}
    for name in ("auto", "base", "ViT-B-16-SigLIP2-256/webli"):
        out, log = resolve(name, **env)
        assert out.startswith("ViT-B-16-SigLIP2-256/webli ")
        assert log == ""
    assert not [request for request in fake_hub.requests if "README" in request]
    with asking(**env):
        present = [row.alias for row in aliases.list_models() if row.present]
    assert present == ["mini", "base", "multilingual"]


@pytest.mark.parametrize("alias", sorted({*aliases.ALIASES} - {"mini"}))
def test_nothing_that_an_alias_needs_is_missing_later(alias, fake_hub, tmp_path) -> None:
    name = aliases.ALIASES[alias].name
    if known := aliases.PRETRAINED.get(name):
        repo, text = known.repo, architectures.read_architecture(known.architecture)["text_cfg"]
    else:  # open_clip_config.json says what else it needs
        repo, text = name.removeprefix("hf-hub:"), dict(TEXT)
        if aliases.ALIASES[alias].extra or alias == "fashion":
            text["hf_tokenizer_name"] = repo
        if aliases.ALIASES[alias].extra:
            text["hf_model_name"] = "acme/bert"
            write_text_tower(fake_hub.repos / "acme" / "bert")
    directory = fake_hub.repos / repo
    write_kind("gemma", directory)
    (directory / "open_clip_model.safetensors").write_bytes(b"weights")
    model = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text}
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    env = {"HF_HOME": str(tmp_path / "home")}
    first = resolve(alias, HF_ENDPOINT=fake_hub.url, **env)
    assert first[0].startswith(f"{name} ")
    assert resolve(alias, HF_HUB_OFFLINE="1", **env) == first
    fetched = {path.name for path in (tmp_path / "home").rglob("snapshots/*/*")}
    assert "open_clip_model.safetensors" in fetched
    if "hf_tokenizer_name" in text:
        assert {"tokenizer.json", "tokenizer_config.json"} <= fetched
    if "hf_model_name" in text:
        assert "config.json" in fetched


def test_repositories_that_cannot_be_had(fake_hub, tmp_path) -> None:
    (fake_hub.repos / "acme" / "other").mkdir(parents=True)
    env = {"HF_ENDPOINT": fake_hub.url, "HF_HOME": str(tmp_path / "home")}
    expected = {
        "hf-hub:acme/none": ("UnknownModelError", "no such repository"),
        "hf-hub:acme/other": ("UnknownModelError", "OpenCLIP cannot load it"),
        "hf-hub:gated/model": ("ModelUnavailableError", "hf auth login"),
        "hf-hub:not a name": ("UnknownModelError", "not the name of a repository"),
        "hf-hub:": ("UnknownModelError", "not the name of a repository"),
    }
    out, log = resolve(*expected, **env)
    assert log == ""
    for line, (error, why) in zip(out.splitlines(), expected.values(), strict=True):
        assert line.startswith(error)
        assert why in line


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline(fake_hub, variable, tmp_path) -> None:
    env = {"HF_ENDPOINT": fake_hub.url, "HF_HOME": str(tmp_path / "home"), variable: "1"}
    done = run("from clipcls.models.registry import resolve; resolve('base')", **env)
    assert "ModelUnavailableError: " in done.stderr
    assert "HF_HUB_OFFLINE" in done.stderr
    assert fake_hub.requests == []


@pytest.mark.skipif(not aliases.MINI.is_dir(), reason="mini is not trained yet")
def test_mini() -> None:
    source = registry.resolve("mini")
    assert source.name == "mini"
    image, text = (loading.load(source, tower=tower) for tower in ("image", "text"))
    shape = 1, source.config["embed_dim"]
    assert image([image.preprocess(photo())]).shape == shape
    assert text(open_tokenizer(source)(["a cat"])).shape == shape
    row = aliases.list_models()[0]
    assert (row.alias, row.present, row.imagenet) == ("mini", True, None)
    assert source.licence == row.licence == "MIT AND Apache-2.0"
    count = sum(tensor.numel() for tensor in load_file(source.weights).values())
    assert row.parameters == pytest.approx(count / 1e6, abs=0.01)
    assert row.megabytes == round(source.weights.stat().st_size / 1e6) <= 50
    assert row.image_size == source.config["vision_cfg"]["image_size"]


def test_auto_falls_back_and_says_so(mini, monkeypatch, caplog) -> None:
    monkeypatch.setattr(registry, "MINI", mini)

    def unavailable(repo: str, *names: str, **_: object) -> None:
        raise ModelUnavailableError(f"{repo}: there is no hub")

    monkeypatch.setattr(hub, "fetch", unavailable)
    assert registry.resolve("auto").name == "mini"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name.startswith("clipcls")
    assert "mini" in record.getMessage()
    assert "there is no hub" in record.getMessage()
    for name in ("base", "fast", "hf-hub:a/b", "ViT-B-32/openai"):
        with pytest.raises(ModelUnavailableError):
            registry.resolve(name)


def test_hugging_face_text_tower_offline(fake_hub, tmp_path, monkeypatch) -> None:
    text_files = tmp_path / "repos" / "acme" / "words"
    write_text_tower(text_files)
    text = {"hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp", "context_length": 12}
    # open_clip can make it with the path of the text tower's files, and names a repository after.
    local = {"hf_model_name": str(text_files), "hf_tokenizer_name": str(text_files)}
    remote = {"hf_model_name": "acme/words", "hf_tokenizer_name": "acme/words"}
    directory = write_model(
        fake_hub.repos / "acme" / "tiny", {"vision_cfg": VISION, "text_cfg": {**text, **local}}
    )
    with quiet():
        theirs = open_clip.create_model(f"local-dir:{directory}").eval()
    config = directory / "open_clip_config.json"
    content = json.loads(config.read_text())
    content["model_cfg"]["text_cfg"] = {**text, **remote}
    config.write_text(json.dumps(content))

    env = {"HF_ENDPOINT": fake_hub.url, "HF_HOME": str(tmp_path / "home")}
    out, _ = resolve("hf-hub:acme/tiny", **env)
    assert out.startswith("hf-hub:acme/tiny ")

    # From here on no connection is made.
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", None)
    source = registry.resolve("hf-hub:acme/tiny")
    assert len(source.key()) == 64
    half = loading.load(source, precision="bf16", tower="text")
    half(np.array([[0, 4, 5, 2, 1]]))
    model = loading.load(source, tower="text")
    tokens = torch.from_numpy(open_tokenizer(source)(["a cat", "a dog"]))
    assert tokens[:, :5].tolist() == [[0, 4, 5, 2, 1], [0, 4, 6, 2, 1]]
    assert tokens.shape == (2, 12)
    with torch.inference_mode():
        close(model.encode(tokens.numpy()), theirs.encode_text(tokens))
    image = loading.load(source, tower="image")
    assert "hf" not in type(image.network.text).__name__.lower()
