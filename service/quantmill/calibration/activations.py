"""Hidden states of all calibration windows, in a file that is read and written window by window."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from quantmill.contract.errors import ArtifactDamaged
from quantmill.files.atomic import exhaustion_reported

HEADER_BYTES = 1 << 20  # room for what travels with the hidden states, such as routing counts of every block
KIND = "quantmill hidden states"


class Activations:
    """float32 (tokens, hidden) of windows one after the other; `lengths` are the windows' tokens.

    Not mapped: mapped pages count as the process's memory. Windows may be read and written by several threads.
    """

    def __init__(self, file: int, path: Path, lengths: Sequence[int], hidden: int) -> None:
        self.path = path
        self._file = file
        self._lengths = lengths
        self._row = 4 * hidden
        self._hidden = hidden
        self._starts = [HEADER_BYTES + self._row * sum(lengths[:window]) for window in range(len(lengths))]

    @classmethod
    def create(cls, path: Path, lengths: Sequence[int], hidden: int) -> Activations:
        """A new file with room for everything. Raises ResourceExhausted where the disk has none."""
        with exhaustion_reported(path.parent):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, HEADER_BYTES + 4 * hidden * sum(lengths))
            except OSError:
                os.close(file)
                path.unlink()
                raise
        return cls(file, path, lengths, hidden)

    @classmethod
    def open(cls, path: Path, lengths: Sequence[int], hidden: int) -> Activations:
        """What an earlier run wrote. Raises ArtifactDamaged where it is not of these windows."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found, wanted = os.fstat(file).st_size, HEADER_BYTES + 4 * hidden * sum(lengths)
        if found != wanted:
            os.close(file)
            raise ArtifactDamaged(f"the hidden states in {path.name} are {found} bytes, not {wanted}")
        return cls(file, path, lengths, hidden)

    def read(self, window: int) -> torch.Tensor:
        """(1, length, hidden), a copy of its own, on the CPU."""
        values = torch.empty(1, self._lengths[window], self._hidden)
        view = values.numpy().data.cast("B")
        done = 0
        while done < len(view):
            count = os.preadv(self._file, [view[done:]], self._starts[window] + done)
            if not count:
                raise ArtifactDamaged(f"the hidden states in {self.path.name} have been cut")
            done += count
        return values

    def write(self, window: int, values: torch.Tensor) -> None:
        """`values` are (1, length, hidden)."""
        view = values.contiguous().cpu().numpy().data.cast("B")
        done = 0
        with exhaustion_reported(self.path.parent):
            while done < len(view):
                done += os.pwrite(self._file, view[done:], self._starts[window] + done)

    @property
    def said(self) -> dict[str, Any]:
        """What `say` wrote. Raises ArtifactDamaged for a file that is no such thing."""
        try:
            found = json.loads(os.pread(self._file, HEADER_BYTES, 0).rstrip(b"\0"))
            if found.pop("kind") != KIND:
                raise ValueError
        except (ValueError, KeyError, AttributeError) as error:
            raise ArtifactDamaged(f"{self.path.name} does not hold hidden states") from error
        return dict(found)

    def say(self, what: Mapping[str, Any]) -> None:
        """Write JSON values in front of the hidden states."""
        header = json.dumps({"kind": KIND, **what}, sort_keys=True).encode()
        if len(header) > HEADER_BYTES:
            raise ValueError(f"{len(header)} bytes beside the hidden states; there is room for {HEADER_BYTES}")
        os.pwrite(self._file, header.ljust(HEADER_BYTES, b"\0"), 0)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def discard(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)
