"""GGUF files: GGML's tensor types, and a container that is checked before use.

Everything in the file is taken for hostile until it has been checked against the file's size; nothing is allocated
by a number that the file claims. The container is GGUF version 3, little endian:

    magic "GGUF", version u32, tensor count u64, key count u64
    keys:     name, value type u32, value
    tensors:  name, dimension count u32, dimensions u64 (fastest first), type u32, offset u64 into the data
    padding, then the data: each tensor at a multiple of the alignment

A string is its length as u64, then UTF-8.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import QuantmillError, SourceRejected, VerificationFailed
from quantmill.contract.ggml import DECODERS
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import FloatArray, SourceTensor, TensorInfo

Scalar = int | float | bool | str

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
MAX_DIMENSIONS = 4
MAX_TENSORS = 1 << 18  # the largest mixtures of experts, one tensor each, have some 50,000
MAX_KEYS = 1 << 16
HEADER_LIMIT = 64 << 20  # bytes before the data; the largest vocabularies with their merges take 20 MB
DEFAULT_ALIGNMENT = 32

# Tensor types


@dataclass(frozen=True)
class TensorType:
    """A row is stored as whole blocks: `block_values` values in `block_bytes` bytes each."""

    name: str
    id: int
    block_values: int
    block_bytes: int

    def divides(self, cols: int) -> bool:
        return cols % self.block_values == 0

    def row_bytes(self, cols: int) -> int:
        return cols // self.block_values * self.block_bytes


TYPES = {
    type_.name: type_
    for type_ in (
        TensorType("F32", 0, 1, 4),
        TensorType("F16", 1, 1, 2),
        TensorType("BF16", 30, 1, 2),
        TensorType("Q4_0", 2, 32, 18),
        TensorType("Q4_1", 3, 32, 20),
        TensorType("Q5_0", 6, 32, 22),
        TensorType("Q5_1", 7, 32, 24),
        TensorType("Q8_0", 8, 32, 34),
        TensorType("Q2_K", 10, 256, 84),
        TensorType("Q3_K", 11, 256, 110),
        TensorType("Q4_K", 12, 256, 144),
        TensorType("Q5_K", 13, 256, 176),
        TensorType("Q6_K", 14, 256, 210),
        TensorType("IQ4_NL", 20, 32, 18),
        TensorType("IQ4_XS", 23, 256, 136),
        TensorType("TQ1_0", 34, 256, 54),
        TensorType("TQ2_0", 35, 256, 66),
        TensorType("MXFP4", 39, 32, 17),
    )
}

# E2M1 with a scale for 16 values; one more scale, of the whole matrix, stands in a tensor of its own (`side_of`). It is
# no type that values are encoded to here: checkpoints in NVFP4 become it code for code.
NVFP4 = TensorType("NVFP4", 40, 64, 36)

BY_ID = {type_.id: type_ for type_ in (*TYPES.values(), NVFP4)}

# Types of GGML's that files may have and that are not read, by their ids
UNREAD = {9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S"}
UNREAD |= {24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M"}


def side_of(name: str) -> str:
    """Where the factors of an NVFP4 tensor are: float32 (1,), or (matrices,) of several in one tensor."""
    return f"{name.removesuffix('.weight')}.scale"


CHUNK_VALUES = 1 << 18  # decoded at once: temporaries stay near 4 MiB


def decoded(type_: TensorType, packed: NDArray[np.uint8]) -> FloatArray:
    """Rows of blocks, uint8 (rows, row_bytes), as their values, float32 (rows, cols): by numpy, without native code.

    Infinite scales give NaN.
    """
    rows, row_bytes = packed.shape
    cols = row_bytes // type_.block_bytes * type_.block_values
    values = np.empty((rows, cols), np.float32)
    step = max(1, CHUNK_VALUES // max(1, cols))
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite scales: callers look for NaN
        for start in range(0, rows, step):
            blocks = packed[start : start + step].reshape(-1, type_.block_bytes)
            values[start : start + step] = DECODERS[type_.name](blocks).reshape(-1, cols)
    return values


# Sources


@dataclass(frozen=True)
class GgufSource:
    """What a GGUF file that is the source says beside its tensors' values; `ModelIndex.gguf`.

    keys        every key of the (first) file, in its order, but those of splitting: value type and value as they are
    metadata    single values and strings
    types       of every tensor, in the order of the data
    alignment   bytes, of each tensor's first
    sides       tensors that say how another one, in NVFP4, is to be scaled, with that one's name
    """

    keys: Mapping[str, bytes]
    metadata: Mapping[str, Scalar]
    types: Mapping[str, TensorType]
    alignment: int = DEFAULT_ALIGNMENT
    sides: Mapping[str, str] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def number(self, key: str) -> int | None:
        """A whole number below the architecture's name; of one for each block the first. None where there is none."""
        raw = self.keys.get(f"{self.architecture}.{key}")
        value = None if raw is None else _first(raw)
        return None if not isinstance(value, int) or isinstance(value, bool) else value

    def array(self, key: str) -> list[Scalar] | None:
        """The values of an array; None where no key of that name has one. Raises SourceRejected for damaged text."""
        raw = self.keys.get(key)
        if raw is None or struct.unpack_from("<I", raw) != (ARRAY,):
            return None
        return _Header(key, memoryview(raw), SourceRejected).array(4)

    @property
    def nbytes(self) -> int:
        """Of all keys."""
        return sum(len(key) + len(raw) for key, raw in self.keys.items())


