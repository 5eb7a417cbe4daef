"""Texts to token numbers without torch or transformers: the same numbers as open_clip's tokenizers.

CLIP's method is that of openai/CLIP (clip/simple_tokenizer.py): words split by a pattern, byte pair
encoding (Sennrich et al. 2016, arXiv 1508.07909) with CLIP's 48,894 merges. Other models have a
Hugging Face tokenizer, whose `tokenizer.json` the package `tokenizers` reads. Only kinds of which
neither is true run through open_clip's own code, with transformers.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
import json
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipcls.errors import ModelError, install_command
from clipcls.models.architectures import quiet, require_torch

if TYPE_CHECKING:
    import tokenizers

    from clipcls.models.registry import ModelSource

_MERGES = Path(__file__).with_name("clip_merges.txt.gz")
_START, _END = "<start_of_text>", "<end_of_text>"
_PATTERN = rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"

_NO_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))
# open_clip's `clean`, after ftfy and HTML entities.
_CLEAN: dict[str, Callable[[str], str]] = {
    "lower": lambda text: " ".join(text.split()).lower(),
    "whitespace": lambda text: " ".join(text.split()),
    "canonicalize": lambda text: " ".join(text.translate(_NO_PUNCTUATION).lower().split()),
}

# The classes of transformers whose tokenizer.json is all that they do, and their padding's default.
_READABLE = {
    "BertTokenizer": "[PAD]",
    "GemmaTokenizer": "<pad>",
    "MT5Tokenizer": "<pad>",
    "PreTrainedTokenizer": None,
    "RobertaTokenizer": "<pad>",
    "T5Tokenizer": "<pad>",
    "TokenizersBackend": None,
    "XLMRobertaTokenizer": "<pad>",
}
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*")
# The class by a repository's `model_type`, where tokenizer_config.json is silent.
_CLASSES = {
    "bert": "BertTokenizer",
    "mt5": "T5Tokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}


class Tokenizer(Protocol):
    """Texts -> int64 (n, context length).

    Attributes:
        padding: the number that fills up short texts.
    """

    padding: int

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Token numbers, cut and padded to the context length."""

    def is_cut(self, text: str) -> bool:
        """Whether the text has more tokens than the model reads."""


def open_tokenizer(source: ModelSource) -> Tokenizer:
    """The tokenizer of a model's texts.

    Raises:
        ModelError: it cannot be read, or needs packages that are not installed.
    """
    text = source.config["text_cfg"]
    settings = text.get("tokenizer_kwargs", {})
    if str(settings.get("clean", "lower")) not in _CLEAN:
        raise ModelError(f"{source.name}: its texts' `clean` is not one of {', '.join(_CLEAN)}")
    if source.tokenizer is None:
        if settings.keys() <= {"clean"}:
            return ClipTokenizer(source.context_length, **settings)
    elif (
        settings.keys() <= {"clean", "strip_sep_token"}
        and not text.get("tokenizer_mode")
        and (found := _read_tokenizer(source.tokenizer))
    ):
        return JsonTokenizer(*found, source.context_length, **settings)
    return _OpenClipTokenizer(source)


def count_tokens(tokens: NDArray[np.int64], padding: int) -> NDArray[np.int64]:
    """The length of each row of tokens (n, context length) without the padding at its end."""
    lengths: NDArray[np.int64] = tokens.shape[1] - (tokens != padding)[:, ::-1].argmax(axis=1)
    return lengths


