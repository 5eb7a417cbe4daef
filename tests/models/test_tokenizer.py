"""Our way to token numbers gives open_clip's, for whatever people type."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer

from clipcls.errors import ModelError
from clipcls.models import architectures, tokenizer
from clipcls.models.registry import ModelSource
from clipcls.models.tokenizer import ClipTokenizer, count_tokens, open_tokenizer
from helpers.tokenizer_files import KINDS, write_kind

OURS, THEIRS = ClipTokenizer(), open_clip.SimpleTokenizer()
TEXTS = [
    "a photo of a cat.",
    "",
    "   A  Dog\tand\na CAT  ",
    "it's the dogs' ball, they'll've 12 of 1,234!",
    "café naïve Ærø straße İstanbul",
    "cafe\u0301 \ufb01sh",
    "\u732b \u72ac \u0915\u0941\u0924\u094d\u0924\u093e",
    "\U0001f431\U0001f469\u200d\U0001f33e!!!???",
    "&amp;amp; &lt;b&gt; l\u2019\u00e9t\u00e9 schÃ¶n",
    "a<end_of_text>b <start_of_text> <|endoftext|>",
    "a cat...<end_of_text> !<end_of_text> <<start_of_text>> <END_OF_TEXT>",
    "it'\u017f \u0558\u088f\u0c5c \U00011de0 \u2167 \u00bd",
    "word " * 100,
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "\x00\x07 \u00a0 \u200b",
    "a</s>b <s> <pad> [SEP] [MASK] <mask> <eos> <unk> <0x41> \u2581\u2581 \u2581a <table> a",
    "A <mask>  x [CLS]",
    "x\u200by \ufeffz \u202e a\u00adb \u2028 c \u3000d \u00a8e",
    "\uff26\uff35\uff2c\uff2c \ufdfa \u2122 \u2026 \u0661\u0662 \u05e9\u05dc\u05d5\u05dd",
    "x_y__z <extra_id_0> {} $A \u2581 .",
    "\u0300\u0301abc \u1e9e \u01c5 \u0131 I\u0307",
]
# So that Hypothesis comes upon what tokenizers treat in a way of its own.
ODD = st.text(
    st.sampled_from("abc <>/s[]&;é猫\u200b\u00a0\u3000▁\u0301½\U0001f431\ufeff\x07İ_.'’\n"),
    max_size=30,
)


@pytest.mark.parametrize("text", TEXTS)
def test_odd_texts(text: str) -> None:
    assert OURS([text]).tolist() == THEIRS([text]).tolist()
    assert OURS.encode(text) == THEIRS.encode(text)


@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    assert OURS.encode(text) == THEIRS.encode(text)


@pytest.mark.parametrize("length", [1, 2, 8, 32])
def test_many_at_once_and_another_length(length: int) -> None:
    short = ClipTokenizer(context_length=length)
    assert short(TEXTS).tolist() == THEIRS(TEXTS, context_length=length).tolist()


def make_source(
    text_cfg: dict[str, Any], directory: Path | None = None, architecture: str = "random"
) -> ModelSource:
    config = {"embed_dim": 4, "vision_cfg": {}, "text_cfg": text_cfg}
    return ModelSource("acme/x", architecture, config, None, False, Path("w"), directory)


def with_clips_tokenizer() -> list[str]:
    names = architectures.list_architectures()
    return [
        name
        for name in names
        if "hf_tokenizer_name" not in architectures.read_architecture(name)["text_cfg"]
    ]


@pytest.mark.parametrize("architecture", with_clips_tokenizer())
def test_architectures_with_clips_tokenizer(architecture: str) -> None:
    """Such as PE-Core's, which read 32 or 72 tokens, and CoCa's, which read 76."""
    text_cfg = architectures.read_architecture(architecture)["text_cfg"]
    ours = open_tokenizer(make_source(text_cfg, architecture=architecture))
    assert isinstance(ours, ClipTokenizer)
    with architectures.quiet():
        theirs = open_clip.get_tokenizer(architecture)
    tokens = ours(TEXTS)
    assert tokens.tolist() == theirs(TEXTS).tolist()
    assert tokens.shape[1] == text_cfg["context_length"]
    assert ours.padding == text_cfg.get("pad_id", 0)


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_other_cleaning_of_clips(clean: str) -> None:
    ours = open_tokenizer(make_source({"tokenizer_kwargs": {"clean": clean}}))
    assert ours(TEXTS).tolist() == open_clip.SimpleTokenizer(clean=clean)(TEXTS).tolist()


def test_open_clips_own_takes_what_is_left() -> None:
    settings = {"additional_special_tokens": ["<x>"]}
    ours = open_tokenizer(make_source({"tokenizer_kwargs": settings, "context_length": 9}))
    theirs = open_clip.SimpleTokenizer(**settings, context_length=9)
    assert ours([*TEXTS, "a <x>"]).tolist() == theirs([*TEXTS, "a <x>"]).tolist()
    assert (ours.is_cut("a cat"), ours.is_cut("a " * 9)) == (False, True)


# -- Hugging Face's -------------------------------------------------------------------------------


def both(
    kind: str, folder: Path, context_length: int = 64, **settings: Any
) -> tuple[tokenizer.Tokenizer, HFTokenizer]:
    if not (folder / "files").exists():
        write_kind(kind, folder / "files")
    with architectures.quiet():
        theirs = HFTokenizer(str(folder / "files"), context_length, **settings)
    text_cfg = {"context_length": context_length, "tokenizer_kwargs": settings}
    return open_tokenizer(make_source(text_cfg, folder / "files")), theirs


@pytest.mark.parametrize("kind", KINDS)
def test_hugging_faces_kinds(kind: str, tmp_path: Path) -> None:
    for clean in ("canonicalize", "whitespace", "lower"):
        ours, theirs = both(kind, tmp_path, clean=clean)
        assert isinstance(ours, tokenizer.JsonTokenizer) == (kind != "spiece")
        for text in TEXTS:
            assert ours([text]).tolist() == theirs([text]).tolist(), text
        assert ours.padding == theirs.tokenizer.pad_token_id
        short, _ = both(kind, tmp_path, 6, clean=clean)
        assert short(TEXTS).tolist() == theirs(TEXTS, context_length=6).tolist()
        for text in TEXTS:
            length = len(theirs.tokenizer(theirs.clean_fn(text)).input_ids)
            assert short.is_cut(text) == (length > 6)


@pytest.mark.parametrize("kind", ["gemma", "t5", "xlm-roberta", "bert", "bert, vocab.txt"])
def test_any_text_in_hugging_faces_kinds(kind: str, tmp_path: Path) -> None:
    ours, theirs = both(kind, tmp_path)

    @given(ODD | st.text(max_size=40))
    def check(text: str) -> None:
        assert ours([text]).tolist() == theirs([text]).tolist()

    check()


def test_a_separator_that_is_stripped(tmp_path: Path) -> None:
    """As CLIPA's."""
    ours, theirs = both("bert", tmp_path, 8, strip_sep_token=True)
    tokens = ours(["a cat", "[SEP] a", "a " * 20])
    assert tokens.tolist() == theirs(["a cat", "[SEP] a", "a " * 20]).tolist()
    assert 3 not in tokens
    assert count_tokens(tokens, ours.padding).tolist() == [3, 3, 7]


