"""Where each byte of an artifact will stand, known before the first tensor is made.

A method that can say so writes each byte once: its tensors go to their places as they are made, in any order, and what
an earlier attempt has put there stays.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import PluginBroken
from quantmill.contract.tensors import Plan, QuantizedTensor, TensorPlan


@dataclass(frozen=True)
class Place:
    """Where one part of a tensor stands: `nbytes` of `file`, from byte `begin` on.

    part   its key in QuantizedTensor.parts
    name   what the file calls it
    """

    part: str
    name: str
    file: str
    begin: int
    nbytes: int


@dataclass(frozen=True)
class WeightFile:
    """A file of `size` bytes that begins with `head`; `between` are further bytes, by the position of the first.

    What neither these nor a place cover is zero.
    """

    head: bytes
    size: int
    between: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Placement:
    """The files of an artifact, all paths relative to its folder.

    weights  the files that hold tensors, in the order in which they are named
    places   the parts of each tensor, by the tensor's name
    plain    files whose bytes are known, written after the weights
    carried  files that are copied from the source
    """

    weights: Mapping[str, WeightFile]
    places: Mapping[str, tuple[Place, ...]]
    plain: Mapping[str, bytes] = field(default_factory=dict)
    carried: Mapping[str, Path] = field(default_factory=dict)


class PlacedFiles:
    """The weight files of a placement, open for writing; a context manager. Threads may write tensors at once.

    Files that are there are kept and brought to their size and head; those that are not are created, all zeros.
    """

    def __init__(self, placement: Placement, folder: Path) -> None:
        self._places = placement.places
        self._descriptors: dict[str, int] = {}
        try:
            for name, file in placement.weights.items():
                descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
                self._descriptors[name] = descriptor
                os.ftruncate(descriptor, file.size)
                for position, data in {0: file.head, **file.between}.items():
                    _write_at(descriptor, memoryview(data), position)
        except BaseException:
            self.close()
            raise

    def put(self, tensor: QuantizedTensor, written: Callable[[memoryview], object] | None = None) -> None:
        """Write the tensor's parts to their places, one in memory at a time where they come so.

        `written` is given the bytes of each, in the order of the places. Raises PluginBroken when they are not what was
        placed, OSError when they cannot be written.
        """
        places = self._places.get(tensor.name, ())
        if sorted(place.part for place in places) != sorted(tensor.parts):
            raise PluginBroken(f"{tensor.name} came with the parts {sorted(tensor.parts)}", tensor=tensor.name)
        for place in places:
            data = _bytes_of(tensor.parts[place.part])
            if data.nbytes != place.nbytes:
                raise PluginBroken(
                    f"{place.name} takes {data.nbytes} bytes, {place.nbytes} were planned", tensor=tensor.name
                )
            _write_at(self._descriptors[place.file], data, place.begin)
            if written is not None:
                written(data)

    def start_writeback(self, name: str) -> None:
        """Let the system begin to write the tensor's dirty pages to the disk, so that a later fsync waits less."""
        for place in self._places[name]:
            os.posix_fadvise(self._descriptors[place.file], place.begin, place.nbytes, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> PlacedFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def write_placed(tensors: Iterable[QuantizedTensor], plan: Plan, placement: Placement, folder: Path) -> list[Path]:
    """Write an artifact whose tensors come in the plan's order, one in memory at a time; gives its files.

    Raises PluginBroken when a tensor is not what plan and placement say, OSError when it cannot be written.
    """
    remaining = iter(tensors)
    with PlacedFiles(placement, folder) as files:
        for row in plan.tensors:  # no name holds a tensor while the next one is made
            if row.action != "drop":
                files.put(_require(next(remaining, None), row, placement))
    return [folder / name for name in placement.weights] + write_plain(placement, folder)


def write_plain(placement: Placement, folder: Path) -> list[Path]:
    """Write the files that hold no tensors, over those that may be there."""
    for name, data in placement.plain.items():
        (folder / name).write_bytes(data)
    for name, source in placement.carried.items():
        shutil.copyfile(source, folder / name)
    return [folder / name for name in (*placement.plain, *placement.carried)]


def _require(tensor: QuantizedTensor | None, row: TensorPlan, placement: Placement) -> QuantizedTensor:
    found = None if tensor is None else (tensor.name, tensor.scheme, sorted(tensor.parts))
    expected = (row.name, row.scheme, sorted(place.part for place in placement.places[row.name]))
    if tensor is None or found != expected:
        raise PluginBroken(f"the plan has {expected} next, got {found}", tensor=row.name)
    return tensor


def _bytes_of(values: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _write_at(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, position)
        data, position = data[count:], position + count