class ClipTokenizer:
    """CLIP's tokenizer, as open_clip.SimpleTokenizer.

    Args:
        context_length: the number of tokens a text is cut to, including its start and end.
        clean: what is done to a text first: "lower", "whitespace" or "canonicalize".
    """

    padding = 0

    def __init__(self, context_length: int = 77, clean: str = "lower") -> None:
        import regex

        self._length = context_length
        self._clean = _CLEAN[clean]
        self._pattern = regex.compile(_PATTERN, regex.IGNORECASE)
        self._tokenizer = _make_byte_pair_encoding()
        numbers = self._tokenizer.get_vocab()
        self._start, self._end = numbers[_START], numbers[_END]
        self._words = {_START: [self._start], _END: [self._end]}  # a text can contain them

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Token numbers from start to end of text, padded with zeros."""
        tokens = np.zeros((len(texts), self._length), np.int64)
        for row, text in zip(tokens, texts, strict=True):
            numbers = [self._start, *self.encode(text), self._end]
            if len(numbers) > self._length:
                numbers = [*numbers[: self._length - 1], self._end]
            row[: len(numbers)] = numbers
        return tokens

    def encode(self, text: str) -> list[int]:
        """All token numbers of one text, without start and end."""
        words = self._pattern.findall(self._clean(_unescape(text)))
        return [number for word in words for number in self._numbers(word)]

    def is_cut(self, text: str) -> bool:
        """Whether the text has more tokens than the model reads."""
        return len(self.encode(text)) + 2 > self._length

    def _numbers(self, word: str) -> list[int]:
        if word not in self._words:
            self._words[word] = self._tokenizer.encode(word).ids
        return self._words[word]


class JsonTokenizer:
    """A tokenizer.json, as open_clip.tokenizer.HFTokenizer.

    Args:
        tokenizer: what the file holds.
        padding: the number that fills up short texts.
        config: its tokenizer_config.json.
        context_length: the number of tokens a text is cut to, including the special ones.
        clean: what is done to a text first: "lower", "whitespace" or "canonicalize".
        strip_sep_token: whether the separator at the end becomes a 0.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        padding: int,
        config: dict[str, Any],
        context_length: int,
        clean: str = "whitespace",
        strip_sep_token: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._clean = _CLEAN[clean]
        separator = _content(config.get("sep_token"), "[SEP]")
        self._separator = tokenizer.token_to_id(separator) if strip_sep_token else None
        self.padding = padding
        tokenizer.enable_truncation(
            context_length, direction=config.get("truncation_side") or "right"
        )
        tokenizer.enable_padding(
            direction=config.get("padding_side") or "right",
            pad_id=self.padding,
            length=context_length,
        )

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Token numbers with the model's special ones."""
        # One at a time: a batch starts threads, which forbid the process to fork.
        rows = [self._encode(text).ids for text in texts]
        tokens = np.array(rows, np.int64)
        if self._separator is not None:
            tokens[tokens == self._separator] = 0
        return tokens

    def is_cut(self, text: str) -> bool:
        """Whether the text has more tokens than the model reads."""
        return bool(self._encode(text).overflowing)

    def _encode(self, text: str) -> tokenizers.Encoding:
        return self._tokenizer.encode(self._clean(_unescape(text)))


class _OpenClipTokenizer:
    """open_clip's own tokenizer, for the kinds that the other classes don't read."""

    def __init__(self, source: ModelSource) -> None:
        text = source.config["text_cfg"]
        settings = text.get("tokenizer_kwargs", {})
        self._length = source.context_length
        if source.tokenizer and (missing := _find_missing(source.tokenizer)):
            raise ModelError(
                f"{source.name}: its tokenizer needs {missing}: {install_command('hf')}"
            )
        with require_torch(source.name):
            from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
        try:
            with quiet():
                if source.tokenizer:
                    settings = {**settings, "tokenizer_mode": text.get("tokenizer_mode")}
                    self._tokenizer = HFTokenizer(str(source.tokenizer), self._length, **settings)
                    self.padding = self._tokenizer.tokenizer.pad_token_id
                else:
                    self._tokenizer = SimpleTokenizer(context_length=self._length, **settings)
                    self.padding = 0
        except Exception as error:  # transformers and sentencepiece have their own
            reason = " ".join(str(error).split())[:120]
            place = source.tokenizer or source.name
            raise ModelError(f"{place}: the tokenizer cannot be read ({reason})") from error

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        tokens: NDArray[np.int64] = self._tokenizer(list(texts)).numpy()
        return tokens

    def is_cut(self, text: str) -> bool:
        longer: NDArray[np.int64] = self._tokenizer([text], 2 * self._length).numpy()
        return int(count_tokens(longer, self.padding)[0]) > self._length


