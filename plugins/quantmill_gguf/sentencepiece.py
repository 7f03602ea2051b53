"""SentencePiece's own file, `tokenizer.model` or `spiece.model`: a protobuf message of pieces and settings.

Source: sentencepiece's src/sentencepiece_model.proto. Only what decides how a text is cut is read; each length is
checked before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quantmill.contract.errors import SourceRejected

MAX_PIECES = 1 << 20

UNIGRAM, BPE = 1, 2  # TrainerSpec.model_type
UNIT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types

Value = int | bytes


@dataclass(frozen=True)
class Pieces:
    """One model. Types of pieces have the numbers that GGUF gives them.

    `ids` are those of bos, eos, unknown and padding, where there are such; `charsmap` is the compiled normalization,
    empty where texts stay as they are.
    """

    kind: int
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    ids: Mapping[str, int]
    charsmap: bytes
    byte_fallback: bool
    spaces_after: bool
    space_before: bool
    merges_spaces: bool
    escapes_spaces: bool


def read_pieces(data: bytes, name: str) -> Pieces:
    """The model in `data`, the content of the file `name`. Raises SourceRejected for anything else."""
    try:
        return _pieces(data)
    except (ValueError, struct.error) as error:
        raise SourceRejected(f"{name} is no SentencePiece model: {error}", file=name) from error


def _pieces(data: bytes) -> Pieces:
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(dict(_fields(_bytes(value)))))
        elif number in (2, 3):
            (trainer if number == 2 else normalizer).update(_fields(_bytes(value)))
        if len(pieces) > MAX_PIECES:
            raise ValueError(f"it has more than {MAX_PIECES} pieces")
    if not pieces:
        raise ValueError("it has no pieces")
    texts, scores, types = zip(*pieces, strict=True)
    ids = {role: _signed(trainer.get(number, usual)) for role, (number, usual) in IDS.items()}
    return Pieces(
        kind=_number(trainer.get(3, UNIGRAM)),
        texts=texts,
        scores=scores,
        types=types,
        ids={role: id_ for role, id_ in ids.items() if 0 <= id_ < len(texts)},
        charsmap=_bytes(normalizer.get(2, b"")),
        byte_fallback=bool(trainer.get(35, 0)),
        spaces_after=bool(trainer.get(24, 0)),
        space_before=bool(normalizer.get(3, 1)),
        merges_spaces=bool(normalizer.get(4, 1)),
        escapes_spaces=bool(normalizer.get(5, 1)),
    )


IDS = {"unknown": (40, 0), "bos": (41, 1), "eos": (42, 2), "padding": (43, -1)}  # field of TrainerSpec, and default


def _piece(fields: Mapping[int, Value]) -> tuple[str, float, int]:
    text, score, type_ = _bytes(fields.get(1, b"")), fields.get(2, b"\0\0\0\0"), _number(fields.get(3, 1))
    if not text or type_ not in range(1, 7):
        raise ValueError(f"the piece {text[:40]!r} has the type {type_}")
    return text.decode("utf-8"), float(struct.unpack("<f", _bytes(score))[0]), type_


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of each field of a message; of fixed width as their bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == UNIT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire not in (FIXED64, BYTES, FIXED32):
            raise ValueError(f"a field of the wire type {wire}")
        length = {FIXED64: 8, FIXED32: 4}.get(wire)
        if length is None:
            length, at = _varint(data, at)
        if length > len(data) - at:
            raise ValueError("it is cut short")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, least first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has more than ten bytes")


def _signed(value: Value) -> int:
    number = _number(value) & 0xFFFFFFFF
    return number - (1 << 32) if number >> 31 else number


def _number(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where a number belongs")  # noqa: TRY004  a damaged file, like the others
    return value


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes belong")  # noqa: TRY004  a damaged file, like the others
    return value
