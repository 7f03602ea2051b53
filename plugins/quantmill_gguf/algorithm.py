"""Quantizing for GGUF: rows through the native encoders, q and k rows into the order of llama.cpp's rope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, QuantizedTensor, SourceTensor
from quantmill_gguf.architectures import architecture_of, model_of
from quantmill_gguf.importance import given, importance_of, require_unchanged
from quantmill_gguf.params import GgufParams

Packed = NDArray[np.uint8]


def quantize(session: Session, params: GgufParams) -> Iterator[QuantizedTensor]:
    """Encode each unit's tensors as the plan says; one part, `packed`, uint8 (rows, row_bytes).

    Raises RangeExceeded, naming tensor and place, for a value whose magnitude the format cannot hold.
    """
    index = session.index
    tensors = architecture_of(index).tensors(model_of(index), index.config)
    heads = {tensor.name: tensor.heads for tensor in tensors}
    matrix = given(params)
    if matrix is not None:
        require_unchanged(matrix, session.plan)
    for unit in session.units():
        for name in unit.tensors:  # no name holds a tensor across the yield: the plan counts one at a time
            row = session.plan.by_name[name]
            importance = None if matrix is None else importance_of(matrix, row)
            yield _quantized(session.tensor(name), row.scheme, heads[name], importance, session.threads)


def _quantized(
    source: SourceTensor, scheme: str, heads: int, importance: FloatArray | None, threads: int
) -> QuantizedTensor:
    name, shape = source.info.name, source.info.shape
    try:
        packed = _encode(scheme, source.values.reshape(-1, shape[-1]), importance, threads)
    except ValueError as error:  # finite, as the session promises, but beyond what the format holds
        raise RangeExceeded(f"{name}: {error}; choose another type", tensor=name) from error
    if heads:
        interleave_halves(packed.reshape(shape[0], -1), heads)
    return QuantizedTensor(name, scheme, shape, {"packed": packed})


def _encode(scheme: str, rows: NDArray[Any], importance: FloatArray | None, threads: int) -> Packed:
    """Rows packed; of a stack of matrices each has its own row of `importance`, (matrices, cols)."""
    if importance is None or len(importance) == 1:
        weights = None if importance is None else importance[0]
        return quantmill_kernels.encode(scheme, rows, imatrix=weights, threads=threads)
    matrices = rows.reshape(len(importance), -1, rows.shape[1])
    encoded = [
        quantmill_kernels.encode(scheme, matrix, imatrix=weights, threads=threads)
        for matrix, weights in zip(matrices, importance, strict=True)
    ]
    return np.concatenate(encoded)


def interleave_halves(rows: Packed, heads: int) -> None:
    """Reorder the rows of each head in place: row 2p + s comes from row s * size / 2 + p.

    Checkpoints rotate a head's row p with row p + size / 2, llama.cpp's graph for this architecture with its
    neighbour. Whole rows move, so it makes no difference that they are packed already.
    """
    for head in rows.reshape(heads, -1, rows.shape[1]):  # (size, row_bytes)
        head[:] = np.stack(np.split(head.copy(), 2), axis=1).reshape(head.shape)