def _find_missing(directory: Path) -> str | None:
    """The package that transformers' way to a tokenizer needs and that is not installed.

    Raises:
        ModelError: the directory has no tokenizer.
    """
    files = [file.name for pattern in _VOCABULARIES for file in directory.glob(pattern)]
    if not files:
        raise ModelError(f"{directory}: has no tokenizer.json, which the model's texts need")
    packages = ["transformers"]
    if "tokenizer.json" not in files and any(name.endswith(".model") for name in files):
        packages += ["sentencepiece", "google.protobuf"]
    for package in packages:
        parent = package.partition(".")[0]
        if not importlib.util.find_spec(parent) or not importlib.util.find_spec(package):
            return package.removeprefix("google.")
    return None


def _unescape(text: str) -> str:
    if text.isascii() and text.isprintable() and "&" not in text:
        return text  # ftfy would change nothing, and takes longer to import than a text to embed
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _read_tokenizer(directory: Path) -> tuple[tokenizers.Tokenizer, int, dict[str, Any]] | None:
    """Read the parts of a `JsonTokenizer`; None if only transformers can read them."""
    from tokenizers import Tokenizer

    config = {
        **_read_object(directory / "special_tokens_map.json"),
        **_read_object(directory / "tokenizer_config.json"),
    }
    model = _read_object(directory / "config.json")
    kind = config.get("tokenizer_class") or model.get("tokenizer_class")
    kind = str(kind or _CLASSES.get(str(model.get("model_type")))).removesuffix("Fast")
    file, vocabulary = directory / "tokenizer.json", directory / "vocab.txt"
    if kind not in _READABLE:
        return None
    if file.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ModelError(
                f"{file}: not a tokenizer ({error}); delete it and run the command again"
            ) from error
    elif kind == "BertTokenizer" and vocabulary.is_file():
        tokenizer = _make_word_pieces(vocabulary)
    else:
        return None
    _adapt(tokenizer, kind, config)
    padding = tokenizer.token_to_id(_content(config.get("pad_token"), _READABLE[kind]) or "")
    return None if padding is None else (tokenizer, padding, config)


def _adapt(tokenizer: tokenizers.Tokenizer, kind: str, config: dict[str, Any]) -> None:
    """Sets what transformers' classes set, whatever a tokenizer.json says."""
    from tokenizers import normalizers, pre_tokenizers

    if kind == "BertTokenizer":
        tokenizer.normalizer = normalizers.BertNormalizer(
            handle_chinese_chars=config.get("tokenize_chinese_chars", True),
            strip_accents=config.get("strip_accents"),
            lowercase=config.get("do_lower_case", True),
        )
    elif kind == "GemmaTokenizer":
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    elif kind in ("MT5Tokenizer", "T5Tokenizer", "XLMRobertaTokenizer"):
        splits = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(splits))


def _make_word_pieces(vocabulary: Path) -> tokenizers.Tokenizer:
    """BERT's tokenizer from its vocab.txt, but for the normalizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    lines = vocabulary.read_text(encoding="utf-8").splitlines()
    numbers = {token: number for number, token in enumerate(lines)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, numbers[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    return tokenizer


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON file of a hub's; empty if it is missing."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file}: cannot be read as JSON; delete it and run the command again"
        ) from error
    return found if isinstance(found, dict) else {}


def _content(token: Any, default: Any = None) -> Any:
    """The text of a special token, which may have settings."""
    return (token.get("content") if isinstance(token, dict) else token) or default


def _make_byte_pair_encoding() -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers

    lines = gzip.decompress(_MERGES.read_bytes()).decode().splitlines()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # CLIP's order: printable ones first
    pairs = [(first, second) for first, second in map(str.split, lines)]
    ends = (f"{letter}</w>" for letter in letters)
    vocabulary = [*letters, *ends, *map("".join, pairs), _START, _END]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(numbers, pairs, end_of_word_suffix="</w>"))
    # It only turns bytes into letters, since its input is one word.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer
