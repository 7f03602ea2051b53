"""A file of weights that stays open, mapped piece by piece."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import SourceRejected


class MappedFile:
    """An open file whose parts are handed out as arrays; a context manager."""

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        """Open `path`, or take over `descriptor`, which is then only called `path`."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if descriptor is None else descriptor
        try:
            self._identity = _identity(self._descriptor)
        except BaseException:
            self.close()
            raise

    @property
    def descriptor(self) -> int:
        """The open file, for reading its bytes by position."""
        return self._descriptor

    @property
    def size(self) -> int:
        """Bytes that the file had when it was opened."""
        return self._identity[0]

    def array(self, position: int, shape: tuple[int, ...], nbytes: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """`nbytes` from `position` on as an array: memory-mapped, read-only, copied where they are not aligned.

        Each call makes its own mapping, which lives as long as the array: pages of tensors that are no longer used do
        not stay resident. Raises SourceRejected when the file has changed since it was opened.
        """
        self.check_unchanged()
        values = np.require(self._map(position, nbytes).view(dtype).reshape(shape), requirements="A")
        values.flags.writeable = False
        return values

    def check_unchanged(self) -> None:
        """Raises SourceRejected when the file was written to since it was opened."""
        if _identity(self._descriptor) != self._identity:
            raise SourceRejected(f"{self.path.name} was changed while it was being read.", file=self.path.name)

    def close(self) -> None:
        """Close the file; arrays that were handed out stay valid."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _map(self, position: int, length: int) -> NDArray[np.uint8]:
        if length == 0:
            return np.empty(0, np.uint8)
        offset = position % mmap.ALLOCATIONGRANULARITY
        mapping = mmap.mmap(self._descriptor, offset + length, access=mmap.ACCESS_READ, offset=position - offset)
        return np.frombuffer(mapping, np.uint8, length, offset)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns
