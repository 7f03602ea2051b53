"""Quantizing for GGUF: rows through the native encoders, arranged as llama.cpp's graphs want them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.gguf import BlockTensor
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, QuantizedTensor, SourceTensor, TensorPlan
from quantmill_gguf import nvfp4
from quantmill_gguf.families import ExpectedTensor, Order, describe
from quantmill_gguf.importance import given, importance_for, kept, require_unchanged
from quantmill_gguf.params import GgufParams
from quantmill_gguf.prescaling import Prescaling, of_scaled
from quantmill_gguf.requantizing import CHUNK_VALUES, is_copied
from quantmill_gguf.types import COPY, FACTOR, NVFP4, PACKED, PLUS_ONE, SCHEMES

Packed = NDArray[np.uint8]


def quantize(session: Session, params: GgufParams) -> Iterator[QuantizedTensor]:
    """Encode each unit's tensors as the plan says: `packed`, uint8 (rows, row_bytes), and perhaps the same as `copy`.

    With what a computed importance matrix has of them.

    Raises RangeExceeded, naming tensor and place, for a value whose magnitude the format cannot hold.
    """
    expected = {tensor.name: tensor for tensor in describe(session.index).tensors()}
    matrix = given(params)
    if matrix is not None:
        require_unchanged(matrix, session.plan)

    def importance(name: str) -> FloatArray | None:
        return importance_for(session, matrix, session.plan.by_name[name], expected[name])

    prescaling = Prescaling(session, importance)
    for unit in session.units():
        for name in unit.tensors:  # no name holds a tensor across the yield: the plan counts one at a time
            yield _made(prescaling, session.plan.by_name[name], expected[name])


def _made(prescaling: Prescaling, row: TensorPlan, expected: ExpectedTensor) -> QuantizedTensor:
    """What is kept of an importance matrix is the source's, whatever its columns are multiplied by."""
    session, importance = prescaling.session, prescaling.importance(row.name)
    scales = prescaling.columns(row.name)
    if scales is not None:
        importance = of_scaled(importance, scales)
    made = _quantized(prescaling.scaled(session.tensor(row.name)), expected, row.scheme, importance, session.threads)
    return replace(made, parts={**made.parts, **kept(session, row)})


def _quantized(
    source: SourceTensor, expected: ExpectedTensor, scheme: str, importance: FloatArray | None, threads: int
) -> QuantizedTensor:
    name, shape = source.info.name, source.info.shape
    if isinstance(source, BlockTensor) and is_copied(expected, scheme):
        return QuantizedTensor(name, scheme, shape, {PACKED: source.packed})
    further: dict[str, NDArray[Any]] = {}
    try:
        if scheme == NVFP4.name:
            packed = nvfp4.packed_of(name, source.parts)
            further[FACTOR] = nvfp4.factor_of(name, source.parts)
        elif expected.held:
            packed = _requantized(source, expected, scheme, importance, threads)
        else:
            packed = _encoded(source.values, expected, scheme, importance, threads)
    except ValueError as error:  # finite, as the session promises, but beyond what the format holds
        raise RangeExceeded(f"{name}: {error}; choose another type", tensor=name) from error
    if expected.order is Order.NEIGHBOURS:
        interleave_halves(packed.reshape(expected.stored[0], -1), expected.heads)
    if expected.order is Order.QKV:
        rows = packed.reshape(expected.stored[0], -1)
        packed = gather_kinds(rows, expected.heads).reshape(packed.shape)
    if expected.copy:
        further[COPY] = packed
    return QuantizedTensor(name, scheme, shape, {PACKED: packed, **further})


def _encoded(
    values: NDArray[Any], expected: ExpectedTensor, scheme: str, importance: FloatArray | None, threads: int
) -> Packed:
    """Rows of one matrix packed; `importance` is float32 (cols,)."""
    if scheme == PLUS_ONE.name:
        scheme, values = "F32", values.astype(np.float32) + np.float32(1)
    if expected.transposed:
        values = np.ascontiguousarray(values.T)
    rows = values.reshape(-1, expected.stored[-1])
    return quantmill_kernels.encode(scheme, rows, imatrix=importance, threads=threads)


def _requantized(
    source: SourceTensor, expected: ExpectedTensor, scheme: str, importance: FloatArray | None, threads: int
) -> Packed:
    """Rows of a GGUF file's tensor, some at a time; `importance` is (cols,), or (matrices, cols)."""
    cols = expected.stored[-1]
    rows = prod(expected.stored[:-1])
    packed = np.empty((rows, SCHEMES[scheme].row_bytes(cols)), np.uint8)
    each = rows // expected.matrices if importance is not None and importance.ndim == 2 else rows
    for first in range(0, rows, each):
        weights = importance if importance is None or importance.ndim == 1 else importance[first // each]
        for start in range(first, first + each, step := max(1, CHUNK_VALUES // cols)):
            stop = min(start + step, first + each)
            values = rows_of(source, start, stop, cols, threads)
            packed[start:stop] = quantmill_kernels.encode(scheme, values, imatrix=weights, threads=threads)
    return packed


def rows_of(source: SourceTensor, start: int, stop: int, cols: int, threads: int) -> NDArray[Any]:
    """Rows of a GGUF file's tensor as values, (stop - start, cols)."""
    if isinstance(source, BlockTensor) and source.type == NVFP4:
        return source.rows(start, stop)
    if isinstance(source, BlockTensor):
        return quantmill_kernels.decode(source.type.name, source.packed[start:stop], cols, threads=threads)
    return source.values.reshape(-1, cols)[start:stop]


def interleave_halves(rows: Packed, heads: int) -> None:
    """Reorder the rows of each head in place: row 2p + s comes from row s * size / 2 + p.

    Checkpoints rotate a head's row p with row p + size / 2, llama.cpp's graph for these architectures with its
    neighbour. Whole rows move, so it makes no difference that they are packed already.
    """
    for head in rows.reshape(heads, -1, rows.shape[1]):  # (size, row_bytes)
        head[:] = np.stack(np.split(head.copy(), 2), axis=1).reshape(head.shape)


def gather_kinds(rows: Packed, heads: int) -> Packed:
    """From queries, keys and values of each head to the queries of all heads, their keys, their values."""
    by_head = rows.reshape(heads, 3, -1, rows.shape[1])  # (heads, q k v, size, row_bytes)
    return np.ascontiguousarray(by_head.swapaxes(0, 1)).reshape(rows.shape)
