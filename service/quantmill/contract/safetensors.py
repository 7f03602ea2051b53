"""The safetensors format, read without trusting it.

A file is: header length (8 bytes, unsigned little endian), a JSON header, the tensors' bytes without gaps. The
header maps each name to {"dtype", "shape", "data_offsets": [begin, end]}, offsets counted from the end of the
header, and `__metadata__` to an object of strings. Everything is checked once, when the file is opened; no
tensor is read then.

Specification: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import NotFound, SourceRejected
from quantmill.contract.mapped import MappedFile
from quantmill.contract.strictjson import parse_object, shown
from quantmill.contract.tensors import TensorInfo

HEADER_LIMIT = 10_000_000  # bytes; public checkpoints stay below 1 MB, and parsing 100 MB would take half a minute
DIMENSIONS_LIMIT = 64  # of a numpy array
ADDRESS_LIMIT = 2**63 - 1  # bytes that an array may span, dimensions of zero left out

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}

_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


class _Entry(NamedTuple):
    begin: int
    end: int
    info: TensorInfo


class TensorFile(MappedFile):
    """A safetensors file whose header has been checked.

    `tensors` are in the order of their names, `metadata` is the header's own. Raises SourceRejected, naming the
    file and where possible the tensor, when the header does not describe exactly the bytes that follow it.
    """

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        super().__init__(path, descriptor)
        try:
            self._data_start, entries, self.metadata = _read_header(self._descriptor, path.name)
        except BaseException:
            self.close()
            raise
        self._begins = {entry.info.name: entry.begin for entry in entries}
        infos = {entry.info.name: entry.info for entry in entries}
        self.tensors: Mapping[str, TensorInfo] = dict(sorted(infos.items()))

    def values(self, name: str) -> NDArray[Any]:
        """The tensor's values, in the dtype of DTYPES and its shape, as `array` gives them.

        Raises NotFound, and SourceRejected when the file has changed since it was opened.
        """
        if name not in self.tensors:
            raise NotFound(f"{self.path.name} holds no tensor {shown(name)}.", tensor=name)
        info = self.tensors[name]
        return self.array(self._data_start + self._begins[name], info.shape, info.nbytes, DTYPES[info.dtype])


def _read_header(descriptor: int, file: str) -> tuple[int, list[_Entry], Mapping[str, str]]:
    """Where the tensors' bytes start, the entries in the order of those bytes, and the metadata."""
    size = os.fstat(descriptor).st_size
    length = _header_length(os.pread(descriptor, 8, 0), size, file)
    header = _pread(descriptor, length, 8)
    if not header.startswith(b"{"):
        raise _rejected(file, "the header does not begin with '{'")
    try:
        fields = parse_object(header, parse_int=_natural)
    except ValueError as error:
        raise _rejected(file, f"the header cannot be read: {error}") from error
    metadata = _metadata(fields.pop("__metadata__", None), file)
    entries = sorted((_entry(name, fields[name], file) for name in fields), key=lambda entry: entry[:2])
    _check_coverage(entries, size - 8 - length, file)
    return 8 + length, entries, metadata


def _header_length(first: bytes, size: int, file: str) -> int:
    if len(first) < 8:
        raise _rejected(file, f"it has {size} bytes, too few for a header")
    length = int.from_bytes(first, "little")
    if length > HEADER_LIMIT:
        raise _rejected(file, f"the header claims {length} bytes; the limit is {HEADER_LIMIT}")
    if length > size - 8:
        raise _rejected(file, f"the header claims {length} bytes, but the file has only {size}; it may be truncated")
    return length


def _pread(descriptor: int, length: int, position: int) -> bytes:
    """Exactly `length` bytes, or fewer at the end of the file."""
    parts = []
    while length > 0 and (part := os.pread(descriptor, length, position)):
        parts.append(part)
        length -= len(part)
        position += len(part)
    return b"".join(parts)


def _natural(digits: str) -> int:
    if digits.startswith("-") or len(digits) > 20:
        raise ValueError(f"{shown(digits)} is not a size")
    return int(digits)


def _metadata(value: object, file: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _rejected(file, "__metadata__ is not an object of strings")
    return value


def _entry(name: str, entry: object, file: str) -> _Entry:
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise _rejected(file, f"its entry does not hold exactly {sorted(_ENTRY_KEYS)}", name)
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _rejected(file, f"the dtype {shown(dtype)} is not one of {', '.join(DTYPES)}", name)
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or len(shape) > DIMENSIONS_LIMIT:
        raise _rejected(file, f"the shape {shown(shape)} is not a list of at most {DIMENSIONS_LIMIT} sizes", name)
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _rejected(file, f"the data_offsets {shown(offsets)} are not [begin, end]", name)
    begin, end = offsets
    nbytes = prod(shape) * DTYPES[dtype].itemsize
    if nbytes != end - begin:
        raise _rejected(file, f"shape {shown(shape)} of {dtype} is {nbytes} bytes, data_offsets {end - begin}", name)
    if prod(size for size in shape if size) * DTYPES[dtype].itemsize > ADDRESS_LIMIT:
        raise _rejected(file, f"the shape {shown(shape)} is too large for any machine", name)
    return _Entry(begin, end, TensorInfo(name, dtype, tuple(shape), nbytes))


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int for size in value)  # bool is an int to isinstance


def _check_coverage(entries: list[_Entry], nbytes: int, file: str) -> None:
    """Each tensor begins where the one before it ends, and the last one ends the file."""
    expected = 0
    for begin, end, info in entries:
        if begin != expected:
            fault = "overlaps the tensor before it" if begin < expected else "leaves a gap before it"
            raise _rejected(file, f"it begins at byte {begin} instead of {expected}: it {fault}", info.name)
        if end > nbytes:
            raise _rejected(file, f"it ends at byte {end}, after the end of the file's {nbytes}", info.name)
        expected = end
    if expected != nbytes:
        raise _rejected(file, f"{nbytes - expected} bytes at its end belong to no tensor")


def _rejected(file: str, reason: str, tensor: str | None = None) -> SourceRejected:
    if tensor is None:
        return SourceRejected(f"{file} is not a valid safetensors file: {reason}.", file=file, reason=reason)
    detail = f"{file} is not a valid safetensors file: tensor {shown(tensor)}: {reason}."
    return SourceRejected(detail, file=file, tensor=tensor, reason=reason)
