"""Quantizing by groups: whole weights through the native solver and packing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.model_folder import kept_tensor
from quantmill.contract.session import Session
from quantmill.contract.tensors import QuantizedTensor, SourceTensor, TensorPlan
from quantmill_hqq.layout import Grouping, compute_dtype, grouping_of, metadata
from quantmill_hqq.params import HqqParams

DTYPES = MappingProxyType({"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16})


def quantize(session: Session, params: HqqParams) -> Iterator[QuantizedTensor]:
    """Solve each Linear as the plan says; its parts are those of `layout.parts_of`.

    Raises RangeExceeded, naming tensor and place, for a value whose magnitude the format cannot hold.
    """
    for unit in session.units():
        for name in unit.tensors:  # no name holds a tensor across the yield: the plan counts one at a time
            row = session.plan.by_name[name]
            if row.action == "keep":
                yield kept_tensor(session.tensor(name))
            else:
                yield _quantized(session.tensor(name), row, params, session.threads)


def _quantized(source: SourceTensor, row: TensorPlan, params: HqqParams, threads: int) -> QuantizedTensor:
    grouping, stored = grouping_of(row, params), compute_dtype(row, params)
    try:
        codes, scale, zero = quantmill_kernels.solve_hqq(
            source.values,
            nbits=grouping.nbits,
            group_size=grouping.group_size,
            axis=grouping.axis,
            lp_norm=params.lp_norm,
            beta=params.beta,
            kappa=params.kappa,
            iters=params.iters,
            integer_zero=params.whole_zeros,
            compute_dtype=stored,
            threads=threads,
        )
    except ValueError as error:  # finite, as the session promises, but beyond what the format holds
        raise RangeExceeded(f"{row.name}: {error}; put its module into skip_modules", tensor=row.name) from error
    scale = scale.astype(DTYPES[stored])  # exact: scales and zeros have been rounded to it already
    if params.format == "compressed-tensors":
        parts = _pack_quantized(grouping, codes, scale, zero, threads)
    else:
        packed = quantmill_kernels.pack_hqq(grouping.packing.name, codes, threads=threads)
        parts = {"W_q": packed, "scale": scale, "zero": zero.astype(DTYPES[stored]), **metadata(row, params)}
    return QuantizedTensor(row.name, row.scheme, row.shape, parts)


def _pack_quantized(
    grouping: Grouping, codes: NDArray[np.uint8], scale: NDArray[Any], zero: NDArray[np.float32], threads: int
) -> Mapping[str, NDArray[Any]]:
    outputs = grouping.shape[0]
    zeros = zero.reshape(outputs, -1).astype(np.uint8)
    return {
        "packed": quantmill_kernels.pack_quantized(codes.reshape(grouping.shape), grouping.nbits, threads=threads),
        "scale": scale.reshape(outputs, -1),
        "zero_point": quantmill_kernels.pack_quantized_zeros(zeros, grouping.nbits, threads=threads),
        "shape": np.array(grouping.shape, np.int64),
    }
