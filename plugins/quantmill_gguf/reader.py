"""Reading GGUF files back: tensors under their source names. contract/gguf.py has the container and its checks."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.gguf import GgufContainer, StoredTensor
from quantmill.contract.reading import ReadTensor
from quantmill.contract.tensors import FloatArray
from quantmill_gguf.decode import DECODERS
from quantmill_gguf.restore import Names, Restored

CHUNK_VALUES = 1 << 18  # decoded at once: temporaries stay near 4 MiB


class GgufFile(GgufContainer):
    """A GGUF file whose tensors can be decoded, without the native code."""

    def values(self, tensor: StoredTensor) -> FloatArray:
        """The tensor decoded: float32 (rows, cols)."""
        packed, cols = self.packed(tensor), tensor.shape[-1]
        values = np.empty((tensor.rows, cols), np.float32)
        step = max(1, CHUNK_VALUES // cols)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite scales become NaN, which the caller looks for
            for start in range(0, tensor.rows, step):
                blocks = packed[start : start + step].reshape(-1, tensor.type.block_bytes)
                values[start : start + step] = DECODERS[tensor.type.name](blocks).reshape(-1, cols)
        return values


def only_file(folder: Path) -> Path:
    """The folder's GGUF file. Raises VerificationFailed where there is not exactly one."""
    paths = sorted(folder.glob("*.gguf"))
    if len(paths) != 1:
        raise VerificationFailed(f"expected one GGUF file in the artifact, found {len(paths)}")
    return paths[0]


def read(folder: Path, names: Collection[str] | None = None) -> Iterator[ReadTensor]:
    """The tensors of the folder's GGUF file under their source names, in the source's shape and row order.

    Raises VerificationFailed for a damaged file or one whose tensors are not those of its architecture.
    """
    with GgufFile(only_file(folder)) as file:
        source = Names(file.metadata, len(file.tensors))
        for tensor in file.tensors.values():
            for each in source.of(tensor):
                if names is None or each.name in names:
                    yield _read(file, each)


def _read(file: GgufFile, each: Restored) -> ReadTensor:
    stored = each.stored
    values = each.arrange(file.values(stored).reshape(stored.shape))
    return ReadTensor(each.name, each.scheme, stored.nbytes, values, each.transposed)