def _first(raw: bytes) -> Scalar | None:
    """The number that a key has, or the first of an array of them."""
    (type_,) = struct.unpack_from("<I", raw)
    at = 4
    if type_ == ARRAY:
        type_, count = struct.unpack_from("<IQ", raw, at)
        at += 12 if count else len(raw)
    layout = SCALARS.get(type_)
    if layout is None or at + struct.calcsize(layout) > len(raw):
        return None
    (value,) = struct.unpack_from(layout, raw, at)
    return value  # type: ignore[no-any-return]


class BlockTensor(SourceTensor):
    """A source tensor that a GGUF file stores in blocks of `type`.

    `parts` has them as they lie in the file: `packed`, uint8 (rows, row_bytes), memory-mapped. `values`, float32, are
    decoded anew, and in whole, each time that they are asked for; `rows` and `at` decode as many as are wanted.
    `factors`, float32 (rows,), multiply the rows; None where the blocks say all.
    """

    def __init__(
        self, info: TensorInfo, type_: TensorType, packed: NDArray[np.uint8], factors: FloatArray | None = None
    ) -> None:
        object.__setattr__(self, "info", info)
        object.__setattr__(self, "type", type_)
        object.__setattr__(self, "factors", factors)
        object.__setattr__(self, "parts", {"packed": packed})

    type: TensorType
    factors: FloatArray | None

    @property
    def packed(self) -> NDArray[np.uint8]:
        return self.parts["packed"]

    @property
    def values(self) -> NDArray[Any]:
        return self.rows(0, len(self.packed)).reshape(self.info.shape)

    def rows(self, first: int, last: int) -> FloatArray:
        """Values of some rows of `packed`, float32 (last - first, cols)."""
        return self.at(slice(first, last))

    def at(self, chosen: slice | NDArray[np.int64]) -> FloatArray:
        """Values of the chosen rows of `packed`, float32 (chosen, cols)."""
        values = decoded(self.type, self.packed[chosen])
        if self.factors is not None:
            with np.errstate(invalid="ignore", over="ignore"):  # callers look for what is not finite
                values *= self.factors[chosen, None]
        return values


# Files


