"""SentencePiece's BPE out of a GGUF file, as tokenizer.json has it: merges from the scores of pieces.

llama.cpp and SentencePiece join the two neighbours that make the piece of the highest score, the leftmost of them;
tokenizer.json has a list of merges in their order. The list is the one that transformers makes of a SentencePiece
model (convert_slow_tokenizer.generate_merges, 5.23): all ways to make a piece, the best piece first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from quantmill.contract.strictjson import shown

SPACE = "\u2581"
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
LONGEST = 256  # letters of a piece, which are cut at each; SentencePiece's own limit is 16, and public models have 64


def merges(pieces: Mapping[str, float]) -> list[list[str]]:
    """All merges of the pieces, by their scores. Raises ValueError, with what stands against it, where pieces that can
    be made have one score, or a letter that is no piece, or one has more than LONGEST letters."""
    if long := next((piece for piece in pieces if len(piece) > LONGEST), None):
        raise ValueError(f"its piece {shown(long)} has {len(long)} letters; at most {LONGEST} are read")
    made = {piece: [*_splits(piece, pieces)] for piece in pieces if len(piece) > 1}
    ordered = sorted((piece for piece in made if made[piece]), key=lambda piece: -pieces[piece])
    for one, two in pairwise(ordered):
        if not pieces[one] > pieces[two]:
            raise ValueError(f"its pieces {shown(one)} and {shown(two)} have the same score")
    for piece in made:
        if letter := next((letter for letter in piece if letter not in pieces), None):
            raise ValueError(f"the letter {shown(letter)} of its piece {shown(piece)} is no piece")
    return [[piece[:at], piece[at:]] for piece in ordered for at in made[piece]]


def _splits(piece: str, pieces: Mapping[str, float]) -> Iterator[int]:
    """Where the piece can be cut into two, the longest first part first."""
    for at in range(len(piece) - 1, 0, -1):
        if piece[:at] in pieces and piece[at:] in pieces:
            yield at


def model(vocabulary: Mapping[str, int], unknown: str, pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": pairs,
    }


def normalizer(space_before: bool) -> dict[str, Any]:
    """Spaces as SentencePiece writes them, with one before every text."""
    return {"type": "Sequence", "normalizers": [PREPEND, REPLACE]} if space_before else dict(REPLACE)


def decoder(space_before: bool) -> dict[str, Any]:
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space_before else []
    return {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]}
