"""Importance matrices: the mean squared input of every column of a matrix, in the two files that llama-imatrix writes.

The legacy file (.dat, little endian):

    entry count i32
    entries: name length i32, name, calls i32, value count i32, values f32: means times calls
    optional: chunk count i32, length i32 and text of the dataset's name

The newer one is GGUF with `general.type` "imatrix", and two F32 tensors for a matrix: `<name>.in_sum2` (matrices,
columns), sums of squares, and `<name>.counts` (matrices, 1), rows seen. A stack of experts has a matrix for each, in
both files. Sources: llama.cpp tools/imatrix/imatrix.cpp and tools/quantize/quantize.cpp.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import SourceRejected
from quantmill.contract.gguf import GgufContainer
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import FloatArray

MAX_ENTRIES = 1 << 18
MAX_NAME = 512  # bytes
MAX_FILE = 4 << 30  # bytes
LEAST_SHARE = 1e-6  # of a matrix's mean importance, for a column

SUMS, COUNTS = ".in_sum2", ".counts"

# Of a computed one, beside the model. By its ending no program takes it for a model; they read it by its content.
BESIDE = "imatrix.gguf_file"


@dataclass(frozen=True)
class Entry:
    """What one matrix, or each of a stack of them, was fed.

    sums    of the squared inputs, float32, `matrices * columns` values
    counts  rows that each matrix has seen, float32 (matrices,); of the legacy file one number for all of them
    """

    sums: FloatArray
    counts: FloatArray

    def fits(self, matrices: int, cols: int) -> bool:
        return self.sums.size == matrices * cols and self.counts.size in {1, matrices}

    def means(self, matrices: int, cols: int) -> FloatArray:
        """Mean squared inputs, float32 (matrices, cols); 1 in every column of a matrix that nothing reached.

        A column that was never used keeps a millionth of the mean: a block of such columns alone would become zeros.

        Raises SourceRejected for numbers that are not finite or negative.
        """
        sums, counts = self.sums.reshape(matrices, cols), np.broadcast_to(self.counts, matrices)
        if not (np.isfinite(sums).all() and np.isfinite(counts).all() and sums.min() >= 0 and counts.min() >= 0):
            raise SourceRejected("holds values that are not finite, or negative")
        means = sums / np.maximum(counts, 1)[:, None].astype(np.float32)
        means[self._unreached(sums, counts)] = 1
        least = LEAST_SHARE * means.mean(axis=1, keepdims=True, dtype=np.float64)
        floored: FloatArray = np.maximum(means, least).astype(np.float32)
        return floored

    def unreached(self, matrices: int, cols: int) -> tuple[int, ...]:
        """Which matrices of a stack no token was routed to."""
        found = self._unreached(self.sums.reshape(matrices, cols), np.broadcast_to(self.counts, matrices))
        return tuple(np.flatnonzero(found).tolist())

    @staticmethod
    def _unreached(sums: FloatArray, counts: FloatArray) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (counts == 0) | ~sums.any(axis=1)
        return found


@dataclass(frozen=True)
class ImportanceMatrix:
    """`entries` by GGUF's tensor names; those of a file are mapped, not read. `digest` is `sha256:...` of the file."""

    entries: Mapping[str, Entry]
    digest: str = ""
    chunks: int = 0
    chunk_size: int = 0
    datasets: tuple[str, ...] = ()


# Reading


def read_imatrix(path: Path) -> ImportanceMatrix:
    """The importance matrix in `path`, of either format.

    Raises SourceRejected, saying what is wrong, for a file that is neither, damaged or larger than MAX_FILE.
    """
    try:
        size = path.stat().st_size
        if not path.is_file() or not 0 < size <= MAX_FILE:
            raise SourceRejected(f"{path.name} is no importance matrix: it must be a file of 1 to {MAX_FILE} bytes")
        with path.open("rb") as file:
            is_gguf, digest = file.read(4) == b"GGUF", _digest(path)
        return _read_gguf(path, digest) if is_gguf else _read_dat(path, digest)
    except OSError as error:
        raise SourceRejected(f"{path.name} cannot be read: {error.strerror}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _read_gguf(path: Path, digest: str) -> ImportanceMatrix:
    with GgufContainer(path, refusal=SourceRejected) as file:
        if file.metadata.get("general.type") != "imatrix":
            raise SourceRejected(f"{path.name} is GGUF, but its general.type is not 'imatrix'")
        stored = {name: tensor for name, tensor in file.tensors.items() if tensor.type.name == "F32"}
        names = [name.removesuffix(SUMS) for name in stored if name.endswith(SUMS)]
        missing = [name for name in names if name + COUNTS not in stored]
        if missing:
            raise SourceRejected(f"{path.name} has no {shown(missing[0] + COUNTS)}")

        def values(name: str) -> FloatArray:
            return file.packed(stored[name]).reshape(-1).view("<f4")

        entries = {name: Entry(values(name + SUMS), values(name + COUNTS)) for name in sorted(names)}
        datasets = file.array("imatrix.datasets") if "imatrix.datasets" in file.array_keys else []
        chunks, chunk_size = (file.metadata.get(f"imatrix.{key}", 0) for key in ("chunk_count", "chunk_size"))
    return ImportanceMatrix(entries, digest, _count(chunks), _count(chunk_size), tuple(map(str, datasets)))


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _read_dat(path: Path, digest: str) -> ImportanceMatrix:
    with path.open("rb") as file:
        data = _Dat(path.name, memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    entries: dict[str, Entry] = {}
    for _ in range(data.count("entries", MAX_ENTRIES)):
        name = data.text(MAX_NAME)
        if name in entries:
            raise SourceRejected(f"{path.name} has {shown(name)} twice")
        calls = data.count("calls", 2**31 - 1, least=0)
        entries[name] = Entry(data.floats(), np.array([max(calls, 1)], np.float32))
    chunks, dataset = (data.count("chunks", 2**31 - 1, least=0), data.text(1 << 16)) if data.left else (0, "")
    return ImportanceMatrix(entries, digest, chunks, 0, (dataset,) if dataset else ())


class _Dat:
    """Reads the legacy format from the front, never past the end."""

    def __init__(self, file: str, data: memoryview) -> None:
        self._file, self._data, self._at = file, data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def count(self, of: str, most: int, least: int = 1) -> int:
        (value,) = struct.unpack("<i", self._take(4))
        if not least <= value <= most:
            raise SourceRejected(f"{self._file} is no importance matrix: it claims {value} {of}")
        return int(value)

    def text(self, most: int) -> str:
        raw = self._take(self.count("bytes of a name", most, least=0))
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise SourceRejected(f"{self._file} holds a name that is not UTF-8") from None

    def floats(self) -> FloatArray:
        return np.frombuffer(self._take(4 * self.count("values", 2**29)), "<f4")

    def _take(self, count: int) -> memoryview:
        if count > self.left:
            raise SourceRejected(f"{self._file} is no importance matrix, or cut short: it ends at {len(self._data)}")
        self._at += count
        return self._data[self._at - count : self._at]


# Writing


def write_imatrix(path: Path, matrix: ImportanceMatrix) -> Path:
    """Write `matrix` as llama-imatrix does: GGUF, or the legacy format where `path` ends in .dat."""
    if path.suffix == ".dat":
        path.write_bytes(b"".join(_dat(matrix)))
    else:
        _write_gguf(path, matrix)
    return path


def _dat(matrix: ImportanceMatrix) -> Iterator[bytes]:
    yield struct.pack("<i", len(matrix.entries))
    calls = max(matrix.chunks, 1)
    for name, entry in sorted(matrix.entries.items()):
        means = entry.sums.reshape(len(entry.counts), -1) / np.maximum(entry.counts, 1)[:, None]
        yield struct.pack("<i", len(name.encode())) + name.encode() + struct.pack("<ii", calls, means.size)
        yield np.ascontiguousarray(means * np.float32(calls), "<f4").tobytes()
    dataset = (matrix.datasets[0] if matrix.datasets else "").encode()
    yield struct.pack("<ii", matrix.chunks, len(dataset)) + dataset


def gguf_writer(path: Path | None, matrix: ImportanceMatrix) -> Any:
    """A gguf.GGUFWriter with what llama-imatrix says of a matrix beside its entries."""
    import gguf

    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].pop("general.architecture", None)  # llama-imatrix writes none
    writer.add_type(gguf.GGUFType.IMATRIX)
    writer.add_array("imatrix.datasets", list(matrix.datasets) or [""])
    writer.add_uint32("imatrix.chunk_count", matrix.chunks)
    writer.add_uint32("imatrix.chunk_size", matrix.chunk_size)
    return writer


def _write_gguf(path: Path, matrix: ImportanceMatrix) -> None:
    writer = gguf_writer(path, matrix)
    for name, entry in sorted(matrix.entries.items()):
        matrices = len(entry.counts)
        tensors: dict[str, Any] = {SUMS: entry.sums.reshape(matrices, -1), COUNTS: entry.counts.reshape(matrices, 1)}
        for suffix, values in tensors.items():
            writer.add_tensor(name + suffix, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
