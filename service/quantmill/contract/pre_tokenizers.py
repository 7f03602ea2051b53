"""The pre-tokenizers of byte-level BPE that llama.cpp knows by name, and how tokenizer.json describes them.

Sources: llama.cpp's src/llama-vocab.cpp (the rules behind `tokenizer.ggml.pre`), and the tokenizer.json of the models
that each is named after.
"""

from __future__ import annotations

from dataclasses import dataclass

GPT2_BYTES = ("ByteLevel", True)  # with GPT-2's own regular expression
BYTES = ("ByteLevel", False)
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = ("Split", _CONTRACTIONS + r"\p{N}{1,3}" + _REST)
QWEN2_SPLIT = ("Split", _CONTRACTIONS + r"\p{N}" + _REST)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+{0}|" + r"[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*{0}|"
)
_REST_WITH_SLASHES = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN_SPLIT = ("Split", _CASED.replace("{0}", "") + r"\p{N}" + _REST_WITH_SLASHES)
GPT4O_SPLIT = (
    "Split",
    _CASED.replace("{0}", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?") + r"\p{N}{1,3}" + _REST_WITH_SLASHES,
)
FALCON_STEPS = (
    ("Punctuation", "Contiguous"),
    GPT2_BYTES,
    ("Digits", False),
    ("Split", "[0-9][0-9][0-9]"),
)


@dataclass(frozen=True)
class PreTokenizer:
    """A pre-tokenizer that llama.cpp knows: its name there, and how tokenizer.json describes it."""

    pre: str
    steps: tuple[tuple[str, object], ...]
    normalizers: tuple[str | None, ...] = (None,)
    ignore_merges: bool = False


PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", (GPT2_BYTES,)),
    PreTokenizer("llama-bpe", (LLAMA3_SPLIT, BYTES), ignore_merges=True),
    PreTokenizer("qwen2", (QWEN2_SPLIT, BYTES), normalizers=("NFC", None)),
    PreTokenizer("smollm", (("Digits", True), GPT2_BYTES)),
    PreTokenizer("dbrx", (LLAMA3_SPLIT, BYTES)),
    PreTokenizer("falcon", FALCON_STEPS),
    PreTokenizer("tekken", (TEKKEN_SPLIT, BYTES), ignore_merges=True),
    PreTokenizer("gpt-4o", (GPT4O_SPLIT, BYTES)),
)