def test_neither_transformers_nor_torch_is_imported(tmp_path: Path, monkeypatch) -> None:
    for name in ("torch", "transformers", "sentencepiece", "open_clip"):
        monkeypatch.setitem(sys.modules, name, None)
    for kind in sorted(KINDS.keys() - {"spiece"}):
        write_kind(kind, tmp_path / kind)
        assert open_tokenizer(make_source({"context_length": 9}, tmp_path / kind))(["a cat"]).any()


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokenizer_class": "NllbTokenizer"}, False),
        ({"tokenizer_class": "GemmaTokenizerFast"}, True),
        ({"tokenizer_class": None}, False),
        ({"pad_token": "<none>"}, False),
        ({"pad_token": None}, True),
    ],
)
def test_transformers_reads_other_kinds(
    changes: dict[str, Any], expected: bool, tmp_path: Path, monkeypatch
) -> None:
    write_kind("gemma", tmp_path)
    edit(tmp_path / "tokenizer_config.json", **changes)
    assert bool(tokenizer._read_tokenizer(tmp_path)) == expected
    if not expected:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModelError, match=r"acme/x: its tokenizer needs transformers: .*pip"):
            open_tokenizer(make_source({}, tmp_path))


@pytest.mark.parametrize("missing", ["transformers", "sentencepiece", "google", "google.protobuf"])
def test_a_vocabulary_of_sentencepiece_alone_names_what_it_needs(
    missing: str, tmp_path: Path, monkeypatch
) -> None:
    write_kind("spiece", tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    named = "protobuf" if "google" in missing else missing
    with pytest.raises(ModelError, match=rf"its tokenizer needs {named}: .*pip"):
        open_tokenizer(make_source({}, tmp_path))


def test_a_directory_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(ModelError, match=r"has no tokenizer\.json, which the model's texts need"):
        open_tokenizer(make_source({}, tmp_path))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"x"', "\x00\xff"])
def test_damaged_files(name: str, content: str, tmp_path: Path) -> None:
    write_kind("gemma", tmp_path)
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    if (name, content) == ("tokenizer_config.json", "{}"):
        return  # transformers knows what to make of it
    with pytest.raises(ModelError) as caught:
        open_tokenizer(make_source({}, tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_cleaning() -> None:
    for clean in ("upper", None, 3, ["lower"]):
        with pytest.raises(ModelError, match="canonicalize"):
            open_tokenizer(make_source({"tokenizer_kwargs": {"clean": clean}}))


def test_lengths() -> None:
    tokens = np.array([[5, 0, 6, 0, 0], [5, 6, 7, 8, 9], [0, 0, 0, 0, 1]])
    assert count_tokens(tokens, 0).tolist() == [3, 5, 5]
    assert count_tokens(copy.copy(tokens), 9).tolist() == [5, 4, 5]
