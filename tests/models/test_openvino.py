"""OpenVINO's graphs give torch's vectors, are made once, and never cost an answer."""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from PIL import Image

from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embed import embed_array, embed_texts
from clipcls.errors import ModelError
from clipcls.models import loading, openvino, registry, towers
from clipcls.models.backend import Backend
from clipcls.models.encoder import open_encoder
from clipcls.models.facts import ModelFacts
from clipcls.models.open_clip_encoder import OpenClipEncoder
from helpers.checkpoints import CONFIGS, write_model

if not openvino.is_supported():
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

PHOTOS = sorted((Path(__file__).parents[2] / "examples/photos").glob("*.jpg"))[:5]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(openvino, "default_folder", lambda: tmp_path / "graphs")
    return tmp_path / "graphs"


@pytest.fixture
def encoder(tmp_path: Path, folder: Path) -> Callable[..., OpenClipEncoder]:
    def make(kind: str = "clip", facts=None, **settings) -> OpenClipEncoder:
        directory = tmp_path / kind
        if not directory.exists():
            write_model(directory, CONFIGS[kind])
        settings.setdefault("precision", "fp32")
        return OpenClipEncoder(
            registry.resolve(str(directory)),
            Backend(**settings),
            facts=facts or ModelFacts(Path(tempfile.mkdtemp(dir=tmp_path))),
        )

    return make


def pixels(encoder: OpenClipEncoder) -> list[np.ndarray]:
    return [encoder.preprocess(Image.open(path).convert("RGB")) for path in PHOTOS]


