"""Reading GGUF files back: tensors under their source names. contract/gguf.py has the container and its checks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.gguf import NVFP4, GgufContainer, Scalar, StoredTensor, decoded, side_of
from quantmill.contract.reading import DecodedRows, ReadTensor
from quantmill.contract.tensors import FloatArray
from quantmill_gguf.restore import Restored, names_of

COMPARED_BYTES = 1 << 22  # at once


class GgufFile(GgufContainer):
    """A GGUF file whose tensors can be decoded, without the native code."""

    def values(self, tensor: StoredTensor) -> FloatArray:
        """The tensor decoded: float32 (rows, cols)."""
        return decoded(tensor.type, self.packed(tensor))


PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


class GgufModel:
    """A folder's GGUF model: one file, or all parts of one that was split; a context manager.

    `files` are in their order. `metadata` and arrays are the first one's, `tensors` those of all. Raises
    VerificationFailed for another number of files, a part that is missing and a tensor that is in two.
    """

    def __init__(self, folder: Path) -> None:
        self._opened = ExitStack()
        try:
            self.files = [self._opened.enter_context(GgufFile(path)) for path in _paths(folder)]
            self._file_of = {name: file for file in self.files for name in file.tensors}
            if len(self._file_of) < sum(len(file.tensors) for file in self.files):
                raise VerificationFailed("a tensor is stored in two parts of the model")
        except BaseException:
            self._opened.close()
            raise
        self.metadata, self.array_keys = self.files[0].metadata, self.files[0].array_keys
        self.tensors = {name: tensor for file in self.files for name, tensor in file.tensors.items()}

    def array(self, key: str) -> list[Scalar]:
        return self.files[0].array(key)

    def raw(self, key: str) -> bytes:
        """Value type and value of a key, as they lie in the first file."""
        return self.files[0].raw(key)

    def values(self, tensor: StoredTensor) -> FloatArray:
        return self._file_of[tensor.name].values(tensor)

    def packed(self, tensor: StoredTensor) -> NDArray[np.uint8]:
        """As it is stored: (rows, row_bytes), memory-mapped."""
        return self._file_of[tensor.name].packed(tensor)

    def __enter__(self) -> GgufModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


def _paths(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.gguf"))
    parts = [match for path in paths if (match := PART.fullmatch(path.name))]
    whole = [(parts[0][1], f"{number:05}", f"{len(paths):05}") for number in range(1, len(paths) + 1)] if parts else []
    if [part.groups() for part in parts] != whole or (len(paths) != 1 and not parts):
        raise VerificationFailed(f"expected one GGUF file in the artifact, or all its parts; found {len(paths)}")
    return paths


def read(folder: Path, names: Collection[str] | None = None) -> Iterator[ReadTensor]:
    """The tensors of the folder's GGUF model under their source names, in the source's shape and row order.

    Raises VerificationFailed for a damaged file or one whose tensors are not those of its architecture.
    """
    with GgufModel(folder) as file:
        source = names_of(file.metadata, len(file.tensors))
        factors = {side_of(tensor.name) for tensor in file.tensors.values() if tensor.type == NVFP4}
        for tensor in file.tensors.values():
            if tensor.name in factors:
                continue
            for each in source.of(tensor):
                if names is None or each.name in names:
                    yield _read(file, each)


def _read(file: GgufModel, each: Restored) -> ReadTensor:
    stored = each.stored
    factor = _factor(file, each) if stored.type == NVFP4 else None
    nbytes = stored.nbytes + (_copied(file, each) if each.copy else 0) + (factor.nbytes if factor is not None else 0)
    rows = _rows(file, stored, factor)
    content = rows if each.arrange is None else each.arrange(rows.decode(0, stored.rows).reshape(stored.shape))
    return ReadTensor(each.name, each.scheme, nbytes, content, each.transposed)


def _rows(file: GgufModel, stored: StoredTensor, factor: np.float32 | None) -> DecodedRows:
    """The tensor's values, decoded when they are asked for."""
    packed = file.packed(stored)  # its mapping outlives the file

    def decode(first: int, last: int) -> FloatArray:
        values = decoded(stored.type, packed[first:last])
        return values if factor is None else values * factor

    return DecodedRows(stored.shape, decode)


def _factor(file: GgufModel, each: Restored) -> np.float32:
    """What the values of a tensor in NVFP4 are multiplied by. Raises VerificationFailed where the file lacks it."""
    name = side_of(each.stored.name)
    side = file.tensors.get(name)
    if side is None or side.type.name != "F32" or len(side.shape) != 1 or each.part >= side.shape[0]:
        raise VerificationFailed(f"{each.stored.name} is NVFP4, and {name} is no list of its factors", tensor=name)
    factor: np.float32 = file.values(side).reshape(-1)[each.part]
    return factor


def _copied(file: GgufModel, each: Restored) -> int:
    """The bytes of the copy. Raises VerificationFailed where it is none."""
    stored, copy = each.stored, file.tensors.get(each.copy)
    if copy is None or (copy.type, copy.shape) != (stored.type, stored.shape):
        raise VerificationFailed(f"{each.copy} is no copy of {stored.name}", tensor=stored.name)
    rows, copied = file.packed(stored), file.packed(copy)
    step = max(1, COMPARED_BYTES // rows.shape[-1])
    for start in range(0, len(rows), step):
        if not np.array_equal(rows[start : start + step], copied[start : start + step]):
            raise VerificationFailed(f"{each.copy} does not hold what {stored.name} holds", tensor=stored.name)
    return copy.nbytes
