"""SentencePiece's unigram model for llama.cpp's tokenizer of that kind, which it calls t5."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from quantmill.contract.errors import SourceRejected
from quantmill.contract.strictjson import shown

SPACE = "\u2581"
MAX_CHARSMAP = 16 << 20  # bytes; those of NFKC have 240 KB

Step = Mapping[str, Any]

# What a normalizer of tokenizer.json does after its compiled table: nothing, or runs of spaces become one
KEEPS_SPACES: tuple[Sequence[Step], ...] = ((),)
MERGES_SPACES: tuple[Sequence[Step], ...] = (
    (
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE},
    ),
)


def vocabulary(model: Step, file: str) -> tuple[dict[str, int], dict[int, float], int | None]:
    """Ids by text, scores by id, and the id of what is unknown. Raises SourceRejected for a damaged list."""
    entries = model.get("vocab")
    unknown = model.get("unk_id")
    if not isinstance(entries, list) or not all(_is_entry(each) for each in entries):
        raise SourceRejected(f"{file}: the unigram model's vocab is no list of pieces with scores", file=file)
    ids = {text: id_ for id_, (text, _) in enumerate(entries)}
    if len(ids) < len(entries):
        twice = next(text for id_, (text, _) in enumerate(entries) if ids[text] != id_)
        raise SourceRejected(f"{file}: the piece {shown(twice)} is there twice", file=file)
    return ids, {id_: float(score) for id_, (_, score) in enumerate(entries)}, unknown


def _is_entry(each: Any) -> bool:
    return isinstance(each, list) and len(each) == 2 and isinstance(each[0], str) and isinstance(each[1], int | float)


def settings(
    normalizers: Sequence[Step], pre_tokenizers: Sequence[Step], texts: Sequence[str]
) -> tuple[dict[str, bool], bytes]:
    """What llama.cpp has to be told of spaces, and the compiled table of the normalization.

    Raises SourceRejected for steps that it does not compute.
    """
    compiled = bool(normalizers) and normalizers[0].get("type") == "Precompiled"
    rest = tuple(dict(step) for step in normalizers[compiled:])
    spaces = [dict(step) for step in pre_tokenizers]
    splits = bool(spaces) and spaces[0] == {"type": "WhitespaceSplit"}
    metaspace = spaces[splits:]
    known = rest in KEEPS_SPACES or (compiled and rest in MERGES_SPACES)
    if not known or len(metaspace) != 1 or not _is_metaspace(metaspace[0]) or (splits and not compiled):
        raise SourceRejected(
            f"tokenizer.json: the normalizer {shown(list(normalizers))} with the pre-tokenizer "
            f"{shown(list(pre_tokenizers))} is none that llama.cpp computes with a unigram model (tried: Metaspace; "
            "Precompiled and Metaspace; Precompiled, WhitespaceSplit and Metaspace)"
        )
    if (splits or metaspace[0].get("split", True)) and any(SPACE in text.lstrip(SPACE) for text in texts):
        raise SourceRejected("tokenizer.json: pieces of several words, and a pre-tokenizer that never joins words")
    charsmap = _charsmap(normalizers[0].get("precompiled_charsmap")) if compiled else b""
    merges = splits or rest in MERGES_SPACES
    before = metaspace[0].get("prepend_scheme", "always") != "never"
    return {"add_space_prefix": before, "remove_extra_whitespaces": merges}, charsmap


def _is_metaspace(step: Step) -> bool:
    return step.get("type") == "Metaspace" and step.get("replacement") == SPACE


def _charsmap(text: Any) -> bytes:
    try:
        if not isinstance(text, str) or len(text) > 2 * MAX_CHARSMAP:
            raise ValueError("no text of a sensible length")
        return checked_charsmap(base64.b64decode(text, validate=True), "tokenizer.json")
    except (ValueError, binascii.Error) as error:
        raise SourceRejected(f"tokenizer.json: precompiled_charsmap is {error}") from error


def checked_charsmap(charsmap: bytes, file: str) -> bytes:
    """Raises SourceRejected for a table that ends before its first part does, whose length begins it."""
    if charsmap:
        trie = struct.unpack_from("<I", charsmap)[0] if len(charsmap) >= 4 else len(charsmap)
        if len(charsmap) > MAX_CHARSMAP or trie % 4 or trie + 4 >= len(charsmap) or charsmap[-1] != 0:
            raise SourceRejected(f"{file}: the compiled normalization is damaged", file=file)
    return charsmap


def check(ids: Mapping[str, int], *, byte_fallback: bool, file: str) -> None:
    """Raises SourceRejected for what llama.cpp's unigram tokenizer does not do."""
    if byte_fallback:
        raise SourceRejected(
            f"{file}: a unigram model that falls back to bytes; llama.cpp has one unknown token for them instead",
            file=file,
        )
    if "unknown" not in ids:
        raise SourceRejected(f"{file}: a unigram model without an unknown token, which llama.cpp needs", file=file)
