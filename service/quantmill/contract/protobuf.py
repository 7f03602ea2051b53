"""The wire format of protocol buffers, read without trusting it and written byte for byte the same each time.

A message is a row of fields: a tag (number << 3 | wire type) and a value. Lengths are checked against the bytes that
are there before anything is taken from them; nothing is copied but what the caller asks for.

Specification: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}
VARINT_BYTES = 10  # of 64 bits in groups of seven
SIGN = 1 << 63


class Field(NamedTuple):
    """One field. `value` is the integer of a varint, else 0; `begin` and `end` are where its bytes lie in the buffer,
    without tag and length; `start` is where the tag begins."""

    number: int
    wire: int
    value: int
    start: int
    begin: int
    end: int


def fields(data: memoryview, begin: int = 0, end: int | None = None) -> Iterator[Field]:
    """The fields of the message in `data[begin:end]`, in their order.

    Raises ValueError for what is not a message: a length beyond its end, an unknown wire type, the number 0.
    """
    end = len(data) if end is None else end
    position = begin
    while position < end:
        start = position
        tag, position = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        if not number:
            raise ValueError(f"a field has the number 0 at byte {start}")
        value = 0
        if wire == VARINT:
            first = position
            value, position = _varint(data, position, end)
            yield Field(number, wire, value, start, first, position)
            continue
        if wire == BYTES:
            length, position = _varint(data, position, end)
        elif wire in FIXED:
            length = FIXED[wire]
        else:
            raise ValueError(f"a field has the wire type {wire} at byte {start}")
        if length > end - position:
            raise ValueError(f"a field at byte {start} claims {length} bytes, {end - position} are left")
        yield Field(number, wire, value, start, position, position + length)
        position += length


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * VARINT_BYTES, 7):
        if position >= end:
            raise ValueError(f"a number is cut off at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            return value, position
    raise ValueError(f"a number has more than 64 bits at byte {position}")


def integers(data: memoryview, field: Field) -> list[int]:
    """The signed integers of a repeated int64 field, packed or not."""
    if field.wire == VARINT:
        return [signed(field.value)]
    found, position = [], field.begin
    while position < field.end:
        value, position = _varint(data, position, field.end)
        found.append(signed(value))
    return found


def signed(value: int) -> int:
    """A varint as the int64 that it stands for."""
    return value - 2 * SIGN if value >= SIGN else value


def single(data: memoryview, field: Field) -> float:
    """A float32 of wire type FIXED32. Raises ValueError for another."""
    if field.wire != FIXED32:
        raise ValueError("a float is not stored as one")
    return float(struct.unpack_from("<f", data, field.begin)[0])


def text(data: memoryview, field: Field) -> str:
    """A UTF-8 string. Raises ValueError (UnicodeDecodeError is one) for what is none."""
    if field.wire != BYTES:
        raise ValueError("a string is not stored as one")
    return str(data[field.begin : field.end], "utf-8")


# Writing


def varint(value: int) -> bytes:
    """An integer, negative ones as int64 stores them."""
    value %= 2 * SIGN
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def number_field(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)


def float_field(number: int, value: float) -> bytes:
    return varint(number << 3 | FIXED32) + struct.pack("<f", value)


def bytes_field(number: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return length_prefix(number, len(raw)) + raw


def length_prefix(number: int, length: int) -> bytes:
    """What stands before `length` bytes of a field."""
    return varint(number << 3 | BYTES) + varint(length)
