"""BERT's WordPiece, as tokenizer.json has it, for llama.cpp's tokenizer of that kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantmill.contract.errors import SourceRejected
from quantmill.contract.strictjson import shown

SPACE = "\u2581"
INSIDE = "##"  # what tokens begin with that do not begin a word

Step = Mapping[str, Any]


def settings(model: Step, normalizers: Sequence[Step], pre_tokenizers: Sequence[Step]) -> dict[str, bool]:
    """What llama.cpp has to be told of normalizing. Raises SourceRejected for what it does otherwise."""
    if model.get("continuing_subword_prefix", INSIDE) != INSIDE:
        raise SourceRejected(f"tokenizer.json: WordPiece with the prefix {model['continuing_subword_prefix']!r}")
    if [step.get("type") for step in pre_tokenizers] != ["BertPreTokenizer"]:
        raise SourceRejected(f"tokenizer.json: WordPiece with the pre-tokenizer {shown(list(pre_tokenizers))}")
    if [step.get("type") for step in normalizers] != ["BertNormalizer"]:
        raise SourceRejected(f"tokenizer.json: WordPiece with the normalizer {shown(list(normalizers))}")
    normalizer = normalizers[0]
    if not (normalizer.get("clean_text", True) and normalizer.get("handle_chinese_chars", True)):
        raise SourceRejected("tokenizer.json: llama.cpp cleans text and sets Chinese characters apart in any WordPiece")
    lowercase = bool(normalizer.get("lowercase", True))
    strips = normalizer.get("strip_accents")
    return {"normalizer.lowercase": lowercase, "normalizer.strip_accents": lowercase if strips is None else strips}


def spaced(token: str) -> str:
    """A token as llama.cpp looks it up: beginnings of words are marked instead of their other parts."""
    return token[len(INSIDE) :] if token.startswith(INSIDE) else SPACE + token
