"""Quantizing for GGUF: rows through the native encoders, q and k rows into the order of llama.cpp's rope."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.session import Session
from quantmill.contract.tensors import QuantizedTensor, SourceTensor
from quantmill_gguf.architectures import architecture_of, model_of
from quantmill_gguf.params import GgufParams

Packed = NDArray[np.uint8]


def quantize(session: Session, params: GgufParams) -> Iterator[QuantizedTensor]:
    """Encode each unit's tensors as the plan says; one part, `packed`, uint8 (rows, row_bytes).

    Raises RangeExceeded for values that F16 cannot hold.
    """
    index = session.index
    tensors = architecture_of(index).tensors(model_of(index), index.config)
    heads = {tensor.name: tensor.heads for tensor in tensors}
    for unit in session.units():
        for name in unit.tensors:
            row = session.plan.by_name[name]
            packed = _encode(row.scheme, session.tensor(name), session.threads)
            if heads[name]:
                interleave_halves(packed.reshape(row.shape[0], -1), heads[name])
            yield QuantizedTensor(name, row.scheme, row.shape, {"packed": packed})


def _encode(scheme: str, source: SourceTensor, threads: int) -> Packed:
    values = source.values.reshape(-1, source.info.shape[-1])  # (rows, cols), a view
    packed: Packed = quantmill_kernels.encode(scheme, values, threads=threads)
    if scheme == "F16":
        _check_finite(source.info.name, packed)
    return packed


def interleave_halves(rows: Packed, heads: int) -> None:
    """Reorder the rows of each head in place: row 2p + s comes from row s * size / 2 + p.

    Checkpoints rotate a head's row p with row p + size / 2, llama.cpp's graph for this architecture with its
    neighbour. Whole rows move, so it makes no difference that they are packed already.
    """
    for head in rows.reshape(heads, -1, rows.shape[1]):  # (size, row_bytes)
        head[:] = np.stack(np.split(head.copy(), 2), axis=1).reshape(head.shape)


def _check_finite(name: str, packed: Packed) -> None:
    for row, halves in enumerate(packed.view(np.float16)):
        if not np.isfinite(halves).all():
            raise RangeExceeded(
                f"{name} row {row} holds values above 65504, the largest that F16 can hold; choose a type of blocks",
                tensor=name,
            )
