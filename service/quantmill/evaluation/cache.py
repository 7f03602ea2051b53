"""What a source's last block gives for a text, kept for the next job on the same source and text.

A file is named by the digest of all that its values follow from, and begins with the digest of what follows; one that
does not match is not used. The oldest files go when the folder is full.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import ResourceExhausted
from quantmill.contract.tensors import FloatArray
from quantmill.files.atomic import atomic_file

CODE = "1"  # raise it when the forward pass gives other values
HEADER = "quantmill hidden states"
HEADER_BYTES = 256


@dataclass(frozen=True)
class SourceCache:
    """Hidden states of one source, in a folder that all sources share and that holds `limit_bytes` at most."""

    folder: Path
    source_digest: str
    limit_bytes: int

    def load(self, key: Mapping[str, Any]) -> FloatArray | None:
        """The hidden states for `key`, mapped, or None where they are not there or damaged."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(HEADER_BYTES))
                hidden = np.memmap(file, np.float32, "c", HEADER_BYTES, tuple(header["shape"]))
            if header["kind"] != HEADER or header["digest"] != _digest(hidden):
                return None
            os.utime(path)  # used now: others are older
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return hidden

    def save(self, key: Mapping[str, Any], hidden: FloatArray) -> None:
        """Keep them, unless they alone are too large or the disk is full: a cache is not worth a job."""
        if hidden.nbytes + HEADER_BYTES > self.limit_bytes:
            return
        header = json.dumps({"kind": HEADER, "digest": _digest(hidden), "shape": list(hidden.shape)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(hidden.nbytes + HEADER_BYTES)
            with atomic_file(self._path(key)) as file:
                file.write(header.encode().ljust(HEADER_BYTES))
                file.write(np.ascontiguousarray(hidden).data.cast("B"))
        except (ResourceExhausted, OSError):
            return

    def _path(self, key: Mapping[str, Any]) -> Path:
        said = {name: _digest(value) if isinstance(value, np.ndarray) else value for name, value in key.items()}
        libraries = {name: version(name) for name in ("torch", "transformers")}
        whole = json.dumps([CODE, self.source_digest, said, libraries], sort_keys=True)
        return self.folder / f"{hashlib.sha256(whole.encode()).hexdigest()}.hidden"

    def _make_room(self, needed: int) -> None:
        files = sorted(self.folder.glob("*.hidden"), key=lambda path: path.stat().st_mtime)
        used = sum(path.stat().st_size for path in files)
        for path in files:
            if used + needed <= self.limit_bytes:
                return
            used -= path.stat().st_size
            path.unlink(missing_ok=True)


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data.cast("B")).hexdigest()
