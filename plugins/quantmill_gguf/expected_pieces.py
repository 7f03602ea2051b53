"""What llama.cpp must be told of a tokenizer of SentencePiece's: verification's own reading of its own file.

Shares nothing with sentencepiece.py and tokenizer.py. Whatever the plan accepted is well formed.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantmill.contract.gguf import Scalar
from quantmill.contract.tensors import ModelIndex

Told = tuple[dict[str, Scalar], dict[str, Sequence[Scalar]]]  # keys below tokenizer.ggml, and lists
Found = list[tuple[int, Any]]

OUTSIDE = -1000.0  # the score of tokens that are no pieces
FILES = ("tokenizer.model", "spiece.model")
PREFIXED = ("llama", "mistral", "mixtral")


def told(index: ModelIndex, settings: Mapping[str, Any], rows: int) -> Told:
    """By the file, and by what stands beside it of added tokens and special ones."""
    name = next(name for name in FILES if name in index.files)
    message = list(_message(index.files[name].read_bytes()))
    pieces = [dict(_message(value)) for number, value in message if number == 1]
    trainer, normalizer = ({k: v for n, value in message if n == of for k, v in _message(value)} for of in (2, 3))
    tokens = [bytes(piece[1]).decode() for piece in pieces] + [f"[PAD{id_}]" for id_ in range(len(pieces), rows)]
    types = [piece.get(3, 1) for piece in pieces] + [5] * (rows - len(pieces))
    scores = [struct.unpack("<f", piece.get(2, bytes(4)))[0] for piece in pieces] + [OUTSIDE] * (rows - len(pieces))
    for id_, text, special in _added(index, settings):
        tokens[id_] = text
        if id_ >= len(pieces) or types[id_] == 1:
            types[id_] = 3 if special else 4
    told: dict[str, Scalar] = {"model": "t5" if trainer.get(3, 1) == 1 else "llama", "pre": "default"}
    told |= _ids(index, settings, tokens, trainer)
    told["add_bos_token"], told["add_eos_token"] = _adds(index, settings)
    told["add_space_prefix"] = normalizer.get(3, 1) == 1
    lists: dict[str, Sequence[Scalar]] = {"tokens": tokens, "token_type": types, "scores": scores}
    if told["model"] == "t5":
        told["remove_extra_whitespaces"] = normalizer.get(4, 1) == 1
    if normalizer.get(2):
        lists["precompiled_charsmap"] = list(normalizer[2])
    return told, lists


def unigram(data: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], rows: int) -> Told:
    """What is told of a tokenizer.json's unigram model beside tokens, special ids and what is added around a text."""
    scores = [float(score) for _, score in data["model"]["vocab"]]
    kinds = {step["type"]: step for step in steps}
    told: dict[str, Scalar] = {
        "add_space_prefix": kinds["Metaspace"].get("prepend_scheme") != "never",
        "remove_extra_whitespaces": bool({"WhitespaceSplit", "Strip"} & kinds.keys()),
        "unknown_token_id": data["model"]["unk_id"],
    }
    lists: dict[str, Sequence[Scalar]] = {"scores": scores + [OUTSIDE] * (rows - len(scores))}
    if "Precompiled" in kinds:
        lists["precompiled_charsmap"] = list(base64.b64decode(kinds["Precompiled"]["precompiled_charsmap"]))
    return told, lists


def _added(index: ModelIndex, settings: Mapping[str, Any]) -> Iterator[tuple[int, str, bool]]:
    if "added_tokens.json" in index.files:
        for text, id_ in json.loads(index.files["added_tokens.json"].read_bytes()).items():
            yield id_, text, False
    for id_, token in (settings.get("added_tokens_decoder") or {}).items():
        yield int(id_), token["content"], bool(token.get("special"))


def _ids(
    index: ModelIndex, settings: Mapping[str, Any], tokens: list[str], trainer: Mapping[int, Any]
) -> dict[str, Scalar]:
    """The settings name a token; else config.json has its number, where they say that there is none by that name."""
    found: dict[str, Scalar] = {}
    for key, output, field, usual in (
        ("bos", "bos", 41, 1),
        ("eos", "eos", 42, 2),
        ("unk", "unknown", 40, 0),
        ("pad", "padding", 43, 2**64 - 1),
    ):
        number = trainer.get(field, usual)
        text = settings.get(f"{key}_token", tokens[number] if number < len(tokens) else None)
        text = text["content"] if isinstance(text, dict) else text
        id_ = tokens.index(text) if text in tokens else index.config.get(f"{key}_token_id")
        id_ = id_[0] if isinstance(id_, list) and id_ else id_
        if isinstance(id_, int):
            found[f"{output}_token_id"] = id_
    return {"bos_token_id": found["eos_token_id"], **found}


def _adds(index: ModelIndex, settings: Mapping[str, Any]) -> tuple[bool, bool]:
    usual = "Llama" if index.config.get("model_type") in PREFIXED else ""
    ends = str(settings.get("tokenizer_class") or usual).startswith("T5")
    asked = (settings.get("add_bos_token"), settings.get("add_eos_token"))
    return (not ends if asked[0] is None else bool(asked[0])), (ends if asked[1] is None else bool(asked[1]))


def _message(data: bytes) -> Iterator[tuple[int, Any]]:
    """A protobuf message's fields: numbers as such, all others as their bytes."""
    rest = memoryview(data)
    while rest:
        key, rest = _number(rest)
        if key & 7 == 0:
            value, rest = _number(rest)
            yield key >> 3, value
        else:
            length, rest = {1: (8, rest), 5: (4, rest)}.get(key & 7) or _number(rest)
            yield key >> 3, bytes(rest[:length])
            rest = rest[length:]


def _number(rest: memoryview) -> tuple[int, memoryview]:
    size = next(at for at, byte in enumerate(rest, 1) if byte < 128)
    return sum((byte & 127) << 7 * at for at, byte in enumerate(rest[:size])), rest[size:]