@dataclass(frozen=True)
class StoredTensor:
    """`shape` is row-major, as in the source; `start` is the first byte in the file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    start: int

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        return self.rows * self.type.row_bytes(self.shape[-1])


@dataclass(frozen=True)
class GgufHeader:
    """What a file says before its data.

    spans     where in the file each key's value type and value lie, in the order of the keys
    metadata  single values and strings; arrays are checked and passed over
    tensors   in the order of their data, which begins at byte `data`
    """

    spans: Mapping[str, tuple[int, int]]
    metadata: dict[str, Scalar]
    arrays: Mapping[str, int]
    tensors: dict[str, StoredTensor]
    alignment: int
    data: int


def read_header(file: str, data: memoryview, refusal: type[QuantmillError]) -> GgufHeader:
    """The checked header of the file that is mapped as `data`. Raises `refusal`, naming `file` and what is wrong.

    Version 2 is read too: version 3 differs in that it may be big endian, which is refused.
    """
    return _Header(file, data, refusal).parse(versions=(2, 3))


class GgufContainer:
    """A GGUF file whose header has been checked.

    `metadata` holds single values and strings; arrays are checked and passed over, `array` reads one. `tensors` are in
    the order of their data, which begins at byte `data`. Each tensor is mapped on its own, so that pages of tensors
    that are no longer used do not stay resident.

    Raises `refusal`, saying what is wrong and where: VerificationFailed for what a method wrote, another error for what
    somebody gave. OSError where the file cannot be opened.
    """

    def __init__(self, path: Path, *, refusal: type[QuantmillError] = VerificationFailed) -> None:
        self.path = path
        self._refusal = refusal
        self._file = path.open("rb")
        try:
            if os.fstat(self._file.fileno()).st_size == 0:
                raise refusal(f"{path.name} is empty", file=path.name)
            parser = self._header()
            header = parser.parse()
            self.metadata, self.tensors, self.alignment = header.metadata, header.tensors, header.alignment
            self.data, self.size, self._arrays, self._spans = header.data, parser.size, header.arrays, header.spans
        except BaseException:
            self.close()
            raise

    @property
    def array_keys(self) -> frozenset[str]:
        return frozenset(self._arrays)

    def array(self, key: str) -> list[Scalar]:
        """The values of an array of the metadata. Raises KeyError for another key."""
        return self._header().array(self._arrays[key])

    def raw(self, key: str) -> bytes:
        """Value type and value of a key as they lie in the file. Raises KeyError for another key."""
        start, end = self._spans[key]
        return os.pread(self._file.fileno(), end - start, start)

    def packed(self, tensor: StoredTensor) -> NDArray[np.uint8]:
        """The tensor's blocks as they lie in the file: uint8 (rows, row_bytes)."""
        before = tensor.start % mmap.ALLOCATIONGRANULARITY
        mapped = self._map(before + tensor.nbytes, tensor.start - before)
        raw = np.frombuffer(mapped, np.uint8, tensor.nbytes, before)
        return raw.reshape(tensor.rows, tensor.type.row_bytes(tensor.shape[-1]))

    def close(self) -> None:
        """Close the file; arrays that were handed out stay valid."""
        self._file.close()

    def _header(self) -> _Header:
        return _Header(self.path.name, memoryview(self._map(0, 0)), self._refusal)

    def _map(self, length: int, offset: int) -> mmap.mmap:
        return mmap.mmap(self._file.fileno(), length, access=mmap.ACCESS_READ, offset=offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Header:
    """Reads a header from the front, never past the end."""

    def __init__(self, file: str, data: memoryview, refusal: type[QuantmillError]) -> None:
        self._file = file
        self._refusal = refusal
        self._data = data
        self._at = 0
        self.size = len(data)
        self.arrays: dict[str, int] = {}  # where each array begins
        self._spans: dict[str, tuple[int, int]] = {}

    def parse(self, versions: tuple[int, ...] = (3,)) -> GgufHeader:
        if bytes(self._take(4)) != b"GGUF":
            raise self._error("does not start with the magic GGUF")
        version = self._number("<I")
        if version not in versions:
            raise self._error(f"is GGUF version {version}, not {' or '.join(map(str, versions))}")
        tensor_count = self._count(least_bytes=8 + 4 + 8 + 4 + 8, most=MAX_TENSORS)
        key_count = self._count(least_bytes=8 + 4 + 1, most=MAX_KEYS)
        metadata = self._metadata(key_count)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 8 <= alignment <= 2**16 or alignment & (alignment - 1):
            raise self._error(f"general.alignment is {alignment!r}, not a power of two from 8 to 65536")
        found = [self._tensor() for _ in range(tensor_count)]
        data = -(-self._at // alignment) * alignment
        return GgufHeader(self._spans, metadata, self.arrays, self._placed(found, data, alignment), alignment, data)

    def _metadata(self, count: int) -> dict[str, Scalar]:
        metadata: dict[str, Scalar] = {}
        for _ in range(count):
            key = self._string()
            if key in self._spans:
                raise self._error(f"has the key {shown(key)} twice")
            start = self._at
            type_ = self._number("<I")
            if type_ == ARRAY:
                self.arrays[key] = self._at
                self._pass_array(key)
            else:
                metadata[key] = self._string() if type_ == STRING else self._scalar(type_, key)
            self._spans[key] = start, self._at
        return metadata

    def _pass_array(self, key: str) -> None:
        type_ = self._number("<I")
        if type_ == STRING:
            for _ in range(self._count(least_bytes=8)):
                self._take(self._number("<Q"))
        elif type_ in SCALARS:
            size = struct.calcsize(SCALARS[type_])
            self._take(self._count(least_bytes=size) * size)
        else:
            raise self._error(f"key {shown(key)}: arrays of type {type_} are not allowed")

    def array(self, at: int) -> list[Scalar]:
        """The array that begins at byte `at`, which `parse` has passed over and so checked."""
        self._at = at
        type_ = self._number("<I")
        count = self._number("<Q")
        if type_ == STRING:
            return [self._string() for _ in range(count)]
        size = struct.calcsize(SCALARS[type_])
        return [value for (value,) in struct.iter_unpack(SCALARS[type_], self._take(count * size))]

    def _placed(
        self, found: list[tuple[str, TensorType, tuple[int, ...], int]], data: int, alignment: int
    ) -> dict[str, StoredTensor]:
        """The tensors, whose offsets are relative to byte `data`, in the order of these."""
        tensors: dict[str, StoredTensor] = {}
        end = data
        for name, type_, shape, offset in sorted(found, key=lambda row: row[3]):
            tensor = StoredTensor(name, type_, shape, data + offset)
            if name in tensors:
                raise self._error(f"has the tensor {shown(name)} twice")
            if offset % alignment:
                raise self._error(f"tensor {shown(name)} is not aligned to {alignment} bytes")
            if tensor.start < end:
                raise self._error(f"tensor {shown(name)} overlaps the one before it")
            end = tensor.start + tensor.nbytes
            if end > len(self._data):
                raise self._error(f"tensor {shown(name)} ends at byte {end}, after the file's {len(self._data)} bytes")
            tensors[name] = tensor
        return tensors

    def _tensor(self) -> tuple[str, TensorType, tuple[int, ...], int]:
        name = self._string()
        dimensions = self._number("<I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self._error(f"tensor {shown(name)} has {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1]
        id_ = self._number("<I")
        if id_ not in BY_ID:
            called = f" ({UNREAD[id_]})" if id_ in UNREAD else ""
            known = ", ".join(TYPES)
            raise self._error(f"stores {shown(name)} as the type {id_}{called}, which is not read; known are {known}")
        if min(shape) < 1 or not BY_ID[id_].divides(shape[-1]):
            raise self._error(f"tensor {shown(name)} of shape {shape} does not fit its type {BY_ID[id_].name}")
        return name, BY_ID[id_], shape, self._number("<Q")

    def _scalar(self, type_: int, key: str) -> Scalar:
        if type_ not in SCALARS:
            raise self._error(f"key {shown(key)} has the unknown value type {type_}")
        value: Scalar = self._unpack(SCALARS[type_])
        return value

    def _string(self) -> str:
        raw = self._take(self._number("<Q"))
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise self._error(f"holds text that is not UTF-8 before byte {self._at}") from error

    def _count(self, least_bytes: int, most: int = 2**64) -> int:
        """A number of things that each take `least_bytes` at least, so that the rest of the file could hold them."""
        count = self._number("<Q")
        if count > most:
            raise self._error(f"claims {count} entries; at most {most} are read")
        if count * least_bytes > len(self._data) - self._at:
            raise self._error(f"claims {count} entries, more than its {len(self._data)} bytes can hold")
        return count

    def _number(self, layout: str) -> int:
        return int(self._unpack(layout))

    def _unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _take(self, count: int) -> memoryview:
        start, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise self._error(f"ends inside its header, at byte {len(self._data)}")
        if self._at > HEADER_LIMIT:
            raise self._error(f"has a header of more than {HEADER_LIMIT} bytes")
        return self._data[start : self._at]

    def _error(self, what: str) -> QuantmillError:
        return self._refusal(f"{self._file} {what}", file=self._file)
