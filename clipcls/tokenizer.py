"""CLIP's tokenizer without torch: texts -> token numbers, equal to open_clip's own.

The method is that of openai/CLIP (clip/simple_tokenizer.py): lower case, words split by a pattern,
byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909) with CLIP's 48,894 merges, which are
read from open_clip's package. The merging is done by Hugging Face's `tokenizers`; open_clip's
tokenizer cannot be imported without torch, which takes seconds.
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

__all__ = ["ClipTokenizer", "is_clips"]

_MERGES = 48_894
_PATTERN = (
    r"<start_of_text>|<end_of_text>"
    r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class ClipTokenizer:
    """Texts -> int64 (n, context_length), as open_clip.SimpleTokenizer's.

    Args:
        context_length: tokens a text is cut to, its start and its end among them.

    Raises:
        OSError: open_clip's list of merges cannot be read.
    """

    def __init__(self, context_length: int = 77) -> None:
        self.context_length = context_length
        self._tokenizer = _byte_pair_encoding()
        size = self._tokenizer.get_vocab_size()
        self._start, self._end = size - 2, size - 1

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Token numbers with a start and an end of text, padded with zeros."""
        tokens = np.zeros((len(texts), self.context_length), np.int64)
        for row, encoding in zip(tokens, self._encode(texts), strict=True):
            numbers = [self._start, *encoding.ids[: self.context_length - 2], self._end]
            row[: len(numbers)] = numbers
        return tokens

    def encode(self, text: str) -> list[int]:
        """All of one text's token numbers, without start and end."""
        numbers: list[int] = self._encode([text])[0].ids
        return numbers

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        import ftfy

        cleaned = [html.unescape(html.unescape(ftfy.fix_text(text))) for text in texts]
        return self._tokenizer.encode_batch([" ".join(text.split()).lower() for text in cleaned])


def is_clips(tokenizer: Any) -> bool:
    """Whether a tokenizer of open_clip is CLIP's, with its usual settings."""
    from open_clip import SimpleTokenizer
    from open_clip import tokenizer as module

    return (
        type(tokenizer) is SimpleTokenizer
        and tokenizer.clean_fn is module.get_clean_fn("lower")
        and tokenizer.reduction_fn is None
        and tokenizer.vocab_size == _MERGES + 2 * 256 + 2
    )


def _byte_pair_encoding() -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = _letters_of_bytes()
    pairs = [(first, second) for first, second in map(str.split, _read_merges())]
    vocabulary = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *map("".join, pairs),
        "<start_of_text>",
        "<end_of_text>",
    ]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(numbers, pairs, end_of_word_suffix="</w>"))
    tokenizer.add_special_tokens(vocabulary[-2:])  # as in open_clip, a text can spell them
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _read_merges() -> list[str]:
    found = importlib.util.find_spec("open_clip")  # which does not import it
    if found is None or found.origin is None:
        raise OSError("open_clip is not installed")
    path = Path(found.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    return lines[1 : 1 + _MERGES]  # the first tells the version


def _letters_of_bytes() -> list[str]:
    """GPT-2's letter for each byte, in the order of CLIP's vocabulary: printable ones first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = len(set(range(256)) - set(printable))
    return [*map(chr, printable), *(chr(256 + number) for number in range(others))]