@pytest.mark.parametrize("kind", CONFIGS)
def test_vectors_are_torchs(kind: str, encoder, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = encoder(kind, name="openvino"), encoder(kind, name="torch")
    found = ours.encode_images(pixels(ours))
    assert (found * theirs.encode_images(pixels(theirs))).sum(axis=1).min() > 0.99999
    assert caplog.text == ""
    # A vector does not depend on its batch.
    for row, one in zip(found, pixels(ours), strict=True):
        np.testing.assert_allclose(ours.encode_images([one])[0], row, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_vectors_of_texts_are_torchs(kind: str, encoder, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["a cat", "", "a photo of a dog on a beach, with a ball", "word " * 74]
    ours, theirs = encoder(kind, name="openvino"), encoder(kind, name="torch")
    found = ours.encode_texts(texts)
    np.testing.assert_allclose(found, theirs.encode_texts(texts), atol=1e-5)
    assert caplog.text == ""
    assert len(openvino.stored_sizes()) == 1
    for text, row in zip(texts, found, strict=True):  # whatever stands beside it
        np.testing.assert_allclose(ours.encode_texts([text])[0], row, atol=1e-5)
    again = encoder(kind)
    np.testing.assert_allclose(again.encode_texts(texts), found, atol=1e-6)
    assert again.encode_texts([]).shape == (0, 16)


@pytest.mark.skipif(not openvino.has_bf16(), reason="the CPU does not compute in bf16")
def test_bf16(encoder) -> None:
    ours, theirs = encoder(precision="bf16"), encoder(name="torch")
    cosines = (ours.encode_images(pixels(ours)) * theirs.encode_images(pixels(theirs))).sum(1)
    assert cosines.min() > 0.999
    texts = ["a cat", "a photo of a dog on a beach"]
    assert (ours.encode_texts(texts) * theirs.encode_texts(texts)).sum(1).min() > 0.999


@pytest.mark.skipif(not openvino.has_bf16(), reason="the CPU does not compute in bf16")
@pytest.mark.parametrize("name", ["auto", "torch"])
def test_bf16_is_taken_where_it_changes_no_vector(
    name: str, encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = ModelFacts(tmp_path / "facts")

    def precisions() -> list[str]:
        settings: dict[str, Any] = {"name": name, "precision": "auto"}
        transformer = encoder("clip", facts, **settings)
        # EfficientNet's cosine to float32 is 0.997 in bf16.
        convolutions = OpenClipEncoder(registry.resolve("mini"), Backend(**settings), facts=facts)
        return [transformer.precision, convolutions.precision]

    assert precisions() == ["bf16", "fp32"]
    monkeypatch.setattr(loading, "load", None)
    assert precisions() == ["bf16", "fp32"]  # tried once


def test_bf16_is_tried_again_where_memory_was_short(
    encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "has_bf16", lambda: True)

    def short(*_: object) -> None:
        raise MemoryError

    facts = ModelFacts(tmp_path / "facts")
    with monkeypatch.context() as patch:
        patch.setattr(towers, "_convert", short)
        assert encoder(facts=facts, precision="auto").precision == "fp32"
    monkeypatch.setattr(towers, "export_tower", lambda *_: object())
    assert encoder(facts=facts, precision="auto").precision == "bf16"


def test_the_precision_of_a_cpu_without_bf16(encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "has_bf16", lambda: False)
    monkeypatch.setattr(loading, "load", None)
    assert encoder(precision="auto").precision == "fp32"


def test_a_graph_is_exported_once(encoder, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encoder()
    row = first.encode_images(pixels(first))
    (file,) = folder.iterdir()
    assert file.suffix == ".blob"
    monkeypatch.setattr(towers, "export_tower", None)
    second = encoder()
    np.testing.assert_allclose(second.encode_images(pixels(second)), row, atol=1e-6)


def test_a_damaged_graph_is_made_again(encoder, folder: Path) -> None:
    first = encoder()
    row = first.encode_images(pixels(first))
    whole = next(folder.iterdir()).read_bytes()
    zeroed = bytearray(whole)
    zeroed[len(whole) // 4 : len(whole) // 2] = bytes(len(whole) // 2 - len(whole) // 4)
    contents = (b"damaged", b"", b"\x93NUMPY\xff\xff", whole[: len(whole) // 2], zeroed, None)
    for content in contents:
        (file,) = folder.iterdir()
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        again = encoder()
        np.testing.assert_allclose(again.encode_images(pixels(again)), row, atol=1e-6)
        assert len(openvino.stored_sizes()) == 1


def test_a_flipped_bit_is_noticed(encoder, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the embedding of one word: the vectors of texts without it are the same."""
    row = encoder().encode_texts(["a cat"])
    encoder().encode_texts(["a cat"])
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x40
    file.unlink()
    file.write_bytes(data)
    assert caplog.text == ""
    np.testing.assert_allclose(encoder().encode_texts(["a cat"]), row, atol=1e-6)
    assert caplog.text.count("is damaged") == 1
    caplog.clear()
    encoder().encode_texts(["a cat"])
    assert caplog.text == ""


def test_several_threads_share_an_encoder(encoder) -> None:
    shared = encoder()
    texts = ["a cat", "a photo of a dog on a beach", "word " * 100]
    batch = pixels(shared)
    images, words = shared.encode_images(batch), [shared.encode_texts([t])[0] for t in texts]

    def work(number: int) -> None:
        np.testing.assert_allclose(shared.encode_images(batch), images, atol=1e-5)
        found = shared.encode_texts([texts[number % 3]])[0]
        np.testing.assert_allclose(found, words[number % 3], atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(40)))


def test_a_text_longer_than_the_model_reads_is_told(
    encoder, caplog: pytest.LogCaptureFixture
) -> None:
    fits, cut = "word " * 75, "word " * 76
    assert encoder().describe_cut(["a cat", fits]) == []
    (warning,) = encoder().describe_cut(["a cat", cut])
    assert "longer than 77 tokens" in warning
    embed_texts(encoder(), ["a cat", cut])
    assert caplog.text.count(warning) == 1


def test_an_encoder_can_be_pickled(encoder) -> None:
    first = encoder()
    row = first.encode_images(pixels(first))
    words = first.encode_texts(["a cat"])
    copy = pickle.loads(pickle.dumps(first))
    np.testing.assert_allclose(copy.encode_images(pixels(copy)), row, atol=1e-6)
    np.testing.assert_allclose(copy.encode_texts(["a cat"]), words, atol=1e-6)


def test_too_little_memory_is_not_remembered(
    encoder, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(towers, "_convert", fail)
        found = encoder()
        assert found.encode_images(pixels(found)).shape == (5, 16)
    assert "memory" in caplog.text
    again = encoder()
    again.encode_images(pixels(again))
    assert len(openvino.stored_sizes()) == 1


def test_a_wrong_graph_is_refused_once_and_torch_answers(
    encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = encoder(name="torch")
    row = right.encode_images(pixels(right))
    run = openvino.Graph.__call__
    monkeypatch.setattr(openvino.Graph, "__call__", lambda self, batch: run(self, batch)[::-1])
    facts = ModelFacts(tmp_path / "facts")
    for attempt in (1, 2):
        wrong = encoder(facts=facts)
        np.testing.assert_allclose(wrong.encode_images(pixels(wrong)), row, atol=1e-6)
        assert caplog.text.count("runs on torch") == attempt
        assert "differ" in caplog.text
        monkeypatch.setattr(towers, "export_tower", None)  # the second time it is known


@pytest.mark.parametrize("wrong", [0.0, np.nan])
def test_a_text_graph_that_is_wrong_for_long_texts_is_refused(
    wrong: float, encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a cat", "a photo of a dog on a beach"]
    rows = encoder(name="torch").encode_texts(texts)
    run = openvino.Graph.__call__
    monkeypatch.setattr(
        openvino.Graph,
        "__call__",
        lambda self, tokens: run(self, tokens) * (wrong if tokens.shape[1] > 20 else 1),
    )
    facts = ModelFacts(tmp_path / "facts")
    np.testing.assert_allclose(encoder(facts=facts).encode_texts(texts), rows, atol=1e-6)
    assert openvino.stored_sizes() == []
    monkeypatch.setattr(towers, "export_tower", None)  # it is known
    np.testing.assert_allclose(encoder(facts=facts).encode_texts(texts), rows, atol=1e-6)


def test_a_tower_that_openvino_cannot_take(
    encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("first\nno such operation")

    monkeypatch.setattr(towers, "_convert", fail)
    found = encoder()
    assert found.encode_images(pixels(found)).shape == (5, 16)
    assert "no such operation" in caplog.text


def test_a_cache_that_cannot_be_written(
    encoder, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        found = encoder()
        assert found.encode_images(pixels(found)).shape == (5, 16)
    assert "cannot keep the exported model" in caplog.text
    monkeypatch.setattr(towers, "export_tower", None)  # for texts, torch is sooner
    assert found.encode_texts(["a cat"]).shape == (1, 16)


def test_cpus_of_one_name_share_a_folder(
    encoder, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Virtual machines hide the model; OpenVINO refuses a graph for other instruction sets."""
    flags = openvino._cpu_flags()
    for names in (flags, {"avx2"}, flags, {"avx2"}):
        monkeypatch.setattr(openvino, "_cpu_flags", lambda names=names: frozenset(names))
        encoder().encode_texts(["a cat"])
        kept = {file.name for file in folder.iterdir()}
    assert len(kept) == 2
    assert "damaged" not in caplog.text


def age(file: Path, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(file, (then, then))


def test_a_new_version_replaces_the_graphs_of_the_old_one(
    encoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(version: str) -> OpenClipEncoder:
        monkeypatch.setattr(openvino, "version", lambda: version)
        ours = encoder()
        ours.encode_texts(["a cat"])
        return ours

    def kept() -> set[str]:
        return {file.name for file in folder.iterdir()}

    use("2025.3")
    older = kept()
    use("2025.4")
    assert len(kept()) == 1
    assert not kept() & older
    (old,) = kept()
    held = use("2025.4")  # which has the stored graph open
    use("2026.1")
    both = kept()
    assert len(both) == 2
    assert old in both
    held.encode_texts(["a dog"])
    del held
    gc.collect()
    killed = folder / f".{old}.0123abcd.part"
    killed.write_bytes(b"")
    age(killed, 9)
    other = folder / "of-another-tower.blob"
    other.write_bytes(b"")
    age(other, 900)
    for name in both:
        age(folder / name, 2)  # so that its use is noted
    with monkeypatch.context() as patch:
        patch.setattr(towers, "export_tower", None)
        use("2026.1")
    assert kept() == both - {old} | {other.name}


def test_a_refusal_is_that_of_one_cpu_and_version(
    encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such operation")

    facts = ModelFacts(tmp_path / "facts")
    with monkeypatch.context() as patch:
        patch.setattr(towers, "_convert", fail)
        first = encoder(facts=facts)
        first.encode_images(pixels(first))
    assert caplog.text.count("runs on torch") == 1
    for build in ({"_cpu_flags": lambda: {"avx2"}}, {"version": lambda: "2030.1"}):
        with monkeypatch.context() as patch:
            for name, value in build.items():
                patch.setattr(openvino, name, value)
            other = encoder(facts=facts)
            assert other.image_backend == "openvino"
    assert encoder(facts=facts).image_backend == "torch"


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_an_upgrade_of_open_clip_keeps_vectors_unless_they_change(
    name: str,
    encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    versions = {"open_clip_torch": "3.3.0"}
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda package: versions.get(package) or real(package)
    )
    facts = ModelFacts(tmp_path / "facts")
    run = OpenClipEncoder.encode_images
    counts: list[int] = []

    def embed() -> tuple[int, np.ndarray]:
        """The number of encoded images, and all vectors."""
        counts.clear()
        ours = encoder(facts=facts, name=name)
        with EmbeddingCache(tmp_path / "cache.sqlite3") as cache:
            rows = embed_texts(ours, ["a cat", "a dog"], cache), embed_array(ours, PHOTOS, cache)
        return sum(counts), np.concatenate(rows)

    def count(self: OpenClipEncoder, batch: list[np.ndarray]) -> np.ndarray:
        counts.append(len(batch))
        return run(self, batch)

    monkeypatch.setattr(OpenClipEncoder, "encode_images", count)
    encoded, first = embed()
    assert encoded == 5 + 2  # and the probe
    assert embed()[0] == 0
    versions["open_clip_torch"] = "3.9"
    encoded, rows = embed()
    assert encoded == 2
    assert embed()[0] == 0
    np.testing.assert_array_equal(rows, first)
    assert caplog.messages == []

    versions["open_clip_torch"] = f"4.0.{name}"
    configure = open_clip.get_model_preprocess_cfg
    monkeypatch.setattr(
        open_clip,
        "get_model_preprocess_cfg",
        lambda network: configure(network) | {"resize_mode": "shortest"},
    )
    encoded, other = embed()
    assert encoded == 5 + 2
    (line,) = caplog.messages
    assert f"open_clip_torch 4.0.{name} computes other vectors" in line
    assert abs(other - first).max() > 1e-3
    assert embed()[0] == 0
    versions["open_clip_torch"] = "3.3.0"
    np.testing.assert_array_equal(embed()[1], first)


def test_the_next_process_needs_no_torch_and_tells_nobody(
    tmp_path: Path, cache_folder: Path
) -> None:
    """OpenVINO would report each import to its makers."""
    directory = str(write_model(tmp_path / "model", CONFIGS["timm"]))
    encode = (
        "e = open_encoder(directory)\n"
        "e.encode_images([e.preprocess(Image.new('RGB', (9, 9)))])\n"
        "e.encode_texts(['a cat'])\n"
    )
    exec(encode, {"directory": directory, "open_encoder": open_encoder, "Image": Image})
    assert "openvino.tools.ovc" in sys.modules  # it makes the graphs
    assert "openvino_telemetry" not in sys.modules
    script = (
        "import sys; from PIL import Image\n"
        "from clipcls.models.encoder import open_encoder\n"
        f"directory = {directory!r}\n{encode}"
        "names = ('torch', 'open_clip', 'torchvision', 'openvino', 'openvino.tools.ovc')\n"
        "names += ('openvino_telemetry',)\n"
        "print(*(name for name in names if name in sys.modules))\n"
        "import openvino; assert callable(openvino.convert_model)  # for whoever else wants it"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "openvino\n"


def test_a_folder_of_openvinos_name_is_not_openvino(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    (packages / "openvino").mkdir(parents=True)
    for installed in Path(np.__file__).parent.parent.iterdir():
        if not installed.name.startswith("openvino"):
            (packages / installed.name).symlink_to(installed)
    script = "from clipcls.models import openvino; print(openvino.is_supported())"
    path = os.pathsep.join([str(packages), str(Path(openvino.__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_what_is_kept_is_said_and_cleared(encoder, folder: Path) -> None:
    assert openvino.stored_sizes() == []
    openvino.clear()
    first = encoder()
    first.encode_images(pixels(first))
    (size,) = openvino.stored_sizes()
    assert size > 10_000
    openvino.clear()
    assert not folder.exists()


def test_what_cannot_be_asked_for(encoder) -> None:
    with pytest.raises(ModelError, match="fp16"):
        encoder(name="openvino", precision="fp16")


def test_what_a_model_says_of_itself_is_kept(
    encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = ModelFacts(tmp_path / "facts")
    first = encoder(facts=facts)
    assert first.least_side == 64
    with monkeypatch.context() as patch:
        patch.setattr(loading, "load", None)
        again = encoder(facts=facts)
        assert (again.least_side, again.logit_scale) == (64, first.logit_scale)
        assert pickle.loads(pickle.dumps(again)).least_side == 64
    # Where it cannot be kept it only takes longer.
    (tmp_path / "file").write_text("")
    assert encoder(facts=ModelFacts(tmp_path / "file" / "facts")).least_side == 64
