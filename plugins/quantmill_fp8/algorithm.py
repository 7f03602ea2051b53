"""Quantizing to FP8, NVFP4 and MX formats: whole weights through the native encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.experts import Stack, stacks
from quantmill.contract.linears import linears
from quantmill.contract.model_folder import KEPT, kept_tensor
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, PieceByPiece, QuantizedTensor, SourceTensor, TensorPlan
from quantmill_fp8.caches import cache_scales, carried
from quantmill_fp8.inputs import InputScales
from quantmill_fp8.params import Fp8Params
from quantmill_fp8.schemes import STORED, Fp8Scheme, Granularity, kept_expert, key_of, parts_of_expert, scheme_of

Parts = Mapping[str, NDArray[Any]]
ScaleOf = Callable[[float, str], float]
OF_TENSORS: Mapping[Granularity, ScaleOf] = MappingProxyType(
    {
        "nvfp4": lambda largest, dtype: quantmill_kernels.nvfp4_global_scale(largest, dtype=dtype),
        "tensor": lambda largest, dtype: quantmill_kernels.fp8_scale(largest, scale_dtype=dtype),
    }
)


def quantize(session: Session, params: Fp8Params) -> Iterator[QuantizedTensor]:
    """Encode each Linear as the plan says; its parts are those of `schemes.parts_of`.

    Raises RangeExceeded, naming tensor and place, for a value whose magnitude the format cannot hold.
    """
    scheme = scheme_of(params)
    shared = SharedScales(session, OF_TENSORS[scheme.granularity]) if scheme.granularity in OF_TENSORS else None
    inputs = InputScales(session, params) if scheme.is_static else None
    stacked, caches = stacks(session.index), carried(session.index, session.plan, params)
    for unit in session.units():
        for name in unit.tensors:  # no name holds a tensor across the yield: the plan counts one at a time
            row = session.plan.by_name[name]
            if row.action == "keep":
                made = _kept_stack if name in stacked and stacked[name].is_one_by_one(row) else None
                yield made(session.tensor(name), stacked[name], row) if made else kept_tensor(session.tensor(name))
            elif name in stacked:
                fed = inputs.of_stack(stacked[name]) if inputs else {}
                yield _stack(session.tensor(name), stacked[name], scheme, row, fed, session.threads)
            else:
                scale = shared.of(name) if shared else None
                calibrated: dict[str, NDArray[Any]] = {"input_scale": inputs.of(name)} if inputs else {}
                if name in caches:
                    calibrated |= cache_scales(session, caches[name], session.index.tensors[name], params.percentile)
                yield _quantized(session.tensor(name), scheme, scale, calibrated, session.threads)


class SharedScales:
    """The scale of a whole tensor, which modules share that engines compute in one product.

    Engines load one scale of the product, the largest: it is then that of each, and no code has to change.

    Computed at the first use of each group; a group's tensors are read once for it.
    """

    def __init__(self, session: Session, scale_of: ScaleOf) -> None:
        """`scale_of` gives the scale of a largest magnitude, rounded to a dtype of this name."""
        self._session = session
        self._scale_of = scale_of
        self._linears = linears(session.index)
        self._known: dict[tuple[str, ...], float] = {}

    def of(self, name: str) -> float:
        fused = self._linears[name].fused
        if fused not in self._known:
            largest = max(self._absmax(f"{module}.weight") for module in fused)
            dtype, _ = STORED[self._session.index.tensors[name].dtype]
            self._known[fused] = self._scale_of(largest, dtype)
        return self._known[fused]

    def _absmax(self, name: str) -> float:
        return quantmill_kernels.absmax(self._session.tensor(name).values, threads=self._session.threads)


def _stack(
    source: SourceTensor,
    stack: Stack,
    scheme: Fp8Scheme,
    row: TensorPlan,
    fed: Mapping[str, NDArray[Any]],
    threads: int,
) -> QuantizedTensor:
    """The experts of a stack one by one, each made when it is written; `fed` are the scales of their inputs."""

    def made(expert: int) -> Parts:
        weights = stack.of_expert(source.values, expert)
        shared = _shared_by(weights, scheme, threads)
        return {
            key_of(expert, position, part): values
            for position, weight in enumerate(weights)
            for part, values in _quantized(weight, scheme, shared, _fed(weight, fed), threads).parts.items()
        }

    pieces = [[part.part for part in parts_of_expert(stack, n, scheme)] for n in range(stack.experts)]
    return QuantizedTensor(row.name, row.scheme, row.shape, PieceByPiece(pieces, made, row.nbytes))


def _kept_stack(source: SourceTensor, stack: Stack, row: TensorPlan) -> QuantizedTensor:
    """The experts of a stack one by one, as they are."""

    def made(expert: int) -> Parts:
        weights = stack.of_expert(source.values, expert)
        return {key_of(expert, position, KEPT): weight.values for position, weight in enumerate(weights)}

    pieces = [[part.part for part in kept_expert(stack, n)] for n in range(stack.experts)]
    return QuantizedTensor(row.name, row.scheme, row.shape, PieceByPiece(pieces, made, row.nbytes))


def _fed(weight: SourceTensor, scales: Mapping[str, NDArray[Any]]) -> Parts:
    return {"input_scale": scales[weight.info.name]} if scales else {}


def _shared_by(weights: Sequence[SourceTensor], scheme: Fp8Scheme, threads: int) -> float | None:
    """The scale that an expert's weights of one product share: those of one stack."""
    if scheme.granularity not in OF_TENSORS:
        return None
    dtype, _ = STORED[weights[0].info.dtype]
    largest = max(quantmill_kernels.absmax(weight.values, threads=threads) for weight in weights)
    return OF_TENSORS[scheme.granularity](largest, dtype)


