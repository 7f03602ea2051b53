"""Text to tokens, by a checkpoint's tokenizer.json."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from quantmill.contract.errors import SourceRejected, TextRejected
from quantmill.contract.tensors import ModelIndex

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text, and those that the tokenizer puts in front of any text (BOS, or nothing)."""

    ids: list[int]
    prefix: list[int]


def tokenize(index: ModelIndex, text: str) -> Tokens:
    """The tokens of `text`. Template and special tokens are left out, but for the prefix.

    Raises SourceRejected when there is no tokenizer.json or it cannot be used, TextRejected when `text` is not
    Unicode.
    """
    from tokenizers import Tokenizer

    if TOKENIZER not in index.files:
        raise SourceRejected(f"The checkpoint has no {TOKENIZER}; without it a text cannot be evaluated.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextRejected(f"The text is not valid Unicode at character {error.start}.") from error
    try:
        tokenizer = Tokenizer.from_file(str(index.files[TOKENIZER]))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        probe = tokenizer.encode("a", add_special_tokens=True)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
    except Exception as error:  # the library raises nothing more special
        raise SourceRejected(f"{TOKENIZER} cannot be used: {str(error)[:300]}", file=TOKENIZER) from error
    in_front = takewhile(lambda pair: pair[1], zip(probe.ids, probe.special_tokens_mask, strict=True))
    return Tokens(ids, [token for token, _ in in_front])
