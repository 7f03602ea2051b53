"""GGUF files byte by byte, as the specification has them, for tests of what is read and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Sequence

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def text_key(key: str, value: str | bytes) -> bytes:
    return string(key) + struct.pack("<I", STRING) + string(value)


def u32_key(key: str, value: int) -> bytes:
    return string(key) + struct.pack("<II", UINT32, value)


def i32s_key(key: str, *values: int) -> bytes:
    return string(key) + struct.pack(f"<IIQ{len(values)}i", ARRAY, INT32, len(values), *values)


def texts_key(key: str, *values: str | bytes) -> bytes:
    return string(key) + struct.pack("<IIQ", ARRAY, STRING, len(values)) + b"".join(map(string, values))


def tensor(name: str = "output_norm.weight", dims: tuple[int, ...] = (4,), type_: int = 0, offset: int = 0) -> bytes:
    """`dims` fastest first, as the file has them."""
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_, offset)


def file(keys: Sequence[bytes], tensors: Sequence[bytes], data: bytes = bytes(16), alignment: int = 32) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data


LLAMA = text_key("general.architecture", "llama")
