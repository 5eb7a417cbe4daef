"""CLIP's tokenizer without torch: the same token numbers as open_clip's.

The method is that of openai/CLIP (clip/simple_tokenizer.py): lower case, words split by a pattern,
byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909) with CLIP's 48,894 merges, read from
open_clip's package. `regex` splits the words, as in open_clip, and Hugging Face's `tokenizers`
merges them. open_clip's own tokenizer cannot be imported without torch, which takes seconds.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MERGES = 48_894
_START, _END = "<start_of_text>", "<end_of_text>"
_PATTERN = rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
_SAMPLE = ["", "A  photo of a café's 12 DOGS!", "&lt;b&gt; schÃ¶n 猫 <end_of_text>"]
_SAMPLE.append(" ".join(map(str, range(99))))


class ClipTokenizer:
    """Texts -> int64 (n, context_length), as open_clip.SimpleTokenizer.

    Args:
        context_length: the number of tokens a text is cut to, including its start and end.

    Raises:
        OSError: open_clip's list of merges cannot be read.
    """

    def __init__(self, context_length: int = 77) -> None:
        import regex

        self.context_length = context_length
        self._pattern = regex.compile(_PATTERN, regex.IGNORECASE)
        self._tokenizer = _make_byte_pair_encoding()
        numbers = self._tokenizer.get_vocab()
        self._start, self._end = numbers[_START], numbers[_END]
        self._words = {_START: [self._start], _END: [self._end]}  # a text can contain them

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Token numbers from start to end of text, padded with zeros."""
        tokens = np.zeros((len(texts), self.context_length), np.int64)
        for row, text in zip(tokens, texts, strict=True):
            numbers = [self._start, *self.encode(text), self._end]
            if len(numbers) > self.context_length:
                numbers = [*numbers[: self.context_length - 1], self._end]
            row[: len(numbers)] = numbers
        return tokens

    def encode(self, text: str) -> list[int]:
        """All token numbers of one text, without start and end."""
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
        words = self._pattern.findall(" ".join(text.split()).lower())
        return [number for word in words for number in self._numbers(word)]

    def agrees_with(self, tokenizer: Any) -> bool:
        """Whether a tokenizer of open_clip is CLIP's, with the usual settings."""
        try:
            theirs = tokenizer(_SAMPLE, context_length=self.context_length).tolist()
            same_words = tokenizer.encoder == self._tokenizer.get_vocab()
            return bool(same_words and theirs == self(_SAMPLE).tolist())
        except Exception:  # another kind altogether
            return False

    def _numbers(self, word: str) -> list[int]:
        if word not in self._words:
            self._words[word] = self._tokenizer.encode(word).ids
        return self._words[word]


def _make_byte_pair_encoding() -> Tokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # CLIP's order: printable ones first
    pairs = [(first, second) for first, second in map(str.split, _read_merges())]
    ends = (f"{letter}</w>" for letter in letters)
    vocabulary = [*letters, *ends, *map("".join, pairs), _START, _END]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(numbers, pairs, end_of_word_suffix="</w>"))
    # It only turns bytes into letters, since its input is one word.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def _read_merges() -> list[str]:
    found = importlib.util.find_spec("open_clip")  # which does not import it
    if found is None or found.origin is None:
        raise OSError("open_clip is not installed")
    path = Path(found.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    return lines[1 : 1 + _MERGES]  # after the version
