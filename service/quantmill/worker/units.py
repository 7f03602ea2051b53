"""Finished units on disk, so that a later attempt goes on where this one stopped.

A method that says where each byte of its artifact will stand has its tensors put there at once: a unit is then the
bytes of its tensors in the artifact's own files. Of other methods each unit is a safetensors file of its own until
`write` has made the artifact of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import uuid4

import numpy as np
from blake3 import blake3
from safetensors import SafetensorError
from safetensors.numpy import save_file

from quantmill.contract.errors import QuantmillError
from quantmill.contract.placement import PlacedFiles, Placement, write_plain
from quantmill.contract.safetensors import TensorFile
from quantmill.contract.tensors import Plan, QuantizedTensor
from quantmill.files.atomic import exhaustion_reported
from quantmill.files.blobs import CHUNK, BlobStore, copy_file
from quantmill.worker.messages import FinishedUnit

INDEX = "quantmill.unit"
PLACED = "placed"  # the folder of the artifact's files, beside the units of other methods

Write = Callable[[Iterator[QuantizedTensor], Path], list[Path]]


class UnitStore(Protocol):
    """Where the finished units of one job are. Threads may put units at once."""

    def holds(self, unit: FinishedUnit) -> bool:
        """Whether what an earlier attempt has left of the unit is what it recorded."""

    def put(self, key: str, tensors: Sequence[QuantizedTensor]) -> FinishedUnit: ...

    def export(self, folder: Path) -> list[Path]:
        """Make the new folder `folder` the artifact's, from all units of the plan; gives its files."""

    def close(self) -> None: ...


class UnitFiles:
    """A file for each unit; `write` makes the artifact of all of them, one tensor in memory at a time."""

    def __init__(self, root: Path, plan: Plan, write: Write) -> None:
        self._store = BlobStore(root, durable=False)  # a later attempt checks what it takes over
        self._root = root
        self._plan = plan
        self._write = write
        self._digests: dict[str, str] = {}

    def holds(self, unit: FinishedUnit) -> bool:
        try:
            self._store.verify(unit.digest)
        except (QuantmillError, OSError):
            return False
        self._digests[unit.key] = unit.digest
        return True

    def put(self, key: str, tensors: Sequence[QuantizedTensor]) -> FinishedUnit:
        self._root.mkdir(parents=True, exist_ok=True)
        path = self._root / f"{uuid4().hex}.safetensors"
        try:
            write_unit(tensors, path)
            blob = self._store.put_file(path, move=True)
        finally:
            path.unlink(missing_ok=True)
        self._digests[key] = blob.digest
        return FinishedUnit(key=key, digest=blob.digest, size=blob.size)

    def export(self, folder: Path) -> list[Path]:
        folder.mkdir()
        paths = (self._store.path(self._digests[unit.key]) for unit in self._plan.units)
        return self._write((tensor for path in paths for tensor in read_unit(path)), folder)

    def close(self) -> None:
        return


class PlacedUnits:
    """Units in the artifact's own files, which stay in `root` until the job is over.

    A unit's digest is BLAKE3, which takes a quarter of SHA-256's time: nobody but a later attempt ever reads it.
    Attempts share the files. One that has lost its lease without knowing may still write; it has the same source and
    plan, so what it writes are the bytes that stand there.
    """

    def __init__(self, root: Path, plan: Plan, placement: Placement) -> None:
        self._folder = root / PLACED
        self._tensors = {unit.key: unit.tensors for unit in plan.units}
        self._placement = placement
        with exhaustion_reported(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in placement.weights:
                _own(self._folder / name)
            self._files = PlacedFiles(placement, self._folder)

    def holds(self, unit: FinishedUnit) -> bool:
        digest = blake3()
        places = [place for name in self._tensors.get(unit.key, ()) for place in self._placement.places.get(name, ())]
        for place in places:
            with (self._folder / place.file).open("rb") as file:
                file.seek(place.begin)
                _digest_next(file, place.nbytes, digest.update)
        return bool(places) and f"blake3:{digest.hexdigest()}" == unit.digest

    def put(self, key: str, tensors: Sequence[QuantizedTensor]) -> FinishedUnit:
        digest = blake3()
        with exhaustion_reported(self._folder):
            for tensor in tensors:
                self._files.put(tensor, digest.update)
                self._files.start_writeback(tensor.name)
        size = sum(tensor.nbytes for tensor in tensors)
        return FinishedUnit(key=key, digest=f"blake3:{digest.hexdigest()}", size=size)

    def export(self, folder: Path) -> list[Path]:
        """Give the files a second name in `folder`; they are not copied."""
        folder.mkdir()
        with exhaustion_reported(folder):
            for name in self._placement.weights:
                _link(self._folder / name, folder / name)
            return [folder / name for name in self._placement.weights] + write_plain(self._placement, folder)

    def close(self) -> None:
        self._files.close()


def _own(path: Path) -> None:
    """Replace a file that is, or was to be, a blob as well by a copy: blobs are never written to."""
    if path.is_file() and (path.stat().st_nlink > 1 or not path.stat().st_mode & stat.S_IWUSR):
        copy = path.with_name(f".{uuid4().hex}.part")
        copy_file(path, copy)
        copy.replace(path)


def _link(path: Path, name: Path) -> None:
    """Where the file system knows no links, a copy."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)


def _digest_next(file: BinaryIO, nbytes: int, update: Callable[[bytes], object]) -> None:
    """The next `nbytes`, or those up to the end of the file."""
    while chunk := file.read(min(CHUNK, nbytes)):
        update(chunk)
        nbytes -= len(chunk)


def write_unit(tensors: Sequence[QuantizedTensor], path: Path) -> None:
    """Write all tensors of a unit. The file's parts are named by position; its metadata says what they belong to.

    Raises OSError when it cannot be written.
    """
    arrays = {
        f"{position}/{part}": np.ascontiguousarray(values)
        for position, tensor in enumerate(tensors)
        for part, values in tensor.parts.items()
    }
    index = [{"name": tensor.name, "scheme": tensor.scheme, "shape": list(tensor.shape)} for tensor in tensors]
    try:
        save_file(arrays, path, metadata={INDEX: json.dumps(index)})
    except SafetensorError as error:
        raise os_error(error, path) from error


def os_error(error: SafetensorError, path: Path) -> Exception:
    """The library tells what the operating system said only in its message; a full disk has to be known as one."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else error


def read_unit(path: Path) -> Iterator[QuantizedTensor]:
    """The tensors of a unit file, memory-mapped; they stay readable until the iterator moves on."""
    with TensorFile(path) as file:
        for position, entry in enumerate(json.loads(file.metadata[INDEX])):
            prefix = f"{position}/"
            parts = {name.removeprefix(prefix): file.values(name) for name in file.tensors if name.startswith(prefix)}
            yield QuantizedTensor(entry["name"], entry["scheme"], tuple(entry["shape"]), parts)
