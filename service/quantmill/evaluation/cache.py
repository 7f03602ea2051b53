"""What a source gives for a text, kept for the next job on the same source and text.

That is its last block's hidden states, and what it writes itself. A file is named by the digest of all that its values
follow from, and begins with the digest of what follows; one that does not match is not used. The oldest files go when
the folder is full.
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
from quantmill.files.atomic import atomic_file

CODE = "2"  # raise it when the forward pass gives other values
HEADER = "quantmill evaluation cache"
DTYPES = ("float32", "int64")
HEADER_BYTES = 256


@dataclass(frozen=True)
class SourceCache:
    """Arrays (float32, int64) that follow from one source, in a folder of all sources with `limit_bytes` at most."""

    folder: Path
    source_digest: str
    limit_bytes: int

    def load(self, key: Mapping[str, Any]) -> NDArray[Any] | None:
        """The array for `key`, mapped, or None where it is not there or damaged."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(HEADER_BYTES))
                if header["kind"] != HEADER or header["dtype"] not in DTYPES:
                    return None
                values = np.memmap(file, header["dtype"], "c", HEADER_BYTES, tuple(header["shape"]))
            if header["digest"] != _digest(values):
                return None
            os.utime(path)  # used now: others are older
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return values

    def save(self, key: Mapping[str, Any], values: NDArray[Any]) -> None:
        """Keep it, unless it alone is too large or the disk is full: a cache is not worth a job."""
        if values.nbytes + HEADER_BYTES > self.limit_bytes:
            return
        described = {"digest": _digest(values), "dtype": str(values.dtype), "shape": list(values.shape)}
        header = json.dumps({"kind": HEADER, **described})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(values.nbytes + HEADER_BYTES)
            with atomic_file(self._path(key)) as file:
                file.write(header.encode().ljust(HEADER_BYTES))
                file.write(np.ascontiguousarray(values).data.cast("B"))
        except (ResourceExhausted, OSError):
            return

    def _path(self, key: Mapping[str, Any]) -> Path:
        said = {name: _digest(value) if isinstance(value, np.ndarray) else value for name, value in key.items()}
        libraries = {name: version(name) for name in ("torch", "transformers")}
        whole = json.dumps([CODE, self.source_digest, said, libraries], sort_keys=True)
        return self.folder / f"{hashlib.sha256(whole.encode()).hexdigest()}.array"

    def _make_room(self, needed: int) -> None:
        files = sorted(self.folder.glob("*.array"), key=lambda path: path.stat().st_mtime)
        used = sum(path.stat().st_size for path in files)
        for path in files:
            if used + needed <= self.limit_bytes:
                return
            used -= path.stat().st_size
            path.unlink(missing_ok=True)


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data.cast("B")).hexdigest()
