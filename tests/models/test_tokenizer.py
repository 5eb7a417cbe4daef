"""Our way to CLIP's token numbers gives open_clip's, for whatever people type."""

from __future__ import annotations

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcls.models.tokenizer import ClipTokenizer

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
]


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


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"context_length": 32}, True),
        ({"clean": "canonicalize"}, False),
        ({"reduction_mask": "simple"}, False),
        ({"additional_special_tokens": ["<x>"]}, False),
    ],
)
def test_only_clips_is_taken_for_clips(settings: dict[str, object], expected: bool) -> None:
    assert OURS.agrees_with(open_clip.SimpleTokenizer(**settings)) is expected
    assert not OURS.agrees_with(object())
