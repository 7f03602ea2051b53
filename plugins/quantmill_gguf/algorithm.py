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

    Raises RangeExceeded, naming tensor and place, for a value whose magnitude the format cannot hold.
    """
    index = session.index
    tensors = architecture_of(index).tensors(model_of(index), index.config)
    heads = {tensor.name: tensor.heads for tensor in tensors}
    for unit in session.units():
        for name in unit.tensors:  # no name holds a tensor across the yield: the plan counts one at a time
            yield _quantized(session.tensor(name), session.plan.by_name[name].scheme, heads[name], session.threads)


def _quantized(source: SourceTensor, scheme: str, heads: int, threads: int) -> QuantizedTensor:
    name, shape = source.info.name, source.info.shape
    try:
        packed: Packed = quantmill_kernels.encode(scheme, source.values.reshape(-1, shape[-1]), threads=threads)
    except ValueError as error:  # finite, as the session promises, but beyond what the format holds
        raise RangeExceeded(f"{name}: {error}; choose another type", tensor=name) from error
    if heads:
        interleave_halves(packed.reshape(shape[0], -1), heads)
    return QuantizedTensor(name, scheme, shape, {"packed": packed})


def interleave_halves(rows: Packed, heads: int) -> None:
    """Reorder the rows of each head in place: row 2p + s comes from row s * size / 2 + p.

    Checkpoints rotate a head's row p with row p + size / 2, llama.cpp's graph for this architecture with its
    neighbour. Whole rows move, so it makes no difference that they are packed already.
    """
    for head in rows.reshape(heads, -1, rows.shape[1]):  # (size, row_bytes)
        head[:] = np.stack(np.split(head.copy(), 2), axis=1).reshape(head.shape)
