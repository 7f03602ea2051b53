"""SentencePiece's BPE, as tokenizer.json has it, for llama.cpp's tokenizer of that kind.

tokenizer.json lists merges in their order; llama.cpp joins whatever makes the piece of the highest score. The two are
the same where every way to make a piece is a merge, and the merges of a piece stand together: so transformers writes
the tokenizers that it converts from SentencePiece. Others are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantmill.contract.errors import SourceRejected
from quantmill.contract.strictjson import shown

SPACE = "\u2581"
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
SPECIAL_SCORE = -1000.0  # of tokens that are no result of merging

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
SPLIT_AT_SPACES = {  # there are none after the normalizer
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}

Step = Mapping[str, Any]


def is_spm(model: Step) -> bool:
    """Whether this BPE works on text and falls back to bytes, as SentencePiece's does."""
    return model.get("type", "BPE") == "BPE" and bool(model.get("byte_fallback"))


def puts_a_space_before(normalizers: Sequence[Step], pre_tokenizers: Sequence[Step]) -> bool:
    """Whether a text begins with a space that is not in it.

    Raises SourceRejected where spaces are treated as llama.cpp's tokenizer does not.
    """
    steps, pieces = list(normalizers), list(pre_tokenizers)
    if steps == [PREPEND, REPLACE] and not pieces:
        return True
    if steps == [REPLACE] and (not pieces or pieces == [SPLIT_AT_SPACES]):
        return False
    if not steps and len(pieces) == 1 and _is_plain_metaspace(pieces[0]):
        return bool(pieces[0].get("prepend_scheme", "always") != "never")
    raise SourceRejected(
        f"tokenizer.json: the normalizer {shown(steps)} with the pre-tokenizer {shown(pieces)} is none of "
        "SentencePiece's that llama.cpp computes (tried: Prepend and Replace, Replace, Metaspace without split)"
    )


def first_space_counts_twice(pre_tokenizers: Sequence[Step]) -> bool:
    """Whether transformers puts no space before a text that begins with one, where llama.cpp does."""
    return any(step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never" for step in pre_tokenizers)


def _is_plain_metaspace(step: Step) -> bool:
    return step.get("type") == "Metaspace" and step.get("replacement") == SPACE and step.get("split") is False


def scores(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], tokens: Sequence[str]) -> tuple[float, ...]:
    """The score of each token, higher for what is merged earlier.

    Raises SourceRejected where scores cannot say what the merges do.
    """
    lacking = [byte for byte in BYTES if byte not in vocab]
    if lacking:
        raise SourceRejected(f"tokenizer.json: the vocabulary has no token {lacking[0]} to fall back to")
    made: dict[str, float] = {}
    last = ""
    for rank, (left, right) in enumerate(merges):
        piece = left + right
        if piece != last and piece in made:
            raise SourceRejected(
                f"tokenizer.json: the merges to {piece!r} stand apart; llama.cpp has one score for all of them"
            )
        made.setdefault(piece, -float(rank))
        last = piece
    known = set(merges)
    for piece in made:
        for pair in _splits(piece, vocab):
            if pair not in known:
                raise SourceRejected(
                    f"tokenizer.json: {piece!r} is not made of {pair[0]!r} and {pair[1]!r}, which llama.cpp would "
                    "join: its merges are not SentencePiece's"
                )
    return tuple(made.get(token, SPECIAL_SCORE) for token in tokens)


def _splits(piece: str, vocab: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for at in range(1, len(piece)):
        if piece[:at] in vocab and piece[at:] in vocab:
            yield piece[:at], piece[at:]
