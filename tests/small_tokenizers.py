"""Small tokenizers in the configurations that models come with, trained on the shipped texts."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from quantmill_gguf.sentencepiece import read_pieces

TEXT = Path(__file__).parent / "data" / "text" / "evaluation.txt"
SENTENCEPIECE = Path(__file__).parent / "data" / "golden" / "gguf" / "sentencepiece"
VOCABULARY = 900

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WITH_SLASHES = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + WORDS + r"\p{N}{1,3}" + REST
QWEN2 = CONTRACTIONS + WORDS + r"\p{N}" + REST
BEFORE = r"[^\r\n\p{L}\p{N}]?"
TEKKEN = f"{BEFORE}{UPPER}*{LOWER}+|{BEFORE}{UPPER}+{LOWER}*|" + r"\p{N}" + WITH_SLASHES
GPT4O = (
    f"{BEFORE}{UPPER}*{LOWER}+{CONTRACTIONS}?|{BEFORE}{UPPER}+{LOWER}*{CONTRACTIONS}?|" + r"\p{N}{1,3}" + WITH_SLASHES
)

TEXTS = (
    "",
    "Hello, world! It's 2026 and we'll see: 1234567 items, 3.14159, 0x1F600.",
    "  two spaces,\ttab\n\n\nthree lines \n indented\r\nwindows   end   ",
    "def f(x):\n    return {'a': x ** 2, \"b\": [1, 2, 3]}  # comment\n\n\nclass A:\n\tpass\n",
    "Größe, naïve façade, ÀÉÎ, ŁÓDŹ, żółć, Ωμέγα, Привет мир, שלום עולם, مرحبا بالعالم",
    "日本語のテキスト、中文文本，한국어 텍스트 ไทย हिन्दी தமிழ்",
    "emoji 😀👍🏽👨‍👩‍👧‍👦 symbols ∑∫√≈≠ €£¥ ©®™ “quotes” — dashes… ½ ² ③",
    "ALLCAPS mixedCase snake_case kebab-case http://example.com/a/b?c=d&e=f#g",
    "a" * 50 + " " * 30 + "!" * 20 + "don't DON'T I'VE they'LL",
)


def corpus() -> list[str]:
    """The shipped text, and the compared ones often enough to be merged wherever the rules allow it."""
    return [TEXT.read_text(), *(TEXTS * 20)]


def trained(pre_tokenizer: Any, normalizer: Any = None, **model: Any) -> Tokenizer:
    """Byte-level BPE."""
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def split(*patterns: str, then: Any = None) -> Any:
    last = then or pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*(pre_tokenizers.Split(Regex(each), "isolated") for each in patterns), last])


def falcon() -> Tokenizer:
    steps = [
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    ]
    return trained(pre_tokenizers.Sequence(steps))


def sentencepiece(normalizer: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    """As transformers writes what it has converted from SentencePiece: every way to make a piece is a merge.

    The pieces are those of a trained BPE, in its order; merges are all pairs of pieces that make another one.
    """
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=VOCABULARY - 256, show_progress=False))
    pieces = [piece for piece, _ in sorted(words.get_vocab().items(), key=lambda item: item[1])]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocab = {text: id_ for id_, text in enumerate(dict.fromkeys(texts))}
    merges = [
        (piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in vocab and piece[at:] in vocab
    ]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True, dropout=None))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocab["<s>"])]
    )
    return tokenizer


def wordpiece(*, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        corpus(), trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return tokenizer


def unigram(normalizer: Any, pre_tokenizer: Any) -> Tokenizer:
    """Of sentencepiece's own pieces and scores."""
    pieces = read_pieces((SENTENCEPIECE / "unigram.model").read_bytes(), "unigram.model")
    tokenizer = Tokenizer(
        models.Unigram(list(zip(pieces.texts, pieces.scores, strict=True)), unk_id=pieces.ids["unknown"])
    )
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<pad>", "</s>", "<unk>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", pieces.ids["eos"])]
    )
    return tokenizer


def unigram_of_t5() -> Tokenizer:
    pieces = read_pieces((SENTENCEPIECE / "unigram.model").read_bytes(), "unigram.model")
    splits = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return unigram(normalizers.Precompiled(pieces.charsmap), splits)


REPLACE = normalizers.Replace(" ", "\u2581")
AS_GPT2 = functools.partial(pre_tokenizers.ByteLevel, add_prefix_space=False)

SMALL_TOKENIZERS: Mapping[str, Callable[[], Tokenizer]] = {
    "gpt-2": lambda: trained(AS_GPT2()),
    "llama-bpe": lambda: trained(split(LLAMA3), ignore_merges=True),
    "dbrx": lambda: trained(split(LLAMA3)),
    "qwen2": lambda: trained(split(QWEN2), normalizers.NFC()),
    "smollm": lambda: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), AS_GPT2()])),
    "falcon": falcon,
    "tekken": lambda: trained(split(TEKKEN), ignore_merges=True),
    "gpt-4o": lambda: trained(split(GPT4O)),
    "SentencePiece of Llama 2": lambda: sentencepiece(normalizers.Sequence([normalizers.Prepend("\u2581"), REPLACE])),
    "SentencePiece of Gemma": lambda: sentencepiece(REPLACE, pre_tokenizers.Split(" ", "merged_with_previous")),
    "SentencePiece of Mistral": lambda: sentencepiece(
        None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    ),
    "Unigram of T5": unigram_of_t5,
    "Unigram without normalizing": lambda: unigram(None, pre_tokenizers.Metaspace()),
    "WordPiece": lambda: wordpiece(lowercase=True),
    "WordPiece, cased": lambda: wordpiece(lowercase=False),
}


def write_pieces(name: str, folder: Path) -> list[list[int]]:
    """Replace the tokenizer in `folder` by the SentencePiece model `name`; gives the ids of TEXTS, by sentencepiece."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes((SENTENCEPIECE / f"{name}.model").read_bytes())
    class_ = {"bpe": "LlamaTokenizer", "unigram": "T5Tokenizer"}[name]
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_}))
    golden = json.loads((SENTENCEPIECE / "golden.json").read_text())
    ids = golden[name]["ids"]
    before, after = ([ids["bos"]], []) if name == "bpe" else ([], [ids["eos"]])
    return [[*before, *tokens, *after] for tokens in golden[name]["tokens"]]


def write_tokenizer(name: str, folder: Path) -> Tokenizer:
    """Replace the tokenizer of the checkpoint in `folder`; gives the tokenizer."""
    tokenizer = SMALL_TOKENIZERS[name]()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {} if name.startswith("WordPiece") else {"bos_token": "<s>", "eos_token": "</s>"}
    if name.startswith("Unigram"):
        settings["bos_token"] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer
