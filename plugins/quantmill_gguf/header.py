"""A header whose keys come from another file: written by its bytes, so that no key has to be understood.

The layout is contract/gguf.py's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from quantmill.contract.gguf import STRING, GgufSource
from quantmill_gguf.params import GgufParams
from quantmill_gguf.shards import Stored
from quantmill_gguf.types import SCHEMES

UINT16, UINT32, INT32 = 2, 4, 5

FORMAT_KEY = "quantmill.source.format"  # "gguf": tensors have the names and the rows of the file that they come from
DIGEST_KEY = "quantmill.source.digest"

# What earlier importance matrices are known by: names of files, of which another machine's folders say nothing
IMATRIX = "quantize.imatrix.file"
IMATRIX_FILES = (IMATRIX, "quantize.imatrix.dataset")
IMATRIX_COUNTS = ("quantize.imatrix.entries_count", "quantize.imatrix.chunks_count")

IN_EVERY_PART = ("general.architecture", "general.alignment")


def text(value: str) -> bytes:
    return struct.pack("<I", STRING) + _string(value)


def u32(value: int) -> bytes:
    return struct.pack("<II", UINT32, value)


def changed_keys(
    source: GgufSource, params: GgufParams, *, file_type: int, version: int, digest: str, imatrix: str | None
) -> dict[str, bytes]:
    """The source's keys in their order, those that speak of types and of where it comes from changed or added.

    `imatrix` is what the new importance matrix is known by; without one the source's own, if any, stays as a name.
    """
    keys = dict(source.keys)
    if imatrix is not None:
        for key in (*IMATRIX_FILES, *IMATRIX_COUNTS):
            keys.pop(key, None)
        keys[IMATRIX] = text(imatrix)
    else:
        keys |= {key: text(_name_of(source, key)) for key in IMATRIX_FILES if isinstance(source.metadata.get(key), str)}
    keys |= {f"general.{key}": text(value) for key, value in sorted(params.general.items())}
    if any(key.startswith("base_model.0") for key in params.general):
        keys.setdefault("general.base_model.count", u32(1))
    keys |= {"general.file_type": u32(file_type), "general.quantization_version": u32(version)}
    keys[FORMAT_KEY] = text("gguf")
    if digest:
        keys[DIGEST_KEY] = text(digest)
    return keys


def _name_of(source: GgufSource, key: str) -> str:
    return PurePosixPath(str(source.metadata[key]).replace("\\", "/")).name


def keys_of_part(keys: Mapping[str, bytes], number: int, count: int, tensors: int) -> dict[str, bytes]:
    """What one of `count` files says: the first all, the others what they cannot be read without."""
    own = {key: raw for key, raw in keys.items() if number == 0 or key in IN_EVERY_PART}
    if count == 1:
        return own
    return own | {
        "split.no": struct.pack("<IH", UINT16, number),
        "split.count": struct.pack("<IH", UINT16, count),
        "split.tensors.count": struct.pack("<Ii", INT32, tensors),
    }


def header(keys: Mapping[str, bytes], tensors: Sequence[Stored], alignment: int) -> bytes:
    """Everything before the data: tensors stand there one after the other, each at a multiple of `alignment`."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    parts += [_string(key) + raw for key, raw in keys.items()]
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        type_ = SCHEMES[tensor.scheme].id
        parts.append(_string(tensor.name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_, offset))
        offset += tensor.nbytes + -tensor.nbytes % alignment
    head = b"".join(parts)
    return head + bytes(-len(head) % alignment)


def _string(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw
