"""Samples for calibration: an .npz file with an array for each input of the graph.

An .npz is a zip of .npy files (numpy.lib.format, version 1 or 2). It is read as a stream, a sample at a time, and its
headers are checked against the graph before a value is touched; pickled objects are never loaded.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from quantmill.contract.errors import ParamsRejected, SourceRejected
from quantmill.contract.graph_text import NUMPY, Feed
from quantmill.contract.onnx import OnnxGraph, ValueInfo
from quantmill.contract.strictjson import shown

ENDING = ".npy"
FEED_LIMIT = 256 << 20  # bytes of one sample
COUNT_LIMIT = 1_000_000  # samples
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy.savez and savez_compressed write
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError)


class Feeds(Protocol):
    """Samples for a graph, wherever they come from."""

    @property
    def count(self) -> int: ...

    def feeds(self) -> Iterator[Feed]:
        """In their order, one in memory at a time."""

    def largest(self) -> Feed: ...


def require_same(found: str, planned: str) -> None:
    """Raises SourceRejected where the digests differ: the samples are no longer those that were planned with."""
    if found != planned:
        raise SourceRejected("the samples have changed since the job was planned; submit a new job")


@dataclass(frozen=True)
class Samples:
    """What a file holds for a graph, known to fit it: `count` samples, each `step` of an array's leading axis.

    `step` None: the whole arrays are one sample, as the inputs have no leading axis in common.
    """

    path: Path
    arrays: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
    step: int | None
    count: int
    digest: str

    def feeds(self) -> Iterator[Feed]:
        """The samples in their order, one in memory at a time. Raises SourceRejected where the file breaks off."""
        try:
            with zipfile.ZipFile(self.path) as archive, ExitStack() as opened:
                streams = {name: opened.enter_context(archive.open(name + ENDING)) for name in self.arrays}
                for name, stream in streams.items():
                    _header(stream, name)
                for _ in range(self.count):
                    yield {name: self._next(name, stream) for name, stream in streams.items()}
        except UNREADABLE as error:
            raise SourceRejected(f"the samples in {self.path.name} can't be read: {error}") from error

    def _next(self, name: str, stream: IO[bytes]) -> NDArray[Any]:
        dtype, shape = self.arrays[name]
        part = shape if self.step is None else (self.step, *shape[1:])
        data = stream.read(prod(part) * dtype.itemsize)
        values = np.frombuffer(data, dtype).reshape(part)
        if dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{name} has values that are not finite")
        return values

    def largest(self) -> Feed:
        """One of them: all have the same shapes."""
        return next(iter(self.feeds()))

    def require_unchanged(self, digest: str) -> None:
        require_same(self.digest, digest)


def read_samples(path: Path, graph: OnnxGraph) -> Samples:
    """The file's arrays, checked against the graph's inputs. Raises ParamsRejected, naming what does not fit."""
    inputs = {
        each.name: each for each in graph.inputs if each.name not in graph.weights and each.name not in graph.constants
    }
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with zipfile.ZipFile(path) as archive:
            arrays = _arrays(archive, inputs)
    except UNREADABLE as error:
        reject(f"{path.name} is not an .npz file that can be read: {error}")
    _check_types(arrays, inputs)
    step = _step(tuple(inputs.values()))
    count = _check_shapes(arrays, inputs, step)
    return Samples(path, arrays, step, count, digest)


def _arrays(
    archive: zipfile.ZipFile, inputs: Mapping[str, ValueInfo]
) -> Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    members = archive.infolist()
    for member in members:
        if not member.filename.endswith(ENDING):
            reject(f"{shown(member.filename)} in it is no {ENDING} file")
        if member.compress_type not in PACKED:
            reject(f"{shown(member.filename)} in it is packed otherwise than numpy does; save it by numpy.savez")
    names = [each.filename.removesuffix(ENDING) for each in members]
    if len(set(names)) < len(names):
        reject("it has an array twice")
    for name in sorted(inputs.keys() - set(names)):
        reject(f"it has no array {shown(name)}, which the graph takes; it has {shown(sorted(names)[:8])}")
    for name in sorted(set(names) - inputs.keys()):
        reject(f"the graph has no input {shown(name)}; it takes {shown(sorted(inputs)[:8])}")
    return {name: _array(archive, member, name) for name, member in zip(names, members, strict=True)}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(stream, name)
        begin = stream.tell()
    if fortran and len(shape) > 1:
        reject(f"{shown(name)} is stored column by column; save numpy.ascontiguousarray of it")
    if dtype.hasobject or any(size < 0 for size in shape) or member.file_size - begin != prod(shape) * dtype.itemsize:
        reject(f"{shown(name)} does not hold what its header says: {shown(shape)} of {dtype}")
    return dtype, shape


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, and dtype; leaves the stream at the first value.

    Raises ValueError for what is no header: numpy evaluates it as Python's literals, which fail in many ways.
    """
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(stream)
    if version not in readers:
        raise ValueError(f"{shown(name)} has version {version} of the .npy format")
    try:
        shape, fortran, dtype = readers[version](stream)
    except Exception as error:
        raise ValueError(f"{shown(name)} has a header that can't be read") from error
    return tuple(map(int, shape)), fortran, dtype


def _check_types(arrays: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], inputs: Mapping[str, ValueInfo]) -> None:
    for name, info in inputs.items():
        expected, (found, _) = NUMPY.get(info.dtype), arrays[name]
        if expected is None:
            reject(f"the input {shown(name)} has a type that .npz files do not have")
        if found != expected:
            reject(f"{shown(name)} has {found}, the graph takes {expected}")


def _step(inputs: Sequence[ValueInfo]) -> int | None:
    leading = {each.shape[0] if each.shape else None for each in inputs}
    only = leading.pop() if len(leading) == 1 else None
    if isinstance(only, int) and not _is_open(only):
        return only
    return None if only is None else 1


def _is_open(dimension: int | str) -> bool:
    """Whether it may have any size; some exporters write 0 or -1 for that."""
    return isinstance(dimension, str) or dimension < 1


def _check_shapes(
    arrays: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], inputs: Mapping[str, ValueInfo], step: int | None
) -> int:
    """How many samples there are. A dimension's name stands for one size in all inputs."""
    sizes: dict[str, int] = {}
    for name, info in inputs.items():
        shape = arrays[name][1]
        if info.shape is not None and not _fits(shape, info.shape, sizes, step):
            reject(f"{shown(name)} has the shape {shown(shape)}, the graph takes {shown(info.shape)}")
    lengths = {1 if step is None else arrays[name][1][0] for name in inputs}
    if len(lengths) != 1:
        reject(f"its arrays have different numbers of samples: {sorted(lengths)}")
    (length,) = lengths
    count = length // (step or 1)
    if count > COUNT_LIMIT:
        reject(f"it has {count} samples, more than {COUNT_LIMIT}")
    if not count or any(not prod(shape) for _, shape in arrays.values()):
        reject("it has no samples")
    for name, (dtype, shape) in arrays.items():
        if prod(shape) * dtype.itemsize // count > FEED_LIMIT:
            reject(f"a sample of {shown(name)} takes more than {FEED_LIMIT} bytes")
    return count


def _fits(found: Sequence[int], expected: Sequence[int | str], sizes: dict[str, int], step: int | None) -> bool:
    if len(found) != len(expected) or (step and found[0] % step):
        return False
    inner = slice(0 if step is None else 1, None)
    return all(size == _wanted(want, size, sizes) for size, want in zip(found[inner], expected[inner], strict=True))


def _wanted(dimension: int | str, found: int, sizes: dict[str, int]) -> int:
    """The size that a dimension must have: what was found where it is open, and for a name what it was before."""
    if isinstance(dimension, str) and dimension != "?":
        return sizes.setdefault(dimension, found)
    return found if isinstance(dimension, str) or _is_open(dimension) else dimension


def reject(what: str) -> NoReturn:
    """Raises ParamsRejected that points to the parameter `samples`."""
    message = f"samples: {what}"
    raise ParamsRejected(f"onnx: {message}", [{"pointer": "/params/samples", "code": "samples", "message": message}])
