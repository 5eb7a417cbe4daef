"""Small Hugging Face tokenizers of the kinds that OpenCLIP's models have."""

from __future__ import annotations

import functools
import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "a photo of a cat",
    "the quick brown fox jumps over the lazy dog",
    "it's the dogs' ball, they'll've 12 of 1,234!",
    "un café, s'il vous plaît",
    "猫 犬 한국어 русский",
    "ﬁsh ½ Ⅷ ™ 12 345",
]


def write_kind(kind: str, directory: Path) -> None:
    """Writes the files of a kind in `KINDS`."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer, files = KINDS[kind]()
    if tokenizer is not None:
        tokenizer.save(str(directory / "tokenizer.json"))
    for name, content in files.items():
        if isinstance(content, bytes):
            (directory / name).write_bytes(content)
        else:
            (directory / name).write_text(json.dumps(content), encoding="utf-8")


def _gemma() -> tuple[Tokenizer, dict[str, Any]]:
    """SigLIP 2's."""
    named = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [f"<0x{number:02X}>" for number in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=[*named, *letters, "▁▁", "<table>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    content = json.loads(tokenizer.to_str())
    added = [each for each in content["added_tokens"] if each["content"] not in letters]
    for each in added:
        each["special"] = each["content"] in named
    content["added_tokens"] = added
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = _template("$A <eos>", "$A <eos> $B <eos>", {"<eos>": 1})
    config = {
        "add_bos_token": False,
        "add_eos_token": True,
        "added_tokens_decoder": {
            str(each["id"]): {key: value for key, value in each.items() if key != "id"}
            for each in added
        },
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "model_max_length": 64,
        "pad_token": "<pad>",
        "padding_side": "right",
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
    }
    return tokenizer, {"tokenizer_config.json": config}


def _t5(pre_tokenizer: Any) -> tuple[Tokenizer, dict[str, Any]]:
    """SigLIP's."""
    pieces, characters = _train_unigram()
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(characters),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([_token(name) for name in ("<pad>", "</s>", "<unk>")])
    tokenizer.post_processor = _template("$A </s>", "$A </s> $B </s>", {"</s>": 1})
    config = {
        "eos_token": "</s>",
        "extra_ids": 0,
        "model_max_length": int(1e30),
        "pad_token": {"__type": "AddedToken", **json.loads(json.dumps(_plain("</s>")))},
        "tokenizer_class": "T5Tokenizer",
        "unk_token": "<unk>",
    }
    names = {"eos_token": _plain("</s>"), "pad_token": _plain("</s>"), "unk_token": "<unk>"}
    return tokenizer, {"tokenizer_config.json": config, "special_tokens_map.json": names}


def _spiece() -> tuple[None, dict[str, Any]]:
    """Google's mT5: no tokenizer.json."""
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "<pad>"}
    return None, {"tokenizer_config.json": config, "spiece.model": _train_sentencepiece()}


def _xlm_roberta(pre_tokenizer: Any) -> tuple[Tokenizer, dict[str, Any]]:
    pieces, characters = _train_unigram()
    first = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    tokenizer = Tokenizer(models.Unigram([*first, *pieces[3:], ("<mask>", 0.0)], unk_id=3))
    tokenizer.normalizer = normalizers.Precompiled(characters)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([_token(name) for name, _ in first])
    tokenizer.add_special_tokens([_token("<mask>", lstrip=True)])
    tokenizer.post_processor = _template(
        "<s> $A </s>", "<s> $A </s> </s> $B </s>", {"<s>": 0, "</s>": 2}
    )
    config = {"model_type": "xlm-roberta", "pad_token_id": 1}
    return tokenizer, {"tokenizer_config.json": {"model_max_length": 512}, "config.json": config}


def _bert(has_json: bool = True, **config: Any) -> tuple[Tokenizer | None, dict[str, Any]]:
    """CLIPA's and, with vocab.txt alone, BiomedCLIP's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = _template(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", {"[CLS]": 2, "[SEP]": 3}
    )
    numbers = tokenizer.get_vocab()
    words = sorted(numbers, key=numbers.__getitem__)
    files: dict[str, Any] = {
        "tokenizer_config.json": {"do_lower_case": True, "model_max_length": 512, **config},
        "config.json": {"model_type": "bert"},
        "vocab.txt": "".join(f"{word}\n" for word in words).encode(),
    }
    return tokenizer if has_json else None, files


def _roberta() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    files = {"tokenizer_config.json": {}, "config.json": {"model_type": "roberta"}}
    return tokenizer, files


def _words() -> tuple[Tokenizer, dict[str, Any]]:
    """Anybody's own, padded on the left."""
    names = ["<pad>", "<unk>", "</s>"]
    words = [*names, *sorted({word for line in CORPUS for word in line.split()})]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([_token(name) for name in names])
    tokenizer.post_processor = _template("$A </s>", "$A </s> $B </s>", {"</s>": 2})
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "padding_side": "left",
        "truncation_side": "left",
    }
    return tokenizer, {"tokenizer_config.json": config}


KINDS: dict[str, Callable[[], tuple[Tokenizer | None, dict[str, Any]]]] = {
    "gemma": _gemma,
    "t5": lambda: _t5(pre_tokenizers.Metaspace()),
    "t5 of old": lambda: _t5(_split()),
    "xlm-roberta": lambda: _xlm_roberta(_split()),
    "xlm-roberta, newly converted": lambda: _xlm_roberta(pre_tokenizers.Metaspace()),
    "bert": _bert,
    "bert, cased": lambda: _bert(do_lower_case=False),
    "bert, vocab.txt": lambda: _bert(has_json=False),
    "bert, vocab.txt, other settings": lambda: _bert(
        has_json=False, strip_accents=False, tokenize_chinese_chars=False
    ),
    "roberta": _roberta,
    "words": _words,
    "spiece": _spiece,
}


def _split() -> Any:
    splits = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()
    return pre_tokenizers.Sequence(list(splits))


def _plain(content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, **flags}


def _token(content: str, lstrip: bool = False) -> AddedToken:
    return AddedToken(content, special=True, normalized=False, lstrip=lstrip)


def _template(single: str, pair: str, special: dict[str, int]) -> Any:
    return processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=list(special.items())
    )


@functools.cache
def _train_sentencepiece() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_writer=model,
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


@functools.cache
def _train_unigram() -> tuple[list[tuple[str, float]], bytes]:
    """SentencePiece's pieces with their scores, and its table of characters (nmt_nfkc)."""
    pieces, characters = [], b""
    for field, value in _read_protobuf(_train_sentencepiece()):
        inner = dict(_read_protobuf(value)) if field in (1, 3) else {}
        if field == 1:
            score = struct.unpack("<f", inner[2])[0] if 2 in inner else 0.0
            pieces.append((inner[1].decode(), score))
        elif field == 3:
            characters = inner[2]
    return pieces, characters


def _read_protobuf(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: numbers, and all others as bytes."""
    stream = io.BytesIO(data)

    def read_number() -> int:
        number = shift = 0
        while True:
            byte = stream.read(1)[0]
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while stream.tell() < len(data):
        tag = read_number()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, read_number()
        else:
            yield tag >> 3, stream.read(read_number() if kind == 2 else {1: 8, 5: 4}[kind])