def _quantized(
    source: SourceTensor, scheme: Fp8Scheme, shared: float | None, calibrated: Parts, threads: int
) -> QuantizedTensor:
    info = source.info
    try:
        parts = ENCODERS[scheme.granularity](source, scheme, shared, threads)
    except ValueError as error:  # finite, as the session promises, but beyond what the format holds
        raise RangeExceeded(f"{info.name}: {error}; put its module into skip_modules", tensor=info.name) from error
    return QuantizedTensor(info.name, scheme.label, info.shape, {**parts, **calibrated})


def _channel(source: SourceTensor, scheme: Fp8Scheme, shared: float | None, threads: int) -> Parts:
    return _fp8(source, "channel", source.info.dtype, threads)


def _tensor(source: SourceTensor, scheme: Fp8Scheme, shared: float | None, threads: int) -> Parts:
    return _fp8(source, "tensor", source.info.dtype, threads, np.array([shared], np.float32))


def _block(source: SourceTensor, scheme: Fp8Scheme, shared: float | None, threads: int) -> Parts:
    return _fp8(source, "block", source.info.dtype if scheme.format else "F32", threads)


def _fp8(source: SourceTensor, strategy: str, stored: str, threads: int, given: FloatArray | None = None) -> Parts:
    name, dtype = STORED[stored]
    codes, scale = quantmill_kernels.encode_fp8(
        source.values, strategy=strategy, scale_dtype=name, scale=given, threads=threads
    )
    return {"codes": codes, "scale": scale.astype(dtype)}  # exact: the scales have been rounded to it already


def _mxfp8(source: SourceTensor, scheme: Fp8Scheme, shared: float | None, threads: int) -> Parts:
    codes, exponents = quantmill_kernels.encode_mxfp8(source.values, threads=threads)
    return {"codes": codes, "scale": exponents}


def _mxfp4(source: SourceTensor, scheme: Fp8Scheme, shared: float | None, threads: int) -> Parts:
    packed, exponents = quantmill_kernels.encode_mxfp4(source.values, threads=threads)
    return {"codes": packed, "scale": exponents}


def _nvfp4(source: SourceTensor, scheme: Fp8Scheme, shared: float | None, threads: int) -> Parts:
    packed, scale, used = quantmill_kernels.encode_nvfp4(source.values, global_scale=shared, threads=threads)
    return {"codes": packed, "scale": scale, "global_scale": np.array([used], np.float32)}


Encode = Callable[[SourceTensor, Fp8Scheme, float | None, int], Parts]
ENCODERS: Mapping[str, Encode] = MappingProxyType(
    {"channel": _channel, "tensor": _tensor, "block": _block, "mxfp8": _mxfp8, "mxfp4": _mxfp4, "nvfp4": _nvfp4}
)
