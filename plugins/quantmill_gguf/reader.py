"""Reading GGUF files back: tensors under their source names. contract/gguf.py has the container and its checks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.gguf import GgufContainer, Scalar, StoredTensor
from quantmill.contract.reading import ReadTensor
from quantmill.contract.tensors import FloatArray
from quantmill_gguf.architectures import BY_NAME, ROPE_FREQS
from quantmill_gguf.decode import DECODERS

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
        source = _Source(file.metadata, len(file.tensors))
        for tensor in file.tensors.values():
            if tensor.name != ROPE_FREQS:
                name, heads = source.of(tensor.name)
                if names is None or name in names:
                    values = file.values(tensor)
                    yield ReadTensor(name, tensor.type.name, tensor.nbytes, _source_order(values, tensor, heads))
                    del values  # else it would stay while the next one is made


def _source_order(values: FloatArray, tensor: StoredTensor, heads: int) -> FloatArray:
    """Undo the interleaving of rope: row s * size / 2 + p of a head lies at row 2p + s."""
    if heads:
        if tensor.shape[0] % (2 * heads):
            raise VerificationFailed(f"{tensor.name}: {tensor.shape[0]} rows are not {heads} heads of an even size")
        for head in values.reshape(heads, tensor.shape[0] // heads, -1):  # (size, cols)
            pairs = head.copy().reshape(-1, 2, head.shape[1])  # (size / 2, 2, cols)
            head[:] = pairs.swapaxes(0, 1).reshape(head.shape)
    return values.reshape(tensor.shape)


class _Source:
    """What the file's names are called in its source checkpoint."""

    def __init__(self, metadata: Mapping[str, Scalar], tensors: int) -> None:
        name = metadata.get("general.architecture")
        if name not in BY_NAME:
            raise VerificationFailed(f"general.architecture is {name!r}; known: {', '.join(sorted(BY_NAME))}")
        self._metadata = metadata
        self._prefix = str(name)
        self._names = BY_NAME[self._prefix].source_names(self._number("block_count", tensors))
        heads = self._number("attention.head_count", 2**31)
        self._heads = {"": 0, "heads": heads, "kv_heads": self._number("attention.head_count_kv", heads)}

    def of(self, output: str) -> tuple[str, int]:
        if output not in self._names:
            raise VerificationFailed(f"{output!r} is no tensor of the architecture {self._prefix}", tensor=output)
        name, dimension = self._names[output]
        return name, self._heads[dimension]

    def _number(self, key: str, most: int) -> int:
        value = self._metadata.get(f"{self._prefix}.{key}")
        if not isinstance(value, int) or not 0 < value <= most:
            raise VerificationFailed(f"{self._prefix}.{key} is {value!r}, not a number from 1 to {most}")
        return value
